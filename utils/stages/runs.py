"""What is made step by step and survives being stopped: training runs, and tables of results."""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .. import distributed
from ..curves import midpoint
from ..errors import FileError, UserError
from .files import hold, let_go, load_arrays, remove, save_array, save_arrays, save_checkpoint, write_atomically
from .layout import kept, kept_epochs, partial, rolling
from .originals import load_checkpoint
from .records import Record, expect_named, record_in, unlike


@dataclass
class Run:
    """A training run and its files: kept checkpoints stem-EPOCH.pt, and stem-resume.pt while it is under way.

    record: what makes it; a resumed run must share the flags and inputs in it.
    history: an .npy a series, or one .npz of all series.
    resume: whether to go on from the newest checkpoint, or the file to go on from.
    overwrite: whether to delete all of them and begin anew.
    after: the checkpoint of a run that this one continues in another task, whose momentum it takes over.
    adapted: turns the state dict of other code's checkpoint into one of the network that is trained.
    log: where TensorBoard is to find the scalars of every epoch, in a folder of the run's own.
    """

    stem: Path
    record: Record
    epochs: int
    save_freq: int
    history: dict[str, Path] | Path
    resume: bool | Path = False
    overwrite: bool = False
    after: Path | None = None
    log: Path | None = None
    adapted: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] = dict
    path: Path = field(init=False)
    _writer: object = field(default=None, init=False)
    _replaced: list[Path] = field(default_factory=list, init=False)  # to be deleted when there is something to save

    def open(self) -> dict | None:
        """The checkpoint to go on from, or None to begin. One at `epochs` says that the run is finished.

        Raises FileError where going on, or beginning anew, would not be what the user meant.
        """
        hold(self.stem)
        state = self._found()
        if state is None:
            return (
                {"epoch": 0, "optimizer_state": load_checkpoint(self.after)["optimizer_state"]}
                if self.after
                else None
            )
        if state["epoch"] >= self.epochs:
            print(f"This run is finished: {self.checkpoint}")
        elif "random_states" in state:
            print(f"Resuming after epoch {state['epoch']}.")
        else:
            print(f"Resuming after epoch {state['epoch']} from third-party code; random draws will differ.")
        return state

    def expect_free(self) -> None:
        """What `open` raises, long before it is called; from now on nobody else holds the run."""

        def look() -> None:
            hold(self.stem)
            self._found()

        distributed.from_main(look)

    def _found(self) -> dict | None:
        newest, epochs = rolling(self.stem), [epoch for epoch in kept_epochs(self.stem) if epoch > 0]
        paths = [kept(self.stem, epoch) for epoch in epochs]
        if self.overwrite:
            # Histories first: none is to be left of a run whose checkpoints are gone.
            histories = [self.history] if isinstance(self.history, Path) else self.history.values()
            self._replaced = [*histories, *paths, newest]
            return None
        finished = kept(self.stem, self.epochs)
        if finished in paths:
            newest = finished
        elif not newest.exists():  # it is of the last epoch or the one before, and removed when the run is complete
            newest = next(reversed(paths), None)
        given = self.resume if isinstance(self.resume, Path) and newest != finished else None
        if newest is None:
            return self._from(given) if given else None
        self.path, state = newest, load_checkpoint(newest)
        epoch, made = state.get("epoch"), expect_named(newest, record_in(state))
        if not made or not isinstance(epoch, int):  # written by other code, which may count epochs otherwise
            if newest != finished:
                raise FileError(newest, "does not hold what a resumed run needs; use another seed, or another root")
            return {"epoch": self.epochs, "model_state": state["model_state"]}
        if why := unlike(made, self.record):
            raise FileError(newest, why, "replace")
        if epoch > self.epochs:
            raise FileError(newest, f"is at epoch {epoch} already and epoch {self.epochs} was not kept", "replace")
        if epoch < self.epochs and not self.resume:
            raise FileError(newest, f"is a run at epoch {epoch}", "resume")
        return self._from(given) if given else state

    def _from(self, path: Path) -> dict:
        """The checkpoint at `path` to resume from: a run's like this, or other code's, for which the user vouches."""
        self.path, state = path, load_checkpoint(path)
        if (made := record_in(state)) and (why := unlike(made, self.record)):
            raise FileError(path, why)
        needed = {"epoch": int, "optimizer_state": dict}
        if lacks := [name for name, kind in needed.items() if type(state.get(name)) is not kind]:
            raise FileError(path, f"holds no {' and no '.join(lacks)}, without which a run cannot go on from it")
        if not 0 <= state["epoch"] < self.epochs:
            raise FileError(path, f"is at epoch {state['epoch']}; a run of {self.epochs} epochs cannot go on from it")
        if made:
            return state
        try:
            model = self.adapted(state["model_state"])
        except ValueError as error:
            raise FileError(path, f"does not hold this run ({error})") from error
        return {name: state[name] for name in needed} | {"model_state": model}

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the finished run."""
        return kept(self.stem, self.epochs)

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        """Save the state after `epoch`, with the run's record."""
        while self._replaced:
            self._replaced.pop(0).unlink(missing_ok=True)
        if self.log:
            self._write_scalars(epoch, state)
        # In this order a run that is killed in between repeats the epoch, and lacks no file that it should have.
        if epoch == self.epochs:
            self.save_history(state["history"])
        if epoch == self.epochs or epoch % self.save_freq == 0:
            self._save(kept(self.stem, epoch), state)
        if epoch < self.epochs:
            self._save(rolling(self.stem), state)

    def _save(self, path: Path, state: Mapping[str, object]) -> None:
        save_checkpoint(path, {**state, "record": self.record.at(path).stored()})

    def _write_scalars(self, epoch: int, state: Mapping[str, object]) -> None:
        """What is new in the history, and the learning rate, for TensorBoard.

        An epoch that is not saved after that is repeated: the writer lets what was written from its first epoch on
        count no more, whoever wrote it.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always installed

            self._writer = SummaryWriter(str(self.log.joinpath(*self.stem.parts[-4:])), purge_step=epoch)
        scalars = {name.replace("_", "/", 1): values[-1] for name, values in state["history"].items()}
        scalars["learning_rate"] = state["optimizer_state"]["param_groups"][0]["lr"]
        for name, value in scalars.items():
            if not math.isnan(value):  # it was not measured
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def files(self, history: Mapping[str, object]) -> list[Path]:
        """The files that hold the result: the finished run's checkpoint, and those of the series in `history`."""
        return [self.checkpoint, *dict.fromkeys(map(self._history_file, history))]

    def _history_file(self, name: str) -> Path:
        """The file of a series, in its form beside the others if it is another task's."""
        if isinstance(self.history, Path):
            return self.history
        known, path = next(iter(self.history.items()))
        return self.history.get(name) or path.with_name(path.name.replace(known, name, 1))

    def save_history(self, history: Mapping[str, list[float]]) -> None:
        arrays = {name: np.array(values) for name, values in history.items()}
        if isinstance(self.history, Path):
            save_arrays(self.history, record=self.record.at(self.history).stored(), **arrays)
        else:
            for name, values in arrays.items():
                path = self._history_file(name)
                save_array(path, values, {"record": self.record.at(path).stored()})

    def close(self, history: Mapping[str, list[float]]) -> None:
        """Remove the checkpoint of the run under way, and mend a lost history."""
        if not all(path.exists() for path in self.files(history)[1:]):
            self.save_history(history)
        newest = rolling(self.stem)
        # One at a later epoch is of a longer run, which is not finished.
        if newest.exists() and load_checkpoint(newest).get("epoch", 0) <= self.epochs:
            newest.unlink()
        if self._writer is not None:
            self._writer.close()
        let_go(self.stem)


