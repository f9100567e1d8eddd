"""The part of the report in which one walks along curves: plots and readings under one slider, as HTML.

The slider moves a point along every path to the same t. It stops at every evaluated point and at others between them:
there accuracies and losses are read off the straight line between two evaluated points, and a curve is where it is.
"""

import html
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..curves import CURVES
from ..stages.layout import Layout, model_folder
from . import paths, results

try:
    import plotly.graph_objects as go
    from plotly.io import to_json
except ModuleNotFoundError:
    go = None

STEP = 1 / 200  # of t, from one position of the slider to the next, at most
DASHES = {"solid": "none", "dash": "6 4", "dashdot": "6 3 2 3", "dot": "2 3"}  # Plotly's strokes, as those of SVG


class Walk(NamedTuple):
    """A path between networks, the mean over pairs, and the plane it lies in with what is marked there, if known."""

    series: paths.Series
    t: np.ndarray  # (n,)
    values: results.Arrays  # by quantity, each (n,)
    plane: results.Arrays | None = None
    corners: Mapping[str, np.ndarray] = {}  # by what they are, each (2,)

    @property
    def colour(self) -> str:
        return paths.colour(self.series.alignment)

    @property
    def strokes(self) -> str:
        return "dash" if self.series.is_line else ("solid", "dashdot", "dot")[self.series.rank % 3]


class Point(NamedTuple):
    """Where the slider puts the point of a path, by its number: at (x, y) at each of several t."""

    path: int
    t: list[float]
    x: list[float]
    y: list[float]


class Plot(NamedTuple):
    """A figure of Plotly's under its caption, and the points on it.

    flatness: how high it is inside its margins, as a part of its width.
    """

    name: str
    caption: str
    figure: "go.Figure"
    points: list[Point]
    flatness: float


# --- as HTML -----------------------------------------------------------------------------------------------


def explorer(of: Sequence[Walk]) -> str:
    """Planes and lines under one slider, with the numbers of every path beside it."""
    layout = of[0].series.layout
    name = html.escape("_".join(["robust" if layout.robust else "plain", layout.dataset, model_folder(layout.model)]))
    evaluated = sorted({float(t) for walk in of for t in walk.t})
    steps = positions(evaluated)
    middle = min(range(len(steps)), key=lambda i: abs(steps[i] - 0.5))
    plots = _planes(of, steps) + _lines(of)
    state = {
        "steps": steps,
        "evaluated": evaluated,
        "decimals": [3 if results.is_loss(quantity) else 2 for quantity in of[0].values],
        "readings": [{"t": w.t.tolist(), "values": [v.tolist() for v in w.values.values()]} for w in of],
        "points": {plot.name: [point._asdict() for point in plot.points] for plot in plots},
    }
    drawn = "".join(_plot(plot, of) for plot in plots)
    return f"""<section class=explorer id="{name}">
<h3>{html.escape(_subject(layout))}</h3>
<div class=walk>
<div class=position>
<label for="t_{name}">Position t, from 0 (network A) to 1 (network B)</label>
<div class=slider><button type=button data-step=-1 aria-label="Evaluated point before">◀</button>
<input type=range id="t_{name}" min=0 max={len(steps) - 1} value={middle}>
<button type=button data-step=1 aria-label="Next evaluated point">▶</button></div>
<output for="t_{name}"></output>
</div>
<div class=scroll>{_readings(of)}</div>
</div>
<div class=plots>{drawn}</div>
<script type="application/json" data-state>{_json(json.dumps(state))}</script>
</section>"""


def _subject(layout: Layout) -> str:
    return f"{layout.model} on {layout.dataset}{', robust' if layout.robust else ''}"


def positions(evaluated: Sequence[float]) -> list[float]:
    """Where the slider stops: at every evaluated t, and between two at equal steps of no more than STEP."""
    stops = []
    for start, end in itertools.pairwise(evaluated):
        stops += np.linspace(start, end, max(1, math.ceil((end - start) / STEP - 1e-9)), endpoint=False).tolist()
    return [*stops, evaluated[-1]]


