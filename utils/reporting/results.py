"""What tables, figures and the report share: which results there are, their names in words, their numbers."""

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models import MODELS
from utils.errors import FileError
from utils.geometry import path_average, spectrum
from utils.storage.files import load_array, load_arrays
from utils.storage.layout import FOLDERS, ROBUST_FOLDERS, Layout, read_name, tag

# Alignments in the order of the paper's table, then others that scripts here make: their name in words and their
# colour everywhere (Okabe and Ito's colours, which stay apart for colour-blind readers and in grey print).
ALIGNMENTS = {
    "null": ("unaligned", "#D55E00"),
    "pam_null": ("PAM unaligned", "#E69F00"),
    "pam_corr": ("PAM aligned", "#009E73"),
    "corr": ("aligned", "#0072B2"),
    "w2_post": ("aligned by L2", "#CC79A7"),
    "w2_pre": ("aligned by L2 before activation", "#56B4E9"),
}
OTHER_COLOURS = ("#7A7A7A", "#000000", "#8C564B", "#6A3D9A", "#A6761D")

Pair = tuple[int, int]  # the seeds of networks A and B
Arrays = dict[str, np.ndarray]  # what a file of results holds, by name

# --- paths, and their names in words -----------------------------------------------------------------------


class Series(NamedTuple):
    """One line of a figure or table: the same path between every pair."""

    layout: Layout
    alignment: str  # '' or null for none
    epochs: int  # of the curve; 0 for the straight line
    words: str
    rank: int = 0  # among the curves' numbers of epochs, where there are several

    @property
    def dataset(self) -> str:
        return self.layout.dataset

    @property
    def model(self) -> str:
        return self.layout.model

    @property
    def robust(self) -> bool:
        return self.layout.robust

    @property
    def is_line(self) -> bool:
        return self.epochs == 0


def combined(epochs: Iterable[int], alignments: Sequence[str]) -> list[tuple[int, str]]:
    """The paths (epochs, alignment) of every number of epochs with every alignment."""
    return [(number, alignment) for number in sorted(set(epochs)) for alignment in alignments]


def named(layout: Layout, paths: Sequence[tuple[int, str]]) -> list[Series]:
    """The paths (epochs, alignment) with their names in words."""
    curves = sorted({epochs for epochs, _ in paths} - {0})
    series = []
    for epochs, alignment in paths:
        path = "line" if epochs == 0 else "curve" if len(curves) == 1 else f"curve of {epochs} epochs"
        rank = curves.index(epochs) if epochs else 0
        series.append(Series(layout, alignment, epochs, f"{path}, {alignment_words(alignment)}", rank))
    return series


def alignment_words(alignment: str) -> str:
    return ALIGNMENTS.get(tag(alignment), (alignment,))[0]


def alignment_order(alignment: str) -> tuple[int, str]:
    """By which the tags of alignments are sorted: the paper's and ours first, then by name."""
    known = list(ALIGNMENTS)
    return known.index(alignment) if alignment in known else len(known), alignment


def colour(alignment: str) -> str:
    """The alignment's own colour, the same in every figure; the user's own have one by their name."""
    name = tag(alignment)
    own = OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]
    return ALIGNMENTS.get(name, (name, own))[1]


