"""The files of results that tables, figures and the report read, checked and compared, and the numbers in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import FileError, UserError
from ..geometry import FREQUENCIES, barrier, path_average, spectrum
from ..stages.files import load_array
from ..stages.layout import Layout
from ..stages.originals import load_arrays
from ..stages.records import Record, expect_current, load_record, other_flags, record_in
from ..stages.records import digest_of as digest_of_arrays
from .paths import Pair, Route


class Arrays(dict[str, np.ndarray]):
    """The measurements of one path between one pair, by name; and the files that hold them, with their digests."""

    def __init__(self, arrays: Mapping[str, np.ndarray], files: Mapping[Path, str]):
        super().__init__(arrays)
        self.files = dict(files)


def output_path(root: Path, kind: str, suffix: str, *subjects: str, robust: bool = False, name: str = "") -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_SUBJECTS[_NAME].SUFFIX; subjects: dataset and model."""
    parts = [*(["robust"] if robust else []), kind, *subjects, *([name] if name else [])]
    return root / "figures" / f"{'_'.join(parts)}.{suffix}"


# --- reading results ---------------------------------------------------------------------------------------
#
# Each function reads one file of each pair. It raises FileError if one is missing, unfinished, damaged or something
# else, or was made with other networks than those of now.


def load_path(route: Route, pair: Pair, **more_shapes: tuple) -> Arrays:
    """An evaluated path: arrays t, length (of the path up to there), losses and accuracies, each (n,).

    more_shapes: arrays that it must have besides, as `load_arrays` has them.
    """
    shapes = dict.fromkeys(("t", "length", *quantities(route.layout.robust)), ("n",)) | more_shapes
    return load_result(route.layout, route.evaluated(pair), shapes)


def load_result(layout: Layout, path: Path, shapes: Mapping[str, tuple]) -> Arrays:
    """The arrays of a result, if its networks are those that exist now."""
    arrays = load_arrays(path, **shapes)
    expect_current(layout, path, record_in(arrays))
    return Arrays(arrays, {path: digest_of(arrays)})


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of a result's numbers, wherever and whenever they were measured."""
    return digest_of_arrays((name, arrays[name]) for name in sorted(arrays) if name not in ("record", "settings"))


def load_paths(route: Route, pairs: Sequence[Pair], **more_shapes: tuple) -> list[Arrays]:
    """The evaluated path of every pair, all at the same points t."""
    tables = [load_path(route, pair, **more_shapes) for pair in pairs]
    for pair, table in zip(pairs, tables, strict=True):
        if error := _unlike(route, pair, tables[0], table):
            raise error
    return tables


def _unlike(route: Route, pair: Pair, first: Arrays, table: Arrays) -> FileError | None:
    """Why a pair's evaluated path cannot be averaged with the first pair's: other points, or other settings."""
    records, count = (record_in(first), record_in(table)), len(first["t"])
    different = other_flags(records[0].flags, records[1].flags)
    images = [record.inputs.get("images") for record in records]
    are_others = None not in images and images[0] != images[1]
    if np.array_equal(first["t"], table["t"]) and not different and not are_others:
        return None
    told = [f"{name} {now} (there {there})" for name, (there, now) in different.items()]
    what = ", ".join(told + ["other images"] * are_others) or f"{len(table['t'])} points (there {count})"
    wanted = {name: there for name, (there, _) in different.items()} | {"num_points": count}
    reason = f"was evaluated unlike that of the first pair, with {what}"
    return FileError(route.evaluated(pair), reason, "replace", **wanted)


def load_planes_with_curve(route: Route, pairs: Sequence[Pair]) -> list[Arrays]:
    """The plane of a curve for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2), curve (n, 2).

    The curve's coordinates are those of its evaluation, at positions t (n,); FileError if that is of another curve,
    UserError if the pair spans no plane.
    """
    planes = []
    for pair, table in zip(pairs, load_paths(route, pairs, coordinates=("n", 2)), strict=True):
        if not table["coordinates"][-1, 0] > 0:
            raise UserError(f"networks {pair[0]} and {pair[1]} are the same, so no plane goes through {route.words}")
        path = route.layout.plane_with_curve(route.alignment, *pair, route.epochs, route.variant_of(pair))
        plane = _load_plane(route.layout, path, planes)
        points = [record_in(arrays).inputs.get("points") for arrays in (plane, table)]
        if None not in points and points[0] != points[1]:
            raise _of_another_curve(path, route.evaluated(pair))
        plane |= {"t": table["t"], "curve": table["coordinates"]}
        planes.append(Arrays(plane, table.files | plane.files))
    return planes


def _of_another_curve(plane: Path, evaluation: Path) -> FileError:
    """Plane and evaluation contradict each other; the older is the one that a newer curve has outlived."""
    if evaluation.stat().st_mtime < plane.stat().st_mtime:
        return FileError(evaluation, f"is of another curve than the plane {plane}", "replace")
    return FileError(plane, "is of another curve than was evaluated", "replace")


