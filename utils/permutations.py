"""Permutations of hidden units: what may be permuted, applied to state dicts, and as the rows of a match.

Convention throughout (as published): a permutation p of B says that B's channel p[i] goes to A's place i. A group of
units that stand in blocks has such a row for each block, by the place to which the block goes. What there is to
permute is found by `permutation_spec`; nothing here knows an architecture.
"""

from collections.abc import Sequence

import numpy as np

from .symmetries import (
    Activation,
    PermutationSpec,
    axis_index,
    moved_share,
    permutation_spec,
    permute,
    soft_permute,
)
from .symmetries.spec import compose, groups_in, inverse, places_of

__all__ = [
    "PermutationSpec",
    "axis_index",
    "compose",
    "identity",
    "inverse",
    "moved_share",
    "permutation_spec",
    "permutations_from_rows",
    "permute",
    "places_of",
    "row_labels",
    "rows_from_permutations",
    "soft_permute",
]

Permutations = list[np.ndarray]  # of each group of a spec, an index array (*blocks, size)


def identity(spec: PermutationSpec) -> Permutations:
    """The permutations that change nothing."""
    return spec.identity()


# --- as the rows of a match --------------------------------------------------------------------------------


def rows_from_permutations(spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A match: for each activation, in forward order, the index array over its channels."""
    return [axis_index(row.axis, spec, permutations) for row in spec.rows]


def permutations_from_rows(spec: PermutationSpec, rows: Sequence[np.ndarray]) -> Permutations:
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
        own = _orders_in(row, spec, np.asarray(values))
        if own is None:
            raise ValueError(f"row {number} ({row.label}) is not a permutation")
        for group, order in own.items():
            known = (decided if group in row.votes else others).setdefault(group, order)
            if group in row.votes and not np.array_equal(known, order):
                raise ValueError(f"row {number} ({row.label}) disagrees with another row of the same stream")
    return [{**others, **decided}[group] for group in range(len(spec.groups))]


def _orders_in(row: Activation, spec: PermutationSpec, values: np.ndarray) -> dict[int, np.ndarray] | None:
    """The order of each group that a row of a match tells; None if it is not a permutation of its channels."""
    if not np.array_equal(np.sort(values), np.arange(row.channels)):
        return None
    orders = {}
    for group in groups_in(row.axis):
        places = places_of(group, row.axis, spec)
        unit_at = np.full(row.channels, -1)
        unit_at[places] = np.arange(spec.groups[group].size)[:, None]
        orders[group] = unit_at[values[places[..., 0]]]
        if not np.array_equal(np.sort(orders[group], axis=-1), spec.identity()[group]):
            return None
    everything = spec.identity()
    for group, order in orders.items():
        everything[group] = order
    return orders if np.array_equal(axis_index(row.axis, spec, everything), values) else None


def _brief(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{', '.join(map(str, numbers[:8]))}, …"


def row_labels(spec: PermutationSpec) -> list[str]:
    """What the entries of layerwise correlations belong to: the activations in forward order, and the logits."""
    return [*(row.label for row in spec.rows), "logits"]
