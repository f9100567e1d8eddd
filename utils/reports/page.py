"""One HTML page about everything that was evaluated: tables, figures, settings, and interactive curves.

It works offline and by itself: figures and the plotting library (Plotly) are inside it. Its contents are gathered
here; its look is the template beside this file.
"""

import base64
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ..errors import FileError, UserError
from ..stages.files import write_atomically
from ..stages.hints import Step, documented, steps
from ..stages.layout import USUAL, Layout, model_folder, read_name
from ..stages.records import expect_current
from . import figures, paths, results, tables

try:
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError:
    get_plotlyjs = None


def write(
    path: Path, root: Path, selection: paths.Selection, *, command: str, explain: Callable[[UserError], str]
) -> tuple[list[UserError], list[str]]:
    """Write the report of the evaluated paths under `root` that are asked for.

    Returns what is missing in the report, which also says so itself, in the words of `explain`, and its headlines.
    `command` makes the report.

    Raises UserError if nothing has been evaluated, or without Plotly.
    """
    if get_plotlyjs is None:
        raise UserError("the report needs Plotly; install it with: python -m pip install -r requirements-report.txt")
    missing: list[UserError] = []
    there = {robust: paths.evaluated(root, robust=robust) for robust in (False, True)}
    selection = selection.with_pairs(there[False] | there[True])
    found = {robust: selection.among(kind) for robust, kind in there.items()}
    page = {"headlines": [], "tables": [], "explorers": []}
    shown: dict[Path, Layout] = {}  # the results in the report
    for robust, kind in found.items():
        if not kind and (robust or any(found.values())):
            continue
        table = tables.build(root, selection, robust=robust)
        missing += table.missing
        if table.rows:
            title = "Robust networks" if robust else "Networks"
            page["headlines"] += tables.headlines(table)
            page["tables"].append(_table(table, title, "make_tables", root, selection, robust=robust))
        for layout in dict.fromkeys(route.layout for route in kind):
            of_layout = {route: pairs for route, pairs in kind.items() if route.layout == layout}
            if walked := _explorer(of_layout, missing):
                explorer, files = walked
                page["explorers"].append(explorer)
                shown |= dict.fromkeys(files, layout)
    if not page["tables"]:
        raise missing[0]
    pictures = _pictures(root, selection, missing)
    for picture in pictures:
        shown |= picture["results"]
    # What has not been evaluated is no part of the comparison; the main table says what incomplete paths lack.
    table, title = tables.compare(root, selection), "All alignments side by side"
    several = len({row.route.alignment for row in table.rows if row.route and row.route.is_line}) > 1
    page["comparison"] = _table(table, title, "compare_alignments", root, selection) if several else None
    page["comparison_pictures"] = [one for one in pictures if one["name"].startswith("comparison_")]
    page["pictures"] = [one for one in pictures if one not in page["comparison_pictures"]]
    missing = list({str(error): error for error in missing}.values())  # each once
    page |= {"missing": list(map(explain, missing)), "plotly": get_plotlyjs(), "command": command}
    page["settings"] = _steps(shown)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"default": np.ndarray.tolist}
    html = environment.from_string(Path(__file__).with_suffix(".html").read_text()).render(page)
    write_atomically(path, lambda stream: stream.write(html.encode()))
    return missing, page["headlines"]


def _table(
    table: tables.Table, title: str, script: str, root: Path, selection: paths.Selection, *, robust: bool = False
) -> dict[str, object]:
    """A table, and the command that makes it by itself."""
    headings, *rows = tables.grid(table, tables.HTML)
    seeds = dict(zip(("seed_a", "seed_b"), zip(*selection.pairs or [], strict=True), strict=False))
    flags = {"dataset": selection.datasets, "model": selection.models, **seeds, "alignment": selection.alignments}
    flags |= {"epochs": selection.epochs, "curve_seed": selection.curve_seeds}
    flags |= {"num_bends": selection.num_bends, "curve": selection.curves}
    given = {name: tuple(values) for name, values in flags.items() if values}
    command = documented(f"evaluation/{script}.py", given, root=root, robust=robust)
    return {"title": title, "headings": headings, "rows": rows, "notes": " ".join(table.notes), "command": command}


# --- figures and settings ----------------------------------------------------------------------------------


