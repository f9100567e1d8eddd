"""One HTML file about everything that was evaluated: tables, figures, settings, and curves to be walked along.

It needs nothing but itself to be read: figures and the plotting library (Plotly) are inside it.
"""

import argparse
import base64
import contextlib
import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils import checkpoint, cli, results, tables
from utils.errors import UserError
from utils.figures import PLANE_QUANTITIES, mean_plane

try:
    import plotly.graph_objects as go
    from plotly.io import to_json
    from plotly.offline import get_plotlyjs
    from plotly.subplots import make_subplots
except ModuleNotFoundError:
    go = None

TEMPLATE = Path(__file__).with_suffix(".html")


class Walk(NamedTuple):
    """A path between networks, the mean over pairs: at points `t` (n,), and the plane it lies in if that is known."""

    series: results.Series
    t: np.ndarray
    values: dict[str, np.ndarray]  # by quantity, each (n,)
    plane: dict[str, np.ndarray] | None


def write(args: argparse.Namespace, path: Path) -> list[UserError]:
    """Write the report of what there is under `args.root`; returns what is missing in it, which it also says itself.

    Raises UserError if nothing has been evaluated, or without Plotly.
    """
    if go is None:
        raise UserError("the report needs Plotly; install it with: python -m pip install -r requirements-report.txt")
    missing: dict[str, UserError] = {}
    parts = {"tables": "", "explorers": "", "settings": ""}
    kinds = [argparse.Namespace(**vars(args) | {"adversarial": adversarial}) for adversarial in (False, True)]
    there = [
        [one for one in results.evaluated(args.root, k.adversarial) if tables.is_asked_for(k, one)] for k in kinds
    ]
    for kind, found in zip(kinds, there, strict=True):
        if not found and (kind.adversarial or any(there)):
            continue
        table = tables.build(kind)
        missing |= {str(error): error for error in table.missing}
        if table.rows:
            parts["tables"] += _table(kind, table)
        for dataset, model in dict.fromkeys((one.dataset, one.model) for one in found):
            here = [one for one in found if (one.dataset, one.model) == (dataset, model)]
            walks = _walks(kind, here, missing)
            if walks:
                parts["explorers"] += _explorer(kind, walks)
        parts["settings"] += _settings(kind, found)
    if not parts["tables"]:
        raise next(iter(missing.values()))
    parts["figures"] = _figures(args, missing)
    parts["missing"] = "".join(f"<li>{html.escape(line)}</li>" for line in missing) or "<li>Nothing.</li>"
    page = TEMPLATE.read_text()
    parts |= {"plotly": get_plotlyjs(), "command": html.escape(args.command)}
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    checkpoint.write_atomically(path, lambda stream: stream.write(page.encode()))
    return list(missing.values())


def _command(text: str) -> str:
    return f"<pre class=command>{html.escape(text)}</pre>"


