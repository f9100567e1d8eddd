"""All alignments of the same networks compared: how alike they make them, and what is between them then.

Everything is read from results: correlations of matched channels, distances, and evaluated lines and curves.
"""

import contextlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..errors import FileError, UserError
from ..matching import METHODS
from ..stages.layout import Layout, read_name
from ..stages.records import expect_current, load_record
from . import figures, paths, results, tables

# What is shown of each quantity of a path
SHOWN = {
    "accuracy": ("average", "minimum"),
    "loss": ("barrier",),
    "loss_interpolated": ("barrier",),
    "loss_repaired": ("barrier",),
}
# What methods that compare activations make least, each on its own: the mean over layers of what a stage measured
DISTANCES = {name: METHODS[name].distance for name in paths.ALIGNMENTS if name in METHODS and METHODS[name].distance}
OF_METHODS = [distance.name for distance in DISTANCES.values()]
# What finding a match took; of PAM, its permutation phases
COSTS = {"seconds": "seconds to align", "memory": "memory to align (MB)"}


def build(root: Path, selection: paths.Selection) -> tables.Table:
    """The table of every path that is asked for, and of lines how far apart and how alike the networks are.

    If it has no rows, `missing` says why; it also names matches whose line has not been evaluated.
    """
    table = tables.build(root, selection, shown=SHOWN)
    found = [one for one in paths.evaluated(root) if selection.includes(one)]
    for dataset in dict.fromkeys(column.dataset for column in table.columns):
        distance = tables.Column(dataset, "distance", "L2 distance of the networks", "")
        correlation = tables.Column(dataset, "correlation", "correlation of matched channels", "")
        distances = {method: tables.Column(dataset, one.name, one.words, "") for method, one in DISTANCES.items()}
        costs = {name: tables.Column(dataset, name, words, "") for name, words in COSTS.items()}
        for row in (row for row in table.rows if row.series and row.series.is_line):
            series = row.series._replace(layout=Layout(root, row.model, dataset))
            route = (series.epochs, series.alignment, series.variant)
            here = [one for one in found if one.layout == series.layout]
            pairs = [one.pair for one in here if selection.route(one) == route]
            _add(row, distance, [_distance(series, pair) for pair in pairs])
            _add(row, correlation, [_correlation(series, pair) for pair in pairs])
            for method, column in distances.items():
                _add(row, column, [_distance_of_activations(series, pair, method) for pair in pairs])
            for name, column in costs.items():
                _add(row, column, [_taken(series, pair).get(name) for pair in pairs])
        table.columns += [distance, correlation, *distances.values(), *costs.values()]
        for model in dict.fromkeys(row.model for row in table.rows):
            table.missing += _lines_to_come(Layout(root, model, dataset), selection, found)
    table.columns = [column for column in table.columns if any(column in row.cells for row in table.rows)]
    if table.rows:
        table.notes.append(
            "The distance is that of all parameters, which weight matching makes least; the correlation, which corr "
            "makes greatest on its images, is the mean over layers and channels, on test images. With interpolated "
            "statistics, batch norm's are the means of the ends' own, weighted by t."
        )
        if any(column.quantity in OF_METHODS for column in table.columns):
            table.notes.append(
                "The distance of activations, which matching by L2 makes least, is a root mean square over channels "
                "and test images, and the mean over layers."
            )
    return table


def _add(row: tables.Row, column: tables.Column, values: Sequence[float | None]) -> None:
    """The mean over the pairs that have a number, if any has."""
    there = [value for value in values if value is not None]
    if there:
        row.cells[column] = tables.Cell(results.mean_and_deviation(there), len(there), None)


def _distance(series: paths.Series, pair: paths.Pair) -> float | None:
    """‖A − P·B‖ in all parameters: the length of the line."""
    try:
        return float(results.load_path(series, pair)["length"][-1])
    except UserError:
        return None  # which the table says


def _correlation(series: paths.Series, pair: paths.Pair) -> float | None:
    """The mean over layers, without the logits, if the stage that made the match measured it."""
    for of, which in _measured(series, pair):
        with contextlib.suppress(UserError):  # which the table says
            (measured,) = results.load_correlations(of, [pair], which)
            return float(measured[:-1].mean())
    return None


