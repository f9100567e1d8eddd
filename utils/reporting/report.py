"""One HTML file about everything that was evaluated: tables, figures, settings, and curves to be walked along.

It needs nothing but itself to be read: figures and the plotting library (Plotly) are inside it.
"""

import base64
import html
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.errors import FileError, UserError
from utils.reporting import paths, provenance, results, tables
from utils.reporting.figures import SHOWN
from utils.reporting.planes import PLANE_QUANTITIES, corners_of_curve, mean_plane
from utils.storage.files import write_atomically
from utils.storage.layout import USUAL, Layout, model_folder

try:
    import plotly.graph_objects as go
    from plotly.io import to_json
    from plotly.offline import get_plotlyjs
    from plotly.subplots import make_subplots
except ModuleNotFoundError:
    go = None

TEMPLATE = Path(__file__).with_suffix(".html")

MadeWith = Callable[..., str]  # (script, settings, robust=False): the command line of a script with these settings
Missing = dict[str, UserError]  # what is missing in the report, by what it says: each once, in order


class Walk(NamedTuple):
    """A path between networks, the mean over pairs: at points `t` (n,), and the plane it lies in if that is known."""

    series: paths.Series
    t: np.ndarray
    values: results.Arrays  # by quantity, each (n,)
    plane: results.Arrays | None


def write(
    path: Path,
    root: Path,
    selection: paths.Selection,
    *,
    command: str,
    explain: Callable[[UserError], str],
    made_with: MadeWith,
) -> list[UserError]:
    """Write the report of what there is under `root` of that which is asked for.

    Returns what is missing in the report, which it also says itself: in the words of `explain`. `command` is the one
    that makes the report, and `made_with` says which made what is in it.

    Raises UserError if nothing has been evaluated, or without Plotly.
    """
    if go is None:
        raise UserError("the report needs Plotly; install it with: python -m pip install -r requirements-report.txt")
    missing: Missing = {}
    parts = {"barriers": "", "tables": "", "explorers": "", "settings": ""}
    there = {robust: paths.evaluated(root, robust=robust) for robust in (False, True)}
    selection = selection.with_pairs([*there[False], *there[True]])
    kinds = {robust: [one for one in found if selection.includes(one)] for robust, found in there.items()}
    for robust, found in kinds.items():
        if not found and (robust or any(kinds.values())):
            continue
        table = tables.build(root, selection, robust=robust)
        _note(missing, *table.missing)
        if table.rows:
            parts["barriers"] += _barriers(table)
            parts["tables"] += _table(table, _table_command(selection, robust, made_with), robust=robust)
        for layout in dict.fromkeys(one.layout for one in found):
            walks = _walks([one for one in found if one.layout == layout], selection, missing)
            if walks:
                parts["explorers"] += _explorer(walks)
        parts["settings"] += _settings(found, made_with)
    if not parts["tables"]:
        raise next(iter(missing.values()))
    parts["figures"] = _figures(root, selection, missing, made_with)
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


def _barriers(table: tables.Table) -> str:
    """In a sentence for each network and loss, how far it rises on every path: what the report is about."""
    paragraphs = []
    columns = [one for one in table.columns if one.statistic == "barrier" and results.is_loss(one.quantity)]
    for model in dict.fromkeys(row.model for row in table.rows):
        for column in columns:
            rows = [row for row in table.rows if row.model == model and column in row.cells]
            told = "; ".join(f"{row.words} {tables.number(row.cells[column].measured, decimals=3)}" for row in rows)
            if told:
                words = f"Barriers of the {column.words} between networks {model} on {column.dataset}: {told}."
                paragraphs.append(f"<p>{html.escape(words)}</p>")
    return "".join(paragraphs)


