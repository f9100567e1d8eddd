"""Tables of evaluated paths: the paper's main table beside the published numbers, and all alignments compared.

A row is a path, its columns are quantities, and a cell is the mean over pairs. Markdown, LaTeX, CSV, and the report's
HTML are written from the same rows.
"""

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import escape

from ..errors import FileError, UserError, printable
from ..matching import METHODS
from ..stages.data import dataset_info
from ..stages.layout import USUAL, Layout, Name, model_folder, read_name
from ..stages.originals import PERMUTATION_EPOCHS
from ..stages.published import EPOCHS, NETWORKS
from ..stages.records import Record, load_record
from . import paths, results

# --- published numbers -------------------------------------------------------------------------------------

FILE = Path(__file__).with_name("published.csv")
SOURCE = "Tatro et al., 2020, Table 1"

Number = tuple[float, float | None]  # mean, and standard deviation if there are several pairs
Place = tuple[str, str, str]  # a dataset, a model and a path


def load_published() -> tuple[dict[Place, dict[str, Number]], dict[tuple[str, str], str]]:
    """The published numbers by statistic (average, minimum); and remarks for their readers by dataset and model."""
    rows = list(csv.DictReader(line for line in FILE.read_text().splitlines() if not line.startswith("#")))
    numbers = {
        (row["dataset"], row["model"], row["path"]): {
            statistic: (float(row[statistic]), float(row[f"{statistic}_deviation"]))
            for statistic in ("average", "minimum")
            if row[statistic]
        }
        for row in rows
    }
    return numbers, {(row["dataset"], row["model"]): row["note"] for row in rows if row["note"]}


PUBLISHED = {"lr": 0.1, "wd": 5e-4, "lr_drop": 20, "lr_decay": 0.9996, "use_test": True, "image_size": None}
PUBLISHED |= {"fix_start": True, "fix_end": True, "init_linear_off": False, "epochs_model": EPOCHS}
PUBLISHED |= {"outer_iters": 1, "inner_iters_perm": PERMUTATION_EPOCHS, "bn_images": None, "num_points": 65}
PUBLISHED |= {"precision": "fp32"}


def is_as_published(route: paths.Route, evaluated: Iterable[Record]) -> bool:
    """Whether these records belong to evaluations of curves as published, between networks as published.

    Settings that a file does not record are taken to be the published ones. The original counts the epochs of PAM's
    permutation phase among the curve's.
    """
    records = list(evaluated)
    epochs = {EPOCHS} if any(records) or not route.alignment.startswith("pam_") else {EPOCHS + PERMUTATION_EPOCHS}
    if route.layout.robust or route.epochs not in {EPOCHS, *epochs}:
        return False
    return route.variant._replace(seed=USUAL.seed) == USUAL and all(
        _is_published_setting(record, route.layout) for record in records
    )


def _is_published_setting(record: Record, layout: Layout) -> bool:
    """Whether the flags of an evaluation, and those with which its networks and curve were trained, are published."""
    batches = {"a": 64 if layout.dataset == "CIFAR10" else 128, "curve": 128}
    batches["b"] = batches["a"]
    resized_by = dataset_info(layout.dataset).resized_by
    for name, flags in {"": record.flags, **record.trained}.items():
        wanted = PUBLISHED | ({"batch_size": batches[name]} if name in batches else {})
        now = flags | ({"precision": "fp32"} if flags.get("precision") == "tf32" else {})
        transform = str(flags.get("transform", layout.model))
        # Transforms of several names can do the same
        if transform.startswith("Adversarial") or resized_by(transform) != resized_by(layout.model):
            return False
        if any(now[name] != value for name, value in wanted.items() if name in now):
            return False
    return len(record.inputs.get("points", "ABC")) == 3


# --- the table ---------------------------------------------------------------------------------------------

