"""Tables of evaluated paths: the paper's main table beside the published numbers, and all alignments compared.

All numbers come from one long table, which has for each path between each pair every quantity that was measured: a
row of a table is a path, its columns are quantities, and a cell is the mean over pairs.
"""

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, UserError
from ..matching import METHODS
from ..stages.data import dataset_info
from ..stages.layout import USUAL, Layout, model_folder, read_name
from ..stages.published import EPOCHS, NETWORKS
from ..stages.records import Record, expect_current, load_record, record_in
from . import paths, results

# --- published numbers -------------------------------------------------------------------------------------

FILE = Path(__file__).with_name("published.csv")
SOURCE = "Tatro et al., 2020, Table 1"

Number = tuple[float, float | None]  # mean, and standard deviation if there are several pairs
Published = Mapping[tuple[str, str, str], Mapping[str, Number]]  # by dataset, model and path, then by statistic


def _published_rows() -> list[dict[str, str]]:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def load_published() -> Published:
    """The published numbers, by dataset, model and path, then by statistic (average, minimum)."""
    return {
        (row["dataset"], row["model"], row["path"]): {
            statistic: (float(row[statistic]), float(row[f"{statistic}_deviation"]))
            for statistic in ("average", "minimum")
            if row[statistic]
        }
        for row in _published_rows()
    }


def published_notes() -> dict[tuple[str, str], str]:
    """Remarks for readers of published numbers, by dataset and model."""
    return {(row["dataset"], row["model"]): row["note"] for row in _published_rows() if row["note"]}


PUBLISHED = {"lr": 0.1, "wd": 5e-4, "lr_drop": 20, "lr_decay": 0.9996, "use_test": True, "image_size": None}
PUBLISHED |= {"fix_start": True, "fix_end": True, "init_linear_off": False, "epochs_model": EPOCHS}
PUBLISHED |= {"outer_iters": 1, "inner_iters_perm": 20, "bn_images": None, "num_points": 65}
PUBLISHED |= {"precision": ("fp32", "tf32")}


def is_as_published(route: paths.Route, evaluated: Iterable[Record]) -> bool:
    """Whether these records belong to evaluations of curves as published, between networks as published.

    Settings that a file does not record are taken to be the published ones.
    """
    if route.layout.robust or route.epochs != EPOCHS or route.variant._replace(seed=USUAL.seed) != USUAL:
        return False
    return all(_is_published_setting(record, route.layout) for record in evaluated)


def _is_published_setting(record: Record, layout: Layout) -> bool:
    """Whether the flags of an evaluation, and those with which its networks and curve were trained, are published."""
    networks = PUBLISHED | {"batch_size": 64 if layout.dataset == "CIFAR10" else 128}
    curve, trained = PUBLISHED | {"batch_size": 128}, record.trained
    return (
        _are(record.flags, PUBLISHED)
        and len(record.inputs.get("points", "ABC")) == 3
        and all(_are(trained.get(name, {}), networks) for name in "ab")
        and _are(trained.get("curve", {}), curve)
        and all(_is_published_transform(flags, layout) for flags in (record.flags, *trained.values()))
    )


