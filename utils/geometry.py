"""Geometry of curves in parameter space: planes; averages and spectra along a path. All in float64, on the CPU."""

import numpy as np
import torch


def plane_basis(a: torch.Tensor, b: torch.Tensor, bend: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal u, v (P,) of the plane through three points: u from A to B, v the bend's part orthogonal to u.

    Where the bend lies on the line through A and B, v is 0: no direction is told from another.
    """
    a, b, bend = (row.to("cpu", torch.float64) for row in (a, b, bend))
    u = b - a
    length = u.norm()
    u = u / length if length > 0 else u
    v = (bend - a) - torch.dot(bend - a, u) * u
    v = v - torch.dot(v, u) * u  # once more, for what rounding left
    height = v.norm()
    # A bend on the line leaves only rounding of float32 weights.
    return u, v / height if height > 1e-5 * max(length, (bend - a).norm()) else torch.zeros_like(v)


def plane_coordinates(point: torch.Tensor, origin: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """Coordinates (2,) of a point in the plane, in units of parameter space (Euclidean)."""
    offset = point.to("cpu", torch.float64) - origin.to("cpu", torch.float64)
    return np.array([torch.dot(offset, u).item(), torch.dot(offset, v).item()])


def path_average(length: np.ndarray, values: np.ndarray) -> float:
    """∫ values d(length) / total length, by the trapezoid rule.

    length: arc length up to each point (n,).
    """
    total = length[-1] - length[0]
    return float(np.trapezoid(values, length) / total) if total > 0 else float(np.mean(values))


def spectrum(length: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Amplitudes of the waves that make up a function along a path: (m,), for k = 1…m cycles on the path.

    |2 / L ∫ f(s) exp(−2πi k s / L) ds| for f less its average, and m = (n − 1) // 2. It is a direct transform, by the
    trapezoid rule, since points that are equally spaced in t are not so in arc length. A cosine of k cycles gives
    its amplitude at k and nothing elsewhere.

    length: arc length up to each point (n,); values: the function there (n,).
    """
    total = length[-1] - length[0]
    if not total > 0:
        raise ValueError("a path of no length has no spectrum")
    cycles = np.arange(1, (len(length) - 1) // 2 + 1)
    waves = np.exp(-2j * np.pi * cycles[:, None] * (length - length[0]) / total)
    return np.abs(2 / total * np.trapezoid(waves * (values - path_average(length, values)), length, axis=1))
