"""Matches: for every activation of a network, the order of its channels; ours, and the original code's.

And the correlation matrices of a match: how every channel of A correlates with every channel of B, layer by layer.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from .. import distributed
from ..errors import FileError
from ..permutations import Activation, Permutations, PermutationSpec, axis_index, groups_in, places_of, rotates
from .files import check_shapes, hold, let_go, read, read_archive, read_array, remove, save_array, save_arrays
from .foreign import read_objects

MOST_ROWS = 10_000  # of a pickled match; no network has as many


# --- rows and permutations ---------------------------------------------------------------------------------


def rows_from_permutations(spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A match: for each activation, in forward order, the index array over its channels; rotated ones stay."""
    orders = [same if rotates(one) else one for one, same in zip(permutations, spec.identity(), strict=True)]
    return [axis_index(row.axis, spec, orders) for row in spec.rows]


def permutations_from_rows(
    spec: PermutationSpec, rows: Sequence[np.ndarray], unseen: Mapping[int, np.ndarray] | None = None
) -> Permutations:
    """The permutation of each group from the rows of a match.

    Of the rows on one stream those that vote decide: the original code leaves in the others what they by themselves
    would have been. unseen: permutations of groups that stand between weights alone, on no row, and matrices of those
    that are rotated; without, they stay.

    ValueError if this is no match for the spec: wrong number or lengths of rows, no permutations, mixed groups, or
    voters on one stream that disagree.
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
    found = {**dict(enumerate(spec.identity())), **others, **decided, **(unseen or {})}
    return spec.checked([found[group] for group in sorted(found)])


def _orders_in(row: Activation, spec: PermutationSpec, values: np.ndarray) -> dict[int, np.ndarray] | None:
    """The order of each group that a row of a match shows; None if it is not a permutation of its channels."""
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


# --- files -------------------------------------------------------------------------------------------------


def padded_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one integer array (rows, longest), padded with −1."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for padded, row in zip(table, rows, strict=True):
        padded[: len(row)] = row
    return table


class Match(NamedTuple):
    """What the file of a match holds: `rows` and, in a note, for what they were made.

    networks: the digests of A and B, if they are known. spec: what may be permuted in them, so that nothing needs to
    be traced again; None in a file of other code, or of before. unseen: permutations of groups that no row shows,
    and matrices of those that are rotated.
    note: the whole note, with the record of what made it.
    """

    rows: list[np.ndarray]
    networks: list[str] | None = None
    spec: PermutationSpec | None = None
    unseen: Mapping[int, np.ndarray] = MappingProxyType({})
    note: Mapping[str, object] = MappingProxyType({})


def save_match(
    path: Path,
    spec: PermutationSpec,
    permutations: Sequence[np.ndarray],
    networks: list[str],
    *,
    overwrite: bool = False,
    replaces: Sequence[Path] = (),
    record: Mapping[str, object] | None = None,
) -> None:
    """A match as one integer array of rows, padded with −1, with a note that holds its spec.

    networks: digests of A and B. replaces: the results of the match that was there. They are removed first, so that
        none is ever beside a match of which it does not speak. record: what made it, as a file has it.
    FileError if another match is there already, and not to be overwritten.
    """
    if not distributed.is_main():
        return
    rows, shown = rows_from_permutations(spec, permutations), set().union(*(groups_in(row.axis) for row in spec.rows))
    unseen = {group: one for group, one in enumerate(permutations) if group not in shown or rotates(one)}
    hold(path)
    if path.exists() and not overwrite:
        known = load_match(path)
        others = [*known.rows, *known.unseen.values()] if known.unseen else known.rows
        ours = [*rows, *unseen.values()] if known.unseen else rows
        if len(others) != len(ours) or not all(map(np.array_equal, others, ours)):
            raise FileError(path, "holds another match", "replace")
        print("This is the same match as was saved before.")
    for result in replaces:
        remove(result)
    note = {
        "networks": networks,
        "spec": spec.to_json(),
        "unseen": {group: one.tolist() for group, one in unseen.items()},
        "record": dict(record or {}),
    }
    save_array(path, padded_rows(rows), note)
    remove(path.with_suffix(".json"))
    let_go(path)


def load_match(path: Path) -> Match:
    """A match: ours, a 2-D integer array, or the original code's pickled arrays, in lists or not."""

    def parse() -> Match:
        try:
            table, note = read_array(path)
        except ValueError:
            if (pickled := read_objects(read_archive(path))) is None:
                raise
            return Match(list(itertools.islice(_rows(pickled), MOST_ROWS)))
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise ValueError("it is not an array of rows of whole numbers")
        beside = path.with_suffix(".json")  # where the note was once
        if not note and beside.exists():
            note = read(beside, "a note on a match", lambda: {"networks": json.loads(beside.read_text())["networks"]})
        spec = PermutationSpec.from_json(note["spec"]) if "spec" in note else None
        unseen = {int(group): np.array(order) for group, order in note.get("unseen", {}).items()}
        return Match([row[row != -1] for row in table], note.get("networks"), spec, unseen, note)

    return read(path, "a match", parse)


def _rows(value: object) -> Iterator[np.ndarray]:
    """The rows of a pickled match, in order: of arrays in lists, however nested."""
    value = value.numpy() if isinstance(value, torch.Tensor) else value
    value = value.tolist() if isinstance(value, np.ndarray) and value.dtype.hasobject else value
    if isinstance(value, list) and value and all(isinstance(entry, int) for entry in value):
        yield np.array(value)
    elif isinstance(value, list) and value:
        for entry in value:
            yield from _rows(entry)
    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer) and value.ndim in (1, 2):
        yield from [value] if value.ndim == 1 else value
    else:
        raise ValueError("its rows are not whole numbers")


# --- correlation matrices ----------------------------------------------------------------------------------


class Layer(NamedTuple):
    """The channels of one row of a match.

    correlations: (C, C), of A's channels, down, with those of B as it is, across.
    order: (C,), the channel of B at each place of A after alignment.
    """

    label: str
    correlations: np.ndarray
    order: np.ndarray

    @property
    def aligned(self) -> np.ndarray:
        """The correlations (C, C) of A's channels with those of aligned B."""
        return self.correlations[:, self.order]


def save_matrices(
    path: Path,
    labels: Sequence[str],
    matrices: Sequence[np.ndarray],
    orders: Sequence[np.ndarray],
    record: Mapping[str, object],
) -> None:
    """An .npz file of all layers: their `labels`, and `correlations_0`, in half precision, `order_0`, and so on."""
    arrays = {"labels": np.array(labels)}
    for number, (matrix, order) in enumerate(zip(matrices, orders, strict=True)):
        arrays |= {f"correlations_{number}": matrix.astype(np.float16), f"order_{number}": order}
    save_arrays(path, record=record, **arrays)


def layers_in(path: Path, arrays: Mapping[str, np.ndarray]) -> list[Layer]:
    """The layers, in order, of the arrays in such a file. FileError if they are something else."""

    def parse() -> list[Layer]:
        layers = []
        for number, label in enumerate(arrays["labels"]):
            names = f"correlations_{number}", f"order_{number}"
            check_shapes(arrays, dict(zip(names, (("channels", "channels"), ("channels",)), strict=True)))
            correlations, order = (arrays[name] for name in names)
            if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(len(order))):
                raise ValueError(f"{names[1]} is not a permutation")
            layers.append(Layer(str(label), correlations, order))
        if not layers:
            raise ValueError("it has no layers")
        return layers

    return read(path, "a file of correlation matrices", parse)
