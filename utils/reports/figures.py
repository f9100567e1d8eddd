"""The look of all figures, and how they are saved. Each is as wide as a column of a two-column page, or as both.

They are drawn, saved and shown within `with figures.style():`, whatever the user's matplotlibrc says, and no other
figure gets their look. They are made without pyplot, which is for windows: only `show` loads it.
"""

import contextlib
import io
import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..stages.files import write_atomically
from ..stages.layout import Layout, model_folder
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
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
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
    every = max(1, len(x) // 16)
    if len(values) == 1:
        axis.plot(x, values[0], markevery=every, clip_on=False, **style)
    else:
        bars = {"capsize": 1.5, "elinewidth": 0.8, "errorevery": every}
        mean, deviation = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        drawn = axis.errorbar(x, mean, deviation, markevery=every, **bars, **style)
        for part in drawn.get_children():
            part.set_clip_on(False)


def reach(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest that `draw` draws of `values` (pairs, n), bars included."""
    mean = np.mean(values, axis=0)
    deviation = np.std(values, axis=0, ddof=1) if len(values) > 1 else 0
    return float((mean - deviation).min()), float((mean + deviation).max())


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


def draw_places(axis: Axes, x: np.ndarray, values: Sequence[np.ndarray], places: Mapping[str, int]) -> None:
    """Symbols at two points, given by name and index, of a line that `draw` has drawn of `values`."""
    mean = np.mean(values, axis=0)
    for (words, place), symbol in zip(places.items(), "v^", strict=True):
        axis.plot(x[place], mean[place], symbol, color="white", label=words, clip_on=False, **OUTLINE)


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
            rows = {match: layers_in(of_match[0].path, of_match[0]) for match, of_match in measured.items()}
            layout, words = there[0].layout, [f"B as it is and {match.words}" for match in measured]
            drawing = Drawing(draw_matrices(rows), layout, "correlation_matrices", "correlations of channels")
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
    wide layers the best are drawn. Those of B are in the same places.
    """
    layers = next(iter(matches.values()))
    sorted_by = [np.argsort(-layer.aligned.diagonal().astype(float), kind="stable") for layer in layers]
    shown = [round(place) for place in np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS))]
    rows = {"null": [layer.correlations for layer in layers]}  # which are the same with every match
    rows |= {match.alignment: [layer.aligned for layer in of_match] for match, of_match in matches.items()}
    side = min((WIDTH - 0.5) / len(shown), 1.2)
    figure, axes = panels(len(rows), len(shown), height=side + 0.8 / len(rows))
    for row, (alignment, correlations) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(f"{textwrap.fill(paths.look(alignment).words, 14)}\nchannels of A")
        for axis, number in zip(row, shown, strict=True):
            best = sorted_by[number][:MOST_CHANNELS]
            corner = correlations[number][np.ix_(best, best)].astype(np.float32)
            image = axis.imshow(corner, cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
    for axis, number in zip(axes[0], shown, strict=True):
        count = len(layers[number].order)
        channels = f"{count} channels" if count <= MOST_CHANNELS else f"best {MOST_CHANNELS} of {count}"
        axis.set_title(f"layer {number + 1} of {len(layers)}\n{channels}")
    for axis in axes[-1]:
        axis.set_xlabel("channels of B")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("correlation on the test images")
    return figure


# --- saving and showing ------------------------------------------------------------------------------------


SHOWN, CAPTION = "Results", "Caption"  # the entries of a PNG that list the results it shows, with digests; and words


def save(
    drawings: Sequence[Drawing],
    *,
    pairs: Sequence[paths.Pair],
    command: str,
    name: str = "",
    titled: bool = True,
) -> list[Path]:
    """Add titles and legends, and save all as PNG and PDF under figures/, the command in both; returns the paths.

    name: a word for the files' names, to keep them beside others. titled: whether the titles are drawn too; the files
    record them in any case.
    """
    files = []
    for drawing in drawings:
        layout, title = drawing.layout, f"{drawing.title} ({_taken_over(drawing.pairs or pairs)})"
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


def _taken_over(pairs: Sequence[paths.Pair]) -> str:
    if len(pairs) > 1:
        return f"mean of {len(pairs)} pairs"
    *first, last = pairs[0]
    return f"networks {', '.join(map(str, first))} and {last}"


LETTERS = 15  # of a legend or a title, on an inch


def _lines(words: str, figure: Figure) -> str:
    """Words in lines that are no longer than a figure is wide."""
    return textwrap.fill(words, round(LETTERS * figure.get_figwidth()))


def _add_title(figure: Figure, *parts: str) -> None:
    """Above all panels, each part beginning a line. The figure grows by its height."""
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
