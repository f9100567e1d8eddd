"""The paper's main table from evaluated paths: average and minimum accuracy, beside the published numbers."""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import checkpoint, cli, results
from utils.errors import UserError

PUBLISHED_FILE = Path(__file__).resolve().parent.parent / "evaluation" / "published.csv"
PUBLISHED_EPOCHS = 250  # of networks and of curves
SOURCE = "Tatro et al., 2020, Table 1"

Number = tuple[float, float | None]  # mean, and standard deviation if there are several pairs


class Column(NamedTuple):
    dataset: str
    quantity: str  # accuracy, or another array of an evaluation
    words: str
    figure: str  # average or minimum


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
    missing: list[UserError]  # what was asked for or half there, and the commands that make it

    def published(self, column: Column) -> bool:
        """Whether the column has published numbers to stand beside it."""
        return any(column in row.cells and row.cells[column].published for row in self.rows)


def build(args: argparse.Namespace) -> Table:
    """The table of what is asked for. What is not (a flag that is None) is everything that has been evaluated.

    If it has no rows, `missing` says why.
    """
    found = [one for one in results.evaluated(args.root, args.adversarial) if is_asked_for(args, one)]
    datasets = args.dataset or list(dict.fromkeys(one.dataset for one in found))
    models = args.model or [model for model in results.MODELS if any(one.model == model for one in found)]
    columns = [
        Column(dataset, quantity, words, figure)
        for dataset in datasets
        for quantity, words in results.accuracies(args).items()
        for figure in ("average", "minimum")
    ]
    table = Table(columns, [], [], [])
    published = load_published()
    for model in models:
        _add_model(args, table, model, datasets, [one for one in found if one.model == model], published)
    for dataset in datasets:
        if not any(one.dataset == dataset for one in found):
            table.missing.append(_nothing(args, dataset))
    if table.rows:
        _add_notes(table, published)
    elif not table.missing:
        table.missing.append(_nothing(args))
    return table


def _nothing(args: argparse.Namespace, dataset: str | None = None) -> UserError:
    """That nothing of what is asked for has been evaluated (on a dataset), and a command that begins it."""
    flags = {"model": args.model, "dataset": [dataset] if dataset else args.dataset, "seed_a": args.seed_a}
    flags |= {"seed_b": args.seed_b, "alignment": args.alignment, "epochs_curve": args.epochs}
    where = argparse.Namespace(root=args.root, adversarial=args.adversarial)
    example = {name: values[0] for name, values in flags.items() if values}
    command = cli.command("evaluation/eval_curve.py", where, **example)
    on = f" on {dataset}" if dataset else ""
    return UserError(f"nothing that was asked for{on} has been evaluated under {args.root}; make it with: {command}")


def _add_model(
    args: argparse.Namespace,
    table: Table,
    model: str,
    datasets: Sequence[str],
    found: Sequence[results.Found],
    published: Mapping[tuple[str, str, str], dict[str, Number]],
) -> None:
    """Add the rows of one model: the two networks, then each path, over all datasets."""
    explicit = []
    if args.epochs and args.alignment:
        tags = dict.fromkeys(map(checkpoint.tag, args.alignment))
        explicit = [(epochs, tag) for epochs in sorted(set(args.epochs)) for tag in tags]
    networks, rows = Row(model, "the two networks"), []
    for series in results.named(datasets[0], model, explicit or _in_order(found)):
        row = Row(model, series.words, series)
        for dataset in datasets:
            here = [one for one in found if one.dataset == dataset]
            pairs = results.pairs_of(args) if args.seed_a else list(dict.fromkeys(one.pair for one in here))
            if not explicit and (series.epochs, series.alignment) not in _in_order(here):
                continue
            tables = _read(args, series._replace(dataset=dataset), pairs, table.missing)
            if not tables:
                continue
            as_published = not args.adversarial and _is_as_published(series, tables)
            known = published.get((dataset, model, series.alignment), {}) if as_published else {}
            ends = published.get((dataset, model, "networks"), {}) if as_published else {}
            for column in (column for column in table.columns if column.dataset == dataset):
                summaries = [results.summary(one, column.quantity) for one in tables]
                row.cells[column] = _cell(summaries, column.figure, known.get(column.figure))
                if column.figure == "average" and _is_better(networks.cells.get(column), len(tables), ends):
                    networks.cells[column] = _cell(summaries, "ends", ends.get("average"))
        if row.cells:
            rows.append(row)
    if rows:
        table.rows += [networks, *rows]


