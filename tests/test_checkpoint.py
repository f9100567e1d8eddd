import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models import TinyTen
from utils import checkpoint
from utils.checkpoint import Layout, Results
from utils.errors import UserError


def test_published_layout():
    layout = Layout(Path("r"), "TinyTen", "CIFAR100")
    assert layout.endpoint(1, 250) == Path("r/model_dicts/basic_models/TinyTen/CIFAR100/checkpoint_seed_01-250.pt")
    match = "r/model_dicts/paired_models/TinyTen/CIFAR100/match_corr_seeds_01_02.npy"
    assert layout.match("corr", 1, 2) == Path(match)
    curves = Path("r/model_dicts/curve_models/TinyTen/CIFAR100")
    assert layout.curve("", 1, 2, 250) == curves / "checkpoint_align_null_seeds_01_02-250.pt"
    assert layout.curve("pam_corr", 11, 2, 0) == curves / "checkpoint_align_pam_corr_seeds_11_02-0.pt"
    history = Path("r/model_data/training")
    assert layout.model_history(3)["loss_test"] == history / "basic_models/TinyTen/CIFAR100/loss_test_seed_03.npy"
    assert layout.curve_history("corr", 1, 2).name == "curve_align_corr_seeds_01_02.npz"
    assert layout.correlation("corr", "aligned", 1, 2).name == "corr_aligned_mean_seeds_01_02.npy"
    assert layout.evaluated("", 1, 2, 250).name == "curve_align_null_seeds_01_02-250.npz"
    moved = Layout(Path("r"), "TinyTen", "CIFAR100", models=Path("/elsewhere"))
    assert moved.endpoint(1, 2) == Path("/elsewhere/TinyTen/CIFAR100/checkpoint_seed_01-2.pt")


@pytest.mark.parametrize(
    "alignment, tag",
    [("", "null"), ("null", "null"), ("corr", "corr"), ("pam_", "pam_null"), ("pam_corr", "pam_corr")],
)
def test_tags(alignment, tag):
    assert checkpoint.tag(alignment) == tag


def test_kept_epochs(tmp_path):
    for name in ("s_01-2.pt", "s_01-10.pt", "s_01-resume.pt", "s_011-3.pt", "s_01-x.pt"):
        (tmp_path / name).touch()
    assert checkpoint.kept_epochs(tmp_path / "s_01") == [2, 10]


def test_nothing_half_written_is_found(tmp_path):
    path = tmp_path / "new" / "file"

    def fail(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.write_atomically(path, fail)
    assert caught.value.filename == str(path)
    assert list(path.parent.iterdir()) == []
    checkpoint.write_atomically(path, lambda stream: stream.write(b"whole"))
    with pytest.raises(OSError):
        checkpoint.write_atomically(path, fail)
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_match_round_trip(tmp_path):
    rows = [np.array([2, 0, 1]), np.array([1, 0]), np.arange(5)]
    checkpoint.save_match(tmp_path / "m.npy", rows, ["a", "b"])
    assert checkpoint.match_networks(tmp_path / "m.npy") == ["a", "b"]
    table = np.load(tmp_path / "m.npy", allow_pickle=False)
    assert table.tolist()[1] == [1, 0, -1, -1, -1]
    for row, loaded in zip(rows, checkpoint.load_match(tmp_path / "m.npy", "make"), strict=True):
        np.testing.assert_array_equal(row, loaded)


def test_match_of_the_original_code(tmp_path):
    rows = np.empty(3, object)
    rows[:] = [np.array([1, 0]), np.array([2, 1, 0]), np.array([0])]
    np.save(tmp_path / "m.npy", rows, allow_pickle=True)
    assert checkpoint.match_networks(tmp_path / "m.npy") is None
    for row, loaded in zip(rows, checkpoint.load_match(tmp_path / "m.npy", "make"), strict=True):
        np.testing.assert_array_equal(row, loaded)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def hostile_npy():
    array = np.empty(1, object)
    array[0] = Bomb()
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def hostile_npz():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("t.npy", hostile_npy())
    return stream.getvalue()


def hostile_pt():
    stream = io.BytesIO()
    torch.save({"model_state": Bomb()}, stream)
    return stream.getvalue()


READERS = {
    "checkpoint": (checkpoint.load_checkpoint, hostile_pt),
    "match": (checkpoint.load_match, hostile_npy),
    "arrays": (lambda path, maker: checkpoint.load_arrays(path, maker, t=("n",)), hostile_npz),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_names_the_command_that_makes_it(tmp_path, kind):
    with pytest.raises(UserError, match="f does not exist; make it with: python x.py"):
        READERS[kind][0](tmp_path / "f", "python x.py")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", [b"", b"not at all", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
def test_foreign_and_truncated_files_are_refused(tmp_path, kind, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match="make it with: python x.py"):
        READERS[kind][0](tmp_path / "f", "python x.py")


@pytest.mark.parametrize("kind", READERS)
def test_nothing_hostile_is_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    read, make = READERS[kind]
    (tmp_path / "f").write_bytes(make())
    with pytest.raises(UserError):
        read(tmp_path / "f", "python x.py")
    assert not (tmp_path / "bomb").exists()
    pickle.loads(pickle.dumps(Bomb()))  # so that the test would see it
    assert (tmp_path / "bomb").exists()


def test_truncated_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"epoch": 1, "model_state": TinyTen(3).state_dict()})
    whole = path.read_bytes()
    for length in (1, 100, len(whole) // 2, *range(len(whole) - 130, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a checkpoint, or it is damaged"):
            checkpoint.load_checkpoint(path, "python x.py")


def saved(folder):
    """A file of each kind that has a checksum, with its reader."""
    checkpoint.save_checkpoint(folder / "c.pt", {"epoch": 1, "model_state": {"w": torch.arange(300.0)}})
    checkpoint.save_match(folder / "m.npy", [np.arange(50)], ["a", "b"])
    checkpoint.save_arrays(folder / "t.npz", t=np.linspace(0, 1, 65))
    checkpoint.save_array(folder / "s.npy", np.linspace(0, 1, 65))
    return {
        "c.pt": checkpoint.load_checkpoint,
        "m.npy": checkpoint.load_match,
        "t.npz": lambda path, maker: checkpoint.load_arrays(path, maker, t=("n",)),
        "s.npy": checkpoint.load_array,
    }


@pytest.mark.parametrize("name", ["c.pt", "m.npy", "t.npz", "s.npy"])
def test_a_damaged_byte_is_noticed(tmp_path, name):
    """Wherever it is; except in the mark of the checksum itself, where it changes nothing that is read."""
    path, read = tmp_path / name, saved(tmp_path)[name]
    whole = path.read_bytes()
    mark = len(whole) - checkpoint.SEAL_LENGTH
    for position in np.random.default_rng(0).choice(mark, 100, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="checksum is wrong"):
            read(path, "python x.py")
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="checksum is wrong"):
        read(path, "python x.py")
    path.write_bytes(whole)
    read(path, "python x.py")