def _pictures(root: Path, selection: paths.Selection, missing: list[UserError]) -> list[dict[str, object]]:
    """The figures that were drawn of what is asked for, sorted by their files' names.

    Each has a subject, a caption, its size in pixels, its content in base64, the command that drew it, the results
    that it shows, and the steps that were run for them.
    """
    pictures = []
    for path in sorted((root / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                notes, size = image.info, image.size
                image.verify()
            subject, _, title = notes["Title"].partition(": ")
            command, caption = notes["Description"], notes.get(figures.CAPTION, f"{title}.")
        except Exception:  # what a reader raises on a damaged or hostile picture can be anything
            reason = "is not a figure of this project, or it is damaged; draw it anew or move it away"
            missing.append(FileError(path, reason))
            continue
        model, _, dataset = subject.removeprefix("Robust ").partition(" on ")
        asked_for = ((selection.models, model), (selection.datasets, dataset))
        if any(names and name not in names for names, name in asked_for):
            continue
        try:
            shown = _results_in(path, notes.get(figures.SHOWN, ""), command)
        except UserError as error:
            missing.append(error)
            continue
        picture = {"name": path.name, "subject": subject, "caption": caption, "size": size, "command": command}
        picture |= {"data": base64.b64encode(path.read_bytes()).decode(), "results": shown, "ran": _steps(shown)}
        pictures.append(picture)
    if not pictures:
        drawn = documented("visualization/viz_curve.py", {"help": True}, root=root)
        missing.append(UserError(f"there are no figures yet; draw them with: {drawn}"))
    return pictures


def _results_in(figure: Path, note: str, command: str) -> dict[Path, Layout]:
    """The results in a figure that still exist, each with its layout.

    FileError if they are others than those of now, or of other networks.
    """
    root = figure.parent.parent
    try:
        digests = {root / name: digest for name, digest in json.loads(note or "{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):  # a hostile picture's
        return {}
    names = {path: read_name(path) for path in digests if path.is_file()}
    layouts = {
        path: Layout(root, name.model, name.dataset, robust=name.robust) for path, name in names.items() if name
    }
    for path, layout in layouts.items():
        found = results.content(path)
        if found.files[path] != digests[path]:
            reason = f"shows other results than there are now in {path}; draw it anew with: {command}"
            raise FileError(figure, reason)
        try:
            expect_current(layout, path, found.record)
        except FileError as error:
            reason = f"shows {path}, which {error.reason}; when that is made anew, draw it with: {command}"
            raise FileError(figure, reason) from error
    return layouts


ORDER = ("training/train_model", "alignment/align_models", "training/", "")  # in which scripts are run


def _steps(layouts: Mapping[Path, Layout]) -> list[Step]:
    """The commands behind results, each once: of networks, matches, curves, evaluations and planes."""
    ran = [step for file, layout in layouts.items() for step in steps(layout, file)]
    ran.sort(key=lambda step: next(place for place, start in enumerate(ORDER) if step.script.startswith(start)))
    return list(dict.fromkeys(ran))


# --- interactive curves ------------------------------------------------------------------------------------
#
# A slider moves a point along every path to the same t. It stops at every evaluated point and at others in between:
# there accuracies and losses are interpolated between two evaluated points, and a curve is where it is.

STEP = 1 / 200  # of t, from one position of the slider to the next, at most
STROKES = ("solid", "dashdot", "dot")  # of kinds of curves, as Plotly names them; lines are dashed
FLATTEST = 0.33  # height of a plane, as a part of its width, below which it is stretched to be seen on a phone


def _explorer(found: paths.Found, missing: list[UserError]) -> tuple[dict[str, object], Iterable[Path]] | None:
    """Planes and lines of one layout under one slider, and the results in them; None if no path can be shown.

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
        missing += lacks
    if not evaluated:
        return None
    layout, evaluated = next(iter(found)).layout, results.marked(evaluated)
    quantities = results.quantities(evaluated, robust=layout.robust)
    stops = sorted({float(t) for of_pairs in evaluated.values() for t in of_pairs[0]["t"]})
    steps = positions(stops)
    walks = []
    for number, (route, of_pairs) in enumerate(evaluated.items()):
        values = {name: results.mean_and_deviation([table[name] for table in of_pairs])[0] for name in quantities}
        places = results.robust_places(values)
        walks.append(
            {
                "path": number,
                "words": route.words,
                "colour": paths.look(route.alignment).colour,
                "stroke": "dash" if route.is_line else STROKES[route.rank % 3],
                "t": of_pairs[0]["t"],
                "values": values,
                "extremes": [places["at_lowest"], places["at_highest"]] if places else [],
                "plane": _plane(route, of_curves[route], steps)
                if route in of_curves and "accuracy" in values
                else None,
            }
        )
    named = [{"name": name, "words": words, "isLoss": results.is_loss(name)} for name, words in quantities.items()]
    state = {"steps": steps, "evaluated": stops, "quantities": named, "walks": walks, "levels": []}
    if on_planes := [walk for walk in walks if walk["plane"]]:  # whose colours change where the curves run
        everywhere = np.concatenate([walk["plane"]["accuracy"].ravel() for walk in on_planes])
        on_paths = np.concatenate([walk["values"]["accuracy"] for walk in on_planes])
        state["levels"] = figures.levels_of(everywhere, on_paths, high_is_good=True)[0]
    kind, more = ("robust", ", robust") if layout.robust else ("plain", "")
    explorer = {"name": f"{kind}_{layout.dataset}_{model_folder(layout.model)}", "state": state}
    explorer["subject"] = f"{layout.model} on {layout.dataset}{more}"
    explorer["middle"] = min(range(len(steps)), key=lambda i: abs(steps[i] - 0.5))
    return explorer, results.files_of(evaluated, of_curves)


def positions(evaluated: Sequence[float]) -> list[float]:
    """Where the slider stops: at every evaluated t, and between two at equal steps of no more than STEP."""
    stops = []
    for start, end in itertools.pairwise(evaluated):
        stops += np.linspace(start, end, max(1, math.ceil((end - start) / STEP - 1e-9)), endpoint=False).tolist()
    return [*stops, evaluated[-1]]


def _plane(route: paths.Route, of_pairs: Sequence[results.Result], steps: Sequence[float]) -> dict[str, object]:
    """The plane of a curve, stretched in height where it would be too flat, with the curve at `steps`."""
    plane = results.mean_plane(of_pairs)
    flatness = float(np.ptp(plane["y"]) / np.ptp(plane["x"]))
    stretched = max(1.0, FLATTEST / flatness)
    return {
        "x": plane["x"][0],
        "y": plane["y"][:, 0],
        "accuracy": plane["accuracy"],
        "loss": plane["loss"],
        "evaluated": plane["curve"],
        "along": figures.curve_on(plane, route.variant, np.array(steps)),
        "corners": results.corners_of_curve(plane),
        "stretched": stretched,
        "flatness": min(flatness * stretched, 1),
    }
