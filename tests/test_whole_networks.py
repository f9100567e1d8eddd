"""A path is more than its parameters: what of two networks is not learned, and what is left as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from utils.curves import Curve, copied, stored
from utils.measuring import evaluate, evaluate_curve, reestimate_batch_norm
from utils.training import CurveTask, fit, fit_curve

IMAGES = (torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3)


class Buffered(nn.Module):
    """A network with something to which a hook, a parametrization or a buffer belongs."""

    def __init__(self, kind=None):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        match kind:
            case "spectral":
                spectral_norm(self.first)
            case "parametrized spectral":
                parametrizations.spectral_norm(self.first)
            case "weight":
                weight_norm(self.first)
            case "parametrized weight":
                parametrizations.weight_norm(self.first)
            case "pruned":
                prune.custom_from_mask(self.first, "weight", (torch.arange(48).view(8, 6) % 3 > 0).float())
            case "means":
                self.register_buffer("means", torch.randn(6))
            case "unsaved means":
                self.register_buffer("means", torch.randn(6), persistent=False)
            case "codebook":
                self.register_buffer("codes", torch.randn(8))
            case "foreign batch norm":
                self.register_buffer("running_mean", torch.randn(6))
                self.register_buffer("running_var", torch.rand(6) + 0.5)
            case "frozen":
                self.first.requires_grad_(False)
            case "complex":
                self.factor = nn.Parameter(torch.randn(8, dtype=torch.complex64))
            case "double":
                self.factor = nn.Parameter(torch.randn(8, dtype=torch.float64))
            case "half":
                self.first.bfloat16()
            case "tied":
                self.middle, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
                self.again.weight = self.middle.weight

    def forward(self, x):
        if hasattr(self, "means"):
            x = x - self.means
        if hasattr(self, "running_mean"):
            x = (x - self.running_mean) / self.running_var.sqrt()
            if self.training:  # as a batch norm of one's own would
                self.running_mean.lerp_(x.mean(0), 0.1)
        x = self.first(x.to(self.first.weight.dtype)).float().relu()
        if hasattr(self, "codes"):
            x = x * self.codes
        if hasattr(self, "factor"):
            x = x * self.factor
            x = (x.real + x.imag if x.is_complex() else x).float()
        if hasattr(self, "middle"):
            x = self.again(self.middle(x).relu()).relu()
        return self.last(x)


KINDS = ("spectral", "parametrized spectral", "weight", "parametrized weight", "pruned", "means", "unsaved means")
KINDS += ("codebook", "foreign batch norm", "frozen", "complex", "double", "half", "tied")


def pair(kind):
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = Buffered(kind)
        network(IMAGES[0])  # of which hooks leave a computed weight
        networks.append(network.eval())
    return networks


def everything(network):
    """All of a network that a function that is given it could change."""
    values = {name: value.clone() for name, value in network.state_dict().items()}
    values |= {name: value.clone() for name, value in network.named_buffers()}
    flags = [(p.requires_grad, p.grad, p.dtype) for p in network.parameters()]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    return values, flags, modules, torch.get_rng_state().tolist()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unchanged(before, network):
    values, *rest = everything(network)
    return same(before[0], values) and rest == list(before[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_a_learned_curve_are_the_networks(kind):
    """To the last bit, and the networks stay as they are; a saved curve is the same one, wherever it is."""
    a, b = pair(kind)
    before = [everything(network) for network in (a, b)]
    curve = fit_curve(a, b, IMAGES, epochs=2, lr=0.01, batch_size=16)
    path = evaluate_curve(curve, IMAGES, IMAGES, points=3)
    placed = [curve.place(t) for t in (0.0, 0.5, 1.0)]
    assert all(map(unchanged, before, (a, b)))
    for t, network, loss in ((0, a, path["loss"][0]), (2, b, path["loss"][2])):
        assert torch.equal(placed[t].eval()(IMAGES[0]), network(IMAGES[0]))
        assert loss == evaluate(network, IMAGES)[0]
    line, again = (Curve.between(a, stored(a), stored(b)) for _ in range(2))
    again.load_checkpoint(curve.checkpoint())
    other = again.place(0.5).eval()(IMAGES[0])
    torch.testing.assert_close(other, placed[1].eval()(IMAGES[0]), rtol=0, atol=0)
    assert not torch.equal(other, line.place(0.5).eval()(IMAGES[0]))
    exported = copied(a)
    exported.load_state_dict(placed[1].state_dict())
    if kind != "unsaved means":
        assert torch.equal(exported.eval()(IMAGES[0]), other)


@pytest.mark.parametrize("kind", ["means", "codebook", "foreign batch norm", "frozen"])
def test_what_is_not_learned_goes_straight_from_one_end_to_the_other(kind):
    a, b = pair(kind)
    of_a, of_b = ({**network.state_dict()} for network in (a, b))
    names = {"frozen": ["first.weight", "first.bias"]}.get(kind) or [name for name, _ in a.named_buffers()]
    for family, bends in (("Bezier", 4), ("PolyChain", 3)):
        curve = Curve.between(a, of_a, of_b, bends, family)
        fit(CurveTask(curve), IMAGES, rates=[0.01], batch_size=16)
        for t in (0.25, 0.7):
            found = curve.place(t).state_dict()
            for name in names:
                torch.testing.assert_close(found[name], torch.lerp(of_a[name], of_b[name], t))


def test_what_both_have_all_points_have():
    """A frozen parameter and a buffer stay to the last bit, whatever the base was built with."""
    a, b = pair("codebook")
    for network in (a, b):
        network.first.requires_grad_(False)
    b.load_state_dict({name: value for name, value in a.state_dict().items() if "last" not in name}, strict=False)
    fresh = Buffered("codebook")
    fresh.first.requires_grad_(False)
    curve = Curve.between(fresh, a.state_dict(), b.state_dict())
    fit(CurveTask(curve), IMAGES, rates=[0.1], batch_size=16)
    for t in (0.0, 0.3, 1.0):
        found = curve.place(t).state_dict()
        assert all(torch.equal(found[name], a.state_dict()[name]) for name in ("codes", "first.weight", "first.bias"))


def test_networks_that_were_put_aside_are_learned_whole():
    a, b = (network.requires_grad_(False) for network in pair(None))
    curve = Curve.between(a, a.state_dict(), b.state_dict())
    assert len(curve.flat) == sum(parameter.numel() for parameter in a.parameters())


def test_spectral_norms_hold_between_the_ends():
    for kind in ("spectral", "parametrized spectral"):
        a, b = pair(kind)
        for network in (a, b):
            network.train()
            for _ in range(50):
                network(IMAGES[0])
        for t in (0.3, 0.5):
            network = Curve.between(a, a.state_dict(), b.state_dict()).place(t).eval()
            network(IMAGES[0])
            assert torch.linalg.matrix_norm(network.first.weight, 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", ["mask", "integer", "infinite"])
def test_what_has_nothing_between_its_values_is_refused(value):
    a, b = pair(None)
    values = {"mask": [[0.0, 1.0], [1.0, 0.0]], "integer": [[1, 2], [1, 3]]}.get(value, [[0.0], [float("-inf")]])
    for network, one in zip((a, b), values, strict=True):
        network.last.register_buffer("chosen", torch.tensor(one))
    with pytest.raises(ValueError, match=r"differ in last.chosen, and nothing lies between its values"):
        Curve.between(a, a.state_dict(), b.state_dict())
    b.last.chosen = a.last.chosen.clone()
    assert torch.equal(Curve.between(a, a.state_dict(), b.state_dict()).place(0.4).last.chosen, a.last.chosen)


def test_what_differs_in_neither_parameters_nor_buffers_is_refused():
    a, b = pair(None)
    for network, factor in ((a, 2.0), (b, 0.5)):
        network.factor = factor
    with pytest.raises(ValueError, match="B does something else than one with its parameters and buffers"):
        fit_curve(a, b, IMAGES, epochs=1)
    b.factor = 2.0
    fit_curve(a, b, IMAGES, epochs=1)


class FrozenNorm(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


def test_frozen_batch_norm_is_not_estimated():
    networks = [nn.Sequential(nn.Linear(6, 8), FrozenNorm(8), nn.ReLU(), nn.Linear(8, 3)).eval() for _ in range(2)]
    for network in networks:
        network[1].running_mean.normal_()
        network[1].running_var.uniform_(0.5, 1.5)
    curve = fit_curve(network_a=networks[0], network_b=networks[1], images=IMAGES, epochs=1)
    path = evaluate_curve(curve, IMAGES, IMAGES, points=2)
    assert path["loss"].tolist() == [evaluate(network, IMAGES)[0] for network in networks]


def test_networks_of_two_architectures_are_refused():
    a, b = pair(None)
    b.first = nn.Linear(6, 9)
    with pytest.raises(ValueError, match="not of one architecture: first has 8 and 9 channels"):
        fit_curve(a, b, IMAGES, epochs=1)
    with pytest.raises(ValueError, match="first has 8 and 9 channels"):
        Curve.between(a, a.state_dict(), b.state_dict())
    tied = Buffered("tied")
    state = tied.state_dict()
    state["again.weight"] = state["again.weight"] + 1
    with pytest.raises(ValueError, match="middle.weight and again.weight are one weight"):
        Curve.between(tied, tied.state_dict(), state)


def test_a_placed_network_is_ones_own():
    a, b = pair(None)
    before = everything(a)
    curve = Curve.between(a, a.state_dict(), b.state_dict())
    first = curve.place(0.5)
    expected = first(IMAGES[0])
    second = curve.place(1.0)
    second.first.weight.add_(1.0)
    assert torch.equal(first(IMAGES[0]), expected)
    assert torch.equal(curve.place(0.5)(IMAGES[0]), expected)
    assert unchanged(before, a)


# --- batch norm ---------------------------------------------------------------------------------------------


class Repeated(nn.Module):
    """Batch norm that runs twice in a pass, on two things, and another that only training reaches."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head, self.last = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm, self.after = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        hidden = self.norm(self.one(x)).relu() + self.norm(2 + 3 * self.two(x)).relu()
        logits = self.last(self.drop(hidden))
        return (logits, self.drop(self.after(self.head(hidden)))) if self.training else logits


def test_all_runs_of_batch_norm_count():
    """As torch's own average over all runs has it; and the heads for training have statistics too."""
    torch.manual_seed(0)
    network = Repeated()
    expected = copy.deepcopy(network)
    for layer in (expected.norm, expected.after):
        layer.reset_running_stats()
        layer.momentum = None
    reestimate_batch_norm(network, IMAGES, batch_size=16)
    expected.drop.p = 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in torch.randperm(48, generator=generator).split(16):
            expected.train()(IMAGES[0][part])
    for layer in ("norm", "after"):
        for one, other in zip(
            network.get_submodule(layer).buffers(), getattr(expected, layer).buffers(), strict=True
        ):
            if one.is_floating_point():
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (network.norm.momentum, network.after.momentum) == (0.1, 0.1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_a_network_as_it_was(error):
    network = Repeated().train()
    network.last.eval()
    before = everything(network)
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 4:
            raise error

    hook = network.one.register_forward_hook(stop)
    with pytest.raises(error):
        reestimate_batch_norm(network, IMAGES, batch_size=16)
    calls.clear()
    with pytest.raises(error):
        evaluate(network, IMAGES, batch_size=8)
    hook.remove()
    assert unchanged(before, network)
    assert network.norm.momentum == 0.1