def _table(table: tables.Table, command: str, *, robust: bool) -> str:
    headings, rows = tables.grid(table)
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for row, texts in rows:
        words = html.escape(row.words)
        head = f"<b>{html.escape(row.model)}</b>, {words}" if row.is_first else words
        lines.append(f"<tr><th>{head}</th>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    title = "Robust networks" if robust else "Networks"
    notes = html.escape(" ".join(table.notes))
    return f"<h3>{title}</h3><table>{''.join(lines)}</table><p>{notes}</p>{_command(command)}"


def _table_command(selection: paths.Selection, robust: bool, made_with: MadeWith) -> str:
    """The command that makes the table by itself; flags of several values are tuples."""
    seeds_a, seeds_b = zip(*selection.pairs, strict=True) if selection.pairs else (None, None)
    flags = {"dataset": selection.datasets, "model": selection.models, "seed_a": seeds_a, "seed_b": seeds_b}
    flags |= {"alignment": selection.alignments, "epochs": selection.epochs, "curve_seed": selection.curve_seeds}
    flags |= {"num_bends": selection.num_bends, "curve": selection.curves}
    given = {name: tuple(values) for name, values in flags.items() if values}
    return made_with("evaluation/make_tables.py", given, robust=robust)


# --- curves to be walked along -----------------------------------------------------------------------------


def _walks(found: Sequence[paths.Found], selection: paths.Selection, missing: Missing) -> list[Walk]:
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
                plane = mean_plane(results.load_planes_with_curve(series, pairs))
            except UserError as error:
                _note(missing, error)
        names = results.quantities(layout.robust)
        values = {name: np.mean([table[name] for table in evaluated], axis=0) for name in names}
        walks.append(Walk(series, evaluated[0]["t"], values, plane))
    return walks


def _explorer(walks: Sequence[Walk]) -> str:
    """Planes and lines under one slider: it moves a point along every path to the same t."""
    layout = walks[0].series.layout
    name = "_".join(["robust" if layout.robust else "plain", layout.dataset, model_folder(layout.model)])
    figures, moving = {}, []
    with_planes = [walk for walk in walks if walk.plane is not None]
    if with_planes:
        figures["planes"] = _planes(with_planes, moving)
    figures["lines"] = _lines(walks, moving)
    steps = sorted({float(t) for walk in walks for t in walk.t})
    readings = [
        {"words": walk.series.words, "t": walk.t.tolist(), "values": [v.tolist() for v in walk.values.values()]}
        for walk in walks
    ]
    state = json.dumps({"steps": steps, "moving": moving, "readings": readings}).replace("<", "\\u003c")
    plots = "".join(
        f'<div class=plot data-name="{kind}"></div>'
        f'<script type="application/json" data-plot="{kind}">{to_json(figure)}</script>'
        for kind, figure in figures.items()
    )
    headings = "".join(f"<th>{html.escape(words)}</th>" for words in results.quantities(layout.robust).values())
    middle = min(range(len(steps)), key=lambda i: abs(steps[i] - 0.5))
    kind = ", robust" if layout.robust else ""
    return f"""<section class=explorer id="{html.escape(name)}">
<h3>{html.escape(layout.model)} on {html.escape(layout.dataset)}{kind}</h3>
<label>Position t on the path from A to B: <output></output><br>
<input type=range min=0 max={len(steps) - 1} value={middle}></label>
{plots}
<table class=readings><thead><tr><th>path</th>{headings}</tr></thead><tbody></tbody></table>
<script type="application/json" data-state>{state}</script>
</section>"""


MARKER = {"size": 12, "line": {"color": "black", "width": 2}}


def _planes(walks: Sequence[Walk], moving: list[dict]) -> "go.Figure":
    """Test accuracy on the plane of each learned curve; what the slider moves is added to `moving`."""
    titles = [walk.series.words for walk in walks]
    columns = min(2, len(walks))
    figure = make_subplots(
        -(-len(walks) // columns), columns, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.2
    )
    accuracies = np.concatenate([walk.plane["accuracy"].ravel() for walk in walks])
    bar = {"title": {"text": PLANE_QUANTITIES["accuracy"], "side": "right"}}
    for i, walk in enumerate(walks):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        plane = walk.plane
        contour = go.Contour(
            x=plane["x"][0].tolist(),
            y=plane["y"][:, 0].tolist(),
            z=plane["accuracy"].tolist(),
            text=[[f"loss {loss:.3f}" for loss in row] for row in plane["loss"]],
            hovertemplate="accuracy %{z:.1f} %<br>%{text}<extra></extra>",
            colorscale="Viridis",
            zmin=float(accuracies.min()),
            zmax=float(accuracies.max()),
            showscale=i == 0,
            colorbar=bar,
        )
        line = {"mode": "lines", "line": {"color": "white", "width": 4}, "hoverinfo": "skip", "showlegend": False}
        corners = corners_of_curve(plane)
        ends = {"mode": "markers+text", "text": list(corners), "textposition": "top center"}
        ends |= {"textfont": {"color": "white", "shadow": "auto"}, "hoverinfo": "skip", "showlegend": False}
        ends |= {"marker": {"symbol": ["circle", "square", "diamond"], "color": "white", "size": 9}}
        x, y = (plane["curve"][:, axis].tolist() for axis in (0, 1))
        places = {axis: [float(corner[i]) for corner in corners.values()] for i, axis in enumerate("xy")}
        figure.add_trace(contour, **place)
        figure.add_trace(go.Scatter(x=x, y=y, **line), **place)
        figure.add_trace(go.Scatter(**places, **ends), **place)
        point = go.Scatter(x=[], y=[], mode="markers", showlegend=False, marker=MARKER | {"color": "#D55E00"})
        figure.add_trace(point, **place)
        moving.append({"plot": "planes", "trace": 4 * i + 3, "t": walk.t.tolist(), "x": x, "y": y})
        axis = "x" if i == 0 else f"x{i + 1}"
        figure.update_xaxes(title_text="distance in the direction from A to B", constrain="domain", **place)
        figure.update_yaxes(title_text="orthogonal distance", scaleanchor=axis, constrain="domain", **place)
    flatness = max(np.ptp(walk.plane["y"]) / np.ptp(walk.plane["x"]) for walk in walks)
    height = (150 + 380 * min(flatness, 1)) * -(-len(walks) // columns)  # pixels
    figure.update_layout(height=height, margin={"t": 40, "b": 50, "l": 60, "r": 20})
    return figure


def _lines(walks: Sequence[Walk], moving: list[dict]) -> "go.Figure":
    """Every quantity over t; what the slider moves is added to `moving`."""
    quantities = results.quantities(walks[0].series.robust)
    rows = len(quantities) // 2  # accuracies at the left, losses at the right
    figure = make_subplots(rows, 2, horizontal_spacing=0.1, vertical_spacing=0.12)
    for i, (name, words) in enumerate(quantities.items()):
        place = {"row": i % rows + 1, "col": i // rows + 1}
        for walk in walks:
            colour = paths.colour(walk.series.alignment)
            strokes = "dash" if walk.series.is_line else ("solid", "dashdot", "dot")[walk.series.rank % 3]
            x, y = walk.t.tolist(), walk.values[name].tolist()
            style = {"name": walk.series.words, "legendgroup": walk.series.words}
            line = {"color": colour, "dash": strokes}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=i == 0, **style), **place)
            point = go.Scatter(
                x=[], y=[], mode="markers", marker=MARKER | {"color": colour}, showlegend=False, **style
            )
            figure.add_trace(point, **place)
            moving.append({"plot": "lines", "trace": len(figure.data) - 1, "t": x, "x": x, "y": y})
            if walk.series.robust and name.startswith("accuracy"):
                figure.add_trace(_extremes(walk, name, colour), **place)
        figure.update_yaxes(title_text=f"test {words}", **place)
        figure.update_xaxes(title_text="position t" if place["row"] == rows else None, range=[0, 1], **place)
    legend = {"orientation": "h", "y": -0.2 / rows, "yanchor": "top"}
    figure.update_layout(height=320 * rows + 60, margin={"t": 20, "b": 50, "l": 60, "r": 20}, legend=legend)
    return figure


def _extremes(walk: Walk, name: str, colour: str) -> "go.Scatter":
    """Where robust accuracy is lowest and highest on a path, as places on its line of another accuracy or of this."""
    places = results.robust_places(walk.values["accuracy_robust"])
    at = [places["at_lowest"], places["at_highest"]]
    return go.Scatter(
        x=walk.t[at].tolist(),
        y=walk.values[name][at].tolist(),
        text=["lowest robust accuracy", "highest robust accuracy"],
        hovertemplate="%{text}: %{y:.1f} %<extra></extra>",
        mode="markers",
        marker=MARKER | {"color": colour, "symbol": ["triangle-down", "triangle-up"]},
        legendgroup=walk.series.words,
        showlegend=False,
    )


# --- figures and settings ----------------------------------------------------------------------------------


def _figures(root: Path, selection: paths.Selection, missing: Missing, made_with: MadeWith) -> str:
    """The figures that were drawn, each with its title and the command behind it, which are in the file itself."""
    groups: dict[str, list[str]] = {}
    for path in sorted((root / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                notes = image.info
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
        shown = provenance.results_in(root, notes.get(SHOWN, ""))
        try:
            _expect_current(path, shown, command)
        except UserError as error:
            _note(missing, error)
            continue
        steps = [(step, layout.robust) for file, layout, _ in shown for step in provenance.steps(layout, file)]
        what_ran = _steps(steps, made_with)
        behind = f"<details><summary>What was run for it</summary>{what_ran}</details>" if what_ran else ""
        data = base64.b64encode(path.read_bytes()).decode()
        groups.setdefault(subject, []).append(
            f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(words)}{_command(command)}{behind}</figcaption></figure>"
        )
    if not groups:
        drawn = made_with("visualization/viz_curve.py", {"help": True})
        _note(missing, UserError(f"there are no figures yet; draw them with: {drawn}"))
    return "".join(
        f"<h3>{html.escape(subject)}</h3><div class=figures>{''.join(found)}</div>"
        for subject, found in groups.items()
    )


def _expect_current(figure: Path, shown: Sequence[tuple[Path, Layout, str]], command: str) -> None:
    """FileError if a figure shows other results than there are now, or results of other networks."""
    for path, layout, digest in shown:
        settings, now = results.content(path)
        if now != digest:
            reason = f"shows other results than there are now in {path}; draw it anew with: {command}"
            raise FileError(figure, reason)
        try:
            results.expect_current(layout, path, settings)
        except FileError as error:
            reason = f"shows {path}, which {error.reason}; when that is made anew, draw it with: {command}"
            raise FileError(figure, reason) from error


def _settings(found: Sequence[paths.Found], made_with: MadeWith) -> str:
    """The commands behind networks, matches, curves, evaluations and planes, each once."""
    steps = []
    for one in found:
        layout, place = one.layout, (one.alignment, *one.pair, one.epochs, one.variant)
        files = [layout.evaluated(*place)]
        if one.epochs and not layout.robust:
            files.append(layout.plane_with_curve(*place))
        for file in files:
            if _is_current(layout, file):
                steps += [(step, layout.robust) for step in provenance.steps(layout, file)]
    return _steps(sorted(steps, key=lambda step: provenance.order(step[0])), made_with)


def _is_current(layout: Layout, path: Path) -> bool:
    """Whether a result is there, and of the networks that are; where not, the table or the walks say so."""
    try:
        results.expect_current(layout, path, results.content(path)[0])
    except UserError:
        return False
    return True


def _steps(steps: Sequence[tuple[provenance.Step, bool]], made_with: MadeWith) -> str:
    """Commands, each once, and on what and when they were run; with each step, whether it is of robust networks."""
    lines: dict[str, None] = {}
    for step, robust in steps:
        words = f"<p class=made>{html.escape(step.words)}</p>" if step.words else ""
        made = made_with(step.script, step.flags, robust=robust)
        lines[_command(f"{made} {shlex.quote(step.file)}" if step.file else made) + words] = None
    return "".join(lines)
