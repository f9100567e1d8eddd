"""The look of all figures, and how they are saved. Each is as wide as a column of a two-column page, or as both.

They are drawn, saved and shown within `with figures.style():`, whatever the user's matplotlibrc says, and no other
figure gets their look. They are made without pyplot, which is for windows: only `show` loads it.
"""

import argparse
import contextlib
import io
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

try:
    import matplotlib
except ValueError as error:
    raise UserError(
        f"MPLBACKEND={os.environ.get('MPLBACKEND')} is not one that matplotlib knows; unset it"
    ) from error
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import PchipInterpolator

from ..curves import CURVES
from ..geometry import plain_look
from ..stages import hints
from ..stages.files import write_atomically
from ..stages.layout import Layout, Variant, model_folder
from ..stages.matches import Layer, layers_in
from . import paths, results

WIDTH, WIDE = 3.4, 7.1  # inches

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
    "text.parse_math": False,  # a name with $ in it is a name
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The context in which figures are drawn, saved and shown."""
    with plain_look():
        matplotlib.rcParams.update(STYLE)
        yield


class Drawing(NamedTuple):
    """A figure, and its name, title and legend, which it gets when it is saved."""

    figure: Figure
    layout: Layout  # of the model and dataset whose results it shows
    kind: str  # the word for it in the file's name
    title: str
    quantity: str = ""  # that it shows, where a script draws the same of several
    legend_columns: int = 2
    pairs: Sequence[paths.Pair] = ()  # that it shows, if not all that are asked for
    words: Sequence[str] = ()  # the paths or alignments that it shows
    files: Mapping[Path, str] = {}  # the results that it shows, with their digests


def showing(drawings: Sequence[Drawing], *measured: results.Measured) -> list[Drawing]:
    """The drawings, with the results that they show, unless they have their own."""
    words, files = [route.words for one in measured for route in one], results.files_of(*measured)
    return [one if one.files else one._replace(words=words, files=files) for one in drawings]


def panels(
    rows: int, columns: int = 1, *, height: float = 1.6, width: float = WIDTH, **options: object
) -> tuple[Figure, np.ndarray]:
    """A figure of panels (rows, columns), each `height` inches high; saving adds a title above and a legend below."""
    figure = Figure(figsize=(width, height * rows + 0.15), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(route: paths.Route) -> dict[str, object]:
    """Colour and symbol show the alignment, dashes a straight line, other strokes further kinds of curves."""
    look = paths.look(route.alignment)
    return {
        "color": look.colour,
        "linestyle": "--" if route.is_line else ("-", "-.", ":")[route.rank % 3],
        "marker": look.symbol,
        "markerfacecolor": "white" if route.is_line else look.colour,
        "label": route.words,
    }


def draw(axis: Axes, x: np.ndarray, values: Sequence[np.ndarray], **style: object) -> None:
    """The mean of `values` (pairs, n) over x (n,), with bars of one standard deviation for several pairs."""
    every, (mean, deviation) = max(1, len(x) // 16), results.mean_and_deviation(values)
    if deviation is None:
        axis.plot(x, mean, markevery=every, clip_on=False, **style)
    else:
        bars = {"capsize": 1.5, "elinewidth": 0.8, "errorevery": every}
        for part in axis.errorbar(x, mean, deviation, markevery=every, **bars, **style).get_children():
            part.set_clip_on(False)


def reach(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest that `draw` draws of `values` (pairs, n), bars included."""
    mean, deviation = results.mean_and_deviation(values)
    bars = 0 if deviation is None else deviation
    return float((mean - bars).min()), float((mean + bars).max())


ENLARGED = 0.1  # the part of all values, from the best on, that is enlarged beside them


