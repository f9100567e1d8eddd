"""Matches: for every activation of a network, the order of its channels; ours, and the original code's."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import distributed
from ..errors import FileError
from ..permutations import Activation, Permutations, PermutationSpec, axis_index, groups_in, places_of
from .files import hold, let_go, read, read_archive, read_array, remove, save_array
from .inert import has_pickle, unpickle_array

MOST_ROWS = 10_000  # of a pickled match; no network has as many


# --- rows and permutations ---------------------------------------------------------------------------------


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


def save_match(
    path: Path,
    rows: Sequence[np.ndarray],
    networks: list[str],
    overwrite: bool = False,
    *,
    replaces: Sequence[Path] = (),
    settings: Mapping[str, object] | None = None,
) -> None:
    """Rows of different lengths as one integer array, padded with −1, with a note for which networks it is.

    networks: digests of A and B. Without `overwrite`, a match that is there already and is another is a FileError.
    replaces: the results of the match that was there. They are removed first, so that none is ever beside a match of
        which it does not speak.
    settings: how it was made, to be told.
    """
    if not distributed.is_main():
        return
    hold(path)
    if path.exists() and not overwrite:
        known = load_match(path)
        if len(known) != len(rows) or not all(map(np.array_equal, known, rows)):
            raise FileError(path, "holds another match", "replace")
        print("This is the same match as was saved before.")
    for result in replaces:
        remove(result)
    save_array(path, padded_rows(rows), {"networks": networks, **({"settings": dict(settings)} if settings else {})})
    remove(path.with_suffix(".json"))  # where the note was once
    let_go(path)


def load_match(path: Path) -> list[np.ndarray]:
    """The rows of a match: ours, a 2-D integer array, or the original code's pickled arrays, in lists or not."""
    return _load(path)[0]


def match_networks(path: Path) -> list[str] | None:
    """The digests of the networks for which a match was made; None for a match that comes without."""
    _, note, is_pickled = _load(path)
    if note is not None:
        return note
    beside = path.with_suffix(".json")
    if is_pickled or not beside.exists():
        return None
    return read(beside, "a note on a match", lambda: json.loads(beside.read_text())["networks"])


def _load(path: Path) -> tuple[list[np.ndarray], list[str] | None, bool]:
    """The rows of a match, the digests of its networks if the file has them, and whether it is pickled."""

    def parse() -> tuple[list[np.ndarray], list[str] | None, bool]:
        stream = read_archive(path)
        if has_pickle(stream):
            return list(itertools.islice(_rows(unpickle_array(stream)), MOST_ROWS)), None, True
        table, note = read_array(path)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise ValueError("it is not an array of rows of whole numbers")
        return [row[row != -1] for row in table], note.get("networks"), False

    return read(path, "a match", parse)


def _rows(value: object) -> Iterator[np.ndarray]:
    """The rows of a pickled match, in order: of arrays in lists, however nested."""
    value = value.numpy() if isinstance(value, torch.Tensor) else value
    if isinstance(value, list) and value and all(isinstance(entry, int) for entry in value):
        yield np.array(value)
    elif isinstance(value, list) and value:
        for entry in value:
            yield from _rows(entry)
    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer) and value.ndim in (1, 2):
        yield from [value] if value.ndim == 1 else value
    else:
        raise ValueError("its rows are not whole numbers")
