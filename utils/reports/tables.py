"""The paper's main table from evaluated paths: average and minimum accuracy, beside the published numbers."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, UserError
from ..stages.defaults import EPOCHS
from ..stages.layout import USUAL, Layout, model_folder, tag
from ..stages.records import record_in
from . import paths, results
from .published import SOURCE, Number, Published, is_as_published, load_published

# The numbers of a path, by their names in the CSV file, in words
STATISTICS = {
    "average": "average",
    "minimum": "minimum",
    "maximum": "maximum",
    "barrier": "barrier",
    "at_lowest": "where robust accuracy is lowest",
    "at_highest": "where robust accuracy is highest",
}
# Which of them are shown of each quantity: the paper's, of plain and of robust networks, and barriers
SHOWN = {False: {"accuracy": ("average", "minimum", "barrier"), "loss": ("barrier",)}}
SHOWN[True] = {
    "accuracy": ("average", "minimum", "at_lowest", "at_highest"),
    "accuracy_robust": ("average", "minimum", "maximum"),
    "loss": ("barrier",),
    "loss_robust": ("barrier",),
}
# The columns of the two networks' mean, and of the more robust one, with which the best point on a path is compared
OF_NETWORKS = {"ends": ("average",), "better": ("at_highest", "maximum")}
# Quantities of how alike activations are, by the names of their columns
OF_ACTIVATIONS = ("correlation", "activation_distance", "preactivation_distance")


class Column(NamedTuple):
    dataset: str
    quantity: str  # accuracy, loss, or another array of an evaluation
    words: str
    statistic: str  # one of STATISTICS; '' for what is one number by itself

    @property
    def heading(self) -> str:
        return f"{self.words}, {STATISTICS[self.statistic]}" if self.statistic else self.words

    @property
    def decimals(self) -> int:
        return 3 if results.is_loss(self.quantity) or self.quantity in OF_ACTIVATIONS else 1


class Cell(NamedTuple):
    measured: Number
    pairs: int
    published: Number | None


@dataclass
class Row:
    """One path of one model, or (without a series) its networks; cells by column, absent where there is none.

    networks: the number of `results.summary` that is the networks', one of OF_NETWORKS; '' for a path.
    """

    model: str
    words: str
    series: paths.Series | None = None
    networks: str = ""
    cells: dict[Column, Cell] = field(default_factory=dict)

    @property
    def is_first(self) -> bool:
        """Whether the rows of the model begin with it."""
        return self.networks == "ends"


@dataclass
class Table:
    columns: list[Column]
    rows: list[Row]
    notes: list[str]
    missing: list[UserError]  # why what was asked for, or is half there, is not in it

    def published(self, column: Column) -> bool:
        """Whether the column has published numbers to stand beside it."""
        return any(column in row.cells and row.cells[column].published for row in self.rows)


def build(
    root: Path,
    selection: paths.Selection,
    *,
    robust: bool = False,
    shown: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """The table of what is asked for of that which has been evaluated under `root`.

    shown: which numbers of each quantity, instead of the usual ones.

    If it has no rows, `missing` says why.
    """
    there = paths.evaluated(root, robust=robust)
    selection = selection.with_pairs(there)
    found = [one for one in there if selection.includes(one)]
    datasets = selection.datasets or list(dict.fromkeys(one.dataset for one in found))
    models = selection.models or sorted({one.model for one in found}, key=paths.model_order)
    shown = shown or SHOWN[robust]
    words = {name: word.partition(" (")[0] for name, word in results.quantities(robust).items()} | results.ways()
    columns = [
        Column(dataset, quantity, words[quantity], statistic)
        for dataset in datasets
        for quantity, statistics in shown.items()
        for statistic in statistics
    ]
    table = Table(columns, [], [], [])
    published = load_published()
    for model in models if datasets else ():
        layouts = [Layout(root, model, dataset, robust) for dataset in datasets]
        here = [one for one in found if model_folder(one.model) == model_folder(model)]
        _add_model(table, layouts, here, selection=selection, published=published)
    for dataset in datasets:
        if not any(one.dataset == dataset for one in found):
            table.missing.append(_nothing(root, selection, dataset, robust=robust))
    if table.rows:
        _add_notes(table, published, robust=robust)
    elif not table.missing:
        table.missing.append(_nothing(root, selection, robust=robust))
    return table


def _nothing(root: Path, selection: paths.Selection, dataset: str | None = None, *, robust: bool) -> FileError:
    """That nothing of what is asked for has been evaluated (on a dataset); of the path with which to begin."""
    on = f" on {dataset}" if dataset else ""
    layout = Layout(root, next(iter(selection.models or ["TinyTen"])), dataset or "FashionMNIST10k", robust)
    pair = next(iter(selection.pairs or [(1, 2)]))
    alignment, epochs = next(iter(selection.alignments or [""])), next(iter(selection.epochs or [0]))
    reason = f"does not exist: nothing that was asked for{on} has been evaluated under {root}"
    return FileError(layout.evaluated(alignment, *pair, epochs, selection.variants[0]), reason, "make")


def _add_model(
    table: Table,
    layouts: Sequence[Layout],
    found: Sequence[paths.Found],
    *,
    selection: paths.Selection,
    published: Published,
) -> None:
    """Add the rows of one model: the networks, then each path, over all datasets, one a layout."""
    explicit = []
    if selection.epochs and selection.alignments:
        tags = list(dict.fromkeys(map(tag, selection.alignments)))
        explicit = paths.combined(selection.epochs, tags, selection.variants)
    model, is_robust = layouts[0].model, layouts[0].robust
    networks = [Row(model, "the two networks", networks="ends")]
    if is_robust:
        networks.append(Row(model, "the more robust of the two", networks="better"))
    rows, measured = [], {layout.dataset: {} for layout in layouts}
    routes = list(dict.fromkeys([*explicit, *selection.routes(found)]))
    for route, series in zip(routes, paths.named(layouts[0], routes, selection.seeds), strict=True):
        row = Row(model, series.words, series)
        for layout in layouts:
            here = [one for one in found if one.dataset == layout.dataset]
            pairs = selection.pairs or list(dict.fromkeys(one.pair for one in here))
            having = [one.pair for one in here if selection.route(one) == route]
            if route not in explicit and route.variant.seed != USUAL.seed:
                pairs = having  # a seed that is a pair's own says nothing of the others
            if route in explicit or having:
                of_pairs = _read(series._replace(layout=layout), pairs, table.missing)
                measured[layout.dataset][series.words] = of_pairs
                _fill(row, networks, of_pairs, columns=table.columns, layout=layout, published=published)
        if row.cells:
            rows.append(row)
    if rows:
        table.rows += [*networks, *rows]
    for dataset, paths_there in measured.items():
        if words := results.on_other_images(paths_there):
            table.notes.append(f"{model} on {dataset}: {words[0].lower()}{words[1:]}")


def _read(series: paths.Series, pairs: Sequence[paths.Pair], missing: list[UserError]) -> list[results.Arrays]:
    """The evaluated path of the pairs that have it, all evaluated alike; what others lack is added to `missing`."""
    evaluated: list[results.Arrays] = []
    for pair in pairs:
        try:
            path = results.load_path(series, pair)
        except UserError as error:
            missing.append(error)
            continue
        if evaluated and (error := results.unlike(series, pair, evaluated[0], path)):
            missing.append(error)
        else:
            evaluated.append(path)
    return evaluated


def _fill(
    row: Row,
    networks: Sequence[Row],
    evaluated: Sequence[results.Arrays],
    *,
    columns: Sequence[Column],
    layout: Layout,
    published: Published,
) -> None:
    """Fill the cells of a row, and of the networks', on one dataset from the evaluated path of every pair."""
    if not evaluated:
        return
    as_published = not layout.robust and is_as_published(row.series, layout, map(record_in, evaluated))
    known = published.get((layout.dataset, layout.model, row.series.alignment), {}) if as_published else {}
    ends = published.get((layout.dataset, layout.model, "networks"), {}) if as_published else {}
    for column in (column for column in columns if column.dataset == layout.dataset):
        having = [path for path in evaluated if column.quantity in path]
        if not having:
            continue
        summaries = [results.summary(path, column.quantity) for path in having]
        row.cells[column] = _cell(summaries, column.statistic, known.get(column.statistic))
        for one in (one for one in networks if column.statistic in OF_NETWORKS[one.networks]):
            if _is_better(one.cells.get(column), len(having), ends):
                one.cells[column] = _cell(summaries, one.networks, ends.get(column.statistic))


