"""Figures of planes through three networks: test accuracy and loss around them and the paths between them."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import PchipInterpolator

from ..curves import CURVES
from ..stages.layout import Variant
from . import paths, results
from .figures import OUTLINE, WIDE, WIDTH, Drawing, panels

PLANE_COLOURS = {"accuracy": "viridis", "loss": "viridis_r"}  # bright is good
OUTLINED = {"path_effects": [withStroke(linewidth=2.8, foreground="black")]}  # a line, on any colour
COARSE = 12  # points a side, up to which a grid's own points are drawn
FINE = 121  # points a side of the grid that is coloured, and on a curve
Plane = Mapping[str, np.ndarray]  # arrays of a plane, by name (`results.mean_plane`)
EVALUATED = {"color": "white", "markersize": 1.6, "markeredgecolor": "black", "markeredgewidth": 0.3, "zorder": 1.9}


def curve_on(plane: Plane, variant: Variant, ts: np.ndarray | None = None) -> np.ndarray:
    """Points (m, 2) of a curve in its plane at `ts` (m,), or at many t, from those at `t` (n,): its `curve` (n, 2).

    A curve's projection on a plane is a curve of the same family, whose control points are the projections of its
    own; as many evaluated points, or more, determine them. Where they do not (too few, or of other code), the curve
    goes straight from one to the next.
    """

    def coefficients(ts: np.ndarray) -> np.ndarray:
        family = CURVES[variant.curve]
        return np.stack([family(torch.tensor(t, dtype=torch.float64), variant.num_bends).numpy() for t in ts])

    evaluated = plane["curve"]
    known = coefficients(plane["t"])
    points, _, rank, _ = np.linalg.lstsq(known, evaluated)
    if rank < variant.num_bends or not np.allclose(known @ points, evaluated, atol=1e-3 * np.ptp(evaluated)):
        straight = [np.interp(plane["t"] if ts is None else ts, plane["t"], along) for along in evaluated.T]
        return np.stack(straight, axis=1)
    if ts is None:
        ts = np.union1d(np.linspace(0, 1, FINE), np.linspace(0, 1, variant.num_bends))  # with the corners of a chain
    return coefficients(ts) @ points


def smooth(values: np.ndarray) -> np.ndarray:
    """Values on a grid (rows, columns) on the grid that is coloured (FINE, FINE), over the same area.

    Between its points they are interpolated by piecewise cubic polynomials along one axis and then along the other.
    These are monotone, so that nothing is higher or lower than the highest and lowest of the four points around it.
    """
    for axis, count in enumerate(values.shape):
        values = PchipInterpolator(np.arange(count), values, axis=axis)(np.linspace(0, count - 1, FINE))
    return values


def draw_planes(
    planes: Mapping[paths.Route, Plane], name: str, *, cmap: str | None = None
) -> tuple[Figure, list[Axes]]:
    """Planes under the words of their routes, coloured by the array `name` on one scale, all to one measure.

    Flat ones are as wide as the page, so that curves are seen, and lie above each other.
    """
    ranges = {axis: [(plane[axis].min(), plane[axis].max()) for plane in planes.values()] for axis in "xy"}
    x_range = min(low for low, _ in ranges["x"]), max(high for _, high in ranges["x"])
    heights = [(high - low) / (x_range[1] - x_range[0]) for low, high in ranges["y"]]
    columns = 1 if max(heights) < 0.7 else min(2, len(planes))
    in_rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    width = WIDTH if columns == 1 and max(heights) >= 0.7 else WIDE
    height = sum(in_rows) * (width - 0.6 * columns) / columns + 0.45 * len(in_rows) + 0.7
    height_of_one = height / len(in_rows)
    figure, axes = panels(len(in_rows), columns, height=height_of_one, width=width, height_ratios=in_rows)
    for axis in axes.flat[len(planes) :]:
        axis.remove()
    axes = list(axes.flat[: len(planes)])

    quantity = name.removesuffix("_deviation")
    shades = {route: {axis: smooth(plane[axis]) for axis in ("x", "y", name)} for route, plane in planes.items()}
    on_paths = [_nearest(shades[route], name, plane["paths"]) for route, plane in planes.items()]
    everywhere = [shade[name].ravel() for shade in shades.values()]
    levels, beyond = _levels(np.concatenate(everywhere), np.concatenate(on_paths), high_is_good=name == "accuracy")
    colours = cmap or ("viridis" if quantity != name else PLANE_COLOURS[quantity])
    norm = BoundaryNorm(levels, 256, extend=beyond)
    for axis, (route, shade), y_range in zip(axes, shades.items(), ranges["y"], strict=True):
        grid = [shade[part] for part in ("x", "y", name)]
        filled = axis.contourf(*grid, levels=levels, extend=beyond, cmap=colours, norm=norm)
        axis.contour(*grid, levels=levels, extend=beyond, colors="white", linewidths=0.25)
        axis.set(title=route.words, aspect="equal", xlim=x_range, ylim=y_range)
        axis.grid(False)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(3 if columns == 1 else 5, integer=True))
    for axis in axes[-columns:]:
        axis.set_xlabel("distance in the direction from A to B (Euclidean)")
    for axis in axes[::columns]:
        axis.set_ylabel("orthogonal\ndistance")
    bar = figure.colorbar(filled, ax=axes, location="bottom", aspect=20 * width, pad=0.02, format="%g", ticks=levels)
    bar.set_label(_in_words(name, planes))
    return figure, axes


def _in_words(name: str, planes: Mapping[paths.Route, Plane]) -> str:
    quantity = name.removesuffix("_deviation")
    words = results.PLANE_QUANTITIES[quantity]
    if not all("accuracy" in plane for plane in planes.values()):  # of another task, whose loss may be anything
        words = words.removesuffix(" (cross-entropy)")
    return ("standard deviation of " if quantity != name else "") + words


def _nearest(shade: Plane, name: str, places: np.ndarray) -> np.ndarray:
    """The array `name` of a fine grid at the points nearest to `places` (n, 2)."""
    x, y, values = (shade[part].ravel() for part in ("x", "y", name))
    return np.array([values[np.hypot(x - place[0], y - place[1]).argmin()] for place in places])


def plane_figures(
    planes: Mapping[paths.Route, Plane],
    kind: str,
    title: str,
    paint: Callable[[Axes, paths.Route, Plane], None],
    *,
    cmap: str | None = None,
    legend_columns: int = 2,
) -> list[Drawing]:
    """Figures of accuracy and loss on planes, if any; of deviations too where all planes are means of several pairs.

    planes: each with the array `paths` (n, 2), many points of the paths that run on it.
    paint: draws the paths and points on a plane.
    """
    if not planes:
        return []
    drawings = []
    layout = next(iter(planes)).layout
    names = [*results.PLANE_QUANTITIES, *(f"{name}_deviation" for name in results.PLANE_QUANTITIES)]
    for name in (name for name in names if all(name in plane for plane in planes.values())):
        figure, axes = draw_planes(planes, name, cmap=cmap)
        for axis, (route, plane) in zip(axes, planes.items(), strict=True):
            paint(axis, route, plane)
            if min(plane[name].shape) <= COARSE:
                places = plane["x"].ravel(), plane["y"].ravel()
                axis.plot(*places, "o", label="evaluated", clip_on=False, **EVALUATED)
        drawings.append(Drawing(figure, layout, f"{kind}_{name}", title, _in_words(name, planes), legend_columns))
    return drawings


REACH = 3  # times as far from the best value as paths get: as far as colours distinguish values
STEPS, RATIO = 7, 1.65  # the number of levels, and how much further from the best each is than the one before


def _levels(values: np.ndarray, on_paths: np.ndarray, *, high_is_good: bool) -> tuple[np.ndarray, str]:
    """Round levels for contours, close to each other near the best of `values`; and whether values lie beyond them.

    They reach further than the worst of `on_paths`, but not as far as what no path comes near; what lies beyond them
    has one colour ("min" or "max", as matplotlib calls it, or "neither").
    """
    sign = -1 if high_is_good else 1
    best, worst, on_paths = (sign * values).min(), (sign * values).max(), (sign * on_paths).max()
    reach = min(worst - best, REACH * (on_paths - best)) or 1.0
    levels = set()
    for step in range(STEPS):
        distance = reach / RATIO**step
        unit = _round_below(distance * (1 - 1 / RATIO) / 2)
        number = (best + distance) / unit
        levels.add(unit * (round(number) if step else math.ceil(number - 1e-9)))
    levels.add(unit * math.floor(best / unit + 1e-9))
    ascending = np.unique(np.round([sign * level for level in levels], 9)) + 0.0  # and not -0
    is_beyond = worst > max(levels) + 1e-9
    return ascending, ("min" if high_is_good else "max") if is_beyond else "neither"


def _round_below(value: float) -> float:
    """The largest of …, 0.1, 0.2, 0.5, 1, 2, 5, 10, … that is not above a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(mantissa for mantissa in (1, 2, 5) if mantissa * power <= value * (1 + 1e-9)) * power


def mark(axis: Axes, places: Mapping[str, np.ndarray]) -> None:
    """Points of a plane, by what they are, each with a symbol of its own."""
    for (words, place), symbol in zip(places.items(), "osD", strict=False):
        axis.plot(*place, symbol, color="white", label=words, clip_on=False, **OUTLINE)