def enlarge(whole: Axes, enlarged: Axes, drawn: Sequence[tuple[float, float]], *, high_is_good: bool) -> None:
    """Let one of two panels that draw the same show its best tenth, or all of the path that varies least if more.

    In the other that part is grey. drawn: the lowest and the highest value of every path.
    """
    low, high = min(least for least, _ in drawn), max(most for _, most in drawn)
    part = max(ENLARGED * (high - low), min(most - least for least, most in drawn))
    low, high = (high - part, high) if high_is_good else (low, low + part)
    margin = 0.06 * part or 1e-3
    enlarged.set_ylim(low - margin, high + margin)
    for artist in (*enlarged.lines, *enlarged.collections):
        artist.set_clip_on(True)
    whole.axhspan(low - margin, high + margin, color="#EEEEEE", linewidth=0, zorder=0)


OUTLINE = {"markersize": 5, "markeredgecolor": "black", "markeredgewidth": 0.8, "linestyle": "none", "zorder": 4}


def mark(axis: Axes, places: Mapping[str, Sequence[float]], symbols: str = "osD") -> None:
    """Points (x, y), by what they are, each with a symbol of its own."""
    for (words, place), symbol in zip(places.items(), symbols, strict=False):
        axis.plot(*place, symbol, color="white", label=words, clip_on=False, **OUTLINE)