# The numbers of a path, by their names in the CSV file, in words
STATISTICS = {
    "average": "average",
    "minimum": "minimum",
    "maximum": "maximum",
    "barrier": "barrier",
    "at_lowest": "where robust accuracy is lowest",
    "at_highest": "where robust accuracy is highest",
    "chosen": "where robust accuracy is highest on held-out images",
}
# Which of them are shown of each quantity: the paper's, of plain and of robust networks, and barriers
SHOWN = {
    False: {"accuracy": ("average", "minimum", "barrier"), "loss": ("barrier",)},
    True: {
        "accuracy": ("average", "minimum", "at_lowest", "at_highest", "chosen"),
        "accuracy_robust": ("average", "minimum", "maximum", "chosen"),
        "loss": ("barrier",),
        "loss_robust": ("barrier",),
    },
}
OF_HELD_OUT = "chosen"  # columns that only newer evaluations have
# Of the two networks: their mean, the more robust one of each pair, and the one that is so in the mean over pairs, as
# published; with the columns of what they are compared with
OF_NETWORKS = {
    "ends": ("the two networks", ("average",)),
    "better": ("the more robust of the two", ("at_highest", "maximum")),
    "better_in_mean": ("the more robust of the two, by means over pairs", ("at_highest", "maximum")),
}
# Quantities of how alike activations are, by the names of their columns
OF_ACTIVATIONS = ("correlation", "activation_distance", "preactivation_distance")
EVERY_SECOND = ", every second point"  # as published of robust paths


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
    published: Number | None = None


def _cell(values: Sequence[float], published: Number | None = None) -> Cell:
    return Cell(results.mean_and_deviation(values), len(values), published)


@dataclass
class Row:
    """One path of one model, or (without a route) its networks; cells by column, absent where there is none.

    networks: one of OF_NETWORKS; '' for a path. aside: by dataset, how it was evaluated unlike the other paths.
    """

    model: str
    words: str
    route: paths.Route | None = None
    networks: str = ""
    cells: dict[Column, Cell] = field(default_factory=dict)
    pairs: dict[str, list[paths.Pair]] = field(default_factory=dict)  # that have the path, by dataset
    aside: dict[str, str] = field(default_factory=dict)


@dataclass
class Table:
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    missing: list[UserError] = field(default_factory=list)  # why a path that is asked for, or incomplete, is left out
    files: dict[Path, str] = field(default_factory=dict)  # behind the numbers, with digests

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
    """The table of the evaluated paths under `root` that are asked for.

    shown: which numbers of each quantity, instead of the usual ones.

    If it has no rows, `missing` says why.
    """
    there = paths.evaluated(root, robust=robust)
    selection = selection.with_pairs(there)
    found = selection.among(there)
    datasets = selection.datasets or list(dict.fromkeys(route.layout.dataset for route in found))
    models = selection.models or sorted(
        {route.layout.model for route in found}, key=lambda model: paths.position(model, NETWORKS)
    )
    words = {name: word.partition(" (")[0] for name, word in results.QUANTITIES[robust].items()} | results.WAYS
    columns = [
        Column(dataset, quantity, words[quantity], statistic)
        for dataset in datasets
        for quantity, statistics in (shown or SHOWN[robust]).items()
        for statistic in statistics
    ]
    table = Table(columns, [])
    for model in models if datasets else ():
        layouts = [Layout(root, model, dataset, robust=robust) for dataset in datasets]
        folder = model_folder(model)
        here = {route: pairs for route, pairs in found.items() if model_folder(route.layout.model) == folder}
        _add_model(table, layouts, here, selection)
    filled = {column for row in table.rows for column in row.cells}
    told = {column.dataset for column in filled}
    table.columns = [
        one for one in columns if one in filled or (one.statistic != OF_HELD_OUT and one.dataset not in told)
    ]
    for dataset in datasets:
        if not any(route.layout.dataset == dataset for route in found):
            table.missing.append(_nothing(root, selection, dataset, robust=robust))
    if table.rows:
        _add_notes(table, robust=robust)
    elif not table.missing:
        table.missing.append(_nothing(root, selection, robust=robust))
    return table


