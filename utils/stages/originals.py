"""Files of the original code where ours are not there: found by its names, and read as ours are.

It pickles dictionaries into .npy files, and keeps what PAM makes in folders of its own under tags of its own.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import FileError
from . import files, meanings
from .files import check_shapes, read, read_archive, read_array
from .inert import has_pickle, unpickle_array
from .layout import Name, read_name
from .layout import partial as partial_of

PERMUTATION_EPOCHS = 20  # of PAM, which the original counts among a curve's


def stand_in(path: Path) -> Path:
    """The file itself, or where it is not there, but one of the original code for the same is, that one."""
    if path.exists() or partial_of(path).exists():
        return path
    found = next(_candidates(path), path)
    if found != path and found.suffix == ".pt":
        files.tell_once(f"{path.name} is not there; the original's {found} is taken for it.")
    return found


def _candidates(path: Path) -> Iterator[Path]:
    """The original's files for the one at `path`, which are there; the likeliest first."""
    name = read_name(path)
    if name is None or len(path.parts) < 4:
        return
    for pattern in map(re.compile, _patterns(path, name)):
        for folder in _folders(path, name):
            if folder.is_dir():
                yield from (there for there in sorted(folder.iterdir()) if pattern.fullmatch(there.name))


def _patterns(path: Path, name: Name) -> Iterator[str]:
    """What the original's files are called: by our names with its tags, then by names that say the same."""
    suffix = ".npy" if path.suffix == ".npz" else path.suffix
    stem = re.escape(path.stem)
    is_pam = (name.alignment or "").startswith("pam_")
    stems = [stem, stem.replace("pam_null_", "pam__")] if is_pam else [stem]
    yield from (rf"{one}{re.escape(suffix)}" for one in dict.fromkeys(stems))
    if is_pam and name.epoch:
        longer = f"-{name.epoch + PERMUTATION_EPOCHS}"
        yield from (re.sub(rf"\\-{name.epoch}(?=$|_)", longer, one) + re.escape(suffix) for one in stems)
    if name.kind in ("plane_with_curve", "plane_with_alignment", "along_curve"):
        alignment = "pam_(null)?" if name.alignment == "pam_null" else re.escape(name.alignment)
        seeds = "_".join(["seeds", *(f"{seed:02d}" for seed in name.seeds)])
        epoch = r"(-\d+)?" if name.epoch is None else rf"-{name.epoch}.*"
        yield rf"(.*_)?(?<!pam_){alignment}_{seeds}{epoch}\.npy"


def _folders(path: Path, name: Name) -> Iterator[Path]:
    """Where the original keeps its files: in the same folders, in PAM's, and with one seed for all curves."""
    base, model, dataset = path.parents[2], *path.parts[-3:-1]
    bases = [base]
    if (name.alignment or "").startswith("pam_") and base.parent.is_dir():
        bases += sorted(other for other in base.parent.iterdir() if "pam" in other.name.split("_"))
    if name.kind == "along_curve":
        bases.append(base.with_name(f"{base.name}_on_curve"))
    for folder in bases:
        yield from (
            folder / model / dataset,
            folder / model / dataset / "same_seed",
            folder / "same_seed" / model / dataset,
        )


# --- reading -----------------------------------------------------------------------------------------------


def load_arrays(path: Path, **shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """`files.load_arrays`, or of the original's file what it has of the same."""
    original = stand_in(path)
    if original.suffix != ".npy":
        return files.load_arrays(path, **shapes)
    name = read_name(path)
    meaning: Callable[[object], meanings.Arrays] = {
        "evaluated": partial(meanings.evaluated, robust=name.robust),
        "curve_history": partial(meanings.series, robust=False),
        "plane_with_curve": partial(meanings.plane, of_curve=True),
        "plane_with_alignment": partial(meanings.plane, of_curve=False),
        "along_curve": meanings.along_curve,
    }[name.kind]

    def parse() -> dict[str, np.ndarray]:
        content = _content(original)
        arrays = _understood(original, content, meaning)
        if "length" in shapes and "length" not in arrays:
            files.tell_once(f"{original} has no lengths, so averages along it are over t.")
            arrays["length"] = arrays["t"]
        try:
            check_shapes(arrays, shapes)
        except ValueError as error:
            raise _not_understood(original, content, str(error)) from error
        return arrays

    return read(original, "a table of results", parse)


def load_array(path: Path, *, gaps: bool = False) -> np.ndarray:
    """`files.load_array`, and of the original's lists of numbers, nested or not, all in order."""

    def parse() -> np.ndarray | None:
        if not has_pickle(read_archive(path)):
            return None
        array = _understood(path, _content(path), meanings.layers)
        if not len(array) or not np.isfinite(array).all():
            raise ValueError("it is not a series of finite numbers")
        return array

    array = read(path, "a series of results", parse)
    return files.load_array(path, gaps=gaps) if array is None else array


def _content(path: Path) -> object:
    stream = read_archive(path)
    return unpickle_array(stream) if has_pickle(stream) else read_array(path)[0]


def _understood(path: Path, content: object, meaning: Callable) -> object:
    try:
        return meaning(content)
    except meanings.Unclear as error:
        raise _not_understood(path, content, str(error)) from error


def _not_understood(path: Path, content: object, reason: str) -> FileError:
    return FileError(path, f"is of other code and not understood: {reason}; it has {meanings.keys_of(content)}")
