"""Where files are, and how they are written and read.

Everything is written under a temporary name in the same folder and renamed when it is complete, so nothing
half-written is ever found under a final name. Checkpoints and arrays end with their checksum, which is verified when
they are read. Nothing is unpickled on reading, but for matches in the original code's format, by an unpickler that
admits numpy's arrays and nothing else.
"""

import atexit
import hashlib
import io
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from utils import distributed
from utils.errors import UserError, first_line

try:
    import fcntl
except ImportError:  # not on Windows, which goes without locks
    fcntl = None

# --- layout ------------------------------------------------------------------------------------------------

FOLDERS = {
    "models": "model_dicts/basic_models",
    "matches": "model_dicts/paired_models",
    "curves": "model_dicts/curve_models",
    "model_history": "model_data/training/basic_models",
    "curve_history": "model_data/training/curve_models",
    "correlations": "model_data/paired_models",
    "evaluated": "model_data/curves",
    "planes_with_curve": "model_data/loss_planes_with_curve",
    "planes_with_alignment": "model_data/loss_planes_with_alignment",
}

# Of adversarially robust networks
ADVERSARIAL_FOLDERS = {
    "models": "model_dicts/adversarial_models",
    "matches": "model_dicts/adversarial_paired_models",
    "curves": "model_dicts/adversarial_curve_models",
    "model_history": "model_data/training/adversarial_models",
    "curve_history": "model_data/training/adversarial_curve_models",
    "correlations": "model_data/adversarial_paired_models",
    "evaluated": "model_data/adversarial_curves",
}


def tag(alignment: str) -> str:
    """The name of an alignment in file names: '' is `null`, and the original's `pam_` is `pam_null`."""
    return alignment + "null" if alignment in ("", "pam_") else alignment


class Layout:
    """The paths of one model and dataset under `root`; `folders` replaces single folders, by their names above."""

    def __init__(self, root: Path, model: str, dataset: str, adversarial: bool = False, **folders: Path | None):
        chosen = (ADVERSARIAL_FOLDERS if adversarial else FOLDERS) | {
            kind: folder for kind, folder in folders.items() if folder is not None
        }
        self.folders = {kind: Path(root, folder, model, dataset) for kind, folder in chosen.items()}

    def endpoint_stem(self, seed: int) -> Path:
        return self.folders["models"] / f"checkpoint_seed_{seed:02d}"

    def curve_stem(self, alignment: str, seed_a: int, seed_b: int) -> Path:
        return self.folders["curves"] / f"checkpoint_{_path_name(alignment, seed_a, seed_b)}"

    def endpoint(self, seed: int, epoch: int) -> Path:
        return kept(self.endpoint_stem(seed), epoch)

    def curve(self, alignment: str, seed_a: int, seed_b: int, epoch: int) -> Path:
        return kept(self.curve_stem(alignment, seed_a, seed_b), epoch)

    def match(self, name: str, seed_a: int, seed_b: int) -> Path:
        return self.folders["matches"] / f"match_{name}_seeds_{seed_a:02d}_{seed_b:02d}.npy"

    def model_history(self, seed: int) -> dict[str, Path]:
        """One file a series: loss_train, accuracy_train, loss_test, accuracy_test."""
        return {
            f"{quantity}_{split}": self.folders["model_history"] / f"{quantity}_{split}_seed_{seed:02d}.npy"
            for quantity in ("loss", "accuracy")
            for split in ("train", "test")
        }

    def curve_history(self, alignment: str, seed_a: int, seed_b: int) -> Path:
        return self.folders["curve_history"] / f"curve_{_path_name(alignment, seed_a, seed_b)}.npz"

    def correlation(self, name: str, which: str, seed_a: int, seed_b: int) -> Path:
        """Layerwise mean correlation; `which` is `unaligned` or `aligned`."""
        return self.folders["correlations"] / f"{name}_{which}_mean_seeds_{seed_a:02d}_{seed_b:02d}.npy"

    def along_curve(self, alignment: str, seed_a: int, seed_b: int, epoch: int, t: float) -> Path:
        """Layerwise mean correlation of point t of a path with the path's ends."""
        name = f"curve_{_path_name(alignment, seed_a, seed_b)}-{epoch}_t_{t:g}.npz"
        return self.folders["correlations"] / name

    def evaluated(self, alignment: str, seed_a: int, seed_b: int, epoch: int) -> Path:
        return self.folders["evaluated"] / f"curve_{_path_name(alignment, seed_a, seed_b)}-{epoch}.npz"

    def plane_with_curve(self, alignment: str, seed_a: int, seed_b: int, epoch: int) -> Path:
        return self.folders["planes_with_curve"] / f"plane_{_path_name(alignment, seed_a, seed_b)}-{epoch}.npz"

    def plane_with_alignment(self, alignment: str, seed_a: int, seed_b: int) -> Path:
        return self.folders["planes_with_alignment"] / f"plane_{_path_name(alignment, seed_a, seed_b)}.npz"