def draw_layers(axis: Axes, values: Sequence[np.ndarray], **style: object) -> None:
    """`draw` for values (pairs, layers), the last of which belong to the logits. Every layer has a tick."""
    layers = len(values[0])
    if layers > 20:
        style["marker"] = "none"
    draw(axis, np.arange(1, layers + 1), values, **style)
    room = 12 // axis.get_subplotspec().get_gridspec().ncols  # for as many names of layers
    step = next((step for step in (1, 2, 5, 10, 20) if layers / step <= room), 50)
    ticks = [*range(step, layers - step // 2, step), layers]
    axis.set_xticks(ticks, [*map(str, ticks[:-1]), "logits"])
    axis.set_xticks(range(1, layers + 1), minor=True)


# --- how the channels of two networks correlate, before and after alignment ---------------------------------

MOST_LAYERS, MOST_CHANNELS = 3, 64  # that are drawn, so that every channel can be seen
BINS = np.linspace(-1, 1, 21)
# White is no correlation; in grey print what is positive is dark, and what is negative never is
COLOURS = LinearSegmentedColormap.from_list("correlation", ["#E69F00", "white", "#08306B"])


def matrix_drawings(
    matches: Sequence[paths.Route], pairs: Sequence[paths.Pair], missing: list[UserError]
) -> list[Drawing]:
    """The figure of the first pair that has correlation matrices of any match; none if no pair has.

    Those that are damaged, or belong to other networks or another match than those of now, are added to `missing`.
    """
    for pair in pairs:
        there = [match for match in matches if match.layout.matrices(match.alignment, *pair).exists()]
        if measured := results.load(_load_matrices, there, [pair], missing):
            measured = results.marked(measured)
            rows = {match: layers_in(found.path, found) for match, [found] in measured.items()}
            words = [f"B as it is and {match.words}" for match in measured]
            drawing = Drawing(
                draw_matrices(rows), there[0].layout, "correlation_matrices", "correlations of channels"
            )
            return [drawing._replace(pairs=[pair], words=words, files=results.files_of(measured))]
    return []


def _load_matrices(match: paths.Route, pair: paths.Pair) -> results.Result:
    """How every channel of A correlates with every one of B (`layers_in`)."""
    found = results.load_result(match.layout, match.layout.matrices(match.alignment, *pair), {})
    layers_in(found.path, found)  # which refuses what is something else
    return found


def draw_matrices(matches: Mapping[paths.Route, Sequence[Layer]]) -> Figure:
    """A column a layer: the first, the last and those evenly between them. Above is B as it is, below aligned B.

    The channels of A are in the order of how well those matched to them correlate, so that the diagonal is seen; of
    wide layers the best are drawn. Those of B are in the same places. At the bottom, the diagonals are counted beside
    all correlations: where many channels of a layer are alike, no diagonal stands out of them.
    """
    layers = next(iter(matches.values()))
    sorted_by = [np.argsort(-layer.aligned.diagonal().astype(float), kind="stable") for layer in layers]
    shown = [round(place) for place in np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS))]
    rows = {"null": [layer.correlations for layer in layers]}  # which are the same with every match
    rows |= {match.alignment: [layer.aligned for layer in of_match] for match, of_match in matches.items()}
    side = min((WIDTH - 0.5) / len(shown), 1.2)
    ratios = [*[1] * len(rows), 0.6]
    height = (side * sum(ratios) + 1.2) / len(ratios)
    figure, axes = panels(len(ratios), len(shown), height=height, height_ratios=ratios)
    for row, (alignment, correlations) in zip(axes[:-1], rows.items(), strict=True):
        look = paths.look(alignment)
        row[0].set_ylabel(f"{textwrap.fill(look.words, 14)}\nchannels of A")
        for axis, counted, number in zip(row, axes[-1], shown, strict=True):
            best = sorted_by[number][:MOST_CHANNELS]
            corner = correlations[number][np.ix_(best, best)].astype(np.float32)
            image = axis.imshow(corner, cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
            if alignment == "null":
                counted.hist(correlations[number].ravel(), BINS, label="all channels", color="#CCCCCC", density=True)
            stroke = {"color": look.colour, "linestyle": "--" if alignment == "null" else "-"}
            diagonal = correlations[number].diagonal()
            counted.hist(diagonal, BINS, label=f"diagonal, {look.words}", histtype="step", density=True, **stroke)
            counted.set(yticks=[], xticks=[-1, 0, 1])
    for axis, number in zip(axes[0], shown, strict=True):
        count = len(layers[number].order)
        channels = f"{count} channels" if count <= MOST_CHANNELS else f"best {MOST_CHANNELS} of {count}"
        axis.set_title(f"layer {number + 1} of {len(layers)}\n{channels}")
    for axis in axes[-2]:
        axis.set_xlabel("channels of B")
    axes[-1, 0].set_ylabel("frequency")
    bar = figure.colorbar(image, ax=axes[:-1], location="bottom", aspect=40, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("correlation on the test images")
    return figure


# --- planes through three networks: accuracy and loss around them and the paths between them ----------------

PLANE_COLOURS = {"accuracy": "viridis", "loss": "viridis_r"}  # bright is good
OUTLINED = {"path_effects": [withStroke(linewidth=2.8, foreground="black")]}  # a line, on any colour
COARSE = 12  # points a side, up to which a grid's own points are drawn
FINE = 121  # points a side of the grid that is coloured, and on a curve
Plane = Mapping[str, np.ndarray]  # arrays of a plane, by name (`results.mean_plane`)
EVALUATED = {"color": "white", "markersize": 1.6, "markeredgecolor": "black", "markeredgewidth": 0.3, "zorder": 1.9}


def curve_on(plane: Plane, variant: Variant, ts: np.ndarray | None = None) -> np.ndarray:
    """Points (m, 2) of a curve in its plane at `ts` (m,), or at many t, from those at `t` (n,): its `curve` (n, 2).

    A curve's projection on a plane is a curve of the same family, whose control points are the projections of its
    own; as many evaluated points, or more, determine them. Where they do not (too few, or of other code), the curve
    goes straight from one to the next.
    """

    def coefficients(ts: np.ndarray) -> np.ndarray:
        family = CURVES[variant.curve]
        return np.stack([family(torch.tensor(t, dtype=torch.float64), variant.num_bends).numpy() for t in ts])

    evaluated = plane["curve"]
    known = coefficients(plane["t"])
    points, _, rank, _ = np.linalg.lstsq(known, evaluated)
    if rank < variant.num_bends or not np.allclose(known @ points, evaluated, atol=1e-3 * np.ptp(evaluated)):
        straight = [np.interp(plane["t"] if ts is None else ts, plane["t"], along) for along in evaluated.T]
        return np.stack(straight, axis=1)
    if ts is None:
        ts = np.union1d(np.linspace(0, 1, FINE), np.linspace(0, 1, variant.num_bends))  # with the corners of a chain
    return coefficients(ts) @ points


def smooth(values: np.ndarray) -> np.ndarray:
    """Values on a grid (rows, columns) on the grid that is coloured (FINE, FINE), over the same area.

    Between its points they are interpolated by piecewise cubic polynomials along one axis and then along the other.
    These are monotone, so that nothing is higher or lower than the highest and lowest of the four points around it.
    """
    for axis, count in enumerate(values.shape):
        values = PchipInterpolator(np.arange(count), values, axis=axis)(np.linspace(0, count - 1, FINE))
    return values


def draw_planes(
    planes: Mapping[paths.Route, Plane], name: str, *, cmap: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Planes under the words of their routes, coloured by the array `name` on one scale, all to one measure.

    Flat ones are as wide as the page, so that curves are seen, and lie above each other.
    """
    ranges = {axis: [(plane[axis].min(), plane[axis].max()) for plane in planes.values()] for axis in "xy"}
    x_range = min(low for low, _ in ranges["x"]), max(high for _, high in ranges["x"])
    heights = [(high - low) / (x_range[1] - x_range[0]) for low, high in ranges["y"]]
    columns = 1 if max(heights) < 0.7 else min(2, len(planes))
    in_rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    width = WIDTH if columns == 1 and max(heights) >= 0.7 else WIDE
    height = sum(in_rows) * (width - 0.6 * columns) / columns + 0.45 * len(in_rows) + 0.7
    height_of_one = height / len(in_rows)
    figure, axes = panels(len(in_rows), columns, height=height_of_one, width=width, height_ratios=in_rows)
    for axis in axes.flat[len(planes) :]:
        axis.remove()
    axes = list(axes.flat[: len(planes)])

    quantity = name.removesuffix("_deviation")
    shades = {route: {axis: smooth(plane[axis]) for axis in ("x", "y", name)} for route, plane in planes.items()}
    on_paths = [_nearest(shades[route], name, plane["paths"]) for route, plane in planes.items()]
    everywhere = [shade[name].ravel() for shade in shades.values()]
    levels, beyond = levels_of(np.concatenate(everywhere), np.concatenate(on_paths), high_is_good=name == "accuracy")
    colours = cmap or ("viridis" if quantity != name else PLANE_COLOURS[quantity])
    norm = BoundaryNorm(levels, 256, extend=beyond)
    for axis, (route, shade), y_range in zip(axes, shades.items(), ranges["y"], strict=True):
        grid = [shade[part] for part in ("x", "y", name)]
        filled = axis.contourf(*grid, levels=levels, extend=beyond, cmap=colours, norm=norm)
        axis.contour(*grid, levels=levels, extend=beyond, colors="white", linewidths=0.25)
        axis.set(title=route.words, aspect="equal", xlim=x_range, ylim=y_range)
        axis.grid(False)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(3 if columns == 1 else 5, integer=True))
    for axis in axes[-columns:]:
        axis.set_xlabel("distance in the direction from A to B (Euclidean)")
    for axis in axes[::columns]:
        axis.set_ylabel("orthogonal\ndistance")
    bar = figure.colorbar(filled, ax=axes, location="bottom", aspect=20 * width, pad=0.02, format="%g", ticks=levels)
    bar.set_label(_in_words(name, planes))
    return figure, axes


def _in_words(name: str, planes: Mapping[paths.Route, Plane]) -> str:
    quantity = name.removesuffix("_deviation")
    words = results.PLANE_QUANTITIES[quantity]
    if not all("accuracy" in plane for plane in planes.values()):  # of another task, whose loss may be anything
        words = words.removesuffix(" (cross-entropy)")
    return ("standard deviation of " if quantity != name else "") + words


def _nearest(shade: Plane, name: str, places: np.ndarray) -> np.ndarray:
    """The array `name` of a fine grid at the points nearest to `places` (n, 2)."""
    x, y, values = (shade[part].ravel() for part in ("x", "y", name))
    return np.array([values[np.hypot(x - place[0], y - place[1]).argmin()] for place in places])


def plane_figures(
    planes: Mapping[paths.Route, Plane],
    kind: str,
    title: str,
    paint: Callable[[Axes, paths.Route, Plane], None],
    *,
    cmap: str | None = None,
    legend_columns: int = 2,
) -> list[Drawing]:
    """Figures of accuracy and loss on planes, if any; of deviations too where all planes are means of several pairs.

    planes: each with the array `paths` (n, 2), many points of the paths that run on it.
    paint: draws the paths and points on a plane.
    """
    drawings = []
    names = [f"{name}{spread}" for spread in ("", "_deviation") for name in results.PLANE_QUANTITIES]
    for name in (name for name in names if planes and all(name in plane for plane in planes.values())):
        figure, axes = draw_planes(planes, name, cmap=cmap)
        for axis, (route, plane) in zip(axes, planes.items(), strict=True):
            paint(axis, route, plane)
            if min(plane[name].shape) <= COARSE:
                places = plane["x"].ravel(), plane["y"].ravel()
                axis.plot(*places, "o", label="evaluated", clip_on=False, **EVALUATED)
        drawings.append(
            Drawing(figure, route.layout, f"{kind}_{name}", title, _in_words(name, planes), legend_columns)
        )
    return drawings


REACH = 3  # times as far from the best value as paths get: as far as colours distinguish values
STEPS, RATIO = 7, 1.65  # the number of levels, and how much further from the best each is than the one before


def levels_of(values: np.ndarray, on_paths: np.ndarray, *, high_is_good: bool) -> tuple[np.ndarray, str]:
    """Round levels for contours, close to each other near the best of `values`; and whether values lie beyond them.

    They reach further than the worst of `on_paths`, but not as far as what no path comes near; what lies beyond them
    has one colour ("min" or "max", as matplotlib calls it, or "neither").
    """
    sign = -1 if high_is_good else 1
    best, worst, on_paths = (sign * values).min(), (sign * values).max(), (sign * on_paths).max()
    reach = min(worst - best, REACH * (on_paths - best)) or 1.0
    levels = set()
    for step in range(STEPS):
        distance = reach / RATIO**step
        least = distance * (1 - 1 / RATIO) / 2  # above which no unit is, of …, 0.1, 0.2, 0.5, 1, 2, 5, 10, …
        power = 10.0 ** math.floor(math.log10(least))
        unit = max(mantissa for mantissa in (1, 2, 5) if mantissa * power <= least * (1 + 1e-9)) * power
        number = (best + distance) / unit
        levels.add(unit * (round(number) if step else math.ceil(number - 1e-9)))
    levels.add(unit * math.floor(best / unit + 1e-9))
    ascending = np.unique(np.round([sign * level for level in levels], 9)) + 0.0  # and not -0
    is_beyond = worst > max(levels) + 1e-9
    return ascending, ("min" if high_is_good else "max") if is_beyond else "neither"


# --- saving and showing ------------------------------------------------------------------------------------


SHOWN, CAPTION = "Results", "Caption"  # the entries of a PNG that list the results it shows, with digests; and words


def save(
    drawings: Sequence[Drawing], *, pairs: Sequence[paths.Pair], command: str, name: str = "", titled: bool = True
) -> list[Path]:
    """Add titles and legends, and save all as PNG and PDF under figures/, the command in both; returns the paths.

    name: a word for the files' names, to keep them beside others. titled: whether the titles are drawn too; the files
    record them in any case.
    """
    files = []
    for drawing in drawings:
        layout, of = drawing.layout, drawing.pairs or pairs
        *first, last = map(str, of[0])
        mean = f"mean of {len(of)} pairs" if len(of) > 1 else f"networks {', '.join(first)} and {last}"
        title = f"{drawing.title} ({mean})"
        subject = f"{'Robust ' if layout.robust else ''}{layout.model} on {layout.dataset}"
        _add_legend(drawing.figure, drawing.legend_columns)
        if titled:
            _add_title(drawing.figure, subject, title)
        caption = f"{title}{f': {drawing.quantity}' if drawing.quantity else ''}."
        caption += f" Shown: {'; '.join(drawing.words)}." if drawing.words else ""
        under = {path: digest for path, digest in drawing.files.items() if path.is_relative_to(layout.root)}
        shown = json.dumps({path.relative_to(layout.root).as_posix(): digest for path, digest in under.items()})
        notes = {
            "png": {"Title": f"{subject}: {title}", "Description": command, CAPTION: caption, SHOWN: shown},
            "pdf": {"Title": f"{subject}: {title}", "Subject": command, "CreationDate": None},  # the same each time
        }
        for suffix, note in notes.items():
            subjects = drawing.kind, suffix, layout.dataset, model_folder(layout.model)
            files.append(results.output_path(layout.root, *subjects, robust=layout.robust, name=name))
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format=suffix, dpi=300, metadata=note)
            write_atomically(files[-1], lambda stream, buffer=buffer: stream.write(buffer.getbuffer()))
    return files


LETTERS = 15  # of a legend or a title, on an inch


def _lines(words: str, figure: Figure) -> str:
    """Words in lines that are no longer than a figure is wide."""
    return textwrap.fill(words, round(LETTERS * figure.get_figwidth()))


def _add_title(figure: Figure, *parts: str) -> None:
    """Above all panels, each part beginning a line; the figure grows by its height."""
    title = figure.suptitle("\n".join(_lines(part, figure) for part in parts))
    extent = title.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi + 0.05)


def _add_legend(figure: Figure, columns: int) -> None:
    """Below all panels, each label once, in at most so many columns, and only as many as fit.

    The figure grows by its height.
    """
    legend = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            legend.setdefault(_lines(label, figure), handle)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for count in range(min(columns, len(legend)), 0, -1):
        options = {"handlelength": 1.8} if count > 2 else {}
        drawn = figure.legend(legend.values(), legend, loc="outside lower center", ncols=count, **options)
        extent = drawn.get_window_extent(renderer)
        if count == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        drawn.remove()


def show(drawings: Sequence[Drawing]) -> None:
    """Open a window for each figure, and wait until they are closed."""
    import matplotlib.pyplot as plt  # which looks for a toolkit for windows

    if plt.get_backend().lower() == "agg":
        print("They are not shown: there is no screen, or no toolkit for windows (e.g. python3-tk).")
        return
    for drawing in drawings:
        # pyplot makes the figure of a window by itself, unless it is given one in this way.
        plt.figure(FigureClass=lambda figure=drawing.figure, **_: figure)
    plt.show()


Draw = Callable[[Layout, paths.Selection, list[UserError]], list[Drawing]]


def run(args: argparse.Namespace, draw: Draw) -> None:
    """Draw the figures of every model, and say in a line each what is missing in them.

    draw: makes the figures of a model from the paths that are asked for, none if none of these exists; it adds what
        is missing to the list that it is given.

    Raises the first error of that list if there is nothing to draw at all.
    """
    drawings, files, missing = [], [], []
    with style():
        for model in args.model:
            layout = Layout(args.root, model, args.dataset, robust=args.robust, replaced=args.replaced)
            chosen = args.alignment, args.epochs_of[model], args.curve_seed, args.num_bends, args.curve
            asked_for = paths.Selection([args.dataset], args.model, args.pairs, *chosen)
            drawn = draw(layout, asked_for, missing)
            files += save(drawn, pairs=args.pairs, command=args.command, name=args.name, titled=not args.no_title)
            drawings += drawn
        if not drawings:
            raise missing[0]
        for error in missing:
            print(f"Not drawn: {hints.explain(error, args.here)}")
        hints.closing_words(args.here, files)
        if args.show:
            show(drawings)
