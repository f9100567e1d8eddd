"""Figures of planes through three networks: test accuracy and loss around them and the paths between them."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from utils.reporting import paths, results
from utils.reporting.figures import OUTLINE, WIDTH, Drawing, subplots

PLANE_COLOURS = {"accuracy": "viridis", "loss": "viridis_r"}  # bright is good
LEVELS = 14
OUTLINED = {"path_effects": [withStroke(linewidth=2.8, foreground="black")]}  # a line, on any colour
PLANE_QUANTITIES = {"accuracy": "test accuracy (%)", "loss": "test loss (cross-entropy)"}


def mean_plane(planes: Sequence[results.Arrays]) -> results.Arrays:
    """Several planes as one: the mean of every array, and `loss_deviation`, `accuracy_deviation` (ddof 1).

    Grid points with the same place among the corners are taken together, so that means of coordinates are theirs.
    """
    names = ("x", "y", "corners", *PLANE_QUANTITIES, *(["curve"] if "curve" in planes[0] else []))
    mean = {name: np.mean([plane[name] for plane in planes], axis=0) for name in names}
    if len(planes) > 1:
        for name in PLANE_QUANTITIES:
            mean[f"{name}_deviation"] = np.std([plane[name] for plane in planes], axis=0, ddof=1)
    return mean


def draw_planes(
    planes: Mapping[paths.Series, results.Arrays], name: str, *, cmap: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Planes under the words of their series, coloured by the array `name` on one scale, all to one measure."""
    ranges = {axis: [(plane[axis].min(), plane[axis].max()) for plane in planes.values()] for axis in "xy"}
    x_range = min(low for low, _ in ranges["x"]), max(high for _, high in ranges["x"])
    heights = [(high - low) / (x_range[1] - x_range[0]) for low, high in ranges["y"]]
    columns = 1 if max(heights) < 0.7 else min(2, len(planes))  # flat ones lie above each other
    in_rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    height = sum(in_rows) * (WIDTH - 0.6 * columns) / columns + 0.4 * len(in_rows) + 1.2
    figure, axes = subplots(len(in_rows), columns, height, height_ratios=in_rows)
    for axis in axes.flat[len(planes) :]:
        axis.remove()
    axes = list(axes.flat[: len(planes)])

    quantity = name.removesuffix("_deviation")
    levels = _levels(np.concatenate([plane[name].ravel() for plane in planes.values()]), name)
    colours = cmap or ("viridis" if quantity != name else PLANE_COLOURS[quantity])
    norm = BoundaryNorm(levels, 256)
    for axis, (series, plane), y_range in zip(axes, planes.items(), ranges["y"], strict=True):
        shade = axis.contourf(plane["x"], plane["y"], plane[name], levels, cmap=colours, norm=norm)
        axis.contour(plane["x"], plane["y"], plane[name], levels, colors="white", linewidths=0.25)
        axis.set(title=series.words, aspect="equal", xlim=x_range, ylim=y_range)
        axis.grid(False)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(3 if columns == 1 else 5, integer=True))
    for axis in axes[-columns:]:
        axis.set_xlabel("distance towards B" if columns > 1 else "distance in the direction from A to B (Euclidean)")
    for axis in axes[::columns]:
        axis.set_ylabel("orthogonal\ndistance")
    step = -(-len(levels) // 7)
    bar = figure.colorbar(shade, ax=axes, location="bottom", aspect=40, pad=0.02, format="%.3g", ticks=levels[::step])
    deviation = "standard deviation of " if quantity != name else ""
    bar.set_label(deviation + PLANE_QUANTITIES[quantity])
    return figure, axes


def plane_figures(
    planes: Mapping[paths.Series, results.Arrays],
    kind: str,
    title: str,
    paint: Callable[[Axes, paths.Series, results.Arrays], None],
    *,
    cmap: str | None = None,
    legend_columns: int = 2,
) -> list[Drawing]:
    """Figures of accuracy and loss on planes, and of their deviations if these are means of several pairs.

    paint: draws what lies on a plane.
    """
    drawings = []
    layout = next(iter(planes)).layout
    arrays = next(iter(planes.values()))
    deviations = [f"{name}_deviation" for name in PLANE_QUANTITIES if f"{name}_deviation" in arrays]
    for name in (*PLANE_QUANTITIES, *deviations):
        figure, axes = draw_planes(planes, name, cmap=cmap)
        for axis, (series, plane) in zip(axes, planes.items(), strict=True):
            paint(axis, series, plane)
        drawings.append(Drawing(figure, layout, f"{kind}_{name}", title, legend_columns))
    return drawings


def _levels(values: np.ndarray, name: str) -> np.ndarray:
    """Round levels for contours; those of losses are closer where losses are small: there the curves run."""
    low, high = float(values.min()), float(values.max())
    if name == "loss" and low > 0 and high / low > 3:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        mantissas = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if high / low < 100 else (1, 2, 5)
        round_numbers = np.array([mantissa * 10.0**power for power in powers for mantissa in mantissas])
        return round_numbers[
            np.searchsorted(round_numbers, low, "right") - 1 : np.searchsorted(round_numbers, high) + 1
        ]
    return MaxNLocator(LEVELS).tick_values(low, high if high > low else low + 1)


def corners_of_curve(plane: results.Arrays) -> dict[str, np.ndarray]:
    """What is marked on the plane of a curve: its ends, and its turning point if the grid reaches as far.

    A Bézier curve goes but half the way to its turning point, and the published grid one and a half times as far as
    the curve.
    """
    corners = dict(zip(("A", "B", "turning point"), plane["corners"], strict=True))
    if corners["turning point"][1] > plane["y"].max():
        del corners["turning point"]
    return corners


def mark(axis: Axes, places: Mapping[str, np.ndarray]) -> None:
    """Points of a plane, by what they are, each with a symbol of its own."""
    for (words, place), symbol in zip(places.items(), "osD", strict=False):
        axis.plot(*place, symbol, color="white", label=words, clip_on=False, **OUTLINE)
