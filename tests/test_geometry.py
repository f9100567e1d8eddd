import numpy as np
import pytest
import torch

from utils.geometry import path_average, plane_basis, plane_coordinates, spectrum


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


def test_a_bend_on_the_line_spans_no_plane():
    a, b, _ = points()
    _, v = plane_basis(a, b, torch.lerp(a, b, 0.5))
    assert not v.any()


def test_averages_over_arc_length():
    length = np.linspace(0, 3, 2001) ** 2  # points that crowd at the start
    assert path_average(length, np.full(2001, 88.5)) == pytest.approx(88.5)
    assert path_average(length, np.sin(length)) == pytest.approx((1 - np.cos(9)) / 9, abs=1e-4)
    assert path_average(np.array([0.0, 1, 4]), np.array([1.0, 3, 0])) == pytest.approx((2 + 4.5) / 4)
    assert path_average(np.zeros(3), np.array([1.0, 2, 3])) == 2  # a path of no length


def test_spectrum_of_waves_on_unequal_steps():
    length = 2 + 7 * np.linspace(0, 1, 1001) ** 1.5
    s = (length - 2) / 7
    values = 5 + 3 * np.cos(2 * np.pi * 4 * s) + 0.5 * np.sin(2 * np.pi * 9 * s + 1)
    expected = np.zeros(500)
    expected[[3, 8]] = 3, 0.5
    np.testing.assert_allclose(spectrum(length, values)[:50], expected[:50], atol=2e-3)
    assert spectrum(length, values).shape == (500,)
    np.testing.assert_allclose(spectrum(length, np.full(1001, 88.5)), 0, atol=1e-12)


def test_a_path_of_no_length_has_no_spectrum():
    with pytest.raises(ValueError, match="no length"):
        spectrum(np.zeros(5), np.ones(5))
