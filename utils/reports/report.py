"""One HTML file about everything that was evaluated: tables, figures, settings, and curves to be walked along.

It needs nothing but itself to be read: figures and the plotting library (Plotly) are inside it.
"""

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import FileError, UserError
from ..stages.files import write_atomically
from ..stages.hints import Step, documented, steps
from ..stages.layout import USUAL, Layout, model_folder, read_name
from ..stages.records import expect_current
from . import explorer, paths, results, tables
from .figures import SHOWN

try:
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError:
    get_plotlyjs = None

TEMPLATE = Path(__file__).with_suffix(".html")

Missing = dict[str, UserError]  # what is missing in the report, by what it says: each once, in order


def write(
    path: Path,
    root: Path,
    selection: paths.Selection,
    *,
    compare: Callable[[paths.Selection], tables.Table],
    command: str,
    explain: Callable[[UserError], str],
) -> list[UserError]:
    """Write the report of what there is under `root` of that which is asked for.

    compare: makes the table of all alignments side by side (`utils.reports.comparison.build`).

    Returns what is missing in the report, which it also says itself: in the words of `explain`. `command` is the one
    that makes the report.

    Raises UserError if nothing has been evaluated, or without Plotly.
    """
    if get_plotlyjs is None:
        raise UserError("the report needs Plotly; install it with: python -m pip install -r requirements-report.txt")
    missing: Missing = {}
    parts = {"headlines": "", "tables": "", "explorers": "", "settings": ""}
    there = {robust: paths.evaluated(root, robust=robust) for robust in (False, True)}
    selection = selection.with_pairs([*there[False], *there[True]])
    kinds = {robust: [one for one in found if selection.includes(one)] for robust, found in there.items()}
    for robust, found in kinds.items():
        if not found and (robust or any(kinds.values())):
            continue
        table = tables.build(root, selection, robust=robust)
        _note(missing, *table.missing)
        if table.rows:
            title, made = "Robust networks" if robust else "Networks", "evaluation/make_tables.py"
            parts["headlines"] += "".join(f"<p>{html.escape(words)}</p>" for words in tables.headlines(table))
            parts["tables"] += _table(table, title, _table_command(made, root, selection, robust=robust))
        for layout in dict.fromkeys(one.layout for one in found):
            walks = _walks([one for one in found if one.layout == layout], selection, missing)
            if walks:
                parts["explorers"] += explorer.explorer(walks)
        parts["settings"] += _settings(found)
    if not parts["tables"]:
        raise next(iter(missing.values()))
    pictures = _pictures(root, selection, missing)
    of_comparison = {name: figure for name, figure in pictures.items() if name.startswith("comparison_")}
    compared = _comparison(compare(selection), root, selection) + _figures(of_comparison)
    parts["comparison"] = f"<h2>Alignments compared</h2>{compared}" if compared else ""
    others = _figures({name: figure for name, figure in pictures.items() if name not in of_comparison})
    parts["figures"] = f"<h2>Figures</h2>{others}" if others else ""
    lines = (html.escape(explain(error)) for error in missing.values())
    parts["missing"] = "".join(f"<li>{line}</li>" for line in lines) or "<li>Nothing.</li>"
    parts |= {"plotly": get_plotlyjs(), "command": html.escape(command)}
    page = TEMPLATE.read_text()
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    write_atomically(path, lambda stream: stream.write(page.encode()))
    return list(missing.values())


def _note(missing: Missing, *errors: UserError) -> None:
    for error in errors:
        missing[str(error)] = error


def _command(text: str) -> str:
    return f"<pre class=command>{html.escape(text)}</pre>"


# --- tables ------------------------------------------------------------------------------------------------