def _json(text: str) -> str:
    """JSON that nothing in it takes out of its script element."""
    return text.replace("<", "\\u003c")


def _readings(of: Sequence[Walk]) -> str:
    """The table that the page fills in, with each path's stroke: it is the legend of the plots too."""
    headings = [words.partition(" (")[0] for words in results.quantities(of[0].series.robust).values()]
    head = "".join(f"<th scope=col>{html.escape(words)}</th>" for words in headings)
    rows = "".join(
        f"<tr><th scope=row><label><input type=checkbox checked data-path={number}>{_stroke(walk)}"
        f"<span>{html.escape(walk.series.words)}</span></label></th>{'<td></td>' * len(headings)}</tr>"
        for number, walk in enumerate(of)
    )
    return f"<table class=readings><thead><tr><th scope=col>path</th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _stroke(walk: Walk) -> str:
    line = f'stroke="{walk.colour}" stroke-width=2.5 stroke-dasharray="{DASHES[walk.strokes]}"'
    return f"<svg width=26 height=8 aria-hidden=true><line x1=1 x2=25 y1=4 y2=4 {line} /></svg>"


def _plot(plot: Plot, of: Sequence[Walk]) -> str:
    points = "".join(f'<circle r=6 fill="{of[point.path].colour}" data-of={point.path} />' for point in plot.points)
    return (
        f'<figure class=plot style="--flatness:{plot.flatness:.3f};--margins:{_margins(plot.figure)}px">'
        f'<figcaption>{html.escape(plot.caption)}</figcaption><div class=drawing><div data-name="{plot.name}"></div>'
        f"<svg class=moving aria-hidden=true>{points}</svg></div>"
        f'<script type="application/json" data-plot="{plot.name}">{_json(to_json(plot.figure))}</script></figure>'
    )


def _margins(figure: "go.Figure") -> int:
    return figure.layout.margin.t + figure.layout.margin.b


# --- what is drawn -----------------------------------------------------------------------------------------

MARKER = {"size": 12, "line": {"color": "black", "width": 2}}
FLATTEST = 0.33  # height of a plane, as a part of its width, below which it is stretched to be seen on a phone
GRID = {"gridcolor": "#DDDDDD", "zeroline": False, "automargin": True}


def _figure(**margins: int) -> "go.Figure":
    """An empty one, of no size of its own."""
    figure = go.Figure()
    look = {"template": "none", "font": {"size": 12}, "hovermode": "closest", "showlegend": False}
    return figure.update_layout(margin={"t": 8, "r": 14, "b": 42, "l": 52} | margins, **look)


def curve_points(walk: Walk, steps: Sequence[float]) -> np.ndarray:
    """Where a curve is in its plane at `steps` (m,), an array (m, 2): exactly, not between its evaluated points.

    Coordinates in a plane are linear in the weights, so they too are a curve's with as many control points; these
    solve the equations of the evaluated points.
    """
    num_bends, family = walk.series.variant.num_bends, CURVES[walk.series.variant.curve]

    def coefficients(at: Sequence[float]) -> np.ndarray:
        return np.stack([family(torch.tensor(t, dtype=torch.float64), num_bends).numpy() for t in at])

    control = np.linalg.lstsq(coefficients(walk.t.tolist()), walk.plane["curve"], rcond=None)[0]
    return coefficients(steps) @ control


def _planes(of: Sequence[Walk], steps: Sequence[float]) -> list[Plot]:
    """Test accuracy on the plane of each learned curve, all on one scale of colours."""
    accuracies = [walk.plane["accuracy"] for walk in of if walk.plane is not None]
    scale = min(map(np.min, accuracies), default=0.0), max(map(np.max, accuracies), default=0.0)
    return [_plane(walk, steps, scale, number=number) for number, walk in enumerate(of) if walk.plane is not None]


