"""The files of results that tables, figures and the report read, checked and compared, and the numbers in them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..curves import digest
from ..errors import FileError, UserError, first_line
from ..geometry import FREQUENCIES, barrier, path_average, spectrum
from ..losses import BUILT_IN
from ..stages.files import load_array
from ..stages.layout import Layout, read_name
from ..stages.originals import load_checkpoint, load_results
from ..stages.records import Record, behind, digest_of, expect_current, load_record, other_flags, record_in
from .paths import Pair, Route


def output_path(root: Path, kind: str, suffix: str, *subjects: str, robust: bool = False, name: str = "") -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_SUBJECTS[_NAME].SUFFIX; subjects: dataset and model."""
    parts = [*(["robust"] if robust else []), kind, *subjects, *([name] if name else [])]
    return root / "figures" / f"{'_'.join(parts)}.{suffix}"


# --- one file ----------------------------------------------------------------------------------------------


class Result(dict[str, np.ndarray]):
    """What was measured between one pair, by name.

    path, record: the file that holds it, and what made that. files: the digests of its numbers, and of those of
    other files that were taken in. along: of a curve's plane, the evaluated curve.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], path: Path, record: Record, digest: str = ""):
        super().__init__(arrays)
        self.path, self.record, self.files = path, record, {path: digest}
        self.along: Result | None = None


FAR = 1e9  # no two networks, and no losses, are further apart
# Between which numbers an array of a name can be
RANGES = {
    r"t": (0, 1),
    r"accuracy(_\w+)?": (0, 100),
    r"loss(_\w+)?|x|y|corners|coordinates": (-FAR, FAR),
    r"length|distance": (0, FAR),
    r"(unaligned|aligned|noid)_[ab]|correlations?(_\d+)?": (-1, 1),
}


def content(path: Path, *, gaps: bool = False, **shapes: tuple) -> Result:
    """What a file of results holds. FileError if it cannot be read, or if its numbers or its record cannot be.

    The numbers of an .npy file are called accuracy, loss, correlation or distance, as they are by the file's name.

    shapes: arrays that it must have, as `load_results` has them. gaps: whether NaN may stand where nothing was
    measured.
    """
    is_series = path.suffix == ".npy"
    arrays = {"": load_array(path, gaps=gaps)} if is_series else load_results(path, **shapes)
    named = {name or _quantity(path): array for name, array in arrays.items()}
    if why := _impossible(named, gaps=gaps):
        raise FileError(path, f"holds numbers that cannot be: {why}", "replace")
    try:
        record = load_record(path) if is_series else record_in(arrays)
        _expect_known(record)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = f"has a record that this version does not understand ({first_line(error)})"
        raise FileError(path, reason, "replace") from error
    return Result(named, path, record, _digest(arrays))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return digest_of((name, arrays[name]) for name in sorted(arrays) if name not in ("record", "settings"))


def _quantity(path: Path) -> str:
    first = path.name.partition("_")[0]
    if first in ("accuracy", "loss"):
        return first
    is_distance = "_distance_" in path.name or (first == "w2" and "_correlation_" not in path.name)
    return "distance" if is_distance else "correlation"


def _impossible(arrays: Mapping[str, np.ndarray], *, gaps: bool) -> str | None:
    """Why numbers cannot be, if they cannot."""
    for name, array in arrays.items():
        least, most = next((ends for names, ends in RANGES.items() if re.fullmatch(names, name)), (None, None))
        if least is None:
            continue
        if array.dtype.kind not in "fiu" or array.size == 0:
            return f"{name} are no numbers"
        known = array[~np.isnan(array)] if gaps else array
        room = min(0.001 * (most - least), 0.1)
        if not ((known >= least - room) & (known <= most + room)).all():
            worst = known[np.abs(known - (least + most) / 2).argmax()]
            return f"{name} of {worst:g}, which is not from {least:g} to {most:g}"
        if "t" in arrays and name.startswith(("accuracy", "loss")) and array.shape != arrays["t"].shape:
            return f"{name} of the shape {array.shape} at {len(arrays['t'])} points"
    t, length = arrays.get("t", np.array([0.0, 1])), arrays.get("length", np.zeros(1))
    if not (t[0] == 0 and t[-1] == 1 and (np.diff(t) > 0).all()):
        return "t does not ascend from 0 to 1"
    return None if (np.diff(length) >= 0).all() else "length becomes less on the way"


def _expect_known(record: Record) -> None:
    """TypeError for flags, digests or costs of types that no flag, digest or cost has."""
    flags = [item for values in (record.flags, *record.trained.values()) for item in values.items()]
    parts = [(name, one) for name, value in flags for one in (value if isinstance(value, list) else [value])]
    digests = [("images", record.inputs.get("images", "")), *record.made.items()]
    digests += [("points", one) for one in record.inputs.get("points", [])]
    for known, items in ((str | int | float | None, parts), (str, digests), (int | float, record.cost.items())):
        for name, value in items:
            if not isinstance(value, known):
                raise TypeError(f"{name} {value!s:.40}")


def load_result(layout: Layout, path: Path, shapes: Mapping[str, tuple]) -> Result:
    """The arrays of a result, if its networks are those that exist now."""
    found = content(path, **shapes)
    expect_current(layout, path, found.record)
    if "a" not in found.record.inputs:  # from before the files' digests were recorded
        _expect_same_points(layout, found)
    return found


def load_ensemble(layout: Layout, path: Path) -> Result:
    """What was measured of the ensembles of a path (`utils.measuring.evaluate_ensemble`), if it is current."""
    arrays = load_results(path, loss=("rows",))
    expect_current(layout, path, record := record_in(arrays))
    return Result(arrays, path, record, _digest(arrays))


def _expect_same_points(layout: Layout, result: Result) -> None:
    """FileError if control points, as far as they are in files as they are, have changed since."""
    name, points = read_name(result.path), result.record.inputs.get("points", [])
    epochs = result.record.flags.get("epochs_model")
    if name is None or not points or not isinstance(epochs, int):
        return
    files = behind(layout, name.seeds, epochs, name.alignment or "", name.epoch or 0, name.variant)
    places = {"a": 0, "curve": name.variant.num_bends // 2} | ({} if "match" in files else {"b": -1})
    for file, place in places.items():
        if file in files and files[file].exists():
            checkpoint = load_checkpoint(files[file])
            states = checkpoint.get("points") or {place: checkpoint["model_state"]}
            if any(_point(state) != points[index] for index, state in states.items()):
                raise FileError(result.path, "was made with other networks than there are now", "replace")


def _point(state: Mapping[str, torch.Tensor]) -> str:
    """The digest of a control point, as results record it, of its state dict."""
    statistics = ("running_mean", "running_var")
    parts = [value for name, value in state.items() if value.is_floating_point() and not name.endswith(statistics)]
    return digest(torch.cat([(p.permute(0, 2, 3, 1) if p.dim() == 4 else p).reshape(-1) for p in parts]))


# --- each kind, of one pair --------------------------------------------------------------------------------
#
# Each function reads the file of a pair. It raises FileError if that is missing, unfinished, damaged or something
# else, or was made with other networks than those of now.


def load_path(route: Route, pair: Pair, **more_shapes: tuple) -> Result:
    """An evaluated path: arrays t, length (of the path up to there), losses and accuracies, each (n,)."""
    path = route.evaluated(pair)
    shapes = dict.fromkeys(("t", "length", *_measured(path, QUANTITIES[route.layout.robust])), ("n",)) | more_shapes
    return load_result(route.layout, path, shapes)


def load_plane_with_curve(route: Route, pair: Pair) -> Result:
    """The plane of a curve: arrays x, y, loss, accuracy (rows, columns), corners (3, 2), t (n,), curve (n, 2).

    The curve's coordinates are those of its evaluation at t; FileError if that is of another curve, UserError if the
    pair spans no plane.
    """
    along = load_path(route, pair, coordinates=("n", 2))
    if not along["coordinates"][-1, 0] > 0:
        raise UserError(f"networks {pair[0]} and {pair[1]} are the same, so no plane goes through {route.words}")
    path = route.plane(pair)
    plane = _load_plane(route.layout, path)
    points = [one.record.inputs.get("points") for one in (plane, along)]
    if None not in points and points[0] != points[1]:  # the older is the one that a newer curve has outlived
        if along.path.stat().st_mtime < path.stat().st_mtime:
            raise FileError(along.path, f"is of another curve than the plane {path}", "replace")
        raise FileError(path, "is of another curve than was evaluated", "replace")
    plane |= {"t": along["t"], "curve": along["coordinates"]}
    plane.files |= along.files
    plane.along = along
    return plane


def load_plane_with_alignment(route: Route, seeds: tuple[int, ...]) -> Result:
    """The plane of A, B and aligned B (of A, B and C): x, y, loss, accuracy (rows, columns), corners (3, 2)."""
    return _load_plane(route.layout, route.layout.plane_with_alignment(route.alignment, *seeds))


def _load_plane(layout: Layout, path: Path) -> Result:
    shapes = dict.fromkeys(("x", "y", *_measured(path, ("loss", "accuracy"))), ("rows", "columns"))
    plane = load_result(layout, path, shapes | {"corners": (3, 2)})
    if min(plane["loss"].shape) < 2:
        raise FileError(path, "is not a grid of points", "remake")
    if not np.ptp(plane["x"]) > 0 or not np.ptp(plane["y"]) > 0:
        raise FileError(path, "has no width or no height: the networks that it goes through are the same")
    return plane


def load_along_curve(route: Route, pair: Pair, *, t: float) -> Result:
    """Layerwise mean correlations of point t with the ends: {unaligned,aligned}_{a,b}, each (layers,).

    Networks in which activations share their channels have noid_{a,b} besides: each activation matched on its own.
    """
    path = route.layout.along_curve(route.alignment, *pair, route.epochs, t, route.variant_of(pair))
    names = ("unaligned_a", "unaligned_b", "aligned_a", "aligned_b")
    return load_result(route.layout, path, dict.fromkeys(names, ("layers",)))


def load_correlations(route: Route, pair: Pair) -> Result:
    """Layerwise mean correlations of A with B: `unaligned` and `aligned`, each (layers,)."""
    before, after = (
        load_result(route.layout, route.layout.correlation(route.alignment, which, *pair, route.variant_of(pair)), {})
        for which in ("unaligned", "aligned")
    )
    after |= {"unaligned": before["correlation"], "aligned": after.pop("correlation")}
    after.files |= before.files
    return after


SPLITS = {"train": "training images", "test": "test images"}


def load_history(route: Route, pair: Pair) -> Result:
    """The training of a pair's curve by epoch: loss_train and accuracy_train, at least as long as the route's."""
    path = route.layout.curve_history(route.alignment, *pair, route.variant_of(pair))
    try:
        series = _measured(path, ("loss_train", "accuracy_train"))
        history = content(path, gaps=True, **dict.fromkeys(series, ("n",)))
        if len(history["loss_train"]) < route.epochs:
            raise FileError(path, f"has fewer than {route.epochs} epochs", "continue")
    except FileError as error:
        error.flags["epochs"] = route.epochs  # which the file's name does not say
        raise
    history.files.clear()
    return history


def load_network_histories(
    layout: Layout, pairs: Sequence[Pair], missing: list[UserError]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """How networks A and B were trained, by (A or B, train or test): arrays accuracy and loss (pairs, epochs).

    NaN stands where an epoch was not tested. All are as long as the shortest. Histories that some networks lack, as
    they were never tested, are left out and added to `missing`; networks from elsewhere have none, and lack nothing.
    """
    files = {end: [layout.model_history(pair[i]) for pair in pairs] for i, end in enumerate("AB")}
    histories = [path for of_end in files.values() for history in of_end for path in history.values()]
    first = next(filter(Path.exists, histories), None)
    if first is None:
        return {}
    names = _measured(first, ("accuracy", "loss"))
    found = {}
    for kind in SPLITS:
        try:
            found |= {
                (end, kind): {
                    name: [content(history[f"{name}_{kind}"], gaps=True)[name] for history in of_end]
                    for name in names
                }
                for end, of_end in files.items()
            }
        except FileError as error:
            missing.append(UserError(f"{error}, so the figure of the networks' training lacks {SPLITS[kind]}"))
    shortest = min((len(one) for of in found.values() for arrays in of.values() for one in arrays), default=0)
    return {
        line: {name: np.stack([one[:shortest] for one in arrays]) for name, arrays in of_line.items()}
        for line, of_line in found.items()
    }


# --- several pairs, several paths --------------------------------------------------------------------------

Array = float | np.ndarray
Load = Callable[[Route, Pair], Result]  # one of the functions above
Measured = dict[Route, list[Result]]  # by route, what is measured between each pair that has it


def load(read: Load, routes: Iterable[Route], pairs: Sequence[Pair], missing: list[UserError]) -> Measured:
    """What `read` reads of each route, of those pairs that have it and were evaluated alike.

    Where those are not all pairs, the words of a route say how many they are. Of each result that does not exist, or
    cannot be shown, the reason is added to `missing`. A route that was measured unlike the others says how.
    """
    found: Measured = {}
    for route in routes:
        having: list[Result] = []
        for pair in pairs:
            try:
                one = read(route, pair)
                _expect_alike(having[0] if having else one, one)
                having.append(one)
            except UserError as error:
                missing.append(error)
        if having:
            found[replace(route, words=route.words + of_pairs(len(having), pairs))] = having
    return found


def of_pairs(count: int, pairs: Sequence[Pair]) -> str:
    """For example " (2 of 3 pairs)"; nothing where they are all."""
    return "" if count == len(pairs) else f" ({count} of {len(pairs)} pairs)"


def files_of(*measured: Measured) -> dict[Path, str]:
    """The files behind what is measured, with their digests."""
    tables = [table for one in measured for of_pairs in one.values() for table in of_pairs]
    return {path: digest for table in tables for path, digest in table.files.items()}


# Flags that make no other measurement of the same path
ASIDE = ("batch_size", "eval_train", "repair")
BEFORE = {"measured_on": "test images", "height": "turning point"}  # in files that do not record these


def _setting(result: Result) -> dict[str, object]:
    """How a result was measured, as far as it records that."""
    flags = {**BEFORE, **result.record.flags} if result.record else {}
    found = {name: value for name, value in flags.items() if name not in ASIDE}
    if "loss" in result:
        found["num_points"] = len(result["loss"])
    if images := result.record.inputs.get("images"):
        found["images"] = images
    return found


def _expect_alike(first: Result, other: Result) -> None:
    """FileError unless two pairs' results were measured alike, at the same points, so that they have a mean."""
    if first.along and other.along:
        _expect_alike(first.along, other.along)
    different = other_flags(_setting(first), _setting(other))
    told = []
    for name, (there, now) in different.items():
        words = f"{now} points" if name == "num_points" else f"{name} {now}"
        told.append("other images" if name == "images" else f"{words} (there {there})")
    both = first.keys() & other.keys() & {"loss", "aligned", "aligned_a"}
    if not told and any(first[name].shape != other[name].shape for name in both):
        told = ["numbers of another shape"]
    if not told and not np.array_equal(first.get("t"), other.get("t")):
        told = ["other points t"]
    if told:
        wanted = {name: there for name, (there, _) in different.items() if name not in (*BEFORE, "images")}
        reason = f"was evaluated unlike that of the first pair, with {', '.join(told)}"
        raise FileError(other.path, reason, "replace", **wanted)