def _distance_of_activations(series: paths.Series, pair: paths.Pair, method: str) -> float | None:
    """The mean over layers, without the logits, if the match, or one of networks as they are, is of this method."""
    for of, which in _measured(series, pair):
        with contextlib.suppress(UserError):
            file = of.layout.distance(of.alignment, which, *pair)
            if file.exists() and load_record(file).flags.get("method") == method:
                return float(results.load_means(of.layout, [file])[0][:-1].mean())
    return None


def _measured(series: paths.Series, pair: paths.Pair) -> list[tuple[paths.Series, str]]:
    """The matches with which these networks were measured, and which of the two ways is asked for.

    Of networks as they are any match's will do: each was compared with no match at all.
    """
    if series.alignment != "null":
        return [(series, "aligned")]
    files = sorted(series.layout.folder("matches").glob("match_*.npy"))
    matches = [match for match in map(read_name, files) if match and match.seeds == pair]
    return [(series._replace(alignment=match.alignment, variant=match.variant), "unaligned") for match in matches]


def _taken(series: paths.Series, pair: paths.Pair) -> dict[str, float]:
    """What finding the match that is there took, if it was found by a stage that tells."""
    path = series.layout.correlation(series.alignment, "aligned", *pair, series.variant_of(pair))
    record = load_record(path)
    try:
        expect_current(series.layout, path, record)
    except UserError:
        return {}
    return record.cost


def _lines_to_come(layout: Layout, selection: paths.Selection, found: Sequence[paths.Found]) -> list[FileError]:
    """The lines between networks for which there is a match, if they are asked for and have not been evaluated."""
    errors = []
    for path in sorted(layout.folder("matches").glob("match_*.npy")):
        match = read_name(path)
        if match is None or match.kind != "match":
            continue
        line = paths.Found(layout, match.alignment, 0, match.seeds, match.variant)
        if selection.includes(line) and line not in found:
            evaluated = layout.evaluated(match.alignment, *match.seeds, 0, match.variant)
            errors.append(FileError(evaluated, "does not exist", "make"))
    return errors


# --- as a figure -------------------------------------------------------------------------------------------

SHADES = (
    "#000000",
    "#999999",
    "#8C564B",
    "#6A3D9A",
)  # of lines and kinds of curves; colours tell alignments elsewhere
# What is drawn of a row of the table: its quantity, words for it, and its symbol
BARRIERS = (
    ("loss", "", "o"),
    ("loss_interpolated", " with interpolated statistics", "x"),
    ("loss_repaired", ", repaired", "D"),
)


def draw(table: tables.Table, model: str, layout: Layout) -> figures.Drawing:
    """Barriers and lowest accuracies of a model's paths on a dataset: a row an alignment, a shade a kind of path."""
    rows = [row for row in table.rows if row.model == model and row.series]
    alignments = list(dict.fromkeys(row.series.alignment for row in rows))
    figure, axes = figures.panels(2, height=0.5 + 0.32 * len(alignments), sharey=True)
    kinds = dict.fromkeys(row.words.partition(",")[0] for row in rows)
    for row in rows:
        kind = row.words.partition(",")[0]
        place, shade = alignments.index(row.series.alignment), SHADES[list(kinds).index(kind) % len(SHADES)]
        for quantity, words, symbol in BARRIERS:
            style = {"fmt": symbol, "color": shade, "label": kind + words, "capsize": 2, "clip_on": False}
            _dot(axes[0, 0], row, (layout.dataset, quantity, "barrier"), place, style)
        style = {"fmt": "o", "color": shade, "label": kind, "capsize": 2, "clip_on": False}
        _dot(axes[1, 0], row, (layout.dataset, "accuracy", "minimum"), place, style)
    words = [textwrap.fill(paths.alignment_words(alignment), 19) for alignment in alignments]
    for axis, quantity in zip(axes.flat, ("barrier of the test loss", "lowest test accuracy (%)"), strict=True):
        axis.set(xlabel=quantity, ylim=(len(alignments) - 0.5, -0.5))
        axis.set_yticks(range(len(alignments)), words)
    axes[0, 0].set_xlim(left=0)
    return figures.Drawing(figure, layout, "comparison", "alignments compared", legend_columns=1)


def _dot(axis, row: tables.Row, where: tuple[str, str, str], place: int, style: dict[str, object]) -> None:
    """A number of a row, with a bar of one deviation for several pairs."""
    for column, cell in row.cells.items():
        if (column.dataset, column.quantity, column.statistic) == where:
            mean, deviation = cell.measured
            axis.errorbar([mean], [place], xerr=None if deviation is None else [deviation], **style)
