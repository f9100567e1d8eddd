"""How files are written and read: whole or not at all, damage noticed, one writer at a time.

Everything is written under a temporary name in the same folder and renamed when it is complete, so nothing
half-written is ever found under a final name. The checksums of zip archives (.pt, .npz), and the one that is behind
arrays (.npy), are verified when they are read. Nothing of a file is ever run.
"""

import atexit
import contextlib
import copy
import glob
import hashlib
import io
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils._pytree import tree_leaves

from .. import distributed
from ..errors import FileError, UserError, first_line
from .layout import partial

Content = TypeVar("Content")

# --- writing -----------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk, then give it its name.

    Of several processes, process 0 alone does. What an earlier process left of the same file when it was killed is
    removed.
    """
    if not distributed.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    is_held = path in _held
    with contextlib.suppress(OSError, NotImplementedError):  # where nothing is locked, what was left stays
        _acquire(path, timeout=-1)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        if not is_held:
            let_go(path)


def expect_writable(*folders: Path) -> None:
    """FileError unless files can be written to these folders, which need not exist. Nothing is left behind."""
    for folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            reason = "Not a directory" if there.is_file() else error.strerror
            raise FileError(there, f"cannot be written to ({reason})") from error


_held: dict[Path, FileLock] = {}  # the locks of what this process is writing


def _acquire(path: Path, timeout: float) -> None:
    if path not in _held:
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout)
        lock.acquire()
        _held[path] = lock


def hold(path: Path, timeout: float = 0) -> None:
    """Until this process ends, nobody else may hold `path`, which need not exist. UserError if another process does.

    timeout: how many seconds to wait until it does not; -1: as long as it takes.

    Of several processes, process 0 alone does. The system frees a lock however its process ends; the lock file,
    hidden beside `path`, may then remain.
    """
    if not distributed.is_main():
        return
    name = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(path, timeout)
        name.write_text(f"process {os.getpid()} on {platform.node()}")
    except Timeout as error:
        holder = name.read_text() or "another process"  # before it has written who it is
        raise UserError(f"{holder} is writing {path}; wait for it, or work under another root") from error
    except OSError:  # what cannot be written needs no lock, and whoever writes it will say why
        return


def let_go(path: Path) -> None:
    """Free what `hold` holds, if it does."""
    if lock := _held.pop(path, None):
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def clear(path: Path) -> None:
    """Remove the lock file of a process that was killed right after it had finished `path`."""
    if path not in _held and path.with_name(f".{path.name}.lock").exists():
        with contextlib.suppress(UserError, OSError):  # it is another's, or gone by now
            hold(path)
            let_go(path)


@atexit.register
def let_go_all() -> None:
    """Free all that this process holds."""
    for path in list(_held):
        let_go(path)


def remove(path: Path) -> None:
    """Delete a file, if it is there. Of several processes, process 0 alone does."""
    if distributed.is_main():
        path.unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: Mapping[str, object]) -> None:
    """What torch.save makes of a dictionary, with its tensors on the CPU, where every machine can read them."""
    # By their ids, so that a tensor that is there twice is saved once
    moved = {id(one): one.cpu() for one in tree_leaves(dict(checkpoint)) if isinstance(one, torch.Tensor)}
    _write(path, lambda buffer: torch.save(copy.deepcopy(dict(checkpoint), moved), buffer))


def save_arrays(path: Path, **arrays: np.ndarray | Mapping[str, object]) -> None:
    """An .npz file. A dictionary, such as a file's record, is stored as JSON."""
    texts = {name: np.array(json.dumps(one)) for name, one in arrays.items() if isinstance(one, Mapping)}
    _write(path, lambda buffer: np.savez(buffer, **arrays | texts))


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    if distributed.is_main():
        buffer = io.BytesIO()  # so that a full disk is an OSError, and not an error inside torch's writer
        write(buffer)
        write_atomically(path, lambda stream: stream.write(buffer.getbuffer()))


NOTE = b"\nnote: "
SEAL = b"\nsha256 of the bytes before this line: "
DIGITS = 2 * hashlib.sha256().digest_size


