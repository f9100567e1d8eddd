"""What tables, figures and the report read: the files of results, checked and compared, and the numbers in them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import FileError, UserError
from utils.geometry import barrier, path_average, spectrum
from utils.reporting.paths import Pair, Series
from utils.storage.originals import load_array, load_arrays, stand_in

Arrays = dict[str, np.ndarray]  # what a file of results holds, by name


def output_path(root: Path, kind: str, suffix: str, *subjects: str, robust: bool = False, name: str = "") -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_SUBJECTS[_NAME].SUFFIX; subjects: dataset and model."""
    parts = [*(["robust"] if robust else []), kind, *subjects, *([name] if name else [])]
    return root / "figures" / f"{'_'.join(parts)}.{suffix}"


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
    return series.layout.evaluated(series.alignment, *pair, series.epochs, series.variant_of(pair))


def unlike(series: Series, pair: Pair, first: Arrays, table: Arrays) -> FileError | None:
    """What forbids to average a pair's evaluated path with the first pair's: other points, or other settings."""
    settings, others = settings_of(first), settings_of(table)
    compared = (settings.keys() & others.keys()) - {"points", "trained"}  # which are of the pair
    different = {name: value for name, value in settings.items() if name in compared and value != others[name]}
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

    The curve's coordinates are those of its evaluation; FileError if that is of another curve, UserError if the pair
    spans no plane.
    """
    planes = []
    for pair, table in zip(pairs, load_paths(series, pairs, coordinates=("n", 2)), strict=True):
        if not table["coordinates"][-1, 0] > 0:
            raise UserError(f"networks {pair[0]} and {pair[1]} are the same, so no plane goes through {series.words}")
        path = series.layout.plane_with_curve(series.alignment, *pair, series.epochs, series.variant_of(pair))
        plane = _load_plane(path, planes)
        points = settings_of(plane).get("points"), settings_of(table).get("points")
        if None not in points and points[0] != points[1]:
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
    """A plane, whose grid has to be like those of the other pairs."""
    shapes = dict.fromkeys(("x", "y", "loss", "accuracy"), ("rows", "columns"))
    plane = load_arrays(path, **shapes, corners=(3, 2))
    size = plane["loss"].shape
    if min(size) < 2:
        raise FileError(path, "is not a grid of points", "remake")
    if not np.ptp(plane["x"]) > 0 or not np.ptp(plane["y"]) > 0:
        raise FileError(path, "has no width or no height: the networks that it goes through are the same")
    if others and size != others[0]["loss"].shape:
        count = len(others[0]["loss"])
        raise FileError(path, "has a grid of another size than that of the first pair", "replace", num_points=count)
    if others and _differ(plane, others[0], "height"):
        raise FileError(path, "reaches not as far as that of the first pair: one of them was made before", "replace")
    return plane


def load_along_curve(series: Series, pairs: Sequence[Pair], t: float) -> list[Arrays]:
    """Layerwise mean correlations of point t with the ends for every pair: {unaligned,aligned}_{a,b}, each (layers,).

    Networks in which activations share their channels have noid_{a,b} besides: each activation matched on its own.
    """
    tables = []
    for pair in pairs:
        path = series.layout.along_curve(series.alignment, *pair, series.epochs, t, series.variant_of(pair))
        names = [f"{which}_{end}" for which in ("unaligned", "aligned") for end in "ab"]
        tables.append(load_arrays(path, **dict.fromkeys(names, ("layers",))))
        if _differ(tables[-1], tables[0], "measured_on"):
            raise FileError(path, "was measured on other images than that of the first pair", "replace")
    return tables


def load_correlation(series: Series, pair: Pair, which: str) -> np.ndarray:
    """Layerwise mean correlation (layers,) of A with B, `which` being unaligned or aligned."""
    return load_array(series.layout.correlation(series.alignment, which, *pair))


def load_histories(series: Series, pairs: Sequence[Pair]) -> list[Arrays]:
    """The history of every pair's curve. None of curves of the original code whose histories are not there too."""
    try:
        return [load_history(series, pair) for pair in pairs]
    except FileError as error:
        if all(stand_in(path) == path for path in (_evaluation(series, pair) for pair in pairs)):
            raise
        print(f"{series.model}: {series.words} is not in the figure of training: {error}.")
        return []


def load_history(series: Series, pair: Pair) -> Arrays:
    """A curve's training by epoch: arrays loss_train and accuracy_train, at least as long as the series' epochs."""
    path = series.layout.curve_history(series.alignment, *pair, series.variant_of(pair))
    untold = {"epochs": series.epochs}  # which the file's name does not tell
    try:
        history = load_arrays(path, loss_train=("n",), accuracy_train=("n",))
    except FileError as error:
        error.flags |= untold
        raise
    if len(history["loss_train"]) < series.epochs:
        raise FileError(path, f"has fewer than {series.epochs} epochs", "continue", **untold)
    return history


def _differ(one: Arrays, other: Arrays, name: str) -> bool:
    """Whether two results have different settings of this name, one of which may be older and have none."""
    settings = [settings_of(one), settings_of(other)]
    return all(settings) and settings[0].get(name) != settings[1].get(name)


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


def is_loss(name: str) -> bool:
    """Whether an array of an evaluation, by its name, is a loss; if it is not, it is an accuracy."""
    return name.startswith("loss")


def summary(table: Mapping[str, np.ndarray], name: str) -> dict[str, float]:
    """The numbers of tables: an accuracy or loss of the ends, averaged over arc length, its extremes, its barrier.

    The barrier (`utils.geometry.barrier`) is how far a loss rises, or an accuracy falls, on the way.

    Of robust networks also the accuracy where the robust one is lowest and highest on the path (at_lowest,
    at_highest), and that of the end which is the more robust (better).
    """
    values = table[name]
    numbers = {
        "ends": float(values[[0, -1]].mean()),
        "average": path_average(table["length"], values),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        "barrier": barrier(table["t"], values if is_loss(name) else -values),
    }
    if "accuracy_robust" in table:
        places = robust_places(table["accuracy_robust"])
        numbers |= {name: float(values[place]) for name, place in places.items()}
    return numbers


def robust_places(accuracy: np.ndarray) -> dict[str, int]:
    """Where on a path robust accuracy (n,) is lowest and highest, and at which end it is better: indices."""
    return {
        "at_lowest": int(accuracy.argmin()),
        "at_highest": int(accuracy.argmax()),
        "better": 0 if accuracy[0] >= accuracy[-1] else len(accuracy) - 1,
    }


def no_spectrum(table: Arrays) -> str | None:
    """Why an evaluated path has no spectrum, if it has none."""
    if not table["length"][-1] > table["length"][0]:
        return "it has no length"
    steps = np.diff(table["t"])
    if not np.allclose(steps, steps.mean(), rtol=1e-6):
        return "its points are not equally spaced"
    return None


def spectra(series: Series, tables: Sequence[Arrays]) -> list[Arrays]:
    """The spectrum of each loss on the path of each pair (`utils.geometry.spectrum`)."""
    losses = [name for name in quantities(series.robust) if is_loss(name)]
    return [{name: spectrum(table[name]) for name in losses} for table in tables]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (ddof 1) if there is more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
