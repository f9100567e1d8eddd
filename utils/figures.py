"""The look of all figures, and how they are saved. Each is as wide as one column of a two-column page."""

import argparse
import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

if "--show" not in sys.argv:
    matplotlib.use("Agg")  # no window is needed, nor a screen

import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from utils import checkpoint, cli, results

WIDTH = 3.4  # inches

plt.rcParams.update(
    {
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
)


def parser(script: str, description: str, adversarial: bool = False) -> argparse.ArgumentParser:
    """The flags of results that every figure has."""
    made = results.results_parser(script, description, adversarial)
    made.add_argument("--show", action="store_true", help="open the figures in a window too")
    return made


def panels(rows: int, columns: int = 1, height: float = 1.9, **options: object) -> tuple[plt.Figure, np.ndarray]:
    """A figure of panels (rows, columns), each `height` inches high."""
    size = (WIDTH, height * rows + 0.5)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def line_style(args: argparse.Namespace, series: results.Series) -> dict[str, object]:
    """Colour tells the alignment, dashes the straight line, other strokes curves of other numbers of epochs."""
    return {
        "color": results.colour(series.alignment),
        "linestyle": "--" if series.is_line else ("-", "-.", ":")[series.rank % 3],
        "marker": "o" if series.is_line else "s",
        "label": series.words,
    }


def draw(axis: plt.Axes, x: np.ndarray, values: Sequence[np.ndarray], **style: object) -> None:
    """The mean of `values` (pairs, n) over x (n,), with bars of one standard deviation for several pairs."""
    every = max(1, len(x) // 16)
    if len(values) == 1:
        axis.plot(x, values[0], markevery=every, clip_on=False, **style)
    else:
        bars = {"capsize": 1.5, "elinewidth": 0.8, "errorevery": every}
        axis.errorbar(x, np.mean(values, axis=0), np.std(values, axis=0, ddof=1), markevery=every, **bars, **style)


def draw_layers(axis: plt.Axes, values: Sequence[np.ndarray], **style: object) -> None:
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


def add_plane_flags(made: argparse.ArgumentParser) -> None:
    help_text = "colour map of matplotlib (default: viridis; reversed for losses, so that bright is good)"
    made.add_argument("--cmap", choices=plt.colormaps(), metavar="NAME", help=help_text)


def mean_plane(planes: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
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
    args: argparse.Namespace, planes: dict[results.Series, dict[str, np.ndarray]], name: str
) -> tuple[plt.Figure, list[plt.Axes]]:
    """Planes under the words of their series, coloured by the array `name` on one scale, all to one measure."""
    ranges = {axis: [(plane[axis].min(), plane[axis].max()) for plane in planes.values()] for axis in "xy"}
    x_range = min(low for low, _ in ranges["x"]), max(high for _, high in ranges["x"])
    heights = [(high - low) / (x_range[1] - x_range[0]) for low, high in ranges["y"]]
    columns = 1 if max(heights) < 0.7 else min(2, len(planes))  # flat ones lie above each other
    in_rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    size = (WIDTH, sum(in_rows) * (WIDTH - 0.6 * columns) / columns + 0.4 * len(in_rows) + 1.55)
    figure, axes = plt.subplots(
        len(in_rows), columns, figsize=size, layout="constrained", squeeze=False, height_ratios=in_rows
    )
    for axis in axes.flat[len(planes) :]:
        axis.remove()
    axes = list(axes.flat[: len(planes)])

    quantity = name.removesuffix("_deviation")
    levels = _levels(np.concatenate([plane[name].ravel() for plane in planes.values()]), name)
    colours = args.cmap or ("viridis" if quantity != name else PLANE_COLOURS[quantity])
    norm = matplotlib.colors.BoundaryNorm(levels, 256)
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
    args: argparse.Namespace,
    model: str,
    planes: dict[results.Series, dict[str, np.ndarray]],
    kind: str,
    title: str,
    paint: Callable[[plt.Axes, results.Series, dict[str, np.ndarray]], None],
    legend_columns: int,
) -> list[Path]:
    """Figures of accuracy and loss on planes, and of their deviations if these are of several pairs; saved.

    paint: draws what lies on a plane.
    """
    files = []
    deviations = [f"{name}_deviation" for name in PLANE_QUANTITIES] if len(args.seed_a) > 1 else []
    for name in (*PLANE_QUANTITIES, *deviations):
        figure, axes = draw_planes(args, planes, name)
        for axis, (series, plane) in zip(axes, planes.items(), strict=True):
            paint(axis, series, plane)
        files += save(args, figure, title, f"{kind}_{name}", model, legend_columns)
    return files


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


def mark(axis: plt.Axes, places: dict[str, np.ndarray]) -> None:
    """Points of a plane, by what they are, each with a symbol of its own."""
    for (words, place), symbol in zip(places.items(), "osD", strict=False):
        axis.plot(*place, symbol, color="white", label=words, **OUTLINE)


# --- saving ------------------------------------------------------------------------------------------------


def save(
    args: argparse.Namespace, figure: plt.Figure, title: str, kind: str, model: str, columns: int = 2
) -> list[Path]:
    """Add title and legend, and save as PNG and PDF under figures/, the command in both; returns the two paths."""
    legend = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    options = {"handlelength": 1.8} if columns > 2 else {}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=min(columns, len(legend)), **options)
    pairs = len(args.seed_a)
    taken_over = f"mean of {pairs} pairs" if pairs > 1 else f"networks {args.seed_a[0]} and {args.seed_b[0]}"
    title = f"{title} ({taken_over})"
    subject = f"{'Robust ' if args.adversarial else ''}{model} on {args.dataset}"
    figure.suptitle(f"{subject}\n{title}")
    title = f"{subject}: {title}"
    notes = {
        "png": {"Title": title, "Description": args.command},
        "pdf": {"Title": title, "Subject": args.command, "CreationDate": None},  # the same results, the same file
    }
    paths = []
    for suffix, note in notes.items():
        paths.append(results.output_path(args, kind, suffix, args.dataset, model))
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=300, metadata=note)
        checkpoint.write_atomically(paths[-1], lambda stream, buffer=buffer: stream.write(buffer.getbuffer()))
    return paths


def finish(args: argparse.Namespace, files: Sequence[Path]) -> None:
    """Name the files that were written, and with --show open the figures."""
    cli.finish(files)
    if args.show and plt.get_backend().lower() == "agg":
        print("They are not shown: there is no screen, or no toolkit for windows (as python3-tk).")
    elif args.show:
        plt.show()
