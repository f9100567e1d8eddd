"""Matches: for every activation of a network, the order of its channels; ours, and the original code's.

A pickled match goes through an unpickler that builds numpy arrays and nothing else.
"""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils import distributed
from utils.errors import FileError
from utils.storage.files import expect_seal, hold, let_go, read, read_verified, save_array, write_atomically


def padded_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one integer array (rows, longest), padded with −1."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for padded, row in zip(table, rows, strict=True):
        padded[: len(row)] = row
    return table


def save_match(path: Path, rows: Sequence[np.ndarray], networks: list[str], overwrite: bool = False) -> None:
    """Rows of different lengths as one integer array, padded with −1; and beside it, for which networks it is.

    networks: digests of A and B. Without `overwrite`, a match that is there already and is another is a FileError.
    """
    if not distributed.is_main():
        return
    hold(path)
    if path.exists() and not overwrite:
        known = load_match(path)
        if len(known) != len(rows) or not all(map(np.array_equal, known, rows)):
            raise FileError(path, "holds another match", "replace")
        print("This is the same match as was saved before.")
    path.with_suffix(".json").unlink(missing_ok=True)  # so that it never speaks of another match than is there
    save_array(path, padded_rows(rows))
    text = json.dumps({"networks": networks})
    write_atomically(path.with_suffix(".json"), lambda stream: stream.write(text.encode()))
    let_go(path)


def match_networks(path: Path) -> list[str] | None:
    """The digests of the networks for which a match was made; None for a match that comes without."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return None
    return read(beside, "a note on a match", lambda: json.loads(beside.read_text())["networks"])


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else."""

    ADMITTED = {
        (module, name)
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            (f"{package}.multiarray", "_reconstruct"),
            (f"{package}.multiarray", "scalar"),
            (f"{package}.numeric", "_frombuffer"),
        )
    } | {("numpy", "ndarray"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
        return super().find_class(module, name)


def load_match(path: Path) -> list[np.ndarray]:
    """The rows of a match: ours, a 2-D integer array, or the original code's pickled array of arrays."""

    def parse() -> list[np.ndarray]:
        stream = read_verified(path)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(stream)
        if dtype.hasobject:
            rows = list(_ArrayUnpickler(stream, encoding="latin1").load())
        else:
            stream.seek(0)
            table = np.load(stream, allow_pickle=False)
            expect_seal(stream)
            if table.ndim != 2:
                raise ValueError("it is not an array of rows")
            rows = [row[row != -1] for row in table]
        rows = [np.asarray(row) for row in rows]
        if not all(row.ndim == 1 and np.issubdtype(row.dtype, np.integer) for row in rows):
            raise ValueError("its rows are not whole numbers")
        return rows

    return read(path, "a match", parse)