def _table(table: tables.Table, title: str, command: str) -> str:
    """A table in a box of its own, in which it can be moved where it is wider than the page."""
    headings, rows = tables.grid(table)
    head = "".join(f"<th scope=col>{html.escape(heading)}</th>" for heading in headings)
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for row, texts in rows:
        words = html.escape(row.words)
        head = f"<b>{html.escape(row.model)}</b>, {words}" if row.is_first else words
        lines.append(f"<tr><th scope=row>{head}</th>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    box = f'<div class=scroll tabindex=0 role=region aria-label="{title}"><table>{"".join(lines)}</table></div>'
    notes = html.escape(" ".join(table.notes))
    return f"<h3>{title}</h3>{box}<p>{notes}</p>{_command(command)}"


def _table_command(script: str, root: Path, selection: paths.Selection, *, robust: bool = False) -> str:
    """The command that makes the table by itself; flags of several values are tuples."""
    seeds_a, seeds_b = zip(*selection.pairs, strict=True) if selection.pairs else (None, None)
    flags = {"dataset": selection.datasets, "model": selection.models, "seed_a": seeds_a, "seed_b": seeds_b}
    flags |= {"alignment": selection.alignments, "epochs": selection.epochs, "curve_seed": selection.curve_seeds}
    flags |= {"num_bends": selection.num_bends, "curve": selection.curves}
    given = {name: tuple(values) for name, values in flags.items() if values}
    return documented(script, given, root=root, robust=robust)


def _comparison(table: tables.Table, root: Path, selection: paths.Selection) -> str:
    """The table of all alignments side by side, where straight lines with several have been evaluated.

    What has not been evaluated is no part of a report; of what is half there the main table says what is missing.
    """
    lines = {row.series.alignment for row in table.rows if row.series and row.series.is_line}
    if len(lines) < 2:
        return ""
    command = _table_command("evaluation/compare_alignments.py", root, selection)
    return _table(table, "All alignments side by side", command)


# --- curves to be walked along -----------------------------------------------------------------------------


def _walks(found: Sequence[paths.Found], selection: paths.Selection, missing: Missing) -> list[explorer.Walk]:
    """The paths of one dataset and model that have every pair there is; what others lack is added to `missing`.

    Curves of a seed that is not the usual one are the mean of the pairs that have it.
    """
    layout, everyone = found[0].layout, list(dict.fromkeys(one.pair for one in found))
    routes = selection.routes(found)
    walks = []
    for route, series in zip(routes, paths.named(layout, routes, selection.seeds), strict=True):
        having = [one.pair for one in found if selection.route(one) == route]
        pairs = everyone if route.variant.seed == USUAL.seed else having
        try:
            evaluated = results.load_paths(series, pairs)
        except UserError as error:
            _note(missing, error)
            continue
        plane = None
        if not (series.is_line or series.robust):
            try:
                plane = results.mean_plane(results.load_planes_with_curve(series, pairs))
            except UserError as error:
                _note(missing, error)
        names = results.quantities(layout.robust)
        values = {name: np.mean([table[name] for table in evaluated], axis=0) for name in names}
        corners = results.corners_of_curve(plane) if plane else {}
        walks.append(explorer.Walk(series, evaluated[0]["t"], values, plane, corners))
    return walks


# --- figures and settings ----------------------------------------------------------------------------------


class Picture(NamedTuple):
    subject: str  # as "TinyTen on CIFAR10"
    figure: str  # as HTML


def _pictures(root: Path, selection: paths.Selection, missing: Missing) -> dict[str, Picture]:
    """The figures that were drawn, by their files' names: each with its title and the command behind it.

    These are in the file itself.
    """
    pictures = {}
    for path in sorted((root / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                notes, size = image.info, image.size
                image.verify()
            title, command = notes["Title"], notes["Description"]
        except Exception:  # what a reader raises on a damaged or hostile picture can be anything
            reason = "is not a figure of this project, or it is damaged; draw it anew or move it away"
            _note(missing, FileError(path, reason))
            continue
        subject, _, words = title.partition(": ")
        model, _, dataset = subject.removeprefix("Robust ").partition(" on ")
        asked_for = ((selection.models, model), (selection.datasets, dataset))
        if any(names and name not in names for names, name in asked_for):
            continue
        shown = _results_in(root, notes.get(SHOWN, ""))
        try:
            _expect_current(path, shown, command)
        except UserError as error:
            _note(missing, error)
            continue
        what_ran = _steps([step for file, layout, _ in shown for step in steps(layout, file)])
        behind = f"<details><summary>What was run for it</summary>{what_ran}</details>" if what_ran else ""
        caption = _caption(path, words, f"{dataset}_{model_folder(model)}", shown)
        data = base64.b64encode(path.read_bytes()).decode()
        pictures[path.name] = Picture(
            subject,
            f'<figure><img alt="{html.escape(f"{subject}: {caption}")}" width={size[0]} height={size[1]} '
            f'src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}'
            f"<p class=made>figures/{html.escape(path.name)}</p>{_command(command)}{behind}</figcaption></figure>",
        )
    if not pictures:
        drawn = documented("visualization/viz_curve.py", {"help": True}, root=root)
        _note(missing, UserError(f"there are no figures yet; draw them with: {drawn}"))
    return pictures


def _caption(path: Path, title: str, subjects: str, shown: Sequence[tuple[Path, Layout, str]]) -> str:
    """Its title, which quantity it shows where the file's name tells, and the paths or alignments that it shows."""
    kind = path.stem.partition(f"_{subjects}")[0].removesuffix("_deviation")
    deviation = "standard deviation of " if path.stem.startswith(f"{kind}_deviation") else ""
    quantity = "".join(
        f": {deviation}{words}" for name, words in results.PLANE_QUANTITIES.items() if kind.endswith(f"_{name}")
    )
    names = [name for file, _, _ in shown if (name := read_name(file)) and name.alignment is not None]
    if kind.endswith("correlation_matrices"):  # which is drawn beside others, of what they show
        names = [name for name in names if name.kind == "matrices"]
    routes = [paths.Route(name.epoch, name.alignment, name.variant) for name in names if name.epoch is not None]
    told = [series.words for series in paths.named(shown[0][1], list(dict.fromkeys(routes)))] if routes else []
    if all(name.kind != "evaluated" for name in names):
        who = {2: "B as it is and", 3: "A, B and C,"}
        told += dict.fromkeys(
            f"{who[len(name.seeds)]} {paths.alignment_words(name.alignment)}" for name in names if name.epoch is None
        )
    return f"{title}{quantity}." + (f" Shown: {'; '.join(told)}." if told else "")


def _figures(pictures: Mapping[str, Picture]) -> str:
    """Pictures under what they are of."""
    groups: dict[str, list[str]] = {}
    for subject, figure in pictures.values():
        groups.setdefault(subject, []).append(figure)
    return "".join(
        f"<h3>{html.escape(subject)}</h3><div class=figures>{''.join(found)}</div>"
        for subject, found in groups.items()
    )


def _expect_current(figure: Path, shown: Sequence[tuple[Path, Layout, str]], command: str) -> None:
    """FileError if a figure shows other results than there are now, or results of other networks."""
    for path, layout, digest in shown:
        record, now = results.content(path)
        if now != digest:
            reason = f"shows other results than there are now in {path}; draw it anew with: {command}"
            raise FileError(figure, reason)
        try:
            expect_current(layout, path, record)
        except FileError as error:
            reason = f"shows {path}, which {error.reason}; when that is made anew, draw it with: {command}"
            raise FileError(figure, reason) from error


ORDER = ("training/train_model", "alignment/align_models", "training/", "")  # in which scripts are run


def _order(step: Step) -> int:
    return next(place for place, start in enumerate(ORDER) if step.script.startswith(start))


def _settings(found: Sequence[paths.Found]) -> str:
    """The commands behind networks, matches, curves, evaluations and planes, each once."""
    ran = []
    for one in found:
        layout, place = one.layout, (one.alignment, *one.pair, one.epochs, one.variant)
        files = [layout.evaluated(*place)]
        if one.epochs and not layout.robust:
            files.append(layout.plane_with_curve(*place))
        for file in files:
            if _is_current(layout, file):
                ran += steps(layout, file)
    return _steps(sorted(ran, key=_order))


def _is_current(layout: Layout, path: Path) -> bool:
    """Whether a result is there, and of the networks that are; where not, the table or the walks say so."""
    try:
        expect_current(layout, path, results.content(path)[0])
    except UserError:
        return False
    return True


def _steps(ran: Sequence[Step]) -> str:
    """Commands, each once, and on what and when they were run."""
    lines = {}
    for step in ran:
        words = f"<p class=made>{html.escape(step.words)}</p>" if step.words else ""
        lines[_command(step.command) + words] = None
    return "".join(lines)


def _results_in(root: Path, note: str) -> list[tuple[Path, Layout, str]]:
    """The results in a figure that are still there: each with its layout, and what its digest was."""
    try:
        digests = {root / name: digest for name, digest in json.loads(note or "{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):  # a hostile picture's
        return []
    there = [(path, read_name(path), digest) for path, digest in digests.items() if path.is_file()]
    return [
        (path, Layout(root, name.model, name.dataset, name.robust), digest) for path, name, digest in there if name
    ]
