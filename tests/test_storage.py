import hashlib
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from conftest import Bomb, each_in_its_row

from utils.errors import FileError, UserError
from utils.stages import files, matches
from utils.stages.files import load_array, load_arrays
from utils.stages.layout import kept_epochs, partial
from utils.stages.matches import load_match
from utils.stages.originals import load_checkpoint


def test_kept_epochs(tmp_path):
    for name in ("s_01-2.pt", "s_01-10.pt", "s_01-resume.pt", "s_011-3.pt", "s_01-x.pt", ".s_01-9.pt.abc"):
        (tmp_path / name).touch()
    assert kept_epochs(tmp_path / "s_01") == [2, 10]


def test_nothing_half_written_is_found(tmp_path):
    path = tmp_path / "new" / "file"

    def fail(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        files.write_atomically(path, fail)
    assert caught.value.filename == str(path)
    assert list(path.parent.iterdir()) == []
    files.write_atomically(path, lambda stream: stream.write(b"whole"))
    with pytest.raises(OSError):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_match_round_trip(tmp_path):
    rows = [np.array([2, 0, 1]), np.array([1, 0]), np.arange(5)]
    matches.save_match(tmp_path / "m.npy", *each_in_its_row(*rows), ["a", "b"])
    assert load_match(tmp_path / "m.npy").networks == ["a", "b"]
    table = np.load(tmp_path / "m.npy", allow_pickle=False)
    assert table.tolist()[1] == [1, 0, -1, -1, -1]
    for row, loaded in zip(rows, load_match(tmp_path / "m.npy").rows, strict=True):
        np.testing.assert_array_equal(row, loaded)


OBJECTS = np.array([Bomb()])
READERS = {  # of a file of each kind that has a checksum, and what writes a hostile one
    "c.pt": (load_checkpoint, lambda path: torch.save({"model_state": Bomb()}, path)),
    "m.npy": (load_match, lambda path: np.save(path, OBJECTS)),
    "t.npz": (lambda path: load_arrays(path, t=("n",)), lambda path: np.savez(path, t=OBJECTS)),
    "s.npy": (load_array, lambda path: np.save(path, OBJECTS)),
}


@pytest.fixture(params=READERS)
def path(request, tmp_path):
    return tmp_path / request.param


def read(path):
    return READERS[path.name][0](path)


def refused(path):
    with pytest.raises(FileError) as caught:
        read(path)
    assert caught.value.path == path
    return caught.value


def test_a_missing_file_is_to_be_made(path):
    error = refused(path)
    assert (str(error), error.mend, error.exit_code) == (f"{path} does not exist", "make", 1)


def test_an_unfinished_file_is_to_be_gone_on_with(path):
    partial(path).touch()
    assert (refused(path).reason, refused(path).mend) == ("is not finished", "continue")


@pytest.mark.parametrize("content", [b"", b"not at all", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04"])
def test_foreign_and_truncated_files_are_refused(path, content):
    path.write_bytes(content)
    error = refused(path)
    assert error.mend == "remake"
    assert re.fullmatch(r"is not a [\w ]+, or it is damaged \(.*\)", error.reason)
    assert "delete" not in error.reason


def test_nothing_hostile_is_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    READERS[path.name][1](path)
    with pytest.raises(UserError):
        read(path)
    assert not (tmp_path / "bomb").exists()
    pickle.loads(pickle.dumps(Bomb()))  # so that the test would see it
    assert (tmp_path / "bomb").exists()


def save_all(folder):
    files.save_checkpoint(folder / "c.pt", {"epoch": 1, "model_state": {"w": torch.arange(300.0)}})
    matches.save_match(folder / "m.npy", *each_in_its_row(np.arange(50)), ["a", "b"])
    files.save_arrays(folder / "t.npz", t=np.linspace(0, 1, 65))
    files.save_array(folder / "s.npy", np.linspace(0, 1, 65))


def comparable(content):
    """Plain lists and dictionaries instead of arrays."""
    if isinstance(content, dict):
        return {name: comparable(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [comparable(part) for part in content]
    return content.tolist() if hasattr(content, "tolist") else content


def test_a_flipped_bit_is_noticed(path, tmp_path):
    """Wherever it is, a file is refused, or what is read is what was written."""
    save_all(tmp_path)
    whole, expected = path.read_bytes(), comparable(read(path))
    count = 0
    for position in np.random.default_rng(0).choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert comparable(read(path)) == expected
        except FileError:
            count += 1
    assert count > 150


@pytest.mark.parametrize("name", ["c.pt", "t.npz"])
def test_archives_of_before_are_read(tmp_path, name):
    """Whose comment is a checksum of all their bytes."""
    save_all(tmp_path)
    expected, content = comparable(read(tmp_path / name)), (tmp_path / name).read_bytes()
    content = content[:-2] + (103).to_bytes(2, "little")  # the length of the comment
    (tmp_path / name).write_bytes(content + files.SEAL + hashlib.sha256(content).hexdigest().encode())
    assert comparable(read(tmp_path / name)) == expected


def test_an_archive_that_unpacks_to_any_size_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", t=np.zeros(10**7))
    with pytest.raises(FileError, match="its archive would become far larger than it is"):
        load_arrays(tmp_path / "t.npz", t=("n",))


def test_files_with_a_checksum_are_ordinary_files(tmp_path):
    """Whoever reads them without this code finds what was saved."""
    save_all(tmp_path)
    assert torch.equal(torch.load(tmp_path / "c.pt", weights_only=True)["model_state"]["w"], torch.arange(300.0))
    for name in ("t.npz", "s.npy"):
        loaded = np.load(tmp_path / name)
        np.testing.assert_array_equal(loaded["t"] if name == "t.npz" else loaded, np.linspace(0, 1, 65))
    for name in ("c.pt", "t.npz"):
        assert zipfile.ZipFile(tmp_path / name).testzip() is None


def test_a_match_says_in_itself_for_which_networks_it_is(tmp_path):
    matches.save_match(tmp_path / "m.npy", *each_in_its_row(np.arange(3)), ["a", "b"])
    assert [path.name for path in tmp_path.iterdir()] == ["m.npy"]
    (tmp_path / "m.json").write_text('{"networks": ["c", "d"]}')  # left from another one
    assert load_match(tmp_path / "m.npy").networks == ["a", "b"]


def test_a_match_whose_networks_are_noted_beside_it(tmp_path):
    """As earlier versions left them."""
    path, note = tmp_path / "m.npy", tmp_path / "m.json"
    files.save_array(path, matches.padded_rows([np.arange(3)]))
    assert load_match(path).networks is None
    note.write_text('{"networks": ["a", "b"]}')
    assert load_match(path).networks == ["a", "b"]
    assert load_match(path).rows[0].tolist() == [0, 1, 2]
    for damaged in ("{", "[1]", '"a"', "{}", "3"):
        note.write_text(damaged)
        with pytest.raises(FileError, match="m.json is not a note on a match, or it is damaged") as caught:
            load_match(path)
        assert (caught.value.path, caught.value.mend) == (note, "remake")


def test_another_match_is_not_replaced_unasked(tmp_path, capsys):
    path = tmp_path / "m.npy"
    matches.save_match(path, *each_in_its_row(np.array([1, 0])), ["a", "b"])
    matches.save_match(path, *each_in_its_row(np.array([1, 0])), ["a", "b"])
    assert "This is the same match" in capsys.readouterr().out
    before = path.read_bytes()
    with pytest.raises(FileError, match="m.npy holds another match$") as caught:
        matches.save_match(path, *each_in_its_row(np.array([0, 1])), ["c", "d"])
    assert caught.value.mend == "replace"
    assert (path.read_bytes(), load_match(path).networks) == (before, ["a", "b"])
    matches.save_match(path, *each_in_its_row(np.array([0, 1])), ["c", "d"], overwrite=True)
    assert (load_match(path).rows[0].tolist(), load_match(path).networks) == ([0, 1], ["c", "d"])


@pytest.mark.parametrize(
    "arrays, reason",
    [
        ({"t": np.zeros(3)}, "it lacks loss"),
        ({"t": np.zeros(3), "loss": np.zeros(4)}, r"loss has the shape \(4,\)"),
        ({"t": np.zeros(3), "loss": np.zeros((3, 1))}, r"loss has the shape \(3, 1\)"),
        ({"t": np.zeros(0), "loss": np.zeros(0)}, r"t has the shape \(0,\)"),
        ({"t": np.zeros(3), "loss": np.array([0, np.nan, 0])}, "loss has entries that are not finite"),
        ({"t": np.zeros(3), "loss": np.array(["a", "b", "c"])}, "loss has entries that are not finite"),
        ({"t": np.zeros(3), "loss": np.zeros(3), "settings": np.array("[1]")}, "settings is not a JSON object"),
        ({"t": np.zeros(3), "loss": np.zeros(3), "settings": np.array("{")}, "is damaged"),
    ],
)
def test_tables_that_are_not_as_asked(tmp_path, arrays, reason):
    files.save_arrays(tmp_path / "t.npz", **arrays)
    with pytest.raises(FileError, match=reason):
        load_arrays(tmp_path / "t.npz", t=("n",), loss=("n",))


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils.stages.files import hold
hold(Path(sys.argv[2]))
print("held", flush=True)
time.sleep(60)
"""


def test_what_another_process_writes_is_refused_until_that_is_gone(tmp_path):
    path = tmp_path / "c"
    repository = str(Path(files.__file__).parent.parent.parent)
    with processes.started(sys.executable, "-c", HOLDER, repository, path) as holder:
        assert processes.next_line(holder) == "held\n"
        with pytest.raises(UserError, match=f"^process {holder.pid} on .* is writing {path}; wait for it"):
            files.hold(path)
        holder.kill()
    files.hold(path)  # however the other one ended
    files.hold(path)  # its own
    files.let_go(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pickled", ["array", "plain"])
def test_a_pickle_among_results_is_refused_without_advice_to_trust_it(tmp_path, pickled):
    path = tmp_path / "series.npy"
    if pickled == "array":
        np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps([1.0, 2.0]))
    with pytest.raises(FileError) as error:
        load_array(path)
    assert "it holds pickled objects" in str(error.value)
    assert "allow_pickle" not in str(error.value)
    assert "trust" not in str(error.value)


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path, monkeypatch):
    """Of whichever machine and process, also where one of the same number is running; never what one is writing."""
    path = tmp_path / "c.pt"
    for left in (f".c.pt.{os.uname().nodename}.{os.getpid()}.tmp", ".c.pt.elsewhere.1.tmp", ".c.pt.abc.tmp"):
        (tmp_path / left).touch()
    other = tmp_path / ".c.pt2.elsewhere.1.tmp"
    other.touch()
    files.write_atomically(path, lambda stream: stream.write(b"whole"))
    assert set(tmp_path.iterdir()) == {path, other}
    monkeypatch.setattr(os, "fchmod", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    files.write_atomically(path, lambda stream: stream.write(b"again"))  # where nothing can be locked
    files.hold(path)
    assert path.read_bytes() == b"again"


def test_other_processes_of_a_job_wait_for_no_lock(tmp_path, monkeypatch):
    files.hold(tmp_path / "c")
    monkeypatch.setattr(files, "_held", {})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    files.hold(tmp_path / "c")