def _path_name(alignment: str, seed_a: int, seed_b: int) -> str:
    return f"align_{tag(alignment)}_seeds_{seed_a:02d}_{seed_b:02d}"


def kept(stem: Path, epoch: int) -> Path:
    return stem.with_name(f"{stem.name}-{epoch}.pt")


def rolling(stem: Path) -> Path:
    """The checkpoint of the last finished epoch of a run that is under way."""
    return stem.with_name(f"{stem.name}-resume.pt")


def partial(path: Path) -> Path:
    """Where a table is kept while it grows."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def kept_epochs(stem: Path) -> list[int]:
    """The epochs, in order, of which the run `stem` kept checkpoints."""
    pattern = re.compile(re.escape(stem.name) + r"-(\d+)\.pt")
    names = (pattern.fullmatch(path.name) for path in stem.parent.glob(f"{stem.name}-*.pt"))
    return sorted(int(name[1]) for name in names if name)


# --- writing -----------------------------------------------------------------------------------------------


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
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


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
        raise UserError(f"another process is writing {path}; wait for it, or use another --root") from error
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


def _write_sealed(path: Path, write: Callable[[BinaryIO], None]) -> None:
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


def _read_verified(path: Path) -> BinaryIO:
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


def _expect_seal(stream: BinaryIO) -> None:
    """ValueError if something other than a checksum follows what has been read."""
    rest = stream.read()
    if rest and not rest.startswith(SEAL):
        raise ValueError("something else follows the array")


def save_checkpoint(path: Path, checkpoint: Mapping[str, object]) -> None:
    _write_sealed(path, lambda stream: torch.save(dict(checkpoint), stream))


def save_array(path: Path, array: Sequence[float] | np.ndarray) -> None:
    _write_sealed(path, lambda stream: np.save(stream, np.asarray(array), allow_pickle=False))


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    _write_sealed(path, lambda stream: np.savez(stream, **arrays))


def padded_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one integer array (rows, longest), padded with −1."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for padded, row in zip(table, rows, strict=True):
        padded[: len(row)] = row
    return table


def save_match(path: Path, rows: Sequence[np.ndarray], networks: list[str], overwrite: bool = False) -> None:
    """Rows of different lengths as one integer array, padded with −1; and beside it, for which networks it is.

    networks: digests of A and B. Without `overwrite`, a match that is there already and is another is a UserError.
    """
    if not distributed.is_main():
        return
    hold(path)
    if path.exists() and not overwrite:
        known = load_match(path, "the same command")
        if len(known) != len(rows) or not all(map(np.array_equal, known, rows)):
            raise UserError(
                f"{path} holds another match; add --overwrite to replace it, or --align_name for a new one"
            )
        print("This is the same match as was saved before.")
    path.with_suffix(".json").unlink(missing_ok=True)  # so that it never speaks of another match than is there
    save_array(path, padded_rows(rows))
    text = json.dumps({"networks": networks})
    write_atomically(path.with_suffix(".json"), lambda stream: stream.write(text.encode()))
    let_go(path)


# --- reading -----------------------------------------------------------------------------------------------


def _read(path: Path, maker: str, what: str, read: Callable[[], object]):
    """`read()`, with a missing or unreadable file as one line that names the command `maker`."""
    if not path.is_file():
        if partial(path).is_file():
            raise UserError(f"{path} is not finished; go on with: {maker}")
        raise UserError(f"{path} does not exist; make it with: {maker}")
    try:
        return read()
    except PermissionError:
        raise
    except Exception as error:  # what a parser raises on a damaged file can be anything
        raise UserError(
            f"{path} is not {what}, or it is damaged ({first_line(error)}); delete it and make it with: {maker}"
        ) from error


def load_checkpoint(path: Path, maker: str) -> dict:
    """A checkpoint: a dictionary with at least `model_state`. `maker` is the command that writes such a file."""

    def read() -> dict:
        checkpoint = torch.load(_read_verified(path), map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model_state"), dict):
            raise ValueError("it holds no model_state")
        if not all(isinstance(value, torch.Tensor) for value in checkpoint["model_state"].values()):
            raise ValueError("its model_state holds something other than tensors")
        return checkpoint

    return _read(path, maker, "a checkpoint", read)


def load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, maker: str) -> None:
    """Put a state dict into a model; a state of another architecture or number of classes is a UserError."""
    # A module saved from DataParallel calls its entries module.*
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        reason = (lines or [str(error)])[0][:160]
        raise UserError(
            f"{path} does not fit {type(model).__name__} with this dataset's classes ({reason}); "
            f"use the --model and --dataset it was trained with, or make it with: {maker}"
        ) from error
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise UserError(f"{path} holds weights that are not finite numbers; make it anew with: {maker}")


def load_arrays(path: Path, maker: str, **shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Those named in `shapes` it must have, of finite real numbers.

    shapes: the lengths of each array's axes: numbers, or words that stand for the same length throughout.
    `settings`, if the file has them, are a JSON object as text.
    """

    def read() -> dict[str, np.ndarray]:
        with np.load(_read_verified(path), allow_pickle=False) as stored:
            arrays = dict(stored)
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
        if "settings" in arrays and not isinstance(json.loads(str(arrays["settings"])), dict):
            raise ValueError("its settings are not a JSON object")
        return arrays

    return _read(path, maker, "a table of results", read)


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool(np.isfinite(array).all())


