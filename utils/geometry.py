"""Geometry of curves in parameter space: planes; averages, barriers, spectra. All in float64, on the CPU."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch

# Points closer than this, as a share of their distance from 0, differ by rounding of float32 alone.
POINT_ROUNDING = 1e-6


def plane_basis(a: torch.Tensor, b: torch.Tensor, bend: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal u, v (P,) of the plane through three points: u from A to B, v the bend's part orthogonal to u.

    Where A and B are one point, u is 0, and where the bend lies on the line through them, v is: no direction is
    distinguished.
    """
    a, b, bend = map(_exact, (a, b, bend))
    u = b - a
    length, rounding = u.norm(), POINT_ROUNDING * a.norm()
    u = u / length if length > rounding else torch.zeros_like(u)
    v = (bend - a) - torch.dot(bend - a, u) * u
    v = v - torch.dot(v, u) * u  # once more, for what rounding left
    height = v.norm()
    # A bend on the line leaves only rounding of float32 weights.
    least = max(rounding, 1e-5 * max(length, (bend - a).norm()))
    return u, v / height if height > least else torch.zeros_like(v)


def plane_coordinates(point: torch.Tensor, origin: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """Coordinates (2,) of a point in the plane, in units of parameter space (Euclidean)."""
    offset = _exact(point) - _exact(origin)
    return np.array([torch.dot(offset, u).item(), torch.dot(offset, v).item()])


def _exact(point: torch.Tensor) -> torch.Tensor:
    """A point in float64 on the CPU; not every device has float64, so it is brought here first."""
    return point.detach().cpu().double()


def path_average(length: np.ndarray, values: np.ndarray) -> float:
    """∫ values d(length) / total length, by the trapezoid rule.

    length: arc length up to each point (n,).
    """
    total = length[-1] - length[0]
    return float(np.trapezoid(values, length) / total) if total > 0 else float(np.mean(values))


def barrier(t: np.ndarray | Mapping[str, np.ndarray], loss: np.ndarray | None = None) -> float:
    """max_t L(t) − ((1−t)·L(0) + t·L(1)): how far the loss rises above the line between its ends; never below 0.

    Defined by Entezari et al. (2022), equation 1. Give the positions t in [0, 1] (n,), both ends among them, and the
    loss at each (n,); or a path as `evaluate_curve` returns it. Where higher is better, e.g. for an accuracy, give
    the negative as the loss.
    """
    if loss is None:
        if not isinstance(t, Mapping) or not {"t", "loss"} <= t.keys():
            raise TypeError("a barrier is that of a path as evaluate_curve returns it, or of positions t and losses")
        t, loss = t["t"], t["loss"]
    t, loss = np.asarray(t), np.asarray(loss)
    if t.shape != loss.shape or len(t) < 2 or t[0] != 0 or t[-1] != 1 or not np.isfinite(loss).all():
        raise ValueError(f"a barrier is that of a path from t = 0 to t = 1 with finite losses, and not at t = {t}")
    return float(np.max(loss - ((1 - t) * loss[0] + t * loss[-1])))


class Path(dict):
    """What `evaluate_curve` returns: arrays (n,), by name, of what there is to know of points along a curve."""

    def to_dict(self) -> dict[str, list]:
        """The same in lists of numbers, e.g. for JSON or a table."""
        return {name: np.asarray(values).tolist() for name, values in self.items()}


def plot_path(paths: Mapping[str, Mapping[str, np.ndarray]], quantity: str = "loss", axes: object = None) -> object:
    """Draw paths, as `evaluate_curve` returns them, by the names that the legend is to show; matplotlib's axes.

    quantity: what is drawn along t. axes: where to draw, or None for new ones, which a matplotlibrc does not change;
    they are returned.
    """
    if odd := [name for name, path in paths.items() if not isinstance(path, Mapping) or quantity not in path]:
        raise ValueError(f"paths are given by name, {{'aligned': path}}, and have the {quantity}; not so {odd[0]!r}")
    with drawing_on(axes) as axes:
        for name, path in paths.items():
            axes.plot(path["t"], path[quantity], label=name)
        axes.set_xlabel("t")
        axes.set_ylabel(quantity)
        axes.legend()
    return axes


@contextlib.contextmanager
def plain_look() -> Iterator[None]:
    """The context in which figures have matplotlib's own look, whatever a user's matplotlibrc says."""
    import matplotlib  # which is no requirement of the library

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextlib.contextmanager
def drawing_on(axes: object = None) -> Iterator[object]:
    """These axes; or, in its own look, those of a new figure, which is drawn and saved in that look later too."""
    if axes is not None:
        yield axes
        return
    from matplotlib import figure, pyplot

    class Figure(figure.Figure):
        def draw(self, renderer: object) -> None:
            with plain_look():
                super().draw(renderer)

        def savefig(self, fname: object, **options: object) -> None:
            with plain_look():
                super().savefig(fname, **options)

    with plain_look():
        yield pyplot.figure(FigureClass=Figure).add_subplot()


FREQUENCIES = 8  # as many as are published


def spectrum(values: np.ndarray) -> np.ndarray:
    """The spectrum of a function on a path: (m,), for k = 1…m cycles on it, m being 8 or n // 2.

    |F_k|, where F is the real Fourier transform of the values, the constant part k = 0 included, scaled to
    Σ |F_k|² = 1. The published spectra of robust curves are these, and those of plain curves k + 1 times these.

    values: the function at points that are equally spaced in t (n,).
    """
    amplitudes = np.abs(np.fft.rfft(values))
    energy = np.linalg.norm(amplitudes)
    cycles = np.arange(1, min(FREQUENCIES, len(values) // 2) + 1)
    return amplitudes[cycles] / energy if energy > 0 else np.zeros(len(cycles))
