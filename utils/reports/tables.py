"""Tables of evaluated paths: the paper's main table beside the published numbers, and all alignments compared.

A row is a path, its columns are quantities, and a cell is the mean over pairs. Markdown, LaTeX, CSV, and the report's
HTML are written from the same rows.
"""

import contextlib
import csv
import io
import itertools
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
from ..stages.files import write_atomically
from ..stages.layout import EPOCHS, NETWORKS, USUAL, Layout, Name, model_folder, read_name
from ..stages.originals import PERMUTATION_EPOCHS
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
PUBLISHED |= {"precision": "fp32", "task": "classification", "optimizer": "sgd"}


def is_as_published(route: paths.Route, evaluated: Iterable[Record]) -> bool:
    """Whether these records belong to evaluations of curves as published, between networks as published.

    Settings that a file does not record are taken to be the published ones. The original counts the epochs of PAM's
    permutation phase among the curve's.
    """
    records, layout = list(evaluated), route.layout
    more = 0 if any(records) or not route.alignment.startswith("pam_") else PERMUTATION_EPOCHS
    if layout.robust or route.epochs not in (EPOCHS, EPOCHS + more):
        return False
    return route.variant._replace(seed=USUAL.seed) == USUAL and all(
        _is_published_setting(record, layout) for record in records
    )