def unlike(measured: Measured) -> dict[Route, str]:
    """The routes that were not measured as the others were, and how they were: as "bf16, 3 points".

    The others are those on the test set, then those in the highest precision, with statistics of most images, at most
    points.
    """

    def quality(flags: Mapping[str, object]) -> tuple:
        images, points = flags.get("bn_images"), flags.get("num_points")
        return (
            flags.get("use_test", True) is True,
            flags.get("precision", "fp32") != "bf16",
            images if isinstance(images, int) else FAR,
            points if isinstance(points, int) else 0,
        )

    def in_words(name: str, value: object) -> str:
        words = {
            "precision": str(value),
            "num_points": f"{value} points",
            "bn_images": f"{'all' if value is None else value} images for batch norm",
            "use_test": "test images" if value else "held-out training images",
            "images": "other images",
        }
        return words.get(name, f"{name} {value}")

    settings = {route: _setting(of_pairs[0]) for route, of_pairs in measured.items()}
    best = max(settings.values(), key=quality, default={})
    different = {route: other_flags(best, one) for route, one in settings.items()}
    return {
        route: ", ".join(in_words(name, now) for name, (_, now) in flags.items())
        for route, flags in different.items()
        if flags
    }


def marked(measured: Measured) -> Measured:
    """The same, with words for those that were not measured as the others were, which are printed too."""
    told = unlike(measured)
    for route, words in told.items():
        print(f"{route.layout.model}: unlike the others, with {words}: {route.words}.")
    return {
        replace(route, words=f"{route.words} ({told[route]})") if route in told else route: of_pairs
        for route, of_pairs in measured.items()
    }


