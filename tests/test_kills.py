"""What a process leaves that is killed (kill -9) before any of its file operations, and what becomes of it."""

import io
import os
import signal

import numpy as np
import processes
import pytest
import torch
from conftest import each_in_its_row
from test_runs import names

from utils.errors import FileError
from utils.stages.files import load_array, load_arrays, save_array
from utils.stages.layout import kept, rolling
from utils.stages.matches import load_match, save_match
from utils.stages.originals import load_checkpoint
from utils.stages.records import Record, record_in
from utils.stages.runs import GrowingTable, Run

# Between which files are as they were
OPERATIONS = [(os, name) for name in ("replace", "rename", "unlink", "fsync", "open")] + [(io, "open")]


def is_killed(act, number):
    """Whether a fork of this process that does `act` comes to its file operation `number`, before which it dies."""
    seen = 0

    def counting(function):
        def counted(*args, **options):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return counted

    def child():
        for module, name in OPERATIONS:
            setattr(module, name, counting(getattr(module, name)))
        act()

    code = processes.fork(child)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def each_kill(act, prepare):
    """Prepare, and let `act` be killed before its first, second, … file operation, until it is not."""
    number = 1
    prepare()
    while is_killed(act, number):
        yield number
        number += 1
        prepare()
    assert number > 4


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def test_a_match_and_its_results(tmp_path):
    """The match always tells for which networks it is, and no result is ever of another match than is there."""
    path, results = tmp_path / "m.npy", [tmp_path / "unaligned.npy", tmp_path / "aligned.npy"]
    old, new = ([np.arange(5)], ["a", "b"], 1.0), ([np.arange(5)[::-1].copy()], ["c", "d"], 2.0)

    def save(rows, networks, value):
        save_match(path, *each_in_its_row(*rows), networks, overwrite=True, replaces=results)
        for result in results:
            save_array(result, [value], {"networks": networks})

    def prepare():
        emptied(tmp_path)
        save(*old)

    outcomes = set()
    for _ in each_kill(lambda: save(*new), prepare):
        is_new = load_match(path).networks == new[1]
        rows, networks, value = new if is_new else old
        assert load_match(path).networks == networks
        np.testing.assert_array_equal(load_match(path).rows, rows)
        values = [load_array(result)[0] for result in results if result.exists()]
        assert set(values) <= {value}
        outcomes.add((is_new, len(values)))
        save(*new)
        assert names(tmp_path) == ["aligned.npy", "m.npy", "unaligned.npy"]
        assert load_match(path).networks == new[1]
    assert {(False, 2), (False, 0), (True, 0), (True, 1)} <= outcomes


def a_run(folder, lr, **options):
    series = {name: folder / f"{name}.npy" for name in ("loss", "accuracy")}
    return Run(folder / "c", Record(flags={"lr": lr}), 3, 2, series, **options)


def learn(run):
    """As `fit` goes through a run: its states tell after which epoch, and of which run, they are."""
    state = run.open()
    done = state["epoch"] if state else 0
    series = [run.record.flags["lr"]] * 3
    for epoch in range(done + 1, 4):
        history = {"loss": series[:epoch], "accuracy": series[:epoch]}
        weights = {"w": torch.full((3,), run.record.flags["lr"] * epoch)}
        run.save(epoch, {"epoch": epoch, "model_state": weights, "history": history})
    run.close({"loss": series, "accuracy": series})


def test_a_run_that_replaces_another(tmp_path):
    """No history is ever of another run than the checkpoint, and going on ends as an undisturbed run does."""

    def prepare():
        emptied(tmp_path)
        learn(a_run(tmp_path, 1.0))

    prepare()
    whole = names(tmp_path)
    for _ in each_kill(lambda: learn(a_run(tmp_path, 2.0, overwrite=True)), prepare):
        histories = {load_array(path)[0] for path in tmp_path.glob("[a-z]*.npy")}
        stored = [path for path in (kept(tmp_path / "c", 3), rolling(tmp_path / "c")) if path.exists()]
        rates = {record_in(load_checkpoint(path)).flags["lr"] for path in stored}
        assert len(rates) <= 1
        if rates:
            assert histories <= rates
        if rates == {1.0}:  # killed before anything was removed, or when histories were: they are mended
            learn(a_run(tmp_path, 1.0))
            assert {load_array(path)[0] for path in tmp_path.glob("[a-z]*.npy")} == {1.0}
            continue
        learn(a_run(tmp_path, 2.0, resume=True))
        assert names(tmp_path) == whole
        assert {load_array(path)[0] for path in tmp_path.glob("[a-z]*.npy")} == {2.0}
        assert load_checkpoint(kept(tmp_path / "c", 3))["model_state"]["w"].tolist() == [6.0] * 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_table_that_grows(tmp_path, overwrite):
    """One of other settings is refused, and one of the same is gone on with, to the same end."""

    def fill(settings, overwrite=False):
        table = GrowingTable(tmp_path / "t.npz", Record(flags=settings), overwrite=overwrite)
        if not table.finished:
            for t in np.linspace(0, 1, 3)[len(table) :]:
                table.add(t=t, loss=settings["of"] + t)
            table.finish(corners=np.zeros(2))

    def prepare():
        emptied(tmp_path)
        if overwrite:
            fill({"of": 1})

    for _ in each_kill(lambda: fill({"of": 2}, overwrite), prepare):
        try:
            fill({"of": 2})
        except FileError as error:
            assert overwrite
            assert error.mend == "replace"
            fill({"of": 2}, overwrite=True)
        assert names(tmp_path) == ["t.npz"]
        arrays = load_arrays(tmp_path / "t.npz", t=("n",), loss=("n",))
        assert arrays["loss"].tolist() == [2.0, 2.5, 3.0]
        assert record_in(arrays).flags == {"of": 2}
