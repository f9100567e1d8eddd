"""How files are written and read: whole or not at all, each verified by its checksum, one writer at a time.

Everything is written under a temporary name in the same folder and renamed when it is complete, so nothing
half-written is ever found under a final name. Checkpoints and arrays end with their checksum, which is verified when
they are read. Nothing of a file is ever run.
"""

import atexit
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch

from .. import distributed
from ..devices import on_cpu
from ..errors import FileError, UserError, first_line
from .foreign import Unusable, as_checkpoint, read_content
from .layout import partial

try:
    import fcntl
except ImportError:  # not on Windows, which goes without locks
    fcntl = None

Content = TypeVar("Content")

# --- writing -----------------------------------------------------------------------------------------------

written: set[Path] = set()  # what this process has written


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk, then give it its name.

    Of several processes, process 0 alone does.
    """
    if not distributed.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private
        os.replace(temporary, path)
        written.add(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def expect_writable(*folders: Path) -> None:
    """FileError unless files can be written to these folders, which need not exist. Nothing is left behind."""

    def check() -> None:
        for folder in folders:
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            try:
                with tempfile.TemporaryFile(dir=there):
                    pass
            except OSError as error:
                reason = "Not a directory" if there.is_file() else error.strerror
                raise FileError(there, f"cannot be written to ({reason})") from error

    distributed.from_main(check)


_held: dict[Path, int] = {}  # the lock files of what this process is writing


def hold(path: Path) -> None:
    """Until this process ends, nobody else may hold `path`, which need not exist. UserError if another process does.

    The system frees a lock however its process ends; the lock file, hidden beside `path`, may then remain.
    """
    if fcntl is None or path in _held:
        return
    lock = _lock_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # what cannot be written needs no lock, and whoever writes it will say why
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"another process is writing {path}; wait for it, or work under another root") from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    if not _is_at(descriptor, lock):  # deleted by whoever held it before
        os.close(descriptor)
        hold(path)
        return
    _held[path] = descriptor


def let_go(path: Path) -> None:
    """Free what `hold` holds, if it does."""
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        _lock_file(path).unlink(missing_ok=True)
        os.close(descriptor)


@atexit.register
def let_go_all() -> None:
    """Free all that this process holds."""
    for path in list(_held):
        let_go(path)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def remove(path: Path) -> None:
    """Delete a file, if it is there. Of several processes, process 0 alone does."""
    if distributed.is_main():
        path.unlink(missing_ok=True)


SEAL = b"\nsha256 of the bytes before this line: "
SEAL_LENGTH = len(SEAL) + hashlib.sha256().digest_size * 2


def write_sealed(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """`write_atomically`, and at the end of the file the checksum of all before.

    The formats allow it: what follows the array in an .npy file is not read, and a zip archive (.pt, .npz) may end
    with a comment.
    """
    if not distributed.is_main():
        return
    buffer = io.BytesIO()  # also so that a full disk is an OSError, and not an error inside torch's writer
    write(buffer)
    content = buffer.getbuffer()
    if content[-22:-18] == b"PK\5\6":  # the last record of a zip archive ends with the length of the comment
        content[-2:] = SEAL_LENGTH.to_bytes(2, "little")
    seal = SEAL + hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, lambda stream: (stream.write(content), stream.write(seal)))


def read_verified(path: Path) -> BinaryIO:
    """The content of a file. ValueError if it has a checksum (foreign files have none) that is not its own."""
    content = path.read_bytes()
    start = content.rfind(SEAL[:10], max(0, len(content) - SEAL_LENGTH))
    if start >= 0 and content[start:] != SEAL + hashlib.sha256(content[:start]).hexdigest().encode():
        raise ValueError("its checksum is wrong")
    end = content.rfind(b"PK\5\6") + 22  # of a zip archive, but for its comment
    if content.startswith(b"PK") and content[end - 2 : end] != (len(content) - end).to_bytes(2, "little"):
        raise ValueError("its end is missing")
    if content.startswith(b"PK") and len(content) - end == SEAL_LENGTH and start != end:
        raise ValueError("its checksum is missing")
    return io.BytesIO(content)


NOTE = b"\nnote: "


def read_note(stream: BinaryIO) -> dict[str, object]:
    """The note that follows an array which has been read; {} if only its checksum does, or nothing.

    ValueError if something else does.
    """
    rest = stream.read()
    if rest.startswith(NOTE):
        text, _, rest = rest[len(NOTE) :].partition(b"\n")
        if not rest:
            raise ValueError("its checksum is missing")
        return json.loads(text)
    if rest and not rest.startswith(SEAL):
        raise ValueError("something else follows the array")
    return {}


def load_note(path: Path) -> dict[str, object]:
    """The note in an .npy file that this code wrote; {} where there is none. FileError as for its array."""

    def parse() -> dict[str, object]:
        stream = read_verified(path)
        np.load(stream, allow_pickle=False)
        return read_note(stream)

    return read(path, "an array with a note", parse)


def save_checkpoint(path: Path, checkpoint: Mapping[str, object]) -> None:
    write_sealed(path, lambda stream: torch.save(on_cpu(dict(checkpoint)), stream))


def save_array(path: Path, array: Sequence[float] | np.ndarray, note: Mapping[str, object] | None = None) -> None:
    """An .npy file; behind the array, where numpy does not look, a note of what it is (`read_note`), as JSON."""

    def write(stream: BinaryIO) -> None:
        np.save(stream, np.asarray(array), allow_pickle=False)
        if note is not None:
            stream.write(NOTE + json.dumps(note).encode())

    write_sealed(path, write)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    write_sealed(path, lambda stream: np.savez(stream, **arrays))


# --- reading -----------------------------------------------------------------------------------------------


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


def load_checkpoint(path: Path, entry: str | None = None) -> dict:
    """A checkpoint: a dictionary with at least `model_state`, a state dict.

    Those of other code may have it under another name, or be a state dict themselves; what cannot be read safely
    beside it is left aside, and said to be. entry: that name; None: it is looked for.
    """

    def parse() -> dict:
        try:
            checkpoint, notes = as_checkpoint(read_content(read_verified(path)), entry)
        except Unusable as error:
            raise FileError(path, str(error), "remake") from error
        for note in notes:
            tell_once(f"{path}: {note}")
        return checkpoint

    return read(path, "a checkpoint", parse)


_told: set[str] = set()


def tell_once(line: str) -> None:
    """Print something about a file that may be read several times."""
    if line not in _told:
        print(line)
    _told.add(line)


def load_arrays(path: Path, **shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Those named in `shapes` it must have, of finite real numbers.

    shapes: the lengths of each array's axes: numbers, or words that stand for the same length throughout.
    `settings`, if the file has them, are a JSON object as text.
    """

    def parse() -> dict[str, np.ndarray]:
        with np.load(read_verified(path), allow_pickle=False) as stored:
            arrays = dict(stored)
        check_shapes(arrays, shapes)
        if "settings" in arrays and not isinstance(json.loads(str(arrays["settings"])), dict):
            raise ValueError("its settings are not a JSON object")
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
        stream = read_verified(path)
        array = np.load(stream, allow_pickle=False)
        read_note(stream)
        if array.ndim != 1 or not len(array) or not _is_finite(array[~np.isnan(array)] if gaps else array):
            raise ValueError("it is not a series of finite numbers")
        return array

    return read(path, "a series of results", parse)
