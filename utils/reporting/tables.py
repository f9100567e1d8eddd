"""The paper's main table from evaluated paths: average and minimum accuracy, beside the published numbers."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from models import MODELS
from utils.errors import FileError, UserError
from utils.reporting import results
from utils.storage.layout import Layout, tag

PUBLISHED_FILE = Path(__file__).with_name("published.csv")
PUBLISHED_EPOCHS = 250  # of networks and of curves
SOURCE = "Tatro et al., 2020, Table 1"

Number = tuple[float, float | None]  # mean, and standard deviation if there are several pairs
Published = Mapping[tuple[str, str, str], Mapping[str, Number]]  # by dataset, model and path, then by statistic


class Column(NamedTuple):
    dataset: str
    quantity: str  # accuracy, or another array of an evaluation
    words: str
    statistic: str  # average or minimum


class Cell(NamedTuple):
    measured: Number
    pairs: int
    published: Number | None


@dataclass
class Row:
    """One path of one model, or (without a series) the two networks; cells by column, absent where there is none."""

    model: str
    words: str
    series: results.Series | None = None
    cells: dict[Column, Cell] = field(default_factory=dict)


@dataclass
class Table:
    columns: list[Column]
    rows: list[Row]
    notes: list[str]
    missing: list[UserError]  # why what was asked for, or is half there, is not in it

    def published(self, column: Column) -> bool:
        """Whether the column has published numbers to stand beside it."""
        return any(column in row.cells and row.cells[column].published for row in self.rows)


def build(root: Path, selection: results.Selection, *, robust: bool = False) -> Table:
    """The table of what is asked for of that which has been evaluated under `root`.

    If it has no rows, `missing` says why.
    """
    found = [one for one in results.evaluated(root, robust=robust) if selection.includes(one)]
    datasets = selection.datasets or list(dict.fromkeys(one.dataset for one in found))
    models = selection.models or [model for model in MODELS if any(one.model == model for one in found)]
    columns = [
        Column(dataset, quantity, words, statistic)
        for dataset in datasets
        for quantity, words in results.accuracies(robust).items()
        for statistic in ("average", "minimum")
    ]
    table = Table(columns, [], [], [])
    published = load_published()
    for model in models if datasets else ():
        layouts = [Layout(root, model, dataset, robust) for dataset in datasets]
        here = [one for one in found if one.model == model]
        _add_model(table, layouts, here, selection=selection, published=published)
    for dataset in datasets:
        if not any(one.dataset == dataset for one in found):
            table.missing.append(_nothing(root, selection, dataset, robust=robust))
    if table.rows:
        _add_notes(table, published)
    elif not table.missing:
        table.missing.append(_nothing(root, selection, robust=robust))
    return table


def _nothing(root: Path, selection: results.Selection, dataset: str | None = None, *, robust: bool) -> FileError:
    """That nothing of what is asked for has been evaluated (on a dataset); of the path with which to begin."""
    on = f" on {dataset}" if dataset else ""
    layout = Layout(root, next(iter(selection.models or ["TinyTen"])), dataset or "FashionMNIST10k", robust)
    pair = next(iter(selection.pairs or [(1, 2)]))
    alignment, epochs = next(iter(selection.alignments or [""])), next(iter(selection.epochs or [0]))
    reason = f"does not exist: nothing that was asked for{on} has been evaluated under {root}"
    return FileError(layout.evaluated(alignment, *pair, epochs), reason, "make")


def _add_model(
    table: Table,
    layouts: Sequence[Layout],
    found: Sequence[results.Found],
    *,
    selection: results.Selection,
    published: Published,
) -> None:
    """Add the rows of one model: the two networks, then each path, over all datasets, one a layout."""
    explicit = []
    if selection.epochs and selection.alignments:
        explicit = results.combined(selection.epochs, list(dict.fromkeys(map(tag, selection.alignments))))
    networks, rows = Row(layouts[0].model, "the two networks"), []
    for series in results.named(layouts[0], explicit or _in_order(found)):
        row = Row(series.model, series.words, series)
        for layout in layouts:
            here = [one for one in found if one.dataset == layout.dataset]
            pairs = selection.pairs or list(dict.fromkeys(one.pair for one in here))
            if explicit or (series.epochs, series.alignment) in _in_order(here):
                paths = _read(series._replace(layout=layout), pairs, table.missing)
                _fill(row, networks, paths, columns=table.columns, layout=layout, published=published)
        if row.cells:
            rows.append(row)
    if rows:
        table.rows += [networks, *rows]


def _in_order(found: Sequence[results.Found]) -> list[tuple[int, str]]:
    """The paths (epochs, alignment), each once, in the order of the paper's tables."""
    paths = {(one.epochs, one.alignment) for one in found}
    return sorted(paths, key=lambda path: (path[0], results.alignment_order(path[1])))


def _read(series: results.Series, pairs: Sequence[results.Pair], missing: list[UserError]) -> list[results.Arrays]:
    """The evaluated path of the pairs that have it, all evaluated alike; what others lack is added to `missing`."""
    paths: list[results.Arrays] = []
    for pair in pairs:
        try:
            path = results.load_path(series, pair)
        except UserError as error:
            missing.append(error)
            continue
        if paths and (error := results.unlike(series, pair, paths[0], path)):
            missing.append(error)
        else:
            paths.append(path)
    return paths