def test_files_with_a_checksum_are_ordinary_files(tmp_path):
    """Whoever reads them without this code finds what was saved."""
    saved(tmp_path)
    assert torch.equal(torch.load(tmp_path / "c.pt", weights_only=True)["model_state"]["w"], torch.arange(300.0))
    for name in ("t.npz", "s.npy"):
        loaded = np.load(tmp_path / name)
        np.testing.assert_array_equal(loaded["t"] if name == "t.npz" else loaded, np.linspace(0, 1, 65))
    for name in ("c.pt", "t.npz"):
        assert zipfile.ZipFile(tmp_path / name).testzip() is None


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, {"model_state": 3}, {"model_state": {"a": 1}}])
def test_checkpoints_without_a_model(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError, match="model_state"):
        checkpoint.load_checkpoint(tmp_path / "c.pt", "python x.py")


def test_state_of_another_network():
    with pytest.raises(UserError, match="c.pt does not fit TinyTen .*dense.weight"):
        checkpoint.load_state(TinyTen(4), TinyTen(3).state_dict(), Path("c.pt"), "x")
    broken = TinyTen(4).state_dict()
    broken["dense.bias"][0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        checkpoint.load_state(TinyTen(4), broken, Path("c.pt"), "x")


def test_state_saved_from_a_data_parallel_model():
    state = {f"module.{name}": value for name, value in TinyTen(4).state_dict().items()}
    checkpoint.load_state(TinyTen(4), state, Path("c.pt"), "x")


def test_results_go_on_where_they_stopped(tmp_path, capsys):
    path = tmp_path / "table.npz"
    first = Results(path, {"flag": 1, "other": None}, "x")
    first.add(t=0.0, xy=np.array([1.0, 2.0]))
    assert not path.exists()
    second = Results(path, {"flag": 1, "other": None}, "x")
    assert len(second) == 1
    second.add(t=0.5, xy=np.array([3.0, 4.0]))
    second.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.npz"]
    third = Results(path, {"flag": 1, "other": None}, "x")
    assert third.finished
    assert "done already" in capsys.readouterr().out
    np.testing.assert_array_equal(third.arrays["xy"], [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="with other flags"):
        Results(path, {"flag": 2}, "x")
    assert len(Results(path, {"flag": 2}, "x", overwrite=True)) == 0


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils.checkpoint import hold
hold(Path(sys.argv[2]))
print("held", flush=True)
time.sleep(60)
"""


def test_what_another_process_writes_is_refused_until_that_is_gone(tmp_path):
    path = tmp_path / "c"
    repository = str(Path(checkpoint.__file__).parent.parent)
    command = [sys.executable, "-c", HOLDER, repository, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is writing"):
            checkpoint.hold(path)
        holder.kill()
    checkpoint.hold(path)  # however the other one ended
    checkpoint.hold(path)  # its own
    checkpoint.let_go(path)
    assert not list(tmp_path.iterdir())


def test_a_finished_table_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    results = Results(tmp_path / "t.npz", {"a": 1}, "x")
    results.add(t=0.5)
    results.finish()
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert Results(tmp_path / "t.npz", {"a": 1}, "x").finished


def test_a_table_whose_process_was_killed_when_it_had_finished(tmp_path):
    results = Results(tmp_path / "t.npz", {"a": 1}, "x")
    results.add(t=0.5)
    left = results.partial.read_bytes()
    results.finish()
    results.partial.write_bytes(left)
    assert Results(tmp_path / "t.npz", {"a": 1}, "x").finished
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_an_array_whose_end_is_other_bytes(tmp_path):
    path = tmp_path / "s.npy"
    checkpoint.save_array(path, np.arange(1.0, 10))
    content = path.read_bytes()
    path.write_bytes(content[:150] + bytes(len(content) - 150))
    with pytest.raises(UserError, match="something else follows"):
        checkpoint.load_array(path, "python x.py")