# --- numbers -----------------------------------------------------------------------------------------------

# All that an evaluation has at each point, by its name in the file, of plain and of robust networks
QUANTITIES = {
    False: {"accuracy": "accuracy (%)", "loss": "loss (cross-entropy)"},
    True: {
        "accuracy": "clean accuracy (%)",
        "accuracy_robust": "robust accuracy (%)",
        "loss": "clean loss (cross-entropy)",
        "loss_robust": "robust loss (cross-entropy)",
    },
}
# What an evaluation of plain networks may have besides
WAYS = {
    f"{name}_{way}": f"{name} {words}"
    for way, words in {"interpolated": "with interpolated statistics", "repaired": "repaired"}.items()
    for name in ("accuracy", "loss")
}


def quantities(measured: Measured, *, robust: bool) -> dict[str, str]:
    """QUANTITIES, as far as all of these have them, with words for them."""
    tables = [table for of_pairs in measured.values() for table in of_pairs]
    words = {name: words for name, words in QUANTITIES[robust].items() if all(name in table for table in tables)}
    is_known = all(table.record.flags.get("task", "classification") in BUILT_IN for table in tables)
    return words if is_known and "accuracy" in words else words | {"loss": "loss"}


def _measured(path: Path, names: Iterable[str]) -> list[str]:
    """Those of these names that a file of results must have: of other tasks than classification the losses alone."""
    is_usual = load_record(path).flags.get("task", "classification") == "classification"
    return [name for name in names if is_usual or not name.startswith("accuracy")]


