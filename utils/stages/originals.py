"""Files that may be of other code: anybody's checkpoints, and the original code's files where ours are not there.

The original's are found by its names, and read by its keys. It pickles dictionaries into .npy files, and
keeps what PAM makes in folders of its own under tags of its own.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import FileError, first_line
from . import files
from .files import check_shapes, read, read_archive, read_array
from .foreign import as_checkpoint, read_content, read_objects
from .layout import USUAL, Name, partial, read_name

PERMUTATION_EPOCHS = 20  # of PAM, which the original counts among a curve's
PLANE = {"t1": "x", "t2": "y", "loss": "loss", "acc": "accuracy", "model1_coords": "b", "model2_coords": "third"}

# What our arrays are called in its dictionaries, by the kind of file; all that a file has is taken
KEYS = {
    "evaluated": {
        "curve_len": "length",
        "test_loss": "loss",
        "test_acc": "accuracy",
        "test_loss_robust": "loss_robust",
        "test_acc_robust": "accuracy_robust",
        "curve_coords": "coordinates",
    },
    "curve_history": {
        "loss_train": "loss_train",
        "acc_train": "accuracy_train",
        "loss_test": "loss_test",
        "acc_test": "accuracy_test",
    },
    "plane_with_curve": PLANE,
    "plane_with_alignment": PLANE,
}

# --- finding -----------------------------------------------------------------------------------------------


def stand_in(path: Path) -> Path:
    """The file itself, or where it is not there, but one of the original code for the same is, that one."""
    if path.exists() or partial(path).exists():
        return path
    found = next(_candidates(path), path)
    if found != path and found.suffix == ".pt":
        tell_once(f"{path.name} is not there; the original's {found} is taken for it.")
    return found


def _candidates(path: Path) -> Iterator[Path]:
    """The original's files for the one at `path`, which are there; the likeliest first."""
    name = read_name(path)
    if name is None or name.variant != USUAL or name.t not in (None, 0.5) or len(path.parts) < 4:
        return
    for file in dict.fromkeys(_names(path, name)):
        yield from (folder / file for folder in _folders(path, name) if (folder / file).is_file())


def _names(path: Path, name: Name) -> Iterator[str]:
    """What the original calls the file: its tag has nothing for null, and its curves of PAM have more epochs."""
    seeds = "_".join(f"{seed:02d}" for seed in name.seeds)
    for tag in dict.fromkeys((name.alignment or "", (name.alignment or "").removesuffix("null"))):
        epochs = (
            [name.epoch] if name.epoch is None or "pam_" not in tag else [name.epoch, name.epoch + PERMUTATION_EPOCHS]
        )
        for end in ("" if epoch is None else f"-{epoch}" for epoch in epochs):
            if name.kind in ("plane_with_curve", "plane_with_alignment"):
                yield f"{tag}_loss_plane_dict_seeds_{seeds}{end}.npy"
            elif name.kind == "along_curve":
                yield f"corr_unaligned_mean_seeds_{seeds}_ends_align_{tag}{end}.npy"
            elif ours := re.fullmatch(rf"(.+_){re.escape(name.alignment or '')}(_seeds_.+?)(-\d+)?", path.stem):
                yield f"{ours[1]}{tag}{ours[2]}{end}{'.npy' if path.suffix == '.npz' else path.suffix}"


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


def load_checkpoint(path: Path, entry: str | None = None) -> dict:
    """A checkpoint: a dictionary with at least `model_state`, a state dict.

    Those of other code may have it under another name, or be a state dict themselves; what cannot be read safely
    beside it is left aside, and said to be. entry: that name; None: it is looked for.
    """

    def parse() -> dict:
        checkpoint, notes = as_checkpoint(path, read_content(read_archive(path)), entry)
        for note in notes:
            tell_once(f"{path}: {note}")
        return checkpoint

    return read(path, "a checkpoint", parse)


@functools.cache
def tell_once(line: str) -> None:
    """Print something about a file that may be read several times."""
    print(line)


def load_results(path: Path, **shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """`files.load_arrays`, or of the original's file what it has of the same."""
    original = stand_in(path)
    if original.suffix != ".npy":
        return files.load_arrays(path, **shapes)
    kind = read_name(path).kind

    def parse() -> dict[str, np.ndarray]:
        content = {} if kind == "along_curve" else read_objects(read_archive(original))
        try:
            arrays = _midpoint(original) if kind == "along_curve" else _arrays(kind, content)
            check_shapes(arrays, shapes)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
            keys = ", ".join(map(str, [*content][:12])) if isinstance(content, dict) else "none"
            words = f"is of other code and not understood: {reason}; it has the keys {keys}"
            raise FileError(original, words) from error
        return arrays

    return read(original, "a table of results", parse)


def _arrays(kind: str, content: dict) -> dict[str, np.ndarray]:
    """Our arrays of what the original's file of a kind holds."""
    found = {ours: np.asarray(content[key], np.float64) for key, ours in KEYS[kind].items() if key in content}
    if kind == "curve_history":
        return {name: series[1:] for name, series in found.items()}  # the first is from before the training
    if kind == "evaluated":
        return found | {"t": np.linspace(0, 1, len(content["test_loss"]))}
    x, y, loss, accuracy, b, third = (found[name] if name in found else content[key] for key, name in PLANE.items())
    if kind == "plane_with_curve" and np.isclose(1.5 * third[1], y.max(), rtol=0.02):
        third = 2 * third - b / 2  # it is θ(1/2), and not the turning point
    x, y = np.meshgrid(x, y)
    return {"x": x, "y": y, "loss": loss.T, "accuracy": accuracy.T, "corners": np.stack([0 * b, b, third])}


def _midpoint(unaligned: Path) -> dict[str, np.ndarray]:
    """Correlations of a curve's midpoint with its ends: a file (2, layers) for each way of aligning it."""
    arrays = {}
    for ours, theirs in (("unaligned", "unaligned"), ("aligned", "aligned"), ("noid", "aligned_noid")):
        path = unaligned.with_name(unaligned.name.replace("corr_unaligned", f"corr_{theirs}", 1))
        if ours != "noid" or path.is_file():
            arrays |= {f"{ours}_{end}": row for end, row in zip("ab", read_array(path)[0], strict=True)}
    return arrays