def output_path(root: Path, kind: str, suffix: str, *subjects: str, robust: bool = False, name: str = "") -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_SUBJECTS[_NAME].SUFFIX; subjects: dataset and model."""
    parts = [*(["robust"] if robust else []), kind, *subjects, *([name] if name else [])]
    return root / "figures" / f"{'_'.join(parts)}.{suffix}"


# --- what there is, and what is asked for ------------------------------------------------------------------


class Found(NamedTuple):
    """An evaluated path, as its file name tells."""

    layout: Layout
    alignment: str  # as file names have it: null for none
    epochs: int
    pair: Pair

    @property
    def dataset(self) -> str:
        return self.layout.dataset

    @property
    def model(self) -> str:
        return self.layout.model


@dataclass(frozen=True)
class Selection:
    """Which of the evaluated paths are asked for; None stands for all that there is of a kind."""

    datasets: Collection[str] | None = None
    models: Collection[str] | None = None
    pairs: Collection[Pair] | None = None
    alignments: Collection[str] | None = None
    epochs: Collection[int] | None = None

    def includes(self, one: Found) -> bool:
        tags = None if self.alignments is None else [tag(alignment) for alignment in self.alignments]
        wanted = (
            (self.datasets, one.dataset),
            (self.models, one.model),
            (self.pairs, one.pair),
            (tags, one.alignment),
            (self.epochs, one.epochs),
        )
        return all(values is None or value in values for values, value in wanted)


def evaluated(root: Path, *, robust: bool = False) -> list[Found]:
    """All paths under `root` whose evaluation is finished or begun, in the order of the paper's tables."""
    folder = root / (ROBUST_FOLDERS if robust else FOLDERS)["evaluated"]
    names = filter(None, map(read_name, folder.glob("*/*/*.npz")))
    found = {
        Found(Layout(root, name.model, name.dataset, robust), name.alignment, name.epoch, name.seeds)
        for name in names
        if name.kind == "evaluated" and name.model in MODELS
    }
    models = list(MODELS)
    return sorted(
        found,
        key=lambda one: (
            one.dataset,
            models.index(one.model),
            one.epochs,
            alignment_order(one.alignment),
            one.pair,
        ),
    )


# --- reading results ---------------------------------------------------------------------------------------
#
# Each function reads one file of each pair, and raises FileError if it is missing, unfinished, damaged or something
# else.


def load_path(series: Series, pair: Pair, **more_shapes: tuple) -> Arrays:
    """An evaluated path: arrays t, length (of the path up to there), losses and accuracies, each (n,).

    more_shapes: arrays that it must have besides, as `load_arrays` has them.
    """
    shapes = dict.fromkeys(("t", "length", *quantities(series.robust)), ("n",)) | more_shapes
    return load_arrays(_evaluation(series, pair), **shapes)


def load_paths(series: Series, pairs: Sequence[Pair], **more_shapes: tuple) -> list[Arrays]:
    """The evaluated path of every pair, all at the same points t."""
    tables = [load_path(series, pair, **more_shapes) for pair in pairs]
    for pair, table in zip(pairs, tables, strict=True):
        if error := unlike(series, pair, tables[0], table):
            raise error
    return tables


def _evaluation(series: Series, pair: Pair) -> Path:
    return series.layout.evaluated(series.alignment, *pair, series.epochs)


def unlike(series: Series, pair: Pair, first: Arrays, table: Arrays) -> FileError | None:
    """What forbids to average a pair's evaluated path with the first pair's: other points, or other settings."""
    settings, others = settings_of(first), settings_of(table)
    different = {
        name: value for name, value in settings.items() if others and name != "points" and value != others.get(name)
    }
    count = len(first["t"])
    if np.array_equal(first["t"], table["t"]) and not different:
        return None
    told = [f"{name} {others.get(name)} (there {value})" for name, value in different.items()]
    what = ", ".join(told) or f"{len(table['t'])} points (there {count})"
    wanted = {"num_points": count} | {name: v for name, v in different.items() if type(v) in (int, float, str)}
    reason = f"was evaluated unlike that of the first pair, with {what}"
    return FileError(_evaluation(series, pair), reason, "replace", **wanted)


def load_planes_with_curve(series: Series, pairs: Sequence[Pair]) -> list[Arrays]:
    """The plane of a curve for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2), curve (n, 2).

    The curve's coordinates are those of its evaluation; FileError if that is of another curve.
    """
    planes = []
    for pair, table in zip(pairs, load_paths(series, pairs, coordinates=("n", 2)), strict=True):
        path = series.layout.plane_with_curve(series.alignment, *pair, series.epochs)
        plane = _load_plane(path, planes)
        if settings_of(plane).get("points") != settings_of(table).get("points"):
            raise _of_another_curve(path, _evaluation(series, pair))
        planes.append(plane | {"curve": table["coordinates"]})
    return planes


def _of_another_curve(plane: Path, evaluation: Path) -> FileError:
    """Plane and evaluation contradict each other; the older is the one that a newer curve has outlived."""
    if evaluation.stat().st_mtime < plane.stat().st_mtime:
        return FileError(evaluation, f"is of another curve than the plane {plane}", "replace")
    return FileError(plane, "is of another curve than was evaluated", "replace")