def is_loss(name: str) -> bool:
    """Whether an array of an evaluation, by its name, is a loss; if it is not, it is an accuracy."""
    return name.startswith("loss")


def summary(table: Mapping[str, np.ndarray], name: str) -> dict[str, float]:
    """The numbers of tables: an accuracy or loss at the ends, averaged over arc length, its extremes, its barrier.

    The barrier (`utils.geometry.barrier`) is how far a loss rises, or an accuracy falls, on the way.

    Of robust networks also the accuracy where the robust one is lowest and highest on the path (at_lowest,
    at_highest), that of the end which is the more robust (better), and that at the point which is the most robust on
    held-out training images (chosen), where those were evaluated.
    """
    values = table[name]
    if values.ndim == 0:
        return {"": float(values)}
    numbers = {
        "a": float(values[0]),
        "b": float(values[-1]),
        "ends": float(values[[0, -1]].mean()),
        "average": path_average(table["length"], values),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        "barrier": barrier(table["t"], values if is_loss(name) else -values),
    }
    return numbers | {name: float(values[place]) for name, place in robust_places(table).items()}


CHOSEN_BY = "accuracy_robust_held_out"  # on images on which a point is chosen that is then measured on others


def robust_places(table: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Where on a path robust accuracy (n,) is lowest and highest, and at which end it is better: indices.

    chosen: where it is highest on held-out images. Nothing of plain networks.
    """
    if "accuracy_robust" not in table:
        return {}
    accuracy = table["accuracy_robust"]
    places = {"at_lowest": int(accuracy.argmin()), "at_highest": int(accuracy.argmax())}
    places["better"] = 0 if accuracy[0] >= accuracy[-1] else len(accuracy) - 1
    if CHOSEN_BY in table:
        places["chosen"] = int(table[CHOSEN_BY].argmax())
    return places


PLANE_QUANTITIES = {"accuracy": "test accuracy (%)", "loss": "test loss (cross-entropy)"}


def mean_plane(planes: Sequence[Result]) -> dict[str, np.ndarray]:
    """Several planes as one: the mean of every array, and `loss_deviation`, `accuracy_deviation` (ddof 1).

    Grid points with the same place among the corners are taken together, so that means of coordinates are theirs.
    """
    quantities = [name for name in PLANE_QUANTITIES if all(name in plane for plane in planes)]
    names = ("x", "y", "corners", *quantities, *(name for name in ("t", "curve") if name in planes[0]))
    numbers = {name: mean_and_deviation([plane[name] for plane in planes]) for name in names}
    deviations = {f"{name}_deviation": numbers[name][1] for name in quantities if len(planes) > 1}
    return {name: mean for name, (mean, _) in numbers.items()} | deviations


def corners_of_curve(plane: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The points marked on the plane of a curve: its ends, and its turning point if the grid reaches as far.

    A Bézier curve reaches only half the way to its turning point, and the published grid one and a half times as far
    as the curve.
    """
    corners = dict(zip(("A", "B", "turning point"), plane["corners"], strict=True))
    if corners["turning point"][1] > plane["y"].max():
        del corners["turning point"]
    return corners


SPECTRUM_POINTS = 4 * FREQUENCIES + 1  # fewer than four points a cycle say little of the highest frequency


def no_spectrum(table: Result) -> str | None:
    """Why an evaluated path has no spectrum, if it has none."""
    if not table["length"][-1] > table["length"][0]:
        return "it has no length"
    if len(table["t"]) < SPECTRUM_POINTS:
        return f"it has {len(table['t'])} points, and {SPECTRUM_POINTS} are needed"
    steps = np.diff(table["t"])
    return None if np.allclose(steps, steps.mean(), rtol=1e-6) else "its points are not equally spaced"


def spectra(table: Result, *, robust: bool) -> dict[str, np.ndarray]:
    """The published spectrum of each loss on a path, (m,): `utils.geometry.spectrum`, of plain networks by k + 1."""
    losses = {name: spectrum(table[name]) for name in QUANTITIES[robust] if is_loss(name)}
    return losses if robust else {name: one * np.arange(2, len(one) + 2) for name, one in losses.items()}


def mean_and_deviation(values: Sequence[Array]) -> tuple[Array, Array | None]:
    """The mean over pairs of numbers or arrays; and the standard deviation (ddof 1), if there are several pairs."""
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) if len(values) > 1 else None