def _nothing(root: Path, selection: paths.Selection, dataset: str | None = None, *, robust: bool) -> FileError:
    """The error that nothing asked for has been evaluated (on a dataset); it names the path to begin with."""
    on = f" on {dataset}" if dataset else ""
    layout = Layout(root, next(iter(selection.models or NETWORKS)), dataset or "FashionMNIST10k", robust=robust)
    wanted = replace(selection, alignments=selection.alignments or [""], epochs=selection.epochs or [0])
    pair = next(iter(selection.pairs or [(1, 2)]))
    reason = f"does not exist: nothing that was asked for{on} has been evaluated under {root}"
    return FileError(wanted.by_name(layout)[0].evaluated(pair), reason, "make")


def _add_model(table: Table, layouts: Sequence[Layout], here: paths.Found, selection: paths.Selection) -> None:
    """Add the rows of one model: the networks, then each path, over all datasets, one a layout."""
    model, first = layouts[0].model, layouts[0]
    having = {(route.layout.dataset, replace(route, layout=first)): pairs for route, pairs in here.items()}
    explicit = selection.by_name(first) if selection.epochs and selection.alignments else []
    others = sorted({route for _, route in having}, key=lambda route: route.order)
    routes = paths.named(list(dict.fromkeys([*explicit, *others])))
    rows = {route: Row(model, route.words, route) for route in routes}
    halves = {route: Row(model, route.words + EVERY_SECOND, route) for route in routes}
    networks = {name: Row(model, words, networks=name) for name, (words, _) in OF_NETWORKS.items()}
    for layout in layouts:
        everyone = [pair for (dataset, _), pairs in having.items() if dataset == layout.dataset for pair in pairs]
        measured: results.Measured = {}
        for route in routes:
            those = rows[route].pairs[layout.dataset] = having.get((layout.dataset, route), [])
            pairs = selection.pairs or list(dict.fromkeys(everyone))
            if route not in explicit and route.variant.seed != USUAL.seed:
                pairs = those  # a seed that belongs to one pair says nothing of the others
            if route in explicit or those:
                on = replace(route, layout=layout)
                measured |= results.load(results.load_path, [on], pairs, table.missing)
        table.files |= results.files_of(measured)
        told = results.unlike(measured)
        for on, tables in sorted(measured.items(), key=lambda one: one[0] in told):  # the others tell of the networks
            route = replace(on, layout=first)
            if on in told:
                rows[route].aside[layout.dataset] = told[on]
            _fill(rows[route], tables, table.columns, layout)
            _fill_networks(networks.values(), tables, table.columns, on)
            if layout.robust and len(tables[0]["t"]) >= results.SPECTRUM_POINTS and len(tables[0]["t"]) % 2:
                _fill(halves[route], [_every_second(one) for one in tables], table.columns, layout)
    filled = [row for route in routes for row in (rows[route], halves[route]) if row.cells]
    for row in filled:
        on = {f"on {dataset}: " if len(layouts) > 1 else "": words for dataset, words in row.aside.items()}
        row.words += "".join(f" ({where}{words})" for where, words in on.items())
    table.rows += [row for row in networks.values() if row.cells and filled] + filled


def _every_second(table: results.Result) -> results.Result:
    halved = {name: array[::2] if array.shape[:1] == table["t"].shape else array for name, array in table.items()}
    return results.Result(halved, table.path, table.record)


def _fill(row: Row, tables: Sequence[results.Result], columns: Iterable[Column], layout: Layout) -> None:
    """Fill the cells of a row on one dataset from the evaluated path of every pair."""
    route = replace(row.route, layout=layout)
    known = {}
    if is_as_published(route, [one.record for one in tables]):
        known = load_published()[0].get((layout.dataset, layout.model, route.alignment), {})
    for column in (column for column in columns if column.dataset == layout.dataset):
        summaries = [results.summary(path, column.quantity) for path in tables if column.quantity in path]
        if values := [one[column.statistic] for one in summaries if column.statistic in one]:
            row.cells[column] = _cell(values, known.get(column.statistic))