def load_planes_with_alignment(series: Series, pairs: Sequence[Pair]) -> list[Arrays]:
    """The plane of A, B and aligned B for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2)."""
    planes = []
    for pair in pairs:
        planes.append(_load_plane(series.layout.plane_with_alignment(series.alignment, *pair), planes))
    return planes


def _load_plane(path: Path, others: Sequence[Arrays]) -> Arrays:
    """A plane whose grid has to be as large as those of the other pairs."""
    shapes = dict.fromkeys(("x", "y", "loss", "accuracy"), ("rows", "columns"))
    plane = load_arrays(path, **shapes, corners=(3, 2))
    size = plane["loss"].shape
    if min(size) < 2:
        raise FileError(path, "is not a grid of points", "remake")
    if others and size != others[0]["loss"].shape:
        count = len(others[0]["loss"])
        raise FileError(path, "has a grid of another size than that of the first pair", "replace", num_points=count)
    return plane


def load_along_curve(series: Series, pair: Pair, t: float) -> Arrays:
    """Layerwise mean correlations of point t with the ends: {unaligned,aligned}_{a,b}, each (layers,)."""
    path = series.layout.along_curve(series.alignment, *pair, series.epochs, t)
    names = [f"{which}_{end}" for which in ("unaligned", "aligned") for end in "ab"]
    return load_arrays(path, **dict.fromkeys(names, ("layers",)))


def load_correlation(series: Series, pair: Pair, which: str) -> np.ndarray:
    """Layerwise mean correlation (layers,) of A with B, `which` being unaligned or aligned."""
    return load_array(series.layout.correlation(series.alignment, which, *pair))


def load_histories(series: Series, pairs: Sequence[Pair]) -> list[Arrays]:
    return [load_history(series, pair) for pair in pairs]


def load_history(series: Series, pair: Pair) -> Arrays:
    """A curve's training by epoch: arrays loss_train and accuracy_train, at least as long as the series' epochs."""
    path = series.layout.curve_history(series.alignment, *pair)
    untold = {"epochs": series.epochs}  # which the file's name does not tell
    try:
        history = load_arrays(path, loss_train=("n",), accuracy_train=("n",))
    except FileError as error:
        error.flags |= untold
        raise
    if len(history["loss_train"]) < series.epochs:
        raise FileError(path, f"has fewer than {series.epochs} epochs", "continue", **untold)
    return history


def settings_of(arrays: Mapping[str, np.ndarray]) -> dict[str, object]:
    """The settings with which a result was made; none are known of a file of other code."""
    return json.loads(str(arrays["settings"])) if "settings" in arrays else {}


# --- numbers -----------------------------------------------------------------------------------------------


def accuracies(robust: bool) -> dict[str, str]:
    """The accuracies that an evaluation has, by their name in its file, in words."""
    if robust:
        return {"accuracy": "clean accuracy", "accuracy_robust": "robust accuracy"}
    return {"accuracy": "accuracy"}


def quantities(robust: bool) -> dict[str, str]:
    """All that an evaluation has at each point, by its name in the file: accuracies, then losses, with units."""
    words = {name: f"{word} (%)" for name, word in accuracies(robust).items()}
    for name, word in accuracies(robust).items():
        words[name.replace("accuracy", "loss")] = f"{word.replace('accuracy', 'loss')} (cross-entropy)"
    return words


def summary(table: Mapping[str, np.ndarray], name: str) -> dict[str, float]:
    """The numbers of the paper's table: accuracy of the ends, averaged over arc length, and the minimum."""
    accuracy = table[name]
    return {
        "ends": float(accuracy[[0, -1]].mean()),
        "average": path_average(table["length"], accuracy),
        "minimum": float(accuracy.min()),
    }


def spectra(series: Series, pairs: Sequence[Pair], tables: Sequence[Arrays]) -> list[Arrays]:
    """The spectrum of each loss along the path of each pair (`utils.geometry.spectrum`).

    Raises FileError for a path of no length or of less than three points, which has none.
    """
    for pair, table in zip(pairs, tables, strict=True):
        if len(table["t"]) < 3 or not table["length"][-1] > table["length"][0]:
            reason = "has too few points or no length, so no spectrum"
            raise FileError(_evaluation(series, pair), reason, "replace")
    losses = [name for name in quantities(series.robust) if name.startswith("loss")]
    return [{name: spectrum(table["length"], table[name]) for name in losses} for table in tables]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (ddof 1) if there is more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