def _fill(
    row: Row,
    networks: Row,
    paths: Sequence[results.Arrays],
    *,
    columns: Sequence[Column],
    layout: Layout,
    published: Published,
) -> None:
    """Fill the cells of a row, and of the two networks, on one dataset from the evaluated path of every pair."""
    if not paths:
        return
    as_published = not layout.robust and _is_as_published(row.series, paths)
    known = published.get((layout.dataset, layout.model, row.series.alignment), {}) if as_published else {}
    ends = published.get((layout.dataset, layout.model, "networks"), {}) if as_published else {}
    for column in (column for column in columns if column.dataset == layout.dataset):
        summaries = [results.summary(path, column.quantity) for path in paths]
        row.cells[column] = _cell(summaries, column.statistic, known.get(column.statistic))
        if column.statistic == "average" and _is_better(networks.cells.get(column), len(paths), ends):
            networks.cells[column] = _cell(summaries, "ends", ends.get("average"))


def _is_as_published(series: results.Series, paths: Sequence[results.Arrays]) -> bool:
    """Whether these are curves of three points, trained as long as the published ones and evaluated as they were.

    A file that does not tell is taken at its name.
    """
    usual = {"epochs_model": PUBLISHED_EPOCHS, "use_test": True, "bn_images": None}
    settings = [results.settings_of(path) for path in paths]
    return (
        series.epochs == PUBLISHED_EPOCHS
        and all(known.get(name, value) == value for known in settings for name, value in usual.items())
        and all(len(known.get("points", "ABC")) == 3 for known in settings)
    )


def _is_better(cell: Cell | None, pairs: int, published: Mapping[str, Number]) -> bool:
    """Whether other ends say more of the networks than those in `cell`: of more pairs, or with a published number."""
    return cell is None or (pairs, bool(published)) > (cell.pairs, cell.published is not None)


def _cell(summaries: Sequence[Mapping[str, float]], statistic: str, published: Number | None) -> Cell:
    return Cell(results.mean_and_deviation([one[statistic] for one in summaries]), len(summaries), published)


def load_published() -> Published:
    """The published numbers, by dataset, model and path, then by statistic (average, minimum)."""
    lines = [line for line in PUBLISHED_FILE.read_text().splitlines() if not line.startswith("#")]
    return {
        (row["dataset"], row["model"], row["path"]): {
            statistic: (float(row[statistic]), float(row[f"{statistic}_deviation"]))
            for statistic in ("average", "minimum")
            if row[statistic]
        }
        for row in csv.DictReader(lines)
    }


def _add_notes(table: Table, published: Published) -> None:
    """Say below the table what its numbers are, and in its rows which are of fewer pairs than others."""
    most = max(cell.pairs for row in table.rows for cell in row.cells.values())
    what = "one pair" if most == 1 else f"mean ± standard deviation of {most} pairs"
    for row in table.rows:
        counts = sorted({cell.pairs for cell in row.cells.values()})
        if counts != [most]:
            row.words += f" ({', '.join(map(str, counts))} of {most} pairs)"
    table.notes.append(f"Test accuracy in percent; {what}.")
    if any(map(table.published, table.columns)):
        table.notes.append(f"Published: {SOURCE}, mean ± standard deviation of three pairs.")
    elif any((column.dataset, row.model, "networks") in published for column in table.columns for row in table.rows):
        table.notes.append(
            f"Published numbers ({SOURCE}) are of plain networks and curves of {PUBLISHED_EPOCHS} epochs each."
        )


# --- as text -----------------------------------------------------------------------------------------------


def number(value: Number | None, plus_minus: str = "±") -> str:
    if value is None:
        return ""
    mean, deviation = value
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} {plus_minus} {deviation:.1f}"


def grid(table: Table, plus_minus: str = "±") -> tuple[list[str], list[tuple[Row, list[str]]]]:
    """Headings, and the texts of each row: measured numbers and, where a column has any, published ones beside."""
    several = len({column.dataset for column in table.columns}) > 1
    headings = ["" if several else table.columns[0].dataset]
    for column in table.columns:
        words = f"{column.words}, {column.statistic}"
        headings.append(f"{column.dataset}: {words}" if several else words)
        if table.published(column):
            headings.append("published")
    rows = []
    for row in table.rows:
        texts = []
        for column in table.columns:
            cell = row.cells.get(column)
            # The two networks have no minimum; another gap is something that was not evaluated.
            gap = "" if row.series is None and column.statistic == "minimum" else "–"
            texts.append(number(cell.measured, plus_minus) if cell else gap)
            if table.published(column):
                texts.append(number(cell.published if cell else None, plus_minus))
        rows.append((row, texts))
    return headings, rows


def to_markdown(table: Table) -> str:
    headings, rows = grid(table)

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")

    lines = [line(headings), line(["---"] * len(headings))]
    for row, texts in rows:
        lines.append(line([row.words if row.series else f"**{row.model}**, {row.words}", *texts]))
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
        if row.series is None:
            lines.append(r"\midrule")
        words = rf"\textbf{{{_escaped(row.model)}}}, {row.words}" if row.series is None else _escaped(row.words)
        lines.append(" & ".join([words, *(text.replace("–", "--") for text in texts)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def to_csv(table: Table) -> str:
    """A line a number, for programs: unrounded, with the path's alignment and epochs in columns of their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("dataset", "model", "path", "alignment", "epochs", "quantity", "figure", "pairs")
    numbers = ("mean", "standard_deviation", "published_mean", "published_standard_deviation")
    writer.writerow([*names, *numbers])
    for row in table.rows:
        alignment, epochs = (tag(row.series.alignment), row.series.epochs) if row.series else ("", "")
        for column, cell in row.cells.items():
            where = (column.dataset, row.model, row.words, alignment, epochs, column.quantity)
            writer.writerow([*where, column.statistic, cell.pairs, *cell.measured, *(cell.published or ("", ""))])
    return stream.getvalue()
