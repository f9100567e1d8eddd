"""The look of all figures, and how they are saved. Each is as wide as one column of a two-column page.

What draws, saves or shows them does so within `with figures.style():`, and nothing outside has their look. They are
made without pyplot, which is for windows: it is loaded by `show` alone.
"""

import contextlib
import io
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
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
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..stages.files import write_atomically
from ..stages.layout import Layout, model_folder
from . import paths, results

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
    pairs: Sequence[paths.Pair] = ()  # of which it is, if not of all that are asked for


def panels(rows: int, columns: int = 1, height: float = 1.6, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure of panels (rows, columns), each `height` inches high; saving adds a title above and a legend below."""
    return subplots(rows, columns, height * rows + 0.15, **options)


def subplots(rows: int, columns: int, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure, `height` inches high, and its panels (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(series: paths.Series) -> dict[str, object]:
    """Colour and symbol tell the alignment, dashes the straight line, other strokes other kinds of curves."""
    return {
        "color": paths.colour(series.alignment),
        "linestyle": "--" if series.is_line else ("-", "-.", ":")[series.rank % 3],
        "marker": paths.symbol(series.alignment),
        "markerfacecolor": "white" if series.is_line else paths.colour(series.alignment),
        "label": series.words,
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


def reach(values: Sequence[np.ndarray]) -> np.ndarray:
    """What `draw` draws of `values` (pairs, n): the mean, or (2, n), where the bars begin and end."""
    if len(values) == 1:
        return values[0]
    mean, deviation = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    return np.stack([mean - deviation, mean + deviation])


NEAR = 2.5  # times as high as curves themselves: so far what is around them still is near
TICKS_APART = 0.13  # at least, of a panel's height: so high is a number
PRESSED = 0.4  # the height of what is far on one side, on a panel on which what is near has height 1


def press_far_values(axis: Axes, curves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    """Give values near the learned curves most of a panel's height, and press those far away together, on grey.

    A line that falls by 60 points would leave no room to see which of two curves is the better one. Where all is
    near, nothing changes.

    curves, others: what is drawn of curves and of other paths, each of any shape. Without any curve, the path that
    varies least stands for them.
    """
    low, high = _range_near(curves, others)
    everything = np.concatenate([np.ravel(one) for one in (*curves, *others)])
    least, most = everything.min(), everything.max()
    room = PRESSED * (high - low)  # which is enough for what is not much further, without pressing
    low, high = least if low - room <= least else low, most if most <= high + room else high
    if high == low or (least == low and most == high):
        return
    margin = 0.08 * (high - low)
    values, heights = [low - margin, high + margin], [0.0, 1.0]
    near, far = tuple(values), []
    if least < low:
        far.append((least - 0.08 * (low - least), near[0]))
        values, heights = [far[-1][0], *values], [-PRESSED, *heights]
    if most > high:
        far.append((near[1], most + 0.08 * (most - high)))
        values, heights = [*values, far[-1][1]], [*heights, 1 + PRESSED]
    scale = partial(np.interp, xp=values, fp=heights)
    axis.set_yscale("function", functions=(scale, partial(np.interp, xp=heights, fp=values)))
    axis.set_ylim(values[0], values[-1])
    ticks = _ticks(*near, 5)
    for part in far:
        axis.axhspan(*part, color="#EEEEEE", linewidth=0, zorder=0, label="grey: the scale is pressed together")
        for tick in _ticks(*part, 3):
            if min(abs(scale(tick) - scale(ticks))) > TICKS_APART * (heights[-1] - heights[0]):
                ticks.append(tick)
    axis.set_yticks(sorted(ticks))
    axis.yaxis.set_major_formatter("{x:g}")


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about so many."""
    ticks = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _range_near(curves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[float, float]:
    """From where to where the curves are, and those other paths that do not make it much higher."""
    ranges = sorted(((float(np.min(one)), float(np.max(one))) for one in others), key=lambda ends: ends[1] - ends[0])
    near = [(float(np.min(one)), float(np.max(one))) for one in curves] or [ranges.pop(0)]
    low, high = min(start for start, _ in near), max(end for _, end in near)
    room = NEAR * (high - low)
    for start, end in ranges:
        if max(high, end) - min(low, start) <= room:
            low, high = min(low, start), max(high, end)
    return low, high


OUTLINE = {"markersize": 5, "markeredgecolor": "black", "markeredgewidth": 0.8, "linestyle": "none", "zorder": 4}


def draw_places(axis: Axes, x: np.ndarray, values: Sequence[np.ndarray], places: Mapping[str, int]) -> None:
    """Symbols on a line that `draw` has drawn of `values`, at two of its points, numbered, by what they are."""
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


def say_images(layout: Layout, measured: Mapping[paths.Series, Sequence[results.Arrays]]) -> str:
    """Print which paths were measured on other images than the first; returns what the title has of it, or ''."""
    other = results.on_other_images({series.words: of_pairs for series, of_pairs in measured.items()})
    if other:
        print(f"{layout.model}: {other}")
    return ", not all on the same images" if other else ""


# --- saving and showing ------------------------------------------------------------------------------------


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
    tell them in any case.
    """
    files = []
    shown = {layout: json.dumps(_shown(layout)) for layout in {drawing.layout for drawing in drawings}}
    for drawing in drawings:
        layout, title = drawing.layout, f"{drawing.title} ({_taken_over(drawing.pairs or pairs)})"
        subject = f"{'Robust ' if layout.robust else ''}{layout.model} on {layout.dataset}"
        _add_legend(drawing.figure, drawing.legend_columns)
        if titled:
            _add_title(drawing.figure, subject, title)
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


def _taken_over(pairs: Sequence[paths.Pair]) -> str:
    if len(pairs) > 1:
        return f"mean of {len(pairs)} pairs"
    *first, last = pairs[0]
    return f"networks {', '.join(map(str, first))} and {last}"


SHOWN = "Results"  # under which a PNG tells which results it shows, and digests of what was in them


def _shown(layout: Layout) -> dict[str, str]:
    """The results under the root of this model and dataset that were read since this was asked: paths, digests."""
    place = (model_folder(layout.model), layout.dataset)
    read = [path for path in results.shown if path.is_relative_to(layout.root) and path.parts[-3:-1] == place]
    return {path.relative_to(layout.root).as_posix(): results.shown.pop(path) for path in read}


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
    """Below all panels, each label once, in at most so many columns, and no more than there is room for.

    The figure grows by its height.
    """
    legend = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            legend.setdefault(_lines(label, figure), handle)
    legend = dict(sorted(legend.items(), key=lambda entry: isinstance(entry[1], Patch)))  # lines first
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
        print("They are not shown: there is no screen, or no toolkit for windows (as python3-tk).")
        return
    for drawing in drawings:
        # pyplot makes the figure of a window by itself, unless it is given one in this way.
        plt.figure(FigureClass=lambda figure=drawing.figure, **_: figure)
    plt.show()