def _fill_networks(
    networks: Iterable[Row], tables: Sequence[results.Result], columns: Iterable[Column], route: paths.Route
) -> None:
    """Fill the cells of the networks' rows from their values at the ends of a path.

    What other paths have told stays, unless this one tells of more pairs, or of networks as published.
    """
    layout, known = route.layout, {}
    if is_as_published(route, [one.record for one in tables]):
        known = load_published()[0].get((layout.dataset, layout.model, "networks"), {})
    for row in networks:
        for column in columns:
            having = [path for path in tables if column.quantity in path]
            if column.dataset != layout.dataset or column.statistic not in OF_NETWORKS[row.networks][1]:
                continue
            if values := _of_networks(row.networks, having, column.quantity):
                cell, there = _cell(values, known.get(column.statistic)), row.cells.get(column)
                if there is None or (cell.pairs, bool(known)) > (there.pairs, there.published is not None):
                    row.cells[column] = cell


def _of_networks(which: str, tables: Sequence[results.Result], quantity: str) -> list[float]:
    """A quantity of the networks (OF_NETWORKS) of every pair; nothing where that is not told."""
    summaries = [results.summary(path, quantity) for path in tables]
    if which != "better_in_mean":
        return [one[which] for one in summaries if which in one]
    if len(tables) < 2 or len(tables[0]["t"]) < results.SPECTRUM_POINTS or "better" not in summaries[0]:
        return []
    a, b = np.mean([path["accuracy_robust"][[0, -1]] for path in tables], axis=0)
    return [float(path[quantity][0 if a >= b else -1]) for path in tables]


def _add_notes(table: Table, *, robust: bool) -> None:
    """Explain the numbers below the table, and note in its rows which are means of fewer pairs than others."""
    published, remarks = load_published()
    most = max(cell.pairs for row in table.rows for cell in row.cells.values())
    has_accuracy = any(not results.is_loss(column.quantity) for column in table.columns)
    what = "one pair" if most == 1 else f"mean ± standard deviation of {most} pairs"
    for row in table.rows:
        counts = sorted({cell.pairs for cell in row.cells.values()})
        if counts != [most]:
            row.words += f" ({', '.join(map(str, counts))} of {most} pairs)"
    table.notes += [
        f"{'Test accuracy in percent' if has_accuracy else 'Losses on test samples'}; {what}.",
        "A barrier is the most by which loss rises above, or accuracy falls below, the straight line between its "
        "values at the two ends.",
        "The networks are measured as every point of a path is, with batch-norm statistics re-estimated, so their "
        "accuracy is not quite what training printed.",
    ]
    if robust:
        table.notes.append(
            "Averages and extremes are over the points of a path; clean accuracy is of the same points."
        )
        if any(column.statistic == OF_HELD_OUT for column in table.columns):
            table.notes.append("The best point on held-out training images is chosen without the test set.")
    if any(row.aside for row in table.rows):
        table.notes.append("Paths with words in brackets were not evaluated as the others were.")
    if any(map(table.published, table.columns)):
        table.notes.append(f"Published: {SOURCE}, mean ± standard deviation of three pairs.")
        shown = {(column.dataset, row.model) for row in table.rows for column in row.cells}
        table.notes += [note for place, note in remarks.items() if place in shown]
    elif any((column.dataset, row.model, "networks") in published for column in table.columns for row in table.rows):
        table.notes.append(
            f"Published numbers ({SOURCE}) are of plain networks and curves of {EPOCHS} epochs each, with the "
            "published settings of training and evaluation."
        )


def headlines(table: Table) -> list[str]:
    """In a sentence for each model, dataset and loss: from where to where its barrier falls, on lines and on curves.

    Where there are not two of a kind, of all paths shown. Those that were evaluated unlike the others do not count.
    """
    sentences = []
    columns = [one for one in table.columns if one.statistic == "barrier" and results.is_loss(one.quantity)]
    for model in dict.fromkeys(row.model for row in table.rows):
        for column in columns:
            rows = [row for row in table.rows if row.model == model and row.route and column in row.cells]
            rows = [row for row in rows if column.dataset not in row.aside and EVERY_SECOND not in row.words]
            if len(rows) < 2:
                continue
            kinds = [[row for row in rows if row.route.is_line == is_line] for is_line in (True, False)]
            falls = []
            for those in [kind for kind in kinds if len(kind) > 1] or [rows]:
                highest, *_, lowest = sorted(those, key=lambda row: -row.cells[column].measured[0])
                ends = (f"{number(row.cells[column].measured, 2)} ({row.words})" for row in (highest, lowest))
                falls.append(f"from {' to '.join(ends)}")
            sentence = f"{model} on {column.dataset}: the barrier of the {column.words} falls {', and '.join(falls)}."
            sentences.append(printable(sentence))
    return sentences