def _plane(walk: Walk, steps: Sequence[float], accuracies: tuple[float, float], *, number: int) -> Plot:
    plane, figure = walk.plane, _figure(b=84)
    figure.add_contour(
        x=plane["x"][0].tolist(),
        y=plane["y"][:, 0].tolist(),
        z=plane["accuracy"].tolist(),
        text=[[f"loss {loss:.3f}" for loss in row] for row in plane["loss"]],
        hovertemplate="accuracy %{z:.1f} %<br>%{text}<extra></extra>",
        colorscale="Viridis",
        zmin=float(accuracies[0]),
        zmax=float(accuracies[1]),
        colorbar={"orientation": "h", "thickness": 10, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    hidden = {"hoverinfo": "skip"}
    along = curve_points(walk, steps)
    figure.add_scatter(
        x=along[:, 0].tolist(), y=along[:, 1].tolist(), mode="lines", line={"color": "white", "width": 4}, **hidden
    )
    dots = {"mode": "markers", "marker": {"color": "white", "size": 6, "line": {"width": 1}}}
    figure.add_scatter(x=plane["curve"][:, 0].tolist(), y=plane["curve"][:, 1].tolist(), **dots, **hidden)
    figure.add_scatter(
        x=[float(corner[0]) for corner in walk.corners.values()],
        y=[float(corner[1]) for corner in walk.corners.values()],
        text=list(walk.corners),
        mode="markers+text",
        textposition="top center",
        textfont={"color": "white", "shadow": "auto"},
        marker={"symbol": ["circle", "square", "diamond"], "color": "white", "size": 9, "line": {"width": 1}},
        **hidden,
    )
    figure.update_xaxes(title_text="distance in the direction from A to B", constrain="domain", **GRID)
    flatness = float(np.ptp(plane["y"]) / np.ptp(plane["x"]))
    stretched = max(1.0, FLATTEST / flatness)
    scale = {"scaleanchor": "x", "scaleratio": stretched, "constrain": "domain"}
    figure.update_yaxes(title_text="orthogonal<br>distance", **scale, **GRID)
    point = Point(number, list(steps), along[:, 0].tolist(), along[:, 1].tolist())
    caption = f"{walk.series.words}: test accuracy (%) on the plane of the curve"
    caption += f", stretched {stretched:.1f} times in height" if stretched > 1 else ""
    return Plot(f"plane_{number}", caption, figure, [point], min(flatness * stretched, 1))


def _lines(of: Sequence[Walk]) -> list[Plot]:
    """Every quantity over t; the `meta` of each trace is the number of its path."""
    return [_line(of, name, words) for name, words in results.quantities(of[0].series.robust).items()]


def _line(of: Sequence[Walk], name: str, words: str) -> Plot:
    figure, points = _figure(), []
    for number, walk in enumerate(of):
        x, y = walk.t.tolist(), walk.values[name].tolist()
        line = {"color": walk.colour, "dash": walk.strokes}
        dots = {"color": walk.colour, "size": 5 if len(x) <= 61 else 3}
        said = {"meta": number, "name": walk.series.words, "hovertemplate": "%{y:.4~g} at t = %{x:.4~g}"}
        figure.add_scatter(x=x, y=y, mode="lines+markers", line=line, marker=dots, **said)
        points.append(Point(number, x, x, y))
        if walk.series.robust and not results.is_loss(name):
            figure.add_trace(_extremes(walk, name).update(meta=number))
    figure.update_yaxes(title_text=words.removesuffix(" (cross-entropy)"), **GRID)
    figure.update_xaxes(title_text="position t", range=[-0.02, 1.02], **GRID)
    caption = f"Test {words} along every path; dots are evaluated points"
    return Plot(name, caption, figure, points, 0.6)


def _extremes(walk: Walk, name: str) -> "go.Scatter":
    """Where robust accuracy is lowest and highest on a path, as places on its line of another accuracy or of this."""
    places = results.robust_places(walk.values["accuracy_robust"])
    at = [places["at_lowest"], places["at_highest"]]
    return go.Scatter(
        x=walk.t[at].tolist(),
        y=walk.values[name][at].tolist(),
        text=["lowest robust accuracy", "highest robust accuracy"],
        hovertemplate="%{text}: %{y:.1f} %<extra></extra>",
        mode="markers",
        marker=MARKER | {"color": walk.colour, "symbol": ["triangle-down", "triangle-up"]},
        name=walk.series.words,
    )
