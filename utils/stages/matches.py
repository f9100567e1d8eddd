"""Matches: for every activation of a network, the order of its channels; ours, and the original code's."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import distributed
from ..errors import FileError
from .files import hold, let_go, read, read_archive, read_array, remove, save_array
from .inert import has_pickle, unpickle_array

MOST_ROWS = 10_000  # of a pickled match; no network has as many


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