def _is_published_setting(record: Record, layout: Layout) -> bool:
    """Whether the flags of an evaluation, and those with which its networks and curve were trained, are published."""
    batch = 64 if layout.dataset == "CIFAR10" else 128
    batches = {"a": {"batch_size": batch}, "b": {"batch_size": batch}, "curve": {"batch_size": 128}}
    resized_by = dataset_info(layout.dataset).resized_by
    for name, flags in {"": record.flags, **record.trained}.items():
        wanted = PUBLISHED | batches.get(name, {})
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
# published; and which of their numbers (`results.summary`) stands below which number of paths
OF_NETWORKS = {
    "ends": ("the two networks", {"average": "ends"}),
    "better": ("the more robust of the two", dict.fromkeys(("at_highest", "maximum"), "better")),
    "better_in_mean": (
        "the more robust of the two, by means over pairs",
        dict.fromkeys(("at_highest", "maximum"), "better_in_mean"),
    ),
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
    aside: dict[str, str] = field(default_factory=dict)

    def statistic(self, column: Column) -> str | None:
        """Which number of a path (`results.summary`) stands in a column; None where there is none by its nature."""
        return OF_NETWORKS[self.networks][1].get(column.statistic) if self.networks else column.statistic

    def fill(self, column: Column, values: Sequence[float], published: Number | None = None) -> None:
        """Put the mean of the pairs' values into a column, unless what stands there is of as many pairs.

        The mean of networks as published counts more than others of as many.
        """
        there = self.cells.get(column)
        if values and (there is None or (len(values), bool(published)) > (there.pairs, bool(there.published))):
            mean, deviation = results.mean_and_deviation(values)
            measured = float(mean), None if deviation is None else float(deviation)
            self.cells[column] = Cell(measured, len(values), published)


@dataclass
class Table:
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    missing: list[UserError] = field(default_factory=list)  # why a path that is asked for, or incomplete, is left out
    files: dict[Path, str] = field(default_factory=dict)  # behind the numbers, with digests
    has_batch_norm: bool = False  # one of its networks, or it is not known

    def published(self, column: Column) -> bool:
        """Whether the column has published numbers to stand beside it."""
        return any(column in row.cells and row.cells[column].published for row in self.rows)

    def begins(self, row: Row) -> bool:
        """Whether it is the first row of its model, which bears the model's name."""
        return row is next(one for one in self.rows if one.model == row.model)


def build(
    root: Path,
    selection: paths.Selection,
    *,
    robust: bool = False,
    shown: Mapping[str, Sequence[str]] | None = None,
    read: results.Load = results.load_path,
) -> Table:
    """The table of the evaluated paths under `root` that are asked for.

    shown: which numbers of each quantity, instead of the usual ones. read: what reads a path of a pair.

    If it has no rows, `missing` says why.
    """
    there = paths.evaluated(root, robust=robust)
    selection = selection.with_pairs(there)
    found = selection.among(there)
    datasets = selection.datasets or list(dict.fromkeys(route.layout.dataset for route in found))
    models = selection.models or sorted(
        {route.layout.model for route in found}, key=lambda model: paths.position(model, NETWORKS)
    )
    words = {name: word.partition(" (")[0] for name, word in results.QUANTITIES[robust].items()}
    words |= results.WAYS | OF_PAIRS | OF_ENSEMBLES
    columns = [
        Column(dataset, quantity, words[quantity], statistic)
        for dataset in datasets
        for quantity, statistics in (shown or SHOWN[robust]).items()
        for statistic in statistics
    ]
    columns.sort(key=lambda column: not column.statistic)
    table = Table(columns, [])
    for model in models if datasets else ():
        layouts = [Layout(root, model, dataset, robust=robust) for dataset in datasets]
        folder = model_folder(model)
        here = {route: pairs for route, pairs in found.items() if model_folder(route.layout.model) == folder}
        _add_model(table, layouts, here, selection, read)
    filled = {column for row in table.rows for column in row.cells}
    told = {column.dataset for column in filled}
    table.columns = [
        one for one in columns if one in filled or (one.statistic != OF_HELD_OUT and one.dataset not in told)
    ]
    for dataset in datasets or [""]:
        if not any(route.layout.dataset == dataset for route in found):
            on = f" on {dataset}" if dataset else ""
            layout = Layout(
                root, next(iter(selection.models or NETWORKS)), dataset or "FashionMNIST10k", robust=robust
            )
            wanted = replace(selection, alignments=selection.alignments or [""], epochs=selection.epochs or [0])
            path = wanted.by_name(layout)[0].evaluated(next(iter(selection.pairs or [(1, 2)])))
            reason = f"does not exist: nothing that was asked for{on} has been evaluated under {root}"
            table.missing.append(FileError(path, reason, "make"))
    if table.rows:
        _add_notes(table, robust=robust)
    return table


def _add_model(
    table: Table, layouts: Sequence[Layout], here: paths.Found, selection: paths.Selection, read: results.Load
) -> None:
    """Add the rows of one model: the networks, then each path, over all datasets, one a layout."""
    first = layouts[0]
    having = {(route.layout.dataset, replace(route, layout=first)): pairs for route, pairs in here.items()}
    explicit = selection.by_name(first) if selection.epochs and selection.alignments else []
    others = sorted({route for _, route in having}, key=lambda route: route.order)
    routes = paths.named(list(dict.fromkeys([*explicit, *others])))
    rows = {route: Row(first.model, route.words, route) for route in routes}
    halves = {route: Row(first.model, route.words + EVERY_SECOND, route) for route in routes}
    networks = [Row(first.model, words, networks=name) for name, (words, _) in OF_NETWORKS.items()]
    for layout in layouts:
        everyone = [pair for (dataset, _), pairs in having.items() if dataset == layout.dataset for pair in pairs]
        measured: results.Measured = {}
        for route in routes:
            those = having.get((layout.dataset, route), [])
            pairs = selection.pairs or list(dict.fromkeys(everyone))
            if route not in explicit and route.variant.seed != USUAL.seed:
                pairs = those  # a seed that belongs to one pair says nothing of the others
            if route in explicit or those:
                on = replace(route, layout=layout)
                measured |= results.load(read, [on], pairs, table.missing)
        table.files |= results.files_of(measured)
        records = [one.record for of_pairs in measured.values() for one in of_pairs]
        table.has_batch_norm |= any(record.flags.get("batch_norm", True) for record in records)
        told, columns = results.unlike(measured), [one for one in table.columns if one.dataset == layout.dataset]
        for on, tables in sorted(measured.items(), key=lambda one: one[0] in told):  # the others tell of the networks
            route = replace(on, layout=first)
            if on in told:
                rows[route].aside[layout.dataset] = told[on]
            published = load_published()[0] if is_as_published(on, [one.record for one in tables]) else {}
            for row in (rows[route], *networks):
                place = layout.dataset, layout.model, "networks" if row.networks else on.alignment
                _fill(row, tables, columns, published.get(place, {}))
            if layout.robust and len(tables[0]["t"]) >= results.SPECTRUM_POINTS and len(tables[0]["t"]) % 2:
                _fill(halves[route], [_every_second(one) for one in tables], columns, {})
    filled = [row for route in routes for row in (rows[route], halves[route]) if row.cells]
    for row in filled:
        on = {f"on {dataset}: " if len(layouts) > 1 else "": words for dataset, words in row.aside.items()}
        row.words += "".join(f" ({where}{words})" for where, words in on.items())
    table.rows += [row for row in networks if row.cells and filled] + filled


def _every_second(table: results.Result) -> results.Result:
    halved = {name: array[::2] if array.shape[:1] == table["t"].shape else array for name, array in table.items()}
    return results.Result(halved, table.path, table.record)


def _fill(row: Row, tables: Sequence[results.Result], columns: Sequence[Column], known: Mapping[str, Number]) -> None:
    """Fill the cells of a row on one dataset from the evaluated path of every pair, beside the known numbers."""
    for column in columns:
        name, having = row.statistic(column), [path for path in tables if column.quantity in path]
        summaries = [results.summary(path, column.quantity) for path in having]
        if name == "better_in_mean":
            name = _better_in_mean(having)
        values = [one[name] for one in summaries if name in one]
        row.fill(column, values, known.get(column.statistic))


def _better_in_mean(tables: Sequence[results.Result]) -> str | None:
    """Which network is more robust in the mean over pairs, a or b; None where that is not told."""
    if len(tables) < 2 or len(tables[0]["t"]) < results.SPECTRUM_POINTS or "accuracy_robust" not in tables[0]:
        return None
    a, b = np.mean([path["accuracy_robust"][[0, -1]] for path in tables], axis=0)
    return "a" if a >= b else "b"


def _add_notes(table: Table, *, robust: bool) -> None:
    """Explain the numbers below the table, and note in its rows which are means of fewer pairs than others."""
    published, remarks = load_published()
    most = max(cell.pairs for row in table.rows for cell in row.cells.values())
    has_accuracy = any(column.quantity.startswith("accuracy") for column in table.columns)
    what = "one pair" if most == 1 else f"mean ± standard deviation of {most} pairs"
    for row in table.rows:
        counts = sorted({cell.pairs for column, cell in row.cells.items() if column.statistic})
        if counts != [most]:
            row.words += f" ({', '.join(map(str, counts))} of {most} pairs)"
    shown = {(column.dataset, row.model) for row in table.rows for column in row.cells}
    beside = any(map(table.published, table.columns))
    known = any(
        (column.dataset, row.model, "networks") in published for column in table.columns for row in table.rows
    )
    notes = {
        f"{'Test accuracy in percent' if has_accuracy else 'Losses on test samples'}; {what}.": True,
        "A barrier is the most by which loss rises above, or accuracy falls below, the straight line between its "
        "values at the two ends.": True,
        "The networks are measured as every point of a path is, any batch-norm statistics re-estimated, so their "
        "accuracy is not quite what training printed.": table.has_batch_norm,
        "Averages and extremes are over the points of a path; clean accuracy is of the same points.": robust,
        "The best point on held-out training images is chosen without the test set.": robust
        and any(column.statistic == OF_HELD_OUT for column in table.columns),
        "Paths with words in brackets were not evaluated as the others were.": any(row.aside for row in table.rows),
        f"Published: {SOURCE}, mean ± standard deviation of three pairs.": beside,
        **{note: beside and place in shown for place, note in remarks.items()},
        f"Published numbers ({SOURCE}) are of plain networks and curves of {EPOCHS} epochs each, with the published "
        "settings of training and evaluation.": known and not beside,
    }
    table.notes += [note for note, applies in notes.items() if applies]


def headlines(table: Table) -> list[str]:
    """In a sentence for each model, dataset and loss: from where to where its barrier falls, on lines and on curves.

    Where there are not two of a kind, of all paths shown. Those that were evaluated unlike the others do not count.
    """
    sentences = []
    columns = [one for one in table.columns if one.statistic == "barrier" and results.is_loss(one.quantity)]
    for model, column in itertools.product(dict.fromkeys(row.model for row in table.rows), columns):
        rows = [row for row in table.rows if row.model == model and row.route and column in row.cells]
        rows = [row for row in rows if column.dataset not in row.aside and EVERY_SECOND not in row.words]
        kinds = [[row for row in rows if row.route.is_line == is_line] for is_line in (True, False)]
        falls = []
        for those in [kind for kind in kinds if len(kind) > 1] or ([rows] if len(rows) > 1 else []):
            highest, *_, lowest = sorted(those, key=lambda row: -row.cells[column].measured[0])
            before, after = (number(row.cells[column].measured, 2) for row in (highest, lowest))
            if before != after:  # in print
                falls.append(f"from {before} ({highest.words}) to {after} ({lowest.words})")
        if falls:
            sentence = f"{model} on {column.dataset}: the barrier of the {column.words} falls {', and '.join(falls)}."
            sentences.append(printable(sentence))
    return sentences


# --- all alignments compared -------------------------------------------------------------------------------

# The distance that each method comparing activations minimizes, as the alignment measured it: its mean over layers
DISTANCES = {name: METHODS[name].distance for name in paths.ALIGNMENTS if name in METHODS and METHODS[name].distance}
# Numbers of two networks as a straight line joins them; the last two are the cost of the match, for PAM of its
# permutation phases
OF_PAIRS = {
    "distance": "L2 distance of the networks",
    "correlation": "correlation of matched channels",
    **{distance.name: distance.words for distance in DISTANCES.values()},
    "seconds": "seconds to align",
    "memory": "memory to align (MB)",
}
# Of any path whose ensemble was evaluated: the losses of its rows of these names
OF_ENSEMBLES = {
    "loss best point": "loss of the best point",
    "loss ends": "loss of the ends' ensemble",
    "loss ensemble": "loss of the ensemble with points between",
}


# The numbers of each quantity of a path that are compared
COMPARED = {"accuracy": ("average", "minimum")}
COMPARED |= dict.fromkeys(("loss", "loss_interpolated", "loss_repaired"), ("barrier",))
COMPARED |= dict.fromkeys((*OF_PAIRS, *OF_ENSEMBLES), ("",))


def compare(root: Path, selection: paths.Selection) -> Table:
    """The table of every path that is asked for, and for lines how far apart and how alike the networks are.

    If it has no rows, `missing` says why; it also names matches whose line has not been evaluated.
    """
    table = build(root, selection, shown=COMPARED, read=_load_compared)
    there = paths.evaluated(root)
    places = itertools.product(
        dict.fromkeys(column.dataset for column in table.columns), dict.fromkeys(row.model for row in table.rows)
    )
    for layout in (Layout(root, model, dataset) for dataset, model in places):
        for match in _matches(layout):
            line = paths.Route(layout, match.alignment, 0, match.variant)
            if selection.includes(line, match.seeds) and match.seeds not in there.get(line, ()):
                table.missing.append(FileError(line.evaluated(match.seeds), "does not exist", "make"))
    table.columns = [column for column in table.columns if any(column in row.cells for row in table.rows)]
    shown = {column.quantity for column in table.columns}
    notes = {
        "The distance is that of all parameters, which weight matching makes least; the correlation, which corr "
        "makes greatest on its images, is the mean over layers and channels, on test images.": shown
        & OF_PAIRS.keys(),
        "With interpolated statistics, batch norm's are the means of the ends' own, weighted by t.": shown
        & {"loss_interpolated"},
        "The best point is chosen on held-out training samples; an ensemble's probabilities are the mean of its "
        "members'.": shown & OF_ENSEMBLES.keys(),
        "The distance of activations, which matching by L2 makes least, is a root mean square over channels and test "
        "images, and the mean over layers.": shown & {distance.name for distance in DISTANCES.values()},
    }
    table.notes += [note for note, applies in notes.items() if applies]
    table.files = dict(sorted(table.files.items(), key=lambda one: one[0].suffix == ".npy"))  # paths come first
    return table


def _matches(layout: Layout) -> list[Name]:
    """The names of the matches that there are."""
    names = map(read_name, sorted(layout.folder("matches").glob("match_*.npy")))
    return [name for name in names if name and name.kind == "match"]


def _load_compared(route: paths.Route, pair: paths.Pair) -> results.Result:
    """An evaluated path with the losses of OF_ENSEMBLES, and of a line the numbers of OF_PAIRS.

    As far as they were measured and can be read. Of ensembles of several sizes, the largest counts.
    """
    found, layout = results.load_path(route, pair), route.layout
    for path in layout.ensembles(route.alignment, *pair, route.epochs, route.variant_of(pair)):
        with contextlib.suppress(UserError):
            together = results.load_ensemble(layout, path)
            of_rows = zip(together["what"], together["loss"], strict=True)
            found |= {f"loss {what}": loss for what, loss in of_rows if what != "point"}
            found.files |= together.files
    # Networks as they are were compared with any match, before its alignment.
    matches, which = [(route.alignment, route.variant_of(pair))], "aligned"
    if route.alignment == "null":
        matches, which = [(one.alignment, one.variant) for one in _matches(layout) if one.seeds == pair], "unaligned"
    found |= {"distance": found["length"][-1]} if route.is_line else {}
    for name, variant in matches if route.is_line else ():
        files = {"correlation": layout.correlation(name, which, *pair, variant)}
        distances = layout.distance(name, which, *pair)
        method = load_record(distances).flags.get("method") if distances.exists() else None
        files |= {DISTANCES[method].name: distances} if method in list(DISTANCES) else {}
        for quantity in [quantity for quantity in files if quantity not in found]:
            with contextlib.suppress(UserError):
                means = results.load_result(layout, files[quantity], {})
                (values,) = means.values()
                found[quantity] = values[:-1].mean()  # without the logits
                found.files |= means.files
                costs = means.record.cost if which == "aligned" else {}
                found |= {cost: np.array(costs[cost]) for cost in ("seconds", "memory") if cost in costs}
    return found


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


def save(table: Table, root: Path, kind: str, command: str, *, said: Iterable[str], name: str = "") -> list[Path]:
    """Write a table's files, and print it and what is `said` of it, whatever becomes of them; returns their paths.

    Neither a full disk nor a screen without ± keeps the other from having the table. name: a word for their names.
    """
    datasets = "_".join(dict.fromkeys(column.dataset for column in table.columns))
    models = "_".join(dict.fromkeys(model_folder(row.model) for row in table.rows))
    robust, files = any(row.route and row.route.layout.robust for row in table.rows), []
    try:
        contents = {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table, command)}
        for suffix, text in contents.items():
            files.append(results.output_path(root, kind, suffix, datasets, models, robust=robust, name=name))
            write_atomically(files[-1], lambda stream, text=text: stream.write(text.encode()))
    finally:
        print(to_markdown(table), *said, sep="\n")
    return files