def save_array(path: Path, array: Sequence[float] | np.ndarray, note: Mapping[str, object] | None = None) -> None:
    """An .npy file. Behind the array, where numpy does not look, are a note on it (JSON) and a checksum of both."""

    def write(buffer: io.BytesIO) -> None:
        np.save(buffer, np.asarray(array), allow_pickle=False)
        if note is not None:
            buffer.write(NOTE + json.dumps(note).encode())
        buffer.write(SEAL + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())

    _write(path, write)


# --- reading -----------------------------------------------------------------------------------------------


def read_archive(path: Path) -> io.BytesIO:
    """The content of a file. ValueError if it is a zip archive and damaged: its checksums are wrong.

    torch verifies none of them, and reads other numbers where a bit has changed.
    """
    stream = io.BytesIO(path.read_bytes())
    if stream.getbuffer()[:2] == b"PK":
        with zipfile.ZipFile(stream) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 2**25 + 20 * len(stream.getbuffer()):
                raise ValueError("its archive would become far larger than it is")
            if (entry := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {entry} is wrong")
    stream.seek(0)
    return stream


def read_array(path: Path) -> tuple[np.ndarray, dict[str, object]]:
    """The array in an .npy file and the note behind it, {} if there is none. ValueError if their checksum is wrong.

    Files of other code end with the array.
    """
    stream = io.BytesIO(path.read_bytes())
    array, content = np.load(stream, allow_pickle=False), stream.getvalue()
    start, end = stream.tell(), max(0, len(content) - len(SEAL) - DIGITS)
    if content[end:] != SEAL + hashlib.sha256(content[:end]).hexdigest().encode():
        if start < len(content) or content[end:].startswith(SEAL):
            raise ValueError("its checksum is wrong")
        return array, {}
    note = content[start:end].removeprefix(NOTE)
    return array, json.loads(note) if note else {}


def expect(*paths: Path) -> None:
    """FileError if one of the files is missing."""
    for path in paths:
        if not path.is_file():
            if partial(path).is_file():
                raise FileError(path, "is not finished", "continue")
            raise FileError(path, "does not exist", "make")


def read(path: Path, what: str, parse: Callable[[], Content]) -> Content:
    """What `parse` makes of the file at `path`, which is to be `what`. FileError if it is missing or unreadable."""
    expect(path)
    try:
        return parse()
    except (PermissionError, UserError):
        raise
    except Exception as error:  # what a parser raises on a damaged file can be anything
        # numpy's own words for a pickle advise to trust it.
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else first_line(error)
        raise FileError(path, f"is not {what}, or it is damaged ({reason})", "remake") from error


def load_arrays(path: Path, **shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Those named in `shapes` it must have, of finite real numbers.

    shapes: the lengths of each array's axes: numbers, or words that stand for the same length throughout.
    `record` and `settings`, if the file has them, are JSON objects as text.
    """

    def parse() -> dict[str, np.ndarray]:
        with np.load(read_archive(path), allow_pickle=False) as stored:
            arrays = dict(stored)
        check_shapes(arrays, shapes)
        for name in ("record", "settings"):
            if name in arrays and not isinstance(json.loads(str(arrays[name])), dict):
                raise ValueError(f"{name} is not a JSON object")
        return arrays

    return read(path, "a table of results", parse)


def check_shapes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | str, ...]]) -> None:
    """ValueError if one of the arrays named in `shapes` (as `load_arrays` has them) is missing or another."""
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"it lacks {name}")
        actual = arrays[name].shape
        expected = tuple(
            lengths.setdefault(length, found) if isinstance(length, str) else length
            for length, found in zip(shape, actual, strict=False)
        )
        if len(actual) != len(shape) or actual != expected or 0 in actual:
            raise ValueError(f"{name} has the shape {actual}")
        if not _is_finite(arrays[name]):
            raise ValueError(f"{name} has entries that are not finite numbers")


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool(np.isfinite(array).all())


def load_array(path: Path, *, gaps: bool = False) -> np.ndarray:
    """The series (n,) of finite numbers in an .npy file. gaps: whether NaN may stand where nothing was measured."""

    def parse() -> np.ndarray:
        array, _ = read_array(path)
        if array.ndim != 1 or not len(array) or not _is_finite(array[~np.isnan(array)] if gaps else array):
            raise ValueError("it is not a series of finite numbers")
        return array

    return read(path, "a series of results", parse)