def load_array(path: Path, maker: str) -> np.ndarray:
    """The series (n,) of finite numbers in an .npy file."""

    def read() -> np.ndarray:
        stream = _read_verified(path)
        array = np.load(stream, allow_pickle=False)
        _expect_seal(stream)
        if array.ndim != 1 or not len(array) or not _is_finite(array):
            raise ValueError("it is not a series of finite numbers")
        return array

    return _read(path, maker, "a series of results", read)


def match_networks(path: Path) -> list[str] | None:
    """The digests of the networks for which a match was made; None for a match that comes without."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return None
    return _read(beside, "deleting it", "a note on a match", lambda: json.loads(beside.read_text())["networks"])


class Results:
    """A table that grows row by row, as a long evaluation does, and survives being stopped.

    Rows so far are in PATH's name with `.partial`; `finish` gives the table its own name. A table made with other
    `settings` (which are stored with it, as JSON) is refused, or dropped with `overwrite`.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], maker: str, overwrite: bool = False):
        self.path, self.settings = path, json.dumps(settings)
        self.partial = partial(path)
        self.arrays, self.finished = distributed.from_main(lambda: self._open(maker, overwrite))
        if self.finished:
            print(f"This is done already: {self.path}")

    def _open(self, maker: str, overwrite: bool) -> tuple[dict[str, np.ndarray], bool]:
        """The rows that are there, and whether they are all."""
        hold(self.path)
        for candidate in (self.path, self.partial):
            if overwrite:
                candidate.unlink(missing_ok=True)
            elif candidate.exists():
                arrays = load_arrays(candidate, maker)
                if json.loads(str(arrays.pop("settings", "{}"))) != json.loads(self.settings):
                    raise UserError(
                        f"{candidate} was made from other networks or with other flags; redo it with {maker}"
                    )
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


def load_match(path: Path, maker: str) -> list[np.ndarray]:
    """The rows of a match: ours, a 2-D integer array, or the original code's pickled array of arrays."""

    def read() -> list[np.ndarray]:
        stream = _read_verified(path)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(stream)
        if dtype.hasobject:
            rows = list(_ArrayUnpickler(stream, encoding="latin1").load())
        else:
            stream.seek(0)
            table = np.load(stream, allow_pickle=False)
            _expect_seal(stream)
            if table.ndim != 2:
                raise ValueError("it is not an array of rows")
            rows = [row[row != -1] for row in table]
        rows = [np.asarray(row) for row in rows]
        if not all(row.ndim == 1 and np.issubdtype(row.dtype, np.integer) for row in rows):
            raise ValueError("its rows are not whole numbers")
        return rows

    return _read(path, maker, "a match", read)
