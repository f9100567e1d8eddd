import pytest
import torch
from conftest import randomize
from scipy.special import comb

from models import MODELS, TinyTen
from utils.curves import Curve, FlatParameters, bezier, midpoint, network_digest, polychain


def networks(count, name="TinyTen"):
    return [randomize(MODELS[name](4), seed).state_dict() for seed in range(count)]


def linear_curve(ends, num_bends=3, **options):
    curve = Curve(TinyTen(4), num_bends, **options)
    curve.set_point(0, ends[0])
    curve.set_point(num_bends - 1, ends[1])
    curve.init_linear()
    return curve


@pytest.mark.parametrize("num_bends", [2, 3, 5])
def test_bezier_is_the_bernstein_basis(num_bends):
    t, n = 0.3, num_bends - 1
    expected = [comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(num_bends)]
    torch.testing.assert_close(bezier(torch.tensor(t).double(), num_bends), torch.tensor(expected).double())


def test_polychain_is_piecewise_linear():
    assert polychain(torch.tensor(0.375), 5).tolist() == [0, 0.5, 0.5, 0, 0]
    assert polychain(torch.tensor(1.0), 3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", MODELS)
def test_flat_parameters_round_trip(name):
    model = randomize(MODELS[name](4))
    flat = FlatParameters(model)
    vector = flat.flatten(model.state_dict())
    assert vector.shape == (sum(p.numel() for p in model.parameters()),)
    for parameter, view in zip(model.parameters(), flat.views(vector).values(), strict=True):
        assert torch.equal(parameter, view)
        assert view.dim() < 4 or view.is_contiguous(memory_format=torch.channels_last)


def test_only_learned_points_have_gradients():
    ends = networks(2)
    curve = linear_curve(ends, num_bends=4)
    curve(torch.randn(4, 3, 16, 16), curve.point(0.4)).square().sum().backward()
    assert [name for name, p in curve.named_parameters() if p.grad is not None] == ["learned"]
    assert curve.learned.grad.shape == (2, len(curve.flat))
    assert (curve.learned.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in curve.base.parameters())


def test_turning_point_is_the_model_state():
    curve = linear_curve(networks(2))
    saved = curve.checkpoint()
    network = TinyTen(4)
    network.load_state_dict(saved["model_state"], strict=True)
    assert torch.equal(FlatParameters(network).flatten(network.state_dict()), curve.row(1))
    other = linear_curve(networks(2))
    other.load_checkpoint({"model_state": saved["model_state"]})  # as the original code saves it
    assert torch.equal(other.learned, curve.learned)


def test_a_curve_between_networks_begins_as_the_line():
    """Any two of one architecture, with as many points as one likes; the ends are exactly theirs."""
    a, b = networks(2)
    for num_bends in (2, 3, 6):
        curve = Curve.between(TinyTen(4), a, b, num_bends)
        by_hand = linear_curve((a, b), num_bends)
        assert [torch.equal(curve.row(i), by_hand.row(i)) for i in range(num_bends)] == [True] * num_bends
        assert torch.equal(curve.point(0.0), curve.flat.flatten(a))
        assert torch.equal(curve.point(1.0), curve.flat.flatten(b))
        for t in (0.25, 0.8):
            torch.testing.assert_close(
                curve.point(t), torch.lerp(curve.point(0.0), curve.point(1.0), t), rtol=1e-5, atol=1e-6
            )
    curve = Curve.between(TinyTen(4), a, b, 4, "PolyChain", fix_start=False)
    assert (curve.learned_rows, curve.fixed_rows) == ([0, 1, 2], [3])
    curve = Curve.between(TinyTen(4), a, b, fix_start=False, fix_end=False)
    assert (curve.learned_rows, curve.fixed_rows) == ([0, 1, 2], [])
    with pytest.raises(ValueError, match="at least 2 control points, not 1"):
        Curve(TinyTen(4), num_bends=1)


def test_digests_tell_control_points_apart():
    a, b = networks(2)
    curve = Curve.between(TinyTen(4), a, b)
    before = curve.digests()
    assert len(set(before)) == 3
    assert curve.fixed_ends() == {0: before[0], 2: before[2]}
    for state, expected in ((a, before[0]), (b, before[2])):
        network = TinyTen(4)
        network.load_state_dict(state)
        assert network_digest(network) == expected  # by which a match tells for which networks it was made
    with torch.no_grad():
        curve.learned[0, 0] += 1e-3
    assert [one == other for one, other in zip(before, curve.digests(), strict=True)] == [True, False, True]


def test_the_midpoint_is_the_mean():
    a, b = networks(2)
    a["layers.0.bn.num_batches_tracked"] += 3
    middle = midpoint(a, b)
    assert middle.keys() == a.keys()
    for name, value in middle.items():
        expected = (a[name] + b[name]) / 2 if value.is_floating_point() else a[name]  # batches are counted, not mixed
        torch.testing.assert_close(value, expected)