# --- tables ------------------------------------------------------------------------------------------------


class GrowingTable:
    """A table that grows row by row, and survives being stopped.

    Rows so far are in PATH's name with `.partial`; `finish` gives the table its own name. A table made with other
    flags, or from other inputs, than `record` says is refused, or dropped with `overwrite`.
    """

    def __init__(self, path: Path, record: Record, *, overwrite: bool = False):
        self.path, self.record = path, record
        self.partial = partial(path)
        # Deleted when the first row is there
        self._replaced = [self.path.with_suffix(".csv"), self.path, self.partial] if overwrite else []
        self.arrays, self.finished = distributed.from_main(self._open)
        if self.finished:
            print(f"This is done already: {self.path}")

    def _open(self) -> tuple[dict[str, np.ndarray], bool]:
        """The rows that are there, and whether they are all."""
        hold(self.path)
        there = [path for path in (self.path, self.partial) if path.exists() and path not in self._replaced]
        if not there:
            return {}, False
        arrays = load_arrays(there[0])
        if why := unlike(expect_named(there[0], record_in(arrays)), self.record):
            raise FileError(there[0], why, "replace")
        if is_finished := there[0] == self.path:
            let_go(self.path)
            for left in there[1:]:  # a process was killed when it had finished
                left.unlink()
        return {name: array for name, array in arrays.items() if name not in ("record", "settings")}, is_finished

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()), ()))

    def add(self, **row: float | np.ndarray) -> None:
        shapes = {name: np.shape(value) for name, value in row.items()}
        if self.arrays and shapes != {name: array.shape[1:] for name, array in self.arrays.items()}:
            raise FileError(self.partial, "holds other measurements than this version makes", "replace")
        for name, value in row.items():
            known = self.arrays.get(name, np.empty((0, *np.shape(value))))
            self.arrays[name] = np.concatenate([known, np.asarray(value)[None]])
        self._save(self.partial)

    def _save(self, path: Path) -> None:
        while self._replaced:
            remove(self._replaced.pop(0))
        save_arrays(path, record=self.record.at(path).stored(), **self.arrays)

    def finish(self, **whole: np.ndarray) -> None:
        """Give the table its own name; `whole` are further arrays, which are not made of rows."""
        self.arrays |= whole
        self._save(self.path)
        remove(self.partial)
        let_go(self.path)
        self.finished = True


def write_csv(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A table of results as text: a line a row of its arrays (n,), unrounded; of arrays (n, 2) two columns, x and y.

    Arrays of another length are left out. A file that says so already is left alone.
    """
    rows, columns = len(next(iter(arrays.values()))), {}
    for name, values in arrays.items():
        if values.shape == (rows,):
            columns[name] = values.tolist()
        elif values.shape == (rows, 2):
            columns |= {f"{name}_{axis}": values[:, i].tolist() for i, axis in enumerate("xy")}
    stream = io.BytesIO()
    np.savetxt(stream, np.array([*columns.values()], object).T, "%s", ",", header=",".join(columns), comments="")
    if not path.is_file() or path.read_bytes() != stream.getvalue():
        write_atomically(path, lambda file: file.write(stream.getvalue()))


def save_line(
    path: Path, state_a: Mapping[str, torch.Tensor], state_b: Mapping[str, torch.Tensor], record: Record
) -> None:
    """Save the midpoint of a straight line, as a curve of no epochs; the same one stays, with its record."""
    middle = midpoint(state_a, state_b)
    try:
        there = load_checkpoint(path)["model_state"] if path.exists() else {}
    except UserError:  # damaged, and made anew
        there = {}
    if there.keys() != middle.keys() or not all(torch.equal(there[name], middle[name].cpu()) for name in middle):
        save_checkpoint(path, {"epoch": 0, "model_state": middle, "record": record.at(path).stored()})
