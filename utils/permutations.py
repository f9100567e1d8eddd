"""Permutations of hidden units: applied to state dicts, hard and soft, and as the rows of a match.

Convention throughout (as published): a permutation p of B says that B's channel p[i] goes to A's place i. What may be
permuted in a network is found by `permutation_spec`; nothing here knows an architecture.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from utils.devices import send
from utils.symmetries import Activation, Axis, PermutationSpec, Segment, permutation_spec

__all__ = [
    "PermutationSpec",
    "axis_index",
    "identity",
    "permutation_spec",
    "permutations_from_rows",
    "permute",
    "row_labels",
    "rows_from_permutations",
    "soft_permute",
]


def axis_index(axis: Axis, permutations: Sequence[np.ndarray]) -> np.ndarray:
    """The permutations of an axis' groups as one index array over all of its entries."""
    parts, start = [], 0
    for group, channels, repeat in axis:
        order = np.arange(channels) if group is None else np.asarray(permutations[group])
        parts.append(start + (order[:, None] * repeat + np.arange(repeat)).ravel())
        start += channels * repeat
    return np.concatenate(parts)


def permute(
    state: Mapping[str, torch.Tensor], spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """The state dict with its channels reordered: a network that computes the same function.

    permutations: one index array a group; new channel i is old channel permutations[g][i].
    """
    permuted = dict(state)
    for name, axes in spec.axes.items():
        for dimension, axis in axes.items():
            index = send(torch.as_tensor(axis_index(axis, permutations)), permuted[name].device)
            permuted[name] = permuted[name].index_select(dimension, index)
    return permuted


def soft_permute(
    parameters: Mapping[str, torch.Tensor], spec: PermutationSpec, matrices: Sequence[torch.Tensor | None]
) -> dict[str, torch.Tensor]:
    """`permute` with a matrix P (C, C) for each group: new channel i is Σ_j P[i, j] · old channel j. Differentiable.

    The matrix of a permutation p has P[i, p[i]] = 1. None leaves a group as it is.
    """
    permuted = dict(parameters)
    # In the order of the spec, in every process: gradients are summed in this order.
    for name in (name for name in spec.axes if name in parameters):
        for dimension, axis in spec.axes[name].items():
            if all(segment.group is None or matrices[segment.group] is None for segment in axis):
                continue
            parts = permuted[name].movedim(dimension, 0).split([segment.length for segment in axis])
            mixed = [_mix(part, segment, matrices) for part, segment in zip(parts, axis, strict=True)]
            permuted[name] = (torch.cat(mixed) if len(mixed) > 1 else mixed[0]).movedim(0, dimension)
    return permuted


def _mix(part: torch.Tensor, segment: Segment, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    matrix = None if segment.group is None else matrices[segment.group]
    if matrix is None:
        return part
    return (matrix @ part.reshape(segment.channels, -1)).view(part.shape)


def identity(spec: PermutationSpec) -> list[np.ndarray]:
    """The permutations that change nothing, one index array a group."""
    return [np.arange(size) for size in spec.sizes]


def rows_from_permutations(spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A match: for each activation, in forward order, the index array over its channels."""
    return [axis_index(row.axis, permutations) for row in spec.rows]


def permutations_from_rows(spec: PermutationSpec, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The permutation of each group from the rows of a match.

    Of the rows on one stream those that vote decide: the original code leaves in the others what they by themselves
    would have been. Raises ValueError if the rows are not a match for this spec: wrong number or lengths, not a
    permutation, mixing groups, or voters on one stream that disagree.
    """
    lengths = [row.channels for row in spec.rows]
    if [len(row) for row in rows] != lengths:
        raise ValueError(
            f"has {len(rows)} rows of {_brief([len(row) for row in rows])} channels; "
            f"the model has {len(lengths)} of {_brief(lengths)}"
        )
    decided: dict[int, np.ndarray] = {}
    others: dict[int, np.ndarray] = {}
    for number, (row, values) in enumerate(zip(spec.rows, rows, strict=True)):
        for group, order in _parts(row, np.asarray(values)):
            if order is None:
                raise ValueError(f"row {number} ({row.label}) is not a permutation")
            known = (decided if group in row.votes else others).setdefault(group, order)
            if group in row.votes and not np.array_equal(known, order):
                raise ValueError(f"row {number} ({row.label}) disagrees with another row of the same stream")
    return [{**others, **decided}[group] for group in range(len(spec.sizes))]


def _parts(row: Activation, values: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
    """The order of each group in a row of a match; None for one that is not a permutation of its channels."""
    start = 0
    for group, channels, repeat in row.axis:
        part = values[start : start + channels * repeat] - start
        order = part[::repeat] // repeat
        expected = axis_index((Segment(0, channels, repeat),), [order])
        fits = np.array_equal(np.sort(order), np.arange(channels)) and np.array_equal(part, expected)
        if group is not None:
            yield group, order if fits else None
        elif not np.array_equal(part, np.arange(channels * repeat)):
            yield -1, None
        start += channels * repeat


def _brief(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{', '.join(map(str, numbers[:8]))}, …"


def row_labels(spec: PermutationSpec) -> list[str]:
    """What the entries of layerwise correlations belong to: the activations in forward order, and the logits."""
    return [*(row.label for row in spec.rows), "logits"]
