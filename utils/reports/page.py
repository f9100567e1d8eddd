"""One HTML page about everything that was evaluated: tables, figures, settings, and interactive curves.

It works offline and by itself: figures and the plotting library (Plotly) are inside it. Its contents are gathered
here; its look is the template beside this file.
"""

import base64
import contextlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ..errors import FileError, UserError
from ..stages.files import write_atomically
from ..stages.hints import Step, documented, steps
from ..stages.layout import USUAL, Layout, model_folder, read_name
from ..stages.records import expect_current
from . import paths, planes, results, tables
from .figures import CAPTION, SHOWN

try:
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError:
    get_plotlyjs = None

TEMPLATE = Path(__file__).with_suffix(".html")

Missing = dict[str, UserError]  # what the report lacks, by its message: each once, in order


def write(
    path: Path,
    root: Path,
    selection: paths.Selection,
    *,
    command: str,
    explain: Callable[[UserError], str],
) -> tuple[list[UserError], list[str]]:
    """Write the report of the evaluated paths under `root` that are asked for.

    Returns what is missing in the report, which also says so itself, in the words of `explain`, and its headlines.
    `command` makes the report.

    Raises UserError if nothing has been evaluated, or without Plotly.
    """
    if get_plotlyjs is None:
        raise UserError("the report needs Plotly; install it with: python -m pip install -r requirements-report.txt")
    missing: Missing = {}
    there = {robust: paths.evaluated(root, robust=robust) for robust in (False, True)}
    selection = selection.with_pairs(there[False] | there[True])
    found = {robust: selection.among(kind) for robust, kind in there.items()}
    page = {"headlines": [], "tables": [], "explorers": [], "settings": []}
    for robust, kind in found.items():
        if not kind and (robust or any(found.values())):
            continue
        table = tables.build(root, selection, robust=robust)
        _note(missing, *table.missing)
        if table.rows:
            title, script = "Robust networks" if robust else "Networks", "evaluation/make_tables.py"
            page["headlines"] += tables.headlines(table)
            page["tables"].append(_table(table, title, _table_command(script, root, selection, robust=robust)))
        for layout in dict.fromkeys(route.layout for route in kind):
            of_layout = {route: pairs for route, pairs in kind.items() if route.layout == layout}
            if one := _explorer(of_layout, missing):
                page["explorers"].append(one)
        page["settings"] += _settings(kind)
    if not page["tables"]:
        raise next(iter(missing.values()))
    pictures = _pictures(root, selection, missing)
    page["comparison"] = _comparison(root, selection)
    page["comparison_pictures"] = [one for one in pictures if one["name"].startswith("comparison_")]
    page["pictures"] = [one for one in pictures if one not in page["comparison_pictures"]]
    page |= {"missing": list(map(explain, missing.values())), "plotly": get_plotlyjs(), "command": command}
    write_atomically(path, lambda stream: stream.write(_template().render(page).encode()))
    return list(missing.values()), page["headlines"]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"default": np.ndarray.tolist}
    return environment.from_string(TEMPLATE.read_text())


def _note(missing: Missing, *errors: UserError) -> None:
    missing |= {str(error): error for error in errors}


# --- tables ------------------------------------------------------------------------------------------------


def _table(table: tables.Table, title: str, command: str) -> dict[str, object]:
    headings, *rows = tables.grid(table, tables.HTML)
    return {"title": title, "headings": headings, "rows": rows, "notes": " ".join(table.notes), "command": command}


def _table_command(script: str, root: Path, selection: paths.Selection, *, robust: bool = False) -> str:
    """The command that makes the table by itself; flags of several values are tuples."""
    seeds_a, seeds_b = zip(*selection.pairs, strict=True) if selection.pairs else (None, None)
    flags = {"dataset": selection.datasets, "model": selection.models, "seed_a": seeds_a, "seed_b": seeds_b}
    flags |= {"alignment": selection.alignments, "epochs": selection.epochs, "curve_seed": selection.curve_seeds}
    flags |= {"num_bends": selection.num_bends, "curve": selection.curves}
    given = {name: tuple(values) for name, values in flags.items() if values}
    return documented(script, given, root=root, robust=robust)