def number(value: Number | None, decimals: int) -> str:
    return " ± ".join(f"{part:.{decimals}f}" for part in value or () if part is not None)


def grid(table: Table, form: Form) -> list[list[str]]:
    """Headings, then the texts of each row: measured numbers and, where a column has any, published ones beside."""
    several = len({column.dataset for column in table.columns}) > 1
    lines = [["" if several else table.columns[0].dataset], *([row.words] for row in table.rows)]
    for column in table.columns:
        beside = table.published(column)
        lines[0].append(f"{column.dataset}: {column.heading}" if several else column.heading)
        lines[0] += ["published"] if beside else []
        for line, row in zip(lines[1:], table.rows, strict=True):
            cell = row.cells.get(column)
            # The two networks have no minimum; another gap is something that was not evaluated.
            gap = "" if row.statistic(column) is None else "–"
            line.append(number(cell.measured, column.decimals) if cell else gap)
            line += [number(cell and cell.published, column.decimals)] if beside else []
    lines = [[form.escape(printable(text)) for text in line] for line in lines]
    for line, row in zip(lines[1:], table.rows, strict=True):
        if table.begins(row):
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
        lines += [r"\midrule"] if table.begins(row) else []
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def to_csv(table: Table) -> str:
    """A line a number, for programs: unrounded, with the path's properties in columns of their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = "dataset model path alignment epochs num_bends curve curve_seed quantity figure pairs"
    names += " mean standard_deviation published_mean published_standard_deviation"
    writer.writerow(names.split())
    for row in table.rows:
        path = _path_columns(row.route) if row.route else [""] * 5
        for column in filter(row.cells.__contains__, table.columns):
            cell, where = row.cells[column], (column.dataset, row.model, row.words, *path, column.quantity)
            numbers = cell.pairs, *cell.measured, *(cell.published or ("", ""))
            writer.writerow([*map(_no_formula, where), column.statistic, *numbers])
    return stream.getvalue()


def _no_formula(value: object) -> str:
    """A name that a program for tables would run as a formula, as text."""
    text = printable(str(value))
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def _path_columns(route: paths.Route) -> list[object]:
    """Alignment, epochs, control points, family and seed of a path; of a line, the first two."""
    seeds = " ".join(str(seed) for _, seed in route.seeds) or route.variant.seed
    of_curve = ["", "", ""] if route.is_line else [route.variant.num_bends, route.variant.curve, seeds]
    return [route.alignment, route.epochs, *of_curve]