# --- all alignments compared -------------------------------------------------------------------------------

# The numbers of each quantity of a path that are compared
COMPARED = {"accuracy": ("average", "minimum")}
COMPARED |= dict.fromkeys(("loss", "loss_interpolated", "loss_repaired"), ("barrier",))
# The distance that each method comparing activations minimizes, as the alignment measured it: its mean over layers
DISTANCES = {name: METHODS[name].distance for name in paths.ALIGNMENTS if name in METHODS and METHODS[name].distance}
OF_METHODS = [distance.name for distance in DISTANCES.values()]
# Numbers of two networks as a straight line joins them; the last two are the cost of the match, for PAM of its
# permutation phases
OF_PAIRS = {
    "distance": "L2 distance of the networks",
    "correlation": "correlation of matched channels",
    **{distance.name: distance.words for distance in DISTANCES.values()},
    "seconds": "seconds to align",
    "memory": "memory to align (MB)",
}
COST = ("seconds", "memory")


def compare(root: Path, selection: paths.Selection) -> Table:
    """The table of every path that is asked for, and for lines how far apart and how alike the networks are.

    If it has no rows, `missing` says why; it also names matches whose line has not been evaluated.
    """
    table = build(root, selection, shown=COMPARED)
    there = paths.evaluated(root)
    for dataset in dict.fromkeys(column.dataset for column in table.columns):
        columns = {name: Column(dataset, name, words, "") for name, words in OF_PAIRS.items()}
        for row in (row for row in table.rows if row.route and row.route.is_line):
            route = replace(row.route, layout=Layout(root, row.model, dataset))
            of_pairs = [_of_pair(table, route, pair) for pair in row.pairs[dataset]]
            for name, column in columns.items():
                if values := [numbers[name] for numbers in of_pairs if name in numbers]:
                    row.cells[column] = _cell(values)
        table.columns += columns.values()
        for model in dict.fromkeys(row.model for row in table.rows):
            for match in _matches(Layout(root, model, dataset)):
                line = paths.Route(Layout(root, model, dataset), match.alignment, 0, match.variant)
                if selection.includes(line, match.seeds) and match.seeds not in there.get(line, ()):
                    table.missing.append(FileError(line.evaluated(match.seeds), "does not exist", "make"))
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


def _matches(layout: Layout) -> list[Name]:
    """The names of the matches that there are."""
    names = map(read_name, sorted(layout.folder("matches").glob("match_*.npy")))
    return [name for name in names if name and name.kind == "match"]


def _of_pair(table: Table, line: paths.Route, pair: paths.Pair) -> dict[str, float]:
    """The numbers of OF_PAIRS that were measured; files that cannot be read are named where the table reads them."""
    numbers: dict[str, float] = {}
    with contextlib.suppress(UserError):
        path = results.load_path(line, pair)
        numbers["distance"] = path["length"][-1]
        table.files |= path.files
    # Networks as they are were compared with any match, before its alignment.
    measured, which = [line], "aligned"
    if line.alignment == "null":
        matches, which = [match for match in _matches(line.layout) if match.seeds == pair], "unaligned"
        measured = [replace(line, alignment=match.alignment, variant=match.variant) for match in matches]
    for match in measured:
        layout, name = match.layout, match.alignment
        files = {"correlation": layout.correlation(name, which, *pair, match.variant_of(pair))}
        if (distances := layout.distance(name, which, *pair)).exists():
            method = load_record(distances).flags.get("method")
            files |= {DISTANCES[method].name: distances} if method in list(DISTANCES) else {}
        for quantity, file in files.items():
            with contextlib.suppress(UserError):
                if quantity not in numbers:
                    means = results.load_means(layout, file)
                    numbers[quantity] = float(means["means"][:-1].mean())  # without the logits
                    table.files |= means.files
                    if which == "aligned":
                        numbers |= {name: means.record.cost[name] for name in COST if name in means.record.cost}
    return numbers