def load_planes_with_alignment(route: Route, seeds: Sequence[tuple[int, ...]]) -> list[Arrays]:
    """The plane of A, B and aligned B for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2).

    seeds: of pairs, or of A, B and C, for the planes of three networks.
    """
    planes = []
    for of in seeds:
        planes.append(_load_plane(route.layout, route.layout.plane_with_alignment(route.alignment, *of), planes))
    return planes


def _load_plane(layout: Layout, path: Path, others: Sequence[Arrays]) -> Arrays:
    """A plane, whose grid has to be like those of the other pairs."""
    shapes = dict.fromkeys(("x", "y", "loss", "accuracy"), ("rows", "columns"))
    plane = load_result(layout, path, shapes | {"corners": (3, 2)})
    size = plane["loss"].shape
    if min(size) < 2:
        raise FileError(path, "is not a grid of points", "remake")
    if not np.ptp(plane["x"]) > 0 or not np.ptp(plane["y"]) > 0:
        raise FileError(path, "has no width or no height: the networks that it goes through are the same")
    if others and size != others[0]["loss"].shape:
        count = len(others[0]["loss"])
        raise FileError(path, "has a grid of another size than that of the first pair", "replace", num_points=count)
    if others:
        _expect_alike(path, record_in(plane), record_in(others[0]))
    return plane


def _expect_alike(path: Path, record: Record, first: Record) -> None:
    """FileError if a result was measured otherwise than the first pair's; files of other code do not say how."""
    images = {one.inputs["images"] for one in (record, first) if "images" in one.inputs}
    different = {name for name in ("measured_on", "height") if record.flags.get(name) != first.flags.get(name)}
    if record and first and "height" in different:
        raise FileError(path, "covers another area than that of the first pair: one of them is older", "replace")
    if len(images) > 1 or (record and first and different):
        raise FileError(path, "was measured on other images than that of the first pair", "replace")


def load_along_curve(route: Route, pairs: Sequence[Pair], t: float) -> list[Arrays]:
    """Layerwise mean correlations of point t with the ends for every pair: {unaligned,aligned}_{a,b}, each (layers,).

    Networks in which activations share their channels have noid_{a,b} besides: each activation matched on its own.
    """
    tables = []
    for pair in pairs:
        path = route.layout.along_curve(route.alignment, *pair, route.epochs, t, route.variant_of(pair))
        names = [f"{which}_{end}" for which in ("unaligned", "aligned") for end in "ab"]
        tables.append(load_result(route.layout, path, dict.fromkeys(names, ("layers",))))
        _expect_alike(path, record_in(tables[-1]), record_in(tables[0]))
    return tables


def load_correlations(route: Route, pairs: Sequence[Pair]) -> list[Arrays]:
    """Layerwise mean correlations of A with B for every pair: `unaligned` and `aligned`, each (layers,)."""
    layout, name = route.layout, route.alignment
    tables = []
    for pair in pairs:
        found = Arrays({}, {})
        for which in ("unaligned", "aligned"):
            path = layout.correlation(name, which, *pair, route.variant_of(pair))
            first = next(iter(tables[0].files if tables else [path]))
            means = load_means(layout, path)
            _expect_alike(path, load_record(path), load_record(first))
            found[which] = means["means"]
            found.files |= means.files
        tables.append(found)
    return tables


def load_means(layout: Layout, path: Path) -> Arrays:
    """The numbers in an .npy file, one a layer: `means` (layers,)."""
    array = load_array(path)
    expect_current(layout, path, load_record(path))
    return Arrays({"means": array}, {path: digest_of({"": array})})


def content(path: Path) -> tuple[Record, str]:
    """The record of a result, and the digest of its numbers. FileError if it cannot be read."""
    if path.suffix == ".npy":
        return load_record(path), digest_of({"": load_array(path)})
    arrays = load_arrays(path)
    return record_in(arrays), digest_of(arrays)


def on_other_images(measured: Mapping[str, Sequence[Arrays]]) -> str:
    """In a sentence, which paths, by their words, were measured on other images than the first; '' if none were."""
    images = {words: record_in(table).inputs.get("images") for words, of in measured.items() for table in of}
    known = {words: digest for words, digest in images.items() if digest}
    first = next(iter(known), "")
    other = [words for words, digest in known.items() if digest != known[first]]
    return f"Not on the same images as {first}: {'; '.join(other)}." if other else ""


# --- how networks and curves were learned ------------------------------------------------------------------

SPLITS = {"train": "training images", "test": "test images"}


def load_histories(route: Route, pairs: Sequence[Pair]) -> list[Arrays]:
    """The training of every pair's curve by epoch: loss_train and accuracy_train, at least as long as the route's."""
    histories = []
    for pair in pairs:
        path = route.layout.curve_history(route.alignment, *pair, route.variant_of(pair))
        try:
            history = load_arrays(path, loss_train=("n",), accuracy_train=("n",))
            if len(history["loss_train"]) < route.epochs:
                raise FileError(path, f"has fewer than {route.epochs} epochs", "continue")
        except FileError as error:
            error.flags["epochs"] = route.epochs  # which the file's name does not say
            raise
        histories.append(Arrays(history, {}))
    return histories