def _are(flags: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether flags, as far as they are recorded, are those wanted, or one of those in a tuple."""
    return all(
        value in wanted[name] if isinstance(wanted[name], tuple) else value == wanted[name]
        for name, value in flags.items()
        if name in wanted
    )


def _is_published_transform(flags: Mapping[str, object], layout: Layout) -> bool:
    """Whether images were varied and normalized as published: transforms of several names can do the same."""
    transform, resized_by = flags.get("transform", layout.model), dataset_info(layout.dataset).resized_by
    return not transform.startswith("Adversarial") and resized_by(transform) == resized_by(layout.model)


# --- the table ---------------------------------------------------------------------------------------------

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
    """One path of one model, or (without a route) its networks; cells by column, absent where there is none.

    networks: the number of `results.summary` that belongs to the networks, one of OF_NETWORKS; '' for a path.
    """

    model: str
    words: str
    route: paths.Route | None = None
    networks: str = ""
    cells: dict[Column, Cell] = field(default_factory=dict)
    pairs: dict[str, list[paths.Pair]] = field(default_factory=dict)  # that have the path, by dataset

    @property
    def is_first(self) -> bool:
        """Whether the rows of the model begin with it."""
        return self.networks == "ends"


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
    words = {name: word.partition(" (")[0] for name, word in results.quantities(robust).items()} | results.ways()
    columns = [
        Column(dataset, quantity, words[quantity], statistic)
        for dataset in datasets
        for quantity, statistics in (shown or SHOWN[robust]).items()
        for statistic in statistics
    ]
    table = Table(columns, [])
    published = load_published()
    for model in models if datasets else ():
        layouts = [Layout(root, model, dataset, robust=robust) for dataset in datasets]
        here = {route: pairs for route, pairs in found.items() if _folder(route.layout) == _folder(layouts[0])}
        _add_model(table, layouts, here, selection=selection, published=published)
    for dataset in datasets:
        if not any(route.layout.dataset == dataset for route in found):
            table.missing.append(_nothing(root, selection, dataset, robust=robust))
    if table.rows:
        _add_notes(table, published, robust=robust)
    elif not table.missing:
        table.missing.append(_nothing(root, selection, robust=robust))
    return table


def _folder(layout: Layout) -> str:
    return model_folder(layout.model)


def _nothing(root: Path, selection: paths.Selection, dataset: str | None = None, *, robust: bool) -> FileError:
    """The error that nothing asked for has been evaluated (on a dataset); it names the path to begin with."""
    on = f" on {dataset}" if dataset else ""
    layout = Layout(root, next(iter(selection.models or NETWORKS)), dataset or "FashionMNIST10k", robust=robust)
    wanted = replace(selection, alignments=selection.alignments or [""], epochs=selection.epochs or [0])
    pair = next(iter(selection.pairs or [(1, 2)]))
    reason = f"does not exist: nothing that was asked for{on} has been evaluated under {root}"
    return FileError(wanted.by_name(layout)[0].evaluated(pair), reason, "make")


def _add_model(
    table: Table,
    layouts: Sequence[Layout],
    here: paths.Found,
    *,
    selection: paths.Selection,
    published: Published,
) -> None:
    """Add the rows of one model: the networks, then each path, over all datasets, one a layout."""
    model = layouts[0].model
    having = {(route.layout.dataset, replace(route, layout=layouts[0])): pairs for route, pairs in here.items()}
    explicit = selection.by_name(layouts[0]) if selection.epochs and selection.alignments else []
    others = sorted({route for _, route in having}, key=lambda route: route.order)
    networks = [Row(model, "the two networks", networks="ends")]
    if layouts[0].robust:
        networks.append(Row(model, "the more robust of the two", networks="better"))
    rows, measured = [], {layout.dataset: {} for layout in layouts}
    for route in paths.named(list(dict.fromkeys([*explicit, *others]))):
        row = Row(model, route.words, route)
        for layout in layouts:
            those = row.pairs[layout.dataset] = having.get((layout.dataset, route), [])
            everyone = (pair for (dataset, _), pairs in having.items() if dataset == layout.dataset for pair in pairs)
            pairs = selection.pairs or list(dict.fromkeys(everyone))
            if route not in explicit and route.variant.seed != USUAL.seed:
                pairs = those  # a seed that belongs to one pair says nothing of the others
            if route in explicit or those:
                on = replace(route, layout=layout)
                found = results.load_there([on], pairs, results.load_paths, table.missing, leave_out=True)
                table.files |= results.files_of(found)
                measured[layout.dataset][route.words] = evaluated = found.get(on, [])
                _fill(row, networks, evaluated, columns=table.columns, layout=layout, published=published)
        if row.cells:
            rows.append(row)
    if rows:
        table.rows += [*networks, *rows]
    for dataset, on_dataset in measured.items():
        if words := results.on_other_images(on_dataset):
            table.notes.append(f"{model} on {dataset}: {words[0].lower()}{words[1:]}")


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
    route = replace(row.route, layout=layout)
    as_published = is_as_published(route, map(record_in, evaluated))
    known = published.get((layout.dataset, layout.model, route.alignment), {}) if as_published else {}
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
    """Explain the numbers below the table, and note in its rows which are means of fewer pairs than others."""
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
        shown = {(column.dataset, row.model) for row in table.rows for column in row.cells}
        table.notes += [note for place, note in published_notes().items() if place in shown]
    elif any((column.dataset, row.model, "networks") in published for column in table.columns for row in table.rows):
        table.notes.append(
            f"Published numbers ({SOURCE}) are of plain networks and curves of {EPOCHS} epochs each, with the "
            "published settings of training and evaluation."
        )


# --- all alignments compared -------------------------------------------------------------------------------

# The numbers of each quantity of a path that are compared
COMPARED = {
    "accuracy": ("average", "minimum"),
    "loss": ("barrier",),
    "loss_interpolated": ("barrier",),
    "loss_repaired": ("barrier",),
}
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


def compare(root: Path, selection: paths.Selection) -> Table:
    """The table of every path that is asked for, and for lines how far apart and how alike the networks are.

    If it has no rows, `missing` says why; it also names matches whose line has not been evaluated.
    """
    table = build(root, selection, shown=COMPARED)
    for dataset in dict.fromkeys(column.dataset for column in table.columns):
        columns = {name: Column(dataset, name, words, "") for name, words in OF_PAIRS.items()}
        for row in (row for row in table.rows if row.route and row.route.is_line):
            route = replace(row.route, layout=Layout(root, row.model, dataset))
            of_pairs = [_of_pair(table, route, pair) for pair in row.pairs[dataset]]
            for name, column in columns.items():
                if values := [numbers[name] for numbers in of_pairs if name in numbers]:
                    row.cells[column] = Cell(results.mean_and_deviation(values), len(values), None)
        table.columns += columns.values()
        for model in dict.fromkeys(row.model for row in table.rows):
            table.missing += _lines_to_come(Layout(root, model, dataset), selection)
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


def _of_pair(table: Table, line: paths.Route, pair: paths.Pair) -> dict[str, float]:
    """The numbers of OF_PAIRS that were measured; files that cannot be read are named where the table reads them."""
    numbers: dict[str, float] = {}
    with contextlib.suppress(UserError):
        path = results.load_path(line, pair)
        numbers["distance"] = path["length"][-1]
        table.files |= path.files
    for measured, which in _compared_with(line, pair):
        layout, name = measured.layout, measured.alignment
        files = {"correlation": layout.correlation(name, which, *pair, measured.variant_of(pair))}
        if (distances := layout.distance(name, which, *pair)).exists():
            method = load_record(distances).flags.get("method")
            files |= {DISTANCES[method].name: distances} if method in DISTANCES else {}
        for quantity, file in files.items():
            with contextlib.suppress(UserError):
                if quantity not in numbers:
                    means = results.load_means(layout, file)
                    numbers[quantity] = float(means["means"][:-1].mean())  # without the logits
                    table.files |= means.files
    return numbers | _cost(line, pair)


def _compared_with(line: paths.Route, pair: paths.Pair) -> list[tuple[paths.Route, str]]:
    """The matches with which these networks were measured, and in which of the two ways.

    For networks as they are any match will do: each was compared with no match at all.
    """
    if line.alignment != "null":
        return [(line, "aligned")]
    files = sorted(line.layout.folder("matches").glob("match_*.npy"))
    matches = [match for match in map(read_name, files) if match and match.seeds == pair]
    return [(replace(line, alignment=match.alignment, variant=match.variant), "unaligned") for match in matches]


def _cost(line: paths.Route, pair: paths.Pair) -> dict[str, float]:
    """The seconds and megabytes with which the current match was found, if they were recorded."""
    path = line.layout.correlation(line.alignment, "aligned", *pair, line.variant_of(pair))
    record = load_record(path)
    with contextlib.suppress(UserError):
        expect_current(line.layout, path, record)
        return {name: record.cost[name] for name in ("seconds", "memory") if name in record.cost}
    return {}


def _lines_to_come(layout: Layout, selection: paths.Selection) -> list[FileError]:
    """The lines of existing matches that are asked for and have not been evaluated."""
    there = paths.evaluated(layout.root)
    errors = []
    for path in sorted(layout.folder("matches").glob("match_*.npy")):
        match = read_name(path)
        if match is None or match.kind != "match":
            continue
        line = paths.Route(layout, match.alignment, 0, match.variant)
        if selection.includes(line, match.seeds) and match.seeds not in there.get(line, ()):
            errors.append(FileError(line.evaluated(match.seeds), "does not exist", "make"))
    return errors


# --- as text -----------------------------------------------------------------------------------------------


def texts(table: Table, command: str) -> dict[str, str]:
    """The contents of a table's files, by suffix; `command` made them."""
    return {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table, command)}


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
            texts.append(number(cell.measured, plus_minus, column.decimals) if cell else gap)
            if table.published(column):
                texts.append(number(cell.published if cell else None, plus_minus, column.decimals))
        rows.append((row, texts))
    return headings, rows


def headlines(table: Table) -> list[str]:
    """In a sentence for each model, dataset and loss: from where to where its barrier falls, of all paths shown."""
    sentences = []
    columns = [one for one in table.columns if one.statistic == "barrier" and results.is_loss(one.quantity)]
    for model in dict.fromkeys(row.model for row in table.rows):
        for column in columns:
            rows = [row for row in table.rows if row.model == model and row.route and column in row.cells]
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
            where = (column.dataset, row.model, row.words, *path, column.quantity)
            writer.writerow([*where, column.statistic, cell.pairs, *cell.measured, *(cell.published or ("", ""))])
    return stream.getvalue()


def _path_columns(route: paths.Route) -> list[object]:
    """Alignment, epochs, control points, family and seed of a path; of a line, the first two."""
    if route.is_line:
        return [route.alignment, route.epochs, "", "", ""]
    seeds = " ".join(str(seed) for _, seed in route.seeds) or route.variant.seed
    return [route.alignment, route.epochs, route.variant.num_bends, route.variant.curve, seeds]