# --- as text -----------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """How a table's texts are written: what is done to each, and to the name of a model."""

    escape: Callable[[str], str]
    bold: str


TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {"±": r"$\pm$", "–": "--", "|": r"\textbar{}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}"}
HTML = Form(lambda text: str(escape(text)), "<b>{}</b>")
MARKDOWN = Form(lambda text: re.sub(r"[\\`*\[\]<>|~^]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text), "**{}**")
LATEX = Form(lambda text: text.translate(str.maketrans(TEX)), r"\textbf{{{}}}")


def texts(table: Table, command: str) -> dict[str, str]:
    """The contents of a table's files, by suffix; `command` made them."""
    return {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table, command)}


def number(value: Number | None, decimals: int) -> str:
    return " ± ".join(f"{part:.{decimals}f}" for part in value or () if part is not None)


def grid(table: Table, form: Form) -> list[list[str]]:
    """Headings, then the texts of each row: measured numbers and, where a column has any, published ones beside."""
    several = len({column.dataset for column in table.columns}) > 1
    lines = [["" if several else table.columns[0].dataset]]
    for column in table.columns:
        lines[0].append(f"{column.dataset}: {column.heading}" if several else column.heading)
        lines[0] += ["published"] if table.published(column) else []
    for row in table.rows:
        lines.append([row.words])
        for column in table.columns:
            cell = row.cells.get(column)
            # The two networks have no minimum; another gap is something that was not evaluated.
            gap = "" if row.networks and column.statistic not in OF_NETWORKS[row.networks][1] else "–"
            lines[-1].append(number(cell.measured, column.decimals) if cell else gap)
            if table.published(column):
                lines[-1].append(number(cell and cell.published, column.decimals))
    lines = [[form.escape(printable(text)) for text in line] for line in lines]
    for line, row in zip(lines[1:], table.rows, strict=True):
        if row.networks == "ends":  # with which the rows of a model begin
            line[0] = f"{form.bold.format(form.escape(printable(row.model)))}, {line[0]}"
    return lines


def to_markdown(table: Table) -> str:
    headings, *rows = grid(table, MARKDOWN)
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]
    notes = " ".join(map(printable, table.notes))
    return "\n".join([*(re.sub(r"\|  (?=\|)", "| ", line) for line in lines), "", notes, ""])


def to_latex(table: Table, command: str) -> str:
    headings, *rows = grid(table, LATEX)
    lines = [r"% needs \usepackage{booktabs}", *(f"% {printable(note)}" for note in (command, *table.notes))]
    lines += [rf"\begin{{tabular}}{{l{'c' * (len(headings) - 1)}}}", r"\toprule", " & ".join(headings) + r" \\"]
    for row, cells in zip(table.rows, rows, strict=True):
        lines += [r"\midrule"] if row.networks == "ends" else []
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def to_csv(table: Table) -> str:
    """A line a number, for programs: unrounded, with the path's properties in columns of their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("dataset", "model", "path", "alignment", "epochs", "num_bends", "curve", "curve_seed")
    names += ("quantity", "figure", "pairs")
    numbers = ("mean", "standard_deviation", "published_mean", "published_standard_deviation")
    writer.writerow([*names, *numbers])
    for row in table.rows:
        path = _path_columns(row.route) if row.route else [""] * 5
        for column, cell in row.cells.items():
            where = map(_no_formula, (column.dataset, row.model, row.words, *path, column.quantity))
            writer.writerow([*where, column.statistic, cell.pairs, *cell.measured, *(cell.published or ("", ""))])
    return stream.getvalue()


def _no_formula(value: object) -> object:
    """A name that a program for tables would run as a formula, as text."""
    text = printable(value) if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text[:1] in tuple("=+-@") else text


def _path_columns(route: paths.Route) -> list[object]:
    """Alignment, epochs, control points, family and seed of a path; of a line, the first two."""
    if route.is_line:
        return [route.alignment, route.epochs, "", "", ""]
    seeds = " ".join(str(seed) for _, seed in route.seeds) or route.variant.seed
    return [route.alignment, route.epochs, route.variant.num_bends, route.variant.curve, seeds]
