"""The look of all figures, and how they are saved. Each is as wide as one column of a two-column page.

What draws, saves or shows them does so within `with figures.style():`, and nothing outside has their look. They are
made without pyplot, which is for windows: it is loaded by `show` alone.
"""

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

try:
    import matplotlib
except ValueError as error:
    raise UserError(
        f"MPLBACKEND={os.environ.get('MPLBACKEND')} is not one that matplotlib knows; unset it"
    ) from error
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from utils.reporting import paths, results
from utils.storage.files import write_atomically
from utils.storage.layout import Layout, model_folder

WIDTH = 3.4  # inches

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.handlelength": 3,  # long enough to show dashes
    "legend.columnspacing": 1.2,
    "pdf.fonttype": 42,  # text stays text
}


def style() -> contextlib.AbstractContextManager:
    """The context in which figures are drawn, saved and shown."""
    return matplotlib.rc_context(STYLE)


class Drawing(NamedTuple):
    """A figure, and what becomes its name, its title and its legend when it is saved."""

    figure: Figure
    layout: Layout  # of the model and dataset whose results it shows
    kind: str  # the word for it in the file's name
    title: str
    legend_columns: int = 2


def panels(rows: int, columns: int = 1, height: float = 1.9, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure of panels (rows, columns), each `height` inches high."""
    return _subplots(rows, columns, height * rows + 0.5, **options)


def _subplots(rows: int, columns: int, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure, `height` inches high, and its panels (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(series: paths.Series) -> dict[str, object]:
    """Colour tells the alignment, dashes the straight line, other strokes other kinds of curves."""
    return {
        "color": paths.colour(series.alignment),
        "linestyle": "--" if series.is_line else ("-", "-.", ":")[series.rank % 3],
        "marker": "o" if series.is_line else "s",
        "label": series.words,
    }


def draw(axis: Axes, x: np.ndarray, values: Sequence[np.ndarray], **style: object) -> None:
    """The mean of `values` (pairs, n) over x (n,), with bars of one standard deviation for several pairs."""
    every = max(1, len(x) // 16)
    if len(values) == 1:
        axis.plot(x, values[0], markevery=every, clip_on=False, **style)
    else:
        bars = {"capsize": 1.5, "elinewidth": 0.8, "errorevery": every}
        axis.errorbar(x, np.mean(values, axis=0), np.std(values, axis=0, ddof=1), markevery=every, **bars, **style)


def draw_places(axis: Axes, x: np.ndarray, values: Sequence[np.ndarray], places: Mapping[str, int]) -> None:
    """Symbols on a line that `draw` has drawn of `values`, at two of its points, numbered, by what they are."""
    mean = np.mean(values, axis=0)
    for (words, place), symbol in zip(places.items(), "v^", strict=True):
        axis.plot(x[place], mean[place], symbol, color="white", label=words, clip_on=False, **OUTLINE)


def draw_layers(axis: Axes, values: Sequence[np.ndarray], **style: object) -> None:
    """`draw` for values (pairs, layers), the last of which belong to the logits."""
    layers = len(values[0])
    if layers > 20:
        style["marker"] = "none"
    draw(axis, np.arange(1, layers + 1), values, **style)
    step = next((step for step in (1, 2, 5, 10, 20) if layers / step <= 8), 50)
    ticks = [*range(step, layers - step // 2, step), layers]
    axis.set_xticks(ticks, [*map(str, ticks[:-1]), "logits"])


# --- planes ------------------------------------------------------------------------------------------------

PLANE_COLOURS = {"accuracy": "viridis", "loss": "viridis_r"}  # bright is good
LEVELS = 14
OUTLINE = {"markersize": 5, "markeredgecolor": "black", "markeredgewidth": 0.8, "linestyle": "none", "zorder": 4}
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
    height = sum(in_rows) * (WIDTH - 0.6 * columns) / columns + 0.4 * len(in_rows) + 1.55
    figure, axes = _subplots(len(in_rows), columns, height, height_ratios=in_rows)
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


def say_images(layout: Layout, measured: Mapping[paths.Series, Sequence[results.Arrays]]) -> str:
    """Print which paths were measured on other images than the first; returns what the title has of it, or ''."""
    other = results.on_other_images({series.words: of_pairs for series, of_pairs in measured.items()})
    if other:
        print(f"{layout.model}: {other}")
    return ", not all on the same images" if other else ""


# --- saving and showing ------------------------------------------------------------------------------------


def save(drawings: Sequence[Drawing], *, pairs: Sequence[paths.Pair], command: str, name: str = "") -> list[Path]:
    """Add titles and legends, and save all as PNG and PDF under figures/, the command in both; returns the paths.

    name: a word for the files' names, to keep them beside others.
    """
    taken_over = f"mean of {len(pairs)} pairs" if len(pairs) > 1 else "networks {} and {}".format(*pairs[0])
    files = []
    shown = {layout: json.dumps(_shown(layout)) for layout in {drawing.layout for drawing in drawings}}
    for drawing in drawings:
        layout, title = drawing.layout, f"{drawing.title} ({taken_over})"
        subject = f"{'Robust ' if layout.robust else ''}{layout.model} on {layout.dataset}"
        _add_legend(drawing.figure, drawing.legend_columns)
        drawing.figure.suptitle(f"{subject}\n{title}")
        title = f"{subject}: {title}"
        notes = {
            "png": {"Title": title, "Description": command, SHOWN: shown[layout]},
            "pdf": {"Title": title, "Subject": command, "CreationDate": None},  # the same results, the same file
        }
        for suffix, note in notes.items():
            subjects = (drawing.kind, suffix, layout.dataset, model_folder(layout.model))
            files.append(results.output_path(layout.root, *subjects, robust=layout.robust, name=name))
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format=suffix, dpi=300, metadata=note)
            write_atomically(files[-1], lambda stream, buffer=buffer: stream.write(buffer.getbuffer()))
    return files


SHOWN = "Results"  # under which a PNG tells which results it shows, and digests of what was in them


def _shown(layout: Layout) -> dict[str, str]:
    """The results under the root of this model and dataset that were read since this was asked: paths, digests."""
    place = (model_folder(layout.model), layout.dataset)
    read = [path for path in results.shown if path.is_relative_to(layout.root) and path.parts[-3:-1] == place]
    return {path.relative_to(layout.root).as_posix(): results.shown.pop(path) for path in read}


def _add_legend(figure: Figure, columns: int) -> None:
    """Below all panels, each label once."""
    legend = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    options = {"handlelength": 1.8} if columns > 2 else {}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=min(columns, len(legend)), **options)


def show(drawings: Sequence[Drawing]) -> None:
    """Open a window for each figure, and wait until they are closed."""
    import matplotlib.pyplot as plt  # which looks for a toolkit for windows

    if plt.get_backend().lower() == "agg":
        print("They are not shown: there is no screen, or no toolkit for windows (as python3-tk).")
        return
    for drawing in drawings:
        # pyplot makes the figure of a window by itself, unless it is given one in this way.
        plt.figure(FigureClass=lambda figure=drawing.figure, **_: figure)
    plt.show()