def _in_order(found: Sequence[results.Found]) -> list[tuple[int, str]]:
    """The paths (epochs, alignment), each once, in the order of the paper's tables."""
    paths = {(one.epochs, one.alignment) for one in found}
    return sorted(paths, key=lambda path: (path[0], results.alignment_order(path[1])))


def is_asked_for(args: argparse.Namespace, one: results.Found) -> bool:
    """Whether a path is among those that the flags name; a flag that is None names all."""
    tags = args.alignment and [checkpoint.tag(alignment) for alignment in args.alignment]
    pairs = args.seed_a and results.pairs_of(args)
    wanted = (
        (args.dataset, one.dataset),
        (args.model, one.model),
        (tags, one.alignment),
        (args.epochs, one.epochs),
        (pairs, one.pair),
    )
    return all(values is None or value in values for values, value in wanted)


def _read(
    args: argparse.Namespace, series: results.Series, pairs: Sequence[tuple[int, int]], missing: list[UserError]
) -> list[dict[str, np.ndarray]]:
    """The evaluated path of the pairs that have it, all evaluated alike; what others lack is added to `missing`."""
    tables: list[dict[str, np.ndarray]] = []
    for pair in pairs:
        try:
            table = results.load_path(args, series, pair)
        except UserError as error:
            missing.append(error)
            continue
        if tables and (error := results.unlike(args, series, pair, tables[0], table)):
            missing.append(error)
        else:
            tables.append(table)
    return tables


def _is_as_published(series: results.Series, tables: Sequence[dict[str, np.ndarray]]) -> bool:
    """Whether these are curves of three points, trained as long as the published ones and evaluated as they were.

    A file that does not tell is taken at its name.
    """
    usual = {"epochs_model": PUBLISHED_EPOCHS, "use_test": True, "bn_images": None}
    settings = [results.settings_of(table) for table in tables]
    return (
        series.epochs == PUBLISHED_EPOCHS
        and all(known.get(name, value) == value for known in settings for name, value in usual.items())
        and all(len(known.get("points", "ABC")) == 3 for known in settings)
    )


def _is_better(cell: Cell | None, pairs: int, published: dict) -> bool:
    """Whether other ends say more of the networks than those in `cell`: of more pairs, or with a published number."""
    return cell is None or (pairs, bool(published)) > (cell.pairs, cell.published is not None)


def _cell(summaries: Sequence[dict[str, float]], figure: str, published: Number | None) -> Cell:
    return Cell(results.mean_and_deviation([one[figure] for one in summaries]), len(summaries), published)


def load_published() -> dict[tuple[str, str, str], dict[str, Number]]:
    """The published numbers, by dataset, model and path, then by figure (average, minimum)."""
    lines = [line for line in PUBLISHED_FILE.read_text().splitlines() if not line.startswith("#")]
    return {
        (row["dataset"], row["model"], row["path"]): {
            figure: (float(row[figure]), float(row[f"{figure}_deviation"]))
            for figure in ("average", "minimum")
            if row[figure]
        }
        for row in csv.DictReader(lines)
    }


def _add_notes(table: Table, published: Mapping[tuple[str, str, str], dict[str, Number]]) -> None:
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
        words = f"{column.words}, {column.figure}"
        headings.append(f"{column.dataset}: {words}" if several else words)
        if table.published(column):
            headings.append("published")
    rows = []
    for row in table.rows:
        texts = []
        for column in table.columns:
            cell = row.cells.get(column)
            # The two networks have no minimum; another gap is something that was not evaluated.
            gap = "" if row.series is None and column.figure == "minimum" else "–"
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
        alignment, epochs = (checkpoint.tag(row.series.alignment), row.series.epochs) if row.series else ("", "")
        for column, cell in row.cells.items():
            where = (column.dataset, row.model, row.words, alignment, epochs, column.quantity)
            writer.writerow([*where, column.figure, cell.pairs, *cell.measured, *(cell.published or ("", ""))])
    return stream.getvalue()
