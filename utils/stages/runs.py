"""A training run and its files: what it goes on from, and what it leaves."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..errors import FileError
from .files import hold, let_go, load_checkpoint, save_array, save_arrays, save_checkpoint
from .layout import kept, kept_epochs, rolling
from .settings import unlike


@dataclass
class Run:
    """A training run and its files: kept checkpoints stem-EPOCH.pt, and stem-resume.pt while it is under way.

    settings: what decides the outcome, which a resumed run must share.
    history: an .npy a series, or one .npz of all series.
    resume: whether to go on from the newest checkpoint, or the file to go on from.
    overwrite: whether to delete all of them and begin anew.
    after: the checkpoint of a run that this one continues in another task, whose momentum it takes over.
    adapted: turns the state dict of other code's checkpoint into one of the network that is trained.
    log: where TensorBoard is to find the scalars of every epoch, in a folder of the run's own.
    """

    stem: Path
    settings: Mapping[str, object]
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

    def _found(self) -> dict | None:
        newest, epochs = rolling(self.stem), [epoch for epoch in kept_epochs(self.stem) if epoch > 0]
        paths = [kept(self.stem, epoch) for epoch in epochs]
        if self.overwrite:
            # Histories first: none is to be left of a run whose checkpoints are gone.
            histories = [self.history] if isinstance(self.history, Path) else self.history.values()
            for path in [*histories, *paths, newest]:
                path.unlink(missing_ok=True)
            return None
        finished = kept(self.stem, self.epochs)
        if finished in paths:
            newest = finished
        elif not newest.exists():  # it is of the last epoch or the one before, and removed when the run is complete
            if not paths:
                return self._from(self.resume) if isinstance(self.resume, Path) else None
            newest = paths[-1]
        state = load_checkpoint(newest)
        self.path = newest
        if not (isinstance(state.get("settings"), dict) and isinstance(state.get("epoch"), int)):
            # Written by other code, which may count epochs otherwise.
            if newest != finished:
                raise FileError(newest, "does not hold what a resumed run needs", "remake")
            return {"epoch": self.epochs, "model_state": state["model_state"]}
        self._check(state, newest)
        return self._from(self.resume) if isinstance(self.resume, Path) and newest != finished else state

    def _from(self, path: Path) -> dict:
        """The checkpoint at `path` to resume from: a run's like this, or other code's, for which the user vouches."""
        self.path, state = path, load_checkpoint(path)
        if isinstance(settings := state.get("settings"), dict) and (why := unlike(settings, self.settings)):
            raise FileError(path, why)
        lacks = [
            name for name, kind in (("epoch", int), ("optimizer_state", dict)) if type(state.get(name)) is not kind
        ]
        if lacks:
            raise FileError(path, f"holds no {' and no '.join(lacks)}, without which a run cannot go on from it")
        if not 0 <= state["epoch"] < self.epochs:
            raise FileError(path, f"is at epoch {state['epoch']}; a run of {self.epochs} epochs cannot go on from it")
        if isinstance(settings, dict):
            return state
        try:
            model = self.adapted(state["model_state"])
        except ValueError as error:
            raise FileError(path, f"does not hold this run ({error})") from error
        return {"epoch": state["epoch"], "model_state": model, "optimizer_state": state["optimizer_state"]}

    def _check(self, state: dict, path: Path) -> None:
        epoch, before = state["epoch"], state["settings"]
        if why := unlike(before, self.settings):
            raise FileError(path, why, "replace")
        if epoch > self.epochs:
            raise FileError(path, f"is at epoch {epoch} already and epoch {self.epochs} was not kept", "replace")
        if epoch < self.epochs and not self.resume:
            raise FileError(path, f"is a run at epoch {epoch}", "resume")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the finished run."""
        return kept(self.stem, self.epochs)

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        """Save the state after `epoch`; it has the run's settings besides what it is given."""
        if self.log:
            self._write_scalars(epoch, state)
        state = {**state, "settings": dict(self.settings)}
        # In this order a run that is killed in between repeats the epoch, and lacks no file that it should have.
        if epoch == self.epochs:
            self.save_history(state["history"])
        if epoch == self.epochs or epoch % self.save_freq == 0:
            save_checkpoint(kept(self.stem, epoch), state)
        if epoch < self.epochs:
            save_checkpoint(rolling(self.stem), state)

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
        return [self.checkpoint, *self._history_files(history)]

    def _history_files(self, history: Mapping[str, object]) -> list[Path]:
        if isinstance(self.history, Path):
            return [self.history] if history else []
        return [self.history[name] for name in history]

    def save_history(self, history: Mapping[str, list[float]]) -> None:
        arrays = {name: np.array(values) for name, values in history.items()}
        if isinstance(self.history, Path):
            save_arrays(self.history, **arrays)
        else:
            for name, values in arrays.items():
                save_array(self.history[name], values)

    def close(self, history: Mapping[str, list[float]]) -> None:
        """Remove the checkpoint of the run under way, and mend a lost history."""
        if not all(path.exists() for path in self._history_files(history)):
            self.save_history(history)
        newest = rolling(self.stem)
        # One at a later epoch is of a longer run, which is not finished.
        if newest.exists() and load_checkpoint(newest).get("epoch", 0) <= self.epochs:
            newest.unlink()
        if self._writer is not None:
            self._writer.close()
        let_go(self.stem)