def _is_better(cell: Cell | None, pairs: int, published: Mapping[str, Number]) -> bool:
    """Whether other ends say more of the networks than those in `cell`: of more pairs, or with a published number."""
    return cell is None or (pairs, bool(published)) > (cell.pairs, cell.published is not None)


def _cell(summaries: Sequence[Mapping[str, float]], statistic: str, published: Number | None) -> Cell:
    return Cell(results.mean_and_deviation([one[statistic] for one in summaries]), len(summaries), published)


def _add_notes(table: Table, published: Published, *, robust: bool) -> None:
    """Say below the table what its numbers are, and in its rows which are of fewer pairs than others."""
    most = max(cell.pairs for row in table.rows for cell in row.cells.values())
    what = "one pair" if most == 1 else f"mean ± standard deviation of {most} pairs"
    for row in table.rows:
        counts = sorted({cell.pairs for cell in row.cells.values()})
        if counts != [most]:
            row.words += f" ({', '.join(map(str, counts))} of {most} pairs)"
    table.notes.append(f"Test accuracy in percent; {what}.")
    table.notes.append(
        "A barrier is the most by which loss rises above, or accuracy falls below, the straight line between its "
        "values at the two ends."
    )
    table.notes.append(
        "The networks are measured as every point of a path is, with batch-norm statistics re-estimated, so their "
        "accuracy is not quite what training printed."
    )
    if robust:
        table.notes.append(
            "Averages and extremes are over the points of a path; clean accuracy is of the same points."
        )
    if any(map(table.published, table.columns)):
        table.notes.append(f"Published: {SOURCE}, mean ± standard deviation of three pairs.")
        # Its curves are published of a network that differs from their ends
        if any(
            (row.model, column.dataset) == ("TinyTen", "TINY-IMAGENET-200")
            for row in table.rows
            for column in row.cells
        ):
            note = "On Tiny ImageNet the published curves of TinyTen are of a network with another seventh layer."
            table.notes.append(note)
    elif any((column.dataset, row.model, "networks") in published for column in table.columns for row in table.rows):
        table.notes.append(
            f"Published numbers ({SOURCE}) are of plain networks and curves of {EPOCHS} epochs each, with the "
            "published settings of training and evaluation."
        )


