"""Tables of results that grow row by row, as a long evaluation does, and survive being stopped."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import distributed
from ..errors import FileError
from .files import hold, let_go, load_arrays, remove, save_arrays, write_atomically
from .layout import partial
from .settings import unlike


class GrowingTable:
    """A table that grows row by row, and survives being stopped.

    Rows so far are in PATH's name with `.partial`; `finish` gives the table its own name. A table made with other
    `settings` (which are stored with it, as JSON) is refused, or dropped with `overwrite`.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], overwrite: bool = False):
        self.path, self.settings = path, json.dumps(settings)
        self.partial = partial(path)
        self.arrays, self.finished = distributed.from_main(lambda: self._open(overwrite))
        if self.finished:
            print(f"This is done already: {self.path}")

    def _open(self, overwrite: bool) -> tuple[dict[str, np.ndarray], bool]:
        """The rows that are there, and whether they are all."""
        hold(self.path)
        if overwrite:
            self.path.with_suffix(".csv").unlink(missing_ok=True)
        for candidate in (self.path, self.partial):
            if overwrite:
                candidate.unlink(missing_ok=True)
            elif candidate.exists():
                arrays = load_arrays(candidate)
                before = json.loads(str(arrays.pop("settings", "{}")))
                if why := unlike(before, json.loads(self.settings)):
                    raise FileError(candidate, why, "replace")
                if candidate == self.path:
                    let_go(self.path)
                    if self.partial.exists():  # a process was killed when it had finished
                        self.partial.unlink()
                return arrays, candidate == self.path
        return {}, False

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()), ()))

    def add(self, **row: float | np.ndarray) -> None:
        for name, value in row.items():
            known = self.arrays.get(name, np.empty((0, *np.shape(value))))
            self.arrays[name] = np.concatenate([known, np.asarray(value)[None]])
        save_arrays(self.partial, settings=np.array(self.settings), **self.arrays)

    def finish(self, **whole: np.ndarray) -> None:
        """Give the table its own name; `whole` are further arrays, which are not made of rows."""
        self.arrays |= whole
        save_arrays(self.path, settings=np.array(self.settings), **self.arrays)
        remove(self.partial)
        let_go(self.path)
        self.finished = True


def write_csv(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A table of results as text: a line a row of its arrays (n,), unrounded; of arrays (n, 2) two columns, x and y.

    Arrays of another length, as its settings, are left out. A file that says so already is left alone.
    """
    rows = len(next(iter(arrays.values())))
    columns: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if values.shape == (rows,):
            columns[name] = values
        elif values.shape == (rows, 2):
            columns |= {f"{name}_{axis}": values[:, i] for i, axis in enumerate("xy")}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    text = stream.getvalue().encode()
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, lambda file: file.write(text))