def load_network_histories(
    layout: Layout, pairs: Sequence[Pair], missing: list[UserError]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """How networks A and B were trained, by (A or B, train or test): arrays accuracy and loss (pairs, epochs).

    NaN stands where an epoch was not tested. All are as long as the shortest. Histories that some networks lack, as
    they were never tested, are left out and added to `missing`; networks from elsewhere have none, and lack nothing.
    """
    files = {end: [layout.model_history(pair[i]) for pair in pairs] for i, end in enumerate("AB")}
    if not any(path.exists() for of_end in files.values() for history in of_end for path in history.values()):
        return {}
    found = {}
    for kind in SPLITS:
        names = {quantity: f"{quantity}_{kind}" for quantity in ("accuracy", "loss")}
        try:
            found |= {
                (end, kind): {
                    quantity: [load_array(history[name], gaps=True) for history in of_end]
                    for quantity, name in names.items()
                }
                for end, of_end in files.items()
            }
        except FileError as error:
            if error.mend != "make":
                raise
            missing.append(UserError(f"{error}, so the figure of the networks' training lacks {SPLITS[kind]}"))
    shortest = min((len(one) for of in found.values() for arrays in of.values() for one in arrays), default=0)
    return {
        line: {quantity: np.stack([one[:shortest] for one in arrays]) for quantity, arrays in of_line.items()}
        for line, of_line in found.items()
    }


# --- of what exists ----------------------------------------------------------------------------------------

Load = Callable[[Route, Sequence[Pair]], list[Arrays]]  # one of the functions above
Measured = dict[Route, list[Arrays]]  # by route, what is measured between each pair that has it


def load_there(
    routes: Iterable[Route], pairs: Sequence[Pair], load: Load, missing: list[UserError], *, leave_out: bool = False
) -> Measured:
    """The results that `load` reads of each route, for those pairs for which they exist.

    Where those are not all pairs, the words of a route say how many they are. Each result that does not exist or is
    not finished is added to `missing`. One that is damaged, belongs to other networks or was measured unlike the
    first raises FileError as always, or with `leave_out` is added to `missing` too.
    """
    found: Measured = {}
    for route in routes:
        having: list[Pair] = []
        for pair in pairs:
            try:
                load(route, [*having[:1], pair])
                having.append(pair)
            except UserError as error:
                if not leave_out and getattr(error, "mend", "") not in ("make", "continue"):
                    raise
                missing.append(error)
        if having:
            found[replace(route, words=route.words + of_pairs(len(having), pairs))] = load(route, having)
    return found


def files_of(*measured: Measured) -> dict[Path, str]:
    """The files behind what is measured, with their digests."""
    tables = [table for one in measured for of_pairs in one.values() for table in of_pairs]
    return {path: digest for table in tables for path, digest in table.files.items()}


def of_pairs(count: int, pairs: Sequence[Pair]) -> str:
    """For example " (2 of 3 pairs)"; nothing where they are all."""
    return "" if count == len(pairs) else f" ({count} of {len(pairs)} pairs)"


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


def ways() -> dict[str, str]:
    """The losses and accuracies of plain networks that an evaluation may have besides, by their names, in words."""
    words = {"interpolated": "with interpolated statistics", "repaired": "repaired"}
    return {f"{name}_{way}": f"{name} {words[way]}" for way in words for name in ("accuracy", "loss")}


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


PLANE_QUANTITIES = {"accuracy": "test accuracy (%)", "loss": "test loss (cross-entropy)"}


def mean_plane(planes: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Several planes as one: the mean of every array, and `loss_deviation`, `accuracy_deviation` (ddof 1).

    Grid points with the same place among the corners are taken together, so that means of coordinates are theirs.
    """
    names = ("x", "y", "corners", *PLANE_QUANTITIES, *(name for name in ("t", "curve") if name in planes[0]))
    mean = {name: np.mean([plane[name] for plane in planes], axis=0) for name in names}
    if len(planes) > 1:
        for name in PLANE_QUANTITIES:
            mean[f"{name}_deviation"] = np.std([plane[name] for plane in planes], axis=0, ddof=1)
    return mean


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


def no_spectrum(table: Arrays) -> str | None:
    """Why an evaluated path has no spectrum, if it has none."""
    if not table["length"][-1] > table["length"][0]:
        return "it has no length"
    if len(table["t"]) < SPECTRUM_POINTS:
        return f"it has {len(table['t'])} points, and {SPECTRUM_POINTS} are needed"
    steps = np.diff(table["t"])
    if not np.allclose(steps, steps.mean(), rtol=1e-6):
        return "its points are not equally spaced"
    return None


def spectra(route: Route, tables: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """The spectrum of each loss on the path of each pair (`utils.geometry.spectrum`)."""
    losses = [name for name in quantities(route.layout.robust) if is_loss(name)]
    return [{name: spectrum(table[name]) for name in losses} for table in tables]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (ddof 1) if there is more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
