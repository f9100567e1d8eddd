"""What survives being stopped: runs, and tables of results."""

import os

import numpy as np
import pytest
import torch

from utils.errors import FileError
from utils.stages.files import save_arrays, save_checkpoint
from utils.stages.layout import kept, rolling
from utils.stages.originals import load_checkpoint
from utils.stages.records import Record
from utils.stages.runs import GrowingTable, Run


def test_tables_go_on_where_they_stopped(tmp_path, capsys):
    path = tmp_path / "table.npz"
    first = GrowingTable(path, Record(flags={"flag": 1, "other": None}))
    first.add(t=0.0, xy=np.array([1.0, 2.0]))
    assert not path.exists()
    second = GrowingTable(path, Record(flags={"flag": 1, "other": None}))
    assert len(second) == 1
    second.add(t=0.5, xy=np.array([3.0, 4.0]))
    second.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.npz"]
    third = GrowingTable(path, Record(flags={"flag": 1, "other": None}))
    assert third.finished
    assert "done already" in capsys.readouterr().out
    np.testing.assert_array_equal(third.arrays["xy"], [[1, 2], [3, 4]])
    with pytest.raises(FileError, match=r"was made with flag 1 \(now 2\)$") as caught:
        GrowingTable(path, Record(flags={"flag": 2}))
    assert (caught.value.path, caught.value.mend) == (path, "replace")
    assert len(GrowingTable(path, Record(flags={"flag": 2}), overwrite=True)) == 0


def test_a_finished_table_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    table = GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1}))
    table.add(t=0.5)
    table.finish()
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1})).finished


@pytest.mark.parametrize("arrays", [{"t": [0.5]}, {"t": [0.5], "xy": [1]}, {"t": [0.5], "xy": [[1, 2]], "z": [1]}])
def test_a_table_that_another_version_began_is_not_gone_on_with(tmp_path, arrays):
    table = GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1}))
    save_arrays(table.partial, record=table.record.stored(), **{name: np.array(one) for name, one in arrays.items()})
    with pytest.raises(FileError, match="holds other measurements than this version makes"):
        GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1})).add(t=1.0, xy=np.array([3, 4]))


def test_a_table_whose_process_was_killed_when_it_had_finished(tmp_path):
    table = GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1}))
    table.add(t=0.5)
    left = table.partial.read_bytes()
    table.finish()
    table.partial.write_bytes(left)
    assert GrowingTable(tmp_path / "t.npz", Record(flags={"a": 1})).finished
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


STATE = {"model_state": {"w": torch.arange(3.0)}, "history": {"loss_train": [2.0, 1.0]}}


def a_run(folder, record=None, epochs=4, **options):
    return Run(folder / "c", record or Record(flags={"lr": 0.1}), epochs, 2, folder / "h.npz", **options)


def go(run, *epochs):
    """Save as a run that has come so far does."""
    for epoch in epochs:
        run.save(epoch, {"epoch": epoch, **STATE})


def names(folder):
    """The files, but for locks and what a killed process was writing."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def refused(run):
    with pytest.raises(FileError) as caught:
        run.open()
    return caught.value


def test_a_run_keeps_what_it_should(tmp_path):
    run = a_run(tmp_path)
    assert run.open() is None
    go(run, 1)
    assert names(tmp_path) == ["c-resume.pt"]
    go(run, 2, 3)
    assert names(tmp_path) == ["c-2.pt", "c-resume.pt"]
    assert load_checkpoint(rolling(run.stem))["epoch"] == 3
    go(run, 4)
    assert names(tmp_path) == ["c-2.pt", "c-4.pt", "c-resume.pt", "h.npz"]
    run.close(STATE["history"])
    assert names(tmp_path) == ["c-2.pt", "c-4.pt", "h.npz"]
    assert run.files(STATE["history"]) == [tmp_path / "c-4.pt", tmp_path / "h.npz"]
    assert np.load(tmp_path / "h.npz")["loss_train"].tolist() == [2.0, 1.0]
    assert not list(tmp_path.glob(".*"))
    assert a_run(tmp_path).open()["epoch"] == 4  # finished: no --resume is needed to say so


def test_a_run_is_gone_on_with_when_asked(tmp_path):
    go(a_run(tmp_path), 1, 2, 3)
    error = refused(a_run(tmp_path))
    assert (str(error), error.mend) == (f"{tmp_path / 'c-resume.pt'} is a run at epoch 3", "resume")
    assert a_run(tmp_path, resume=True).open()["epoch"] == 3
    rolling(tmp_path / "c").unlink()
    assert a_run(tmp_path, resume=True).open()["epoch"] == 2
    anew = a_run(tmp_path, overwrite=True)
    assert anew.open() is None
    assert names(tmp_path) == ["c-2.pt"]  # until there is something in its place
    go(anew, 1)
    assert names(tmp_path) == ["c-resume.pt"]


def test_a_run_made_with_other_settings_is_refused(tmp_path):
    go(a_run(tmp_path, Record(flags={"lr": 0.1}, inputs={"ends": {0: "a"}})), 1)
    for flags, end, reason in (
        ({"lr": 0.2}, "a", "with lr 0.1 (now 0.2)"),
        ({"lr": 0.1}, "b", "from other networks"),
        ({"lr": 0.2, "wd": 0}, "b", "from other networks, with lr 0.1 (now 0.2)"),  # wd was not recorded
    ):
        error = refused(a_run(tmp_path, Record(flags=flags, inputs={"ends": {0: end}}), resume=True))
        assert (error.reason, error.mend) == (f"was made {reason}", "replace")


def test_a_run_that_is_longer_already_is_refused(tmp_path):
    go(a_run(tmp_path), 1, 2, 3)
    error = refused(a_run(tmp_path, epochs=1, resume=True))
    assert (error.reason, error.mend) == ("is at epoch 3 already and epoch 1 was not kept", "replace")
    assert a_run(tmp_path, epochs=2).open()["epoch"] == 2  # that one was kept


def test_checkpoints_of_other_code(tmp_path):
    """They have no record: as a result good for the epochs in their name, and nothing to go on from."""
    save_checkpoint(kept(tmp_path / "c", 4), {"epoch": 3, "settings": "none", **STATE})
    state = a_run(tmp_path).open()
    assert (sorted(state), state["epoch"]) == (["epoch", "model_state"], 4)
    error = refused(a_run(tmp_path, epochs=6, resume=True))
    assert (error.reason, error.mend) == (
        "does not hold what a resumed run needs; use another seed, or another root",
        "",
    )


def test_a_longer_run_under_way_outlives_a_shorter_one(tmp_path):
    go(a_run(tmp_path, epochs=9), 1, 2, 3, 4, 5)
    short = a_run(tmp_path)
    assert short.open()["epoch"] == 4
    short.close(STATE["history"])
    assert load_checkpoint(rolling(tmp_path / "c"))["epoch"] == 5