def _comparison(root: Path, selection: paths.Selection) -> dict[str, object] | None:
    """The table of all alignments side by side, where straight lines with several have been evaluated.

    Whatever has not been evaluated is no part of a report; the main table says what is missing of incomplete paths.
    """
    table = tables.compare(root, selection)
    if len({row.route.alignment for row in table.rows if row.route and row.route.is_line}) < 2:
        return None
    command = _table_command("evaluation/compare_alignments.py", root, selection)
    return _table(table, "All alignments side by side", command)


# --- figures and settings ----------------------------------------------------------------------------------


def _pictures(root: Path, selection: paths.Selection, missing: Missing) -> list[dict[str, object]]:
    """The figures that were drawn of what is asked for, sorted by their files' names.

    Each has a subject, a caption, its size in pixels, its content in base64, the command that drew it, and the steps
    that were run for what it shows.
    """
    pictures = []
    for path in sorted((root / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                notes, size = image.info, image.size
                image.verify()
            subject, _, title = notes["Title"].partition(": ")
            command, caption = notes["Description"], notes.get(CAPTION, f"{title}.")
        except Exception:  # what a reader raises on a damaged or hostile picture can be anything
            reason = "is not a figure of this project, or it is damaged; draw it anew or move it away"
            _note(missing, FileError(path, reason))
            continue
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
        ran = list(dict.fromkeys(step for file, layout, _ in shown for step in steps(layout, file)))
        picture = {"name": path.name, "subject": subject, "caption": caption, "size": size, "command": command}
        pictures.append(picture | {"data": base64.b64encode(path.read_bytes()).decode(), "ran": ran})
    if not pictures:
        drawn = documented("visualization/viz_curve.py", {"help": True}, root=root)
        _note(missing, UserError(f"there are no figures yet; draw them with: {drawn}"))
    return pictures


def _expect_current(figure: Path, shown: Sequence[tuple[Path, Layout, str]], command: str) -> None:
    """FileError if a figure shows other results than those of now, or results of other networks."""
    for path, layout, digest in shown:
        found = results.content(path)
        if found.files[path] != digest:
            reason = f"shows other results than there are now in {path}; draw it anew with: {command}"
            raise FileError(figure, reason)
        try:
            expect_current(layout, path, found.record)
        except FileError as error:
            reason = f"shows {path}, which {error.reason}; when that is made anew, draw it with: {command}"
            raise FileError(figure, reason) from error


ORDER = ("training/train_model", "alignment/align_models", "training/", "")  # in which scripts are run


def _order(step: Step) -> int:
    return next(place for place, start in enumerate(ORDER) if step.script.startswith(start))


def _settings(found: paths.Found) -> list[Step]:
    """The commands behind networks, matches, curves, evaluations and planes that are current, each once."""
    ran = []
    for route, pairs in found.items():
        layout = route.layout
        for pair in pairs:
            files = [route.evaluated(pair)]
            if route.epochs and not layout.robust:
                files.append(layout.plane_with_curve(route.alignment, *pair, route.epochs, route.variant_of(pair)))
            for file in files:
                with contextlib.suppress(UserError):  # which the table or the walks name
                    results.load_result(layout, file, {})
                    ran += steps(layout, file)
    return list(dict.fromkeys(sorted(ran, key=_order)))


def _results_in(root: Path, note: str) -> list[tuple[Path, Layout, str]]:
    """The results in a figure that still exist: each with its layout, and what its digest was."""
    try:
        digests = {root / name: digest for name, digest in json.loads(note or "{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):  # a hostile picture's
        return []
    there = [(path, read_name(path), digest) for path, digest in digests.items() if path.is_file()]
    return [
        (path, Layout(root, name.model, name.dataset, robust=name.robust), digest)
        for path, name, digest in there
        if name
    ]


# --- interactive curves ------------------------------------------------------------------------------------
#
# A slider moves a point along every path to the same t. It stops at every evaluated point and at others in between:
# there accuracies and losses are interpolated between two evaluated points, and a curve is where it is.

STEP = 1 / 200  # of t, from one position of the slider to the next, at most
STROKES = ("solid", "dashdot", "dot")  # of kinds of curves, as Plotly names them; lines are dashed
FLATTEST = 0.33  # height of a plane, as a part of its width, below which it is stretched to be seen on a phone


def _explorer(found: paths.Found, missing: Missing) -> dict[str, object] | None:
    """Planes and lines of one layout under one slider; None if no path can be shown.

    Each path is the mean of all pairs, or, with a seed that is not the usual one, of the pairs that have it. Missing
    results are added to `missing`.
    """
    everyone = list(dict.fromkeys(pair for pairs in found.values() for pair in pairs))
    evaluated: results.Measured = {}
    of_curves: results.Measured = {}
    for route in paths.named(list(found)):
        pairs = everyone if route.variant.seed == USUAL.seed else found[route]
        lacks: list[UserError] = []
        evaluated |= results.load(results.load_path, [route], pairs, lacks)
        if not (lacks or route.is_line or route.layout.robust):
            of_curves |= results.load(results.load_plane_with_curve, [route], pairs, lacks)
        _note(missing, *lacks)
    if not evaluated:
        return None
    evaluated = results.marked(evaluated)
    layout = next(iter(found)).layout
    stops = sorted({float(t) for of_pairs in evaluated.values() for t in of_pairs[0]["t"]})
    steps = positions(stops)
    state = {
        "steps": steps,
        "evaluated": stops,
        "quantities": [
            {"name": name, "words": words, "isLoss": results.is_loss(name)}
            for name, words in results.QUANTITIES[layout.robust].items()
        ],
        "walks": [
            _walk(route, of_pairs, number) | {"plane": _plane(route, of_curves.get(route), steps)}
            for number, (route, of_pairs) in enumerate(evaluated.items())
        ],
    }
    return {
        "name": "_".join(["robust" if layout.robust else "plain", layout.dataset, model_folder(layout.model)]),
        "subject": f"{layout.model} on {layout.dataset}{', robust' if layout.robust else ''}",
        "middle": min(range(len(steps)), key=lambda i: abs(steps[i] - 0.5)),
        "state": state,
    }


def positions(evaluated: Sequence[float]) -> list[float]:
    """Where the slider stops: at every evaluated t, and between two at equal steps of no more than STEP."""
    stops = []
    for start, end in itertools.pairwise(evaluated):
        stops += np.linspace(start, end, max(1, math.ceil((end - start) / STEP - 1e-9)), endpoint=False).tolist()
    return [*stops, evaluated[-1]]


def _walk(route: paths.Route, evaluated: Sequence[results.Result], number: int) -> dict[str, object]:
    """A path, the mean over pairs; `extremes`: the numbers of the points where robust accuracy is worst and best."""
    names = results.QUANTITIES[route.layout.robust]
    values = {name: np.mean([table[name] for table in evaluated], axis=0) for name in names}
    places = results.robust_places(values)
    return {
        "path": number,
        "words": route.words,
        "colour": paths.look(route.alignment).colour,
        "stroke": "dash" if route.is_line else STROKES[route.rank % 3],
        "t": evaluated[0]["t"],
        "values": values,
        "extremes": [places["at_lowest"], places["at_highest"]] if places else [],
    }


def _plane(
    route: paths.Route, of_pairs: Sequence[results.Result] | None, steps: Sequence[float]
) -> dict[str, object] | None:
    """The plane of a curve, stretched in height where it would be too flat, with the curve at `steps`."""
    if of_pairs is None:
        return None
    plane = results.mean_plane(of_pairs)
    flatness = float(np.ptp(plane["y"]) / np.ptp(plane["x"]))
    stretched = max(1.0, FLATTEST / flatness)
    return {
        "x": plane["x"][0],
        "y": plane["y"][:, 0],
        "accuracy": plane["accuracy"],
        "loss": plane["loss"],
        "evaluated": plane["curve"],
        "along": planes.curve_on(plane, route.variant, np.array(steps)),
        "corners": results.corners_of_curve(plane),
        "stretched": stretched,
        "flatness": min(flatness * stretched, 1),
    }