# --- as text -----------------------------------------------------------------------------------------------


def number(value: Number | None, plus_minus: str = "±", decimals: int = 1) -> str:
    if value is None:
        return ""
    return f" {plus_minus} ".join(f"{part:.{decimals}f}" for part in value if part is not None)


def grid(table: Table, plus_minus: str = "±") -> tuple[list[str], list[tuple[Row, list[str]]]]:
    """Headings, and the texts of each row: measured numbers and, where a column has any, published ones beside."""
    several = len({column.dataset for column in table.columns}) > 1
    headings = ["" if several else table.columns[0].dataset]
    for column in table.columns:
        headings.append(f"{column.dataset}: {column.heading}" if several else column.heading)
        if table.published(column):
            headings.append("published")
    rows = []
    for row in table.rows:
        texts = []
        for column in table.columns:
            cell = row.cells.get(column)
            # The two networks have no minimum; another gap is something that was not evaluated.
            gap = "" if row.networks and column.statistic not in OF_NETWORKS[row.networks] else "–"
            how = {"plus_minus": plus_minus, "decimals": column.decimals}
            texts.append(number(cell.measured, **how) if cell else gap)
            if table.published(column):
                texts.append(number(cell.published if cell else None, **how))
        rows.append((row, texts))
    return headings, rows


def headlines(table: Table) -> list[str]:
    """In a sentence for each model, dataset and loss: from where to where its barrier falls, of all paths shown."""
    sentences = []
    columns = [one for one in table.columns if one.statistic == "barrier" and results.is_loss(one.quantity)]
    for model in dict.fromkeys(row.model for row in table.rows):
        for column in columns:
            rows = [row for row in table.rows if row.model == model and row.series and column in row.cells]
            if len(rows) < 2:
                continue
            highest, *_, lowest = sorted(rows, key=lambda row: -row.cells[column].measured[0])
            between = (f"{number(row.cells[column].measured, decimals=2)} ({row.words})" for row in (highest, lowest))
            falls = " to ".join(between)
            sentences.append(f"{model} on {column.dataset}: the barrier of the {column.words} falls from {falls}.")
    return sentences


def to_markdown(table: Table) -> str:
    headings, rows = grid(table)

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")

    lines = [line(headings), line(["---"] * len(headings))]
    for row, texts in rows:
        lines.append(line([f"**{row.model}**, {row.words}" if row.is_first else row.words, *texts]))
    return "\n".join([*lines, "", " ".join(table.notes), ""])


def to_latex(table: Table, command: str) -> str:
    headings, rows = grid(table, r"$\pm$")
    lines = [
        r"% needs \usepackage{booktabs}",
        f"% {command}",
        *(f"% {note}" for note in table.notes),
        rf"\begin{{tabular}}{{l{'c' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(map(_escaped, headings)) + r" \\",
    ]
    for row, texts in rows:
        if row.is_first:
            lines.append(r"\midrule")
        words = rf"\textbf{{{_escaped(row.model)}}}, {_escaped(row.words)}" if row.is_first else _escaped(row.words)
        lines.append(" & ".join([words, *(text.replace("–", "--") for text in texts)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def to_csv(table: Table) -> str:
    """A line a number, for programs: unrounded, with what tells the path in columns of their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("dataset", "model", "path", "alignment", "epochs", "num_bends", "curve", "curve_seed")
    names += ("quantity", "figure", "pairs")
    numbers = ("mean", "standard_deviation", "published_mean", "published_standard_deviation")
    writer.writerow([*names, *numbers])
    for row in table.rows:
        path = _path_columns(row.series) if row.series else [""] * 5
        for column, cell in row.cells.items():
            where = (column.dataset, row.model, row.words, *path, column.quantity)
            writer.writerow([*where, column.statistic, cell.pairs, *cell.measured, *(cell.published or ("", ""))])
    return stream.getvalue()


def _path_columns(series: paths.Series) -> list[object]:
    """Alignment, epochs, control points, family and seed of a path; of a line, the first two."""
    told = [tag(series.alignment), series.epochs]
    if series.is_line:
        return [*told, "", "", ""]
    seeds = " ".join(str(seed) for _, seed in series.seeds) or series.variant.seed
    return [*told, series.variant.num_bends, series.variant.curve, seeds]