def _table(args: argparse.Namespace, table: tables.Table) -> str:
    headings, rows = tables.grid(table)
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for row, texts in rows:
        words = html.escape(row.words)
        head = words if row.series else f"<b>{row.model}</b>, {words}"
        lines.append(f"<tr><th>{head}</th>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    flags = {name: getattr(args, name) for name in ("dataset", "model", "seed_a", "seed_b", "alignment", "epochs")}
    given = [word for name, values in flags.items() if values for word in (f"--{name}", *map(str, values))]
    words = ["python", "evaluation/make_tables.py", *given, *(["--adversarial"] if args.adversarial else [])]
    words += [] if args.root == cli.REPOSITORY else ["--root", str(args.root)]
    title = "Robust networks" if args.adversarial else "Networks"
    notes = html.escape(" ".join(table.notes))
    return f"<h3>{title}</h3><table>{''.join(lines)}</table><p>{notes}</p>{_command(shlex.join(words))}"


# --- curves to be walked along -----------------------------------------------------------------------------


def _walks(args: argparse.Namespace, found: Sequence[results.Found], missing: dict[str, UserError]) -> list[Walk]:
    """The paths of one dataset and model that have every pair there is; what others lack is added to `missing`."""
    dataset, model = found[0].dataset, found[0].model
    pairs = list(dict.fromkeys(one.pair for one in found))
    pair_args = argparse.Namespace(**vars(args) | {"seed_a": [a for a, _ in pairs], "seed_b": [b for _, b in pairs]})
    walks = []
    for series in results.named(dataset, model, list(dict.fromkeys((one.epochs, one.alignment) for one in found))):
        try:
            paths = results.load_paths(pair_args, series)
        except UserError as error:
            missing[str(error)] = error
            continue
        plane = None
        if not (series.is_line or args.adversarial):
            try:
                plane = mean_plane(results.load_planes_with_curve(pair_args, series))
            except UserError as error:
                missing[str(error)] = error
        values = {name: np.mean([path[name] for path in paths], axis=0) for name in results.quantities(args)}
        walks.append(Walk(series, paths[0]["t"], values, plane))
    return walks


def _explorer(args: argparse.Namespace, walks: Sequence[Walk]) -> str:
    """Planes and lines under one slider: it moves a point along every path to the same t."""
    model, dataset = walks[0].series.model, walks[0].series.dataset
    name = "_".join(["robust" if args.adversarial else "plain", dataset, model])
    figures, moving = {}, []
    with_planes = [walk for walk in walks if walk.plane is not None]
    if with_planes:
        figures["planes"] = _planes(with_planes, moving)
    figures["lines"] = _lines(args, walks, moving)
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
    headings = "".join(f"<th>{html.escape(words)}</th>" for words in results.quantities(args).values())
    middle = min(range(len(steps)), key=lambda i: abs(steps[i] - 0.5))
    kind = ", robust" if args.adversarial else ""
    return f"""<section class=explorer id="{html.escape(name)}">
<h3>{model} on {html.escape(dataset)}{kind}</h3>
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
        ends = {"mode": "markers+text", "text": ["A", "B", "turning point"], "textposition": "top center"}
        ends |= {"textfont": {"color": "white", "shadow": "auto"}, "hoverinfo": "skip", "showlegend": False}
        ends |= {"marker": {"symbol": ["circle", "square", "diamond"], "color": "white", "size": 9}}
        x, y = (plane["curve"][:, axis].tolist() for axis in (0, 1))
        corners = plane["corners"]
        figure.add_trace(contour, **place)
        figure.add_trace(go.Scatter(x=x, y=y, **line), **place)
        figure.add_trace(go.Scatter(x=corners[:, 0].tolist(), y=corners[:, 1].tolist(), **ends), **place)
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


def _lines(args: argparse.Namespace, walks: Sequence[Walk], moving: list[dict]) -> "go.Figure":
    """Every quantity over t; what the slider moves is added to `moving`."""
    quantities = results.quantities(args)
    rows = len(quantities) // 2  # accuracies at the left, losses at the right
    figure = make_subplots(rows, 2, horizontal_spacing=0.1, vertical_spacing=0.12)
    for i, (name, words) in enumerate(quantities.items()):
        place = {"row": i % rows + 1, "col": i // rows + 1}
        for walk in walks:
            colour = results.colour(walk.series.alignment)
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
        figure.update_yaxes(title_text=f"test {words}", **place)
        figure.update_xaxes(title_text="position t" if place["row"] == rows else None, range=[0, 1], **place)
    legend = {"orientation": "h", "y": -0.2 / rows, "yanchor": "top"}
    figure.update_layout(height=320 * rows + 60, margin={"t": 20, "b": 50, "l": 60, "r": 20}, legend=legend)
    return figure


# --- figures and settings ----------------------------------------------------------------------------------


def _figures(args: argparse.Namespace, missing: dict[str, UserError]) -> str:
    """The figures that were drawn, each with its title and the command behind it, which are in the file itself."""
    groups: dict[str, list[str]] = {}
    for path in sorted((args.root / "figures").glob("*.png")):
        try:
            with Image.open(path) as image:
                notes = image.info
                image.verify()
            title, command = notes["Title"], notes["Description"]
        except Exception:  # what a reader raises on a damaged or hostile picture can be anything
            error = UserError(f"{path} is not a figure of this project, or it is damaged; draw it anew or delete it")
            missing[str(error)] = error
            continue
        subject, _, words = title.partition(": ")
        model, _, dataset = subject.removeprefix("Robust ").partition(" on ")
        if any(asked and name not in asked for asked, name in ((args.model, model), (args.dataset, dataset))):
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        groups.setdefault(subject, []).append(
            f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(words)}{_command(command)}</figcaption></figure>"
        )
    if not groups:
        error = UserError("there are no figures yet; draw them with: python visualization/viz_curve.py --help")
        missing[str(error)] = error
    return "".join(
        f"<h3>{html.escape(subject)}</h3><div class=figures>{''.join(found)}</div>"
        for subject, found in groups.items()
    )


def _settings(args: argparse.Namespace, found: Sequence[results.Found]) -> str:
    """The commands behind networks, curves, evaluations and planes, from the settings that their files hold."""
    commands: dict[str, None] = {}  # in order, each once
    trained: dict[str, None] = {}
    for one in found:
        series = results.named(one.dataset, one.model, [(one.epochs, one.alignment)])[0]
        layout = results.layout_of(args, series)
        try:
            settings = results.settings_of(results.load_path(args, series, one.pair))
        except UserError:
            continue  # the table misses it too, and says so
        epochs_model = settings.get("epochs_model")
        path = {"model": one.model, "dataset": one.dataset, "seed_a": one.pair[0], "seed_b": one.pair[1]}
        path |= {"alignment": one.alignment, "epochs_curve": one.epochs}
        script = "evaluation/eval_adversarial_curve.py" if args.adversarial else "evaluation/eval_curve.py"
        commands[cli.made_with(script, path | settings, args.root)] = None
        if not (series.is_line or args.adversarial):
            only = argparse.Namespace(**vars(args) | {"seed_a": one.pair[:1], "seed_b": one.pair[1:]})
            with contextlib.suppress(UserError):  # the walks say what is missing
                (plane,) = results.load_planes_with_curve(only, series)
                script = "evaluation/eval_plane_with_curve.py"
                commands[cli.made_with(script, path | results.settings_of(plane), args.root)] = None
        for seed in one.pair if epochs_model else ():
            _of_checkpoint(
                layout.endpoint(seed, epochs_model), "training/train_model.py", epochs_model, args, trained
            )
        if one.epochs:
            curve = layout.curve(one.alignment, *one.pair, one.epochs)
            trainer = "train_curve_pam" if one.alignment.startswith("pam_") else "train_curve"
            _of_checkpoint(curve, f"training/{trainer}.py", one.epochs, args, trained)
    return "".join(map(_command, [*sorted(trained), *commands]))


def _of_checkpoint(path: Path, script: str, epochs: int, args: argparse.Namespace, commands: dict[str, None]) -> None:
    """Add the command that trained what is in a checkpoint, if it is there and tells."""
    try:
        settings = checkpoint.load_checkpoint(path, script).get("settings")
    except UserError:
        return  # results may be looked at where the networks are not
    length = "inner_iters_phi" if script.endswith("_pam.py") else "epochs"
    if isinstance(settings, dict):
        settings = {name: value for name, value in settings.items() if name != "ends"}
        script = cli.ADVERSARIAL_SCRIPTS.get(script, script) if args.adversarial else script
        commands[cli.made_with(script, settings | {length: epochs}, args.root)] = None
