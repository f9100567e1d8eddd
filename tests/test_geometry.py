import numpy as np
import pytest
import torch

from utils.geometry import barrier, path_average, plane_basis, plane_coordinates, spectrum


def points(count=1000):
    return torch.randn(3, count, generator=torch.Generator().manual_seed(0))


def test_basis_is_orthonormal_and_holds_the_points():
    a, b, bend = points()
    u, v = plane_basis(a, b, bend)
    gram = torch.stack([u, v]) @ torch.stack([u, v]).T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), atol=1e-12, rtol=0)
    for point in (a, b, bend):
        x, y = plane_coordinates(point, a, u, v)
        torch.testing.assert_close(a + x * u + y * v, point.double(), atol=1e-5, rtol=0)
    assert plane_coordinates(b, a, u, v) == pytest.approx([(b - a).norm().item(), 0], rel=1e-5, abs=1e-9)


def test_a_barrier_is_above_the_line_between_the_ends():
    t = np.linspace(0, 1, 5)
    line = 2 - t
    assert barrier(t, line) == 0
    assert barrier(t, line + [0, 0.25, 3, 0.5, 0]) == 3
    assert barrier(t, line - [0, 0.25, 3, 0.5, 0]) == 0  # a valley is none
    assert barrier(t, -(80 + 5 * t - [0, 4, 1, 2, 0])) == 4  # of an accuracy


def test_points_on_one_spot_or_line_span_no_plane():
    """Also where they differ by rounding, which would be a direction like any other."""
    a, far, bend = points()
    assert not plane_basis(a, far, torch.lerp(a, far, 0.5))[1].any()
    for b in (a, a * (1 + 1e-7)):
        u, v = plane_basis(a, b, bend)
        assert not u.any()
        assert v @ (bend - a).double() == pytest.approx((bend - a).norm().item(), rel=1e-6)
        assert not plane_basis(a, b, torch.lerp(a, b, 0.5))[1].any()


def test_averages_over_arc_length():
    length = np.linspace(0, 3, 2001) ** 2  # points that crowd at the start
    assert path_average(length, np.full(2001, 88.5)) == pytest.approx(88.5)
    assert path_average(length, np.sin(length)) == pytest.approx((1 - np.cos(9)) / 9, abs=1e-4)
    assert path_average(np.array([0.0, 1, 4]), np.array([1.0, 3, 0])) == pytest.approx((2 + 4.5) / 4)
    assert path_average(np.zeros(3), np.array([1.0, 2, 3])) == 2  # a path of no length


def test_spectrum_of_waves():
    """|F_k| / ‖F‖ for k = 1…8, of a loss whose waves are known: F_0 = 2n, F_1 = 0.6 n / 2, F_5 = 0.2 n / 2."""
    t = np.arange(64) / 64
    values = 2 + 0.6 * np.cos(2 * np.pi * t) + 0.2 * np.sin(2 * np.pi * 5 * t + 1)
    energy = np.sqrt(2**2 + 0.3**2 + 0.1**2)
    expected = np.zeros(8)
    expected[[0, 4]] = 0.3 / energy, 0.1 / energy
    np.testing.assert_allclose(spectrum(values), expected, atol=1e-12)
    np.testing.assert_allclose(spectrum(7 * values), expected, atol=1e-12)  # of unit energy
    np.testing.assert_allclose(spectrum(np.full(65, 1.3)), np.zeros(8), atol=1e-12)


@pytest.mark.parametrize("points, frequencies", [(65, 8), (16, 8), (9, 4), (2, 1)])
def test_as_many_frequencies_as_the_points_tell(points, frequencies):
    values = np.random.default_rng(0).random(points)
    transform = np.abs(np.fft.rfft(values))
    expected = transform / np.linalg.norm(transform)
    np.testing.assert_allclose(spectrum(values), expected[1 : frequencies + 1], rtol=1e-12)
    assert len(spectrum(values)) == frequencies
