"""REPAIR of networks between two others, whose activations vary too little."""

import copy

import pytest
import torch
from conftest import randomize
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from models import TinyTen
from utils.batches import as_images
from utils.errors import UserError
from utils.measuring import EVALUATION_SEED
from utils.repairing import _sums, activation_statistics, mix_statistics, repair, set_statistics


class Shared(nn.Module):
    """A layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.twice(self.first(x.flatten(1)).relu()).relu()
        return self.last(self.twice(x).relu())


def mlp():
    layers = [nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.GELU(), nn.Linear(7, 3)]
    return nn.Sequential(*layers)


def vgg():
    convolutions = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, padding=1), nn.ReLU()]
    dense = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*convolutions, *dense)


NETWORKS = {"mlp": mlp, "vgg": vgg, "shared": Shared}
HOW = {"batch_size": 20}


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return as_images((torch.randn(64, 3, 2, 2, generator=generator), torch.arange(64) % 3), "cpu")


def networks(name, t=0.5):
    """Two, and the one at t between them, with biases that count."""
    a, b = (randomize(NETWORKS[name](), seed) for seed in (1, 2))
    between_them = NETWORKS[name]()
    states = a.state_dict(), b.state_dict()
    between_them.load_state_dict({key: torch.lerp(value, states[1][key], t) for key, value in states[0].items()})
    return a, b, between_them


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_nothing_changes_at_the_ends(images, name, t):
    """To the last bit."""
    a, b, model = networks(name, t)
    before = copy.deepcopy(model.state_dict())
    repair(model, a, b, t, images, **HOW)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_vary_as_between_the_ends(images, name):
    """All hidden layers at once; the last layer, whose output is the network's, is as it was."""
    t = 0.3
    a, b, model = networks(name, t)
    last = copy.deepcopy([*model.parameters()][-2:])
    of_a, of_b = (activation_statistics(end, images, **HOW) for end in (a, b))
    assert len(of_a) == {"mlp": 2, "vgg": 3, "shared": 2}[name]
    repair(model, a, b, t, images, **HOW)
    now = activation_statistics(model, images, **HOW)
    if name != "shared":  # the first of a layer's two runs decides what the second sees
        for layer, (mean, deviation) in now.items():
            torch.testing.assert_close(mean, 0.7 * of_a[layer].mean + 0.3 * of_b[layer].mean, rtol=1e-4, atol=1e-5)
            wanted = 0.7 * of_a[layer].deviation + 0.3 * of_b[layer].deviation
            torch.testing.assert_close(deviation, wanted, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, last, [*model.parameters()][-2:]))
    assert not any(module._forward_hooks for network in (a, b, model) for module in network.modules())


def test_statistics_are_those_of_what_layers_put_out(images):
    a, *_ = networks("vgg")
    statistics = activation_statistics(a, images, **HOW)
    x = torch.cat([x for x, _ in images.augmented(20, torch.Generator().manual_seed(EVALUATION_SEED))])
    first = a[0](x).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics["0"].mean, first.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics["0"].deviation, first.std(1, correction=0), rtol=1e-5, atol=1e-6)
    hidden = a[:7](x).double()
    torch.testing.assert_close(statistics["6"].mean, hidden.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "shape", [(9000, 4), (40, 4, 99), (9, 4, 64, 64), (300, 4, 1, 1), (9, 4, 12, 12, 12), (1, 4)]
)
def test_sums_are_those_of_float64_in_every_layout(shape, dtype):
    """Also where channels lie last, of a channel far from zero, and of one that never varies."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[:, 0], x[:, 1] = 0.1, x[:, 1] + 100
    for values in (x.to(dtype), x.to(dtype).movedim(1, -1).contiguous().movedim(-1, 1)):
        count, first, second = _sums(values)
        exact = values.double().movedim(1, 0).flatten(1)
        deviation = (second / count - (first / count).square()).clamp(min=0).sqrt()
        expected, mean = torch.var_mean(exact, 1, correction=0)
        assert (count == exact.shape[1]).all()
        torch.testing.assert_close(first / count, mean, rtol=2e-7, atol=2e-7)
        torch.testing.assert_close(deviation, expected.sqrt(), rtol=2e-6, atol=1e-7 * mean.abs().max().item())
        assert deviation[0] < 1e-7


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_fused_weights_do_what_hooks_would(images, name):
    """Each layer's output normalized, and given the wanted mean and deviation, by a hook of its own."""
    a, b, model = networks(name)
    wanted = mix_statistics([activation_statistics(end, images, **HOW) for end in (a, b)], (0.5, 0.5))
    hooked = copy.deepcopy(model)
    x, _ = images.first(64)

    def normalize(target):
        def hook(layer, _inputs, output):
            dims = [0] if isinstance(layer, nn.Linear) else [0, 2, 3]
            shape = [1, -1] + [1] * (output.dim() - 2)
            scale = target.deviation.view(shape) / output.double().std(dims, correction=0, keepdim=True)
            return ((output - output.double().mean(dims, keepdim=True)) * scale + target.mean.view(shape)).float()

        return hook

    for layer, target in wanted.items():
        hooked.get_submodule(layer).register_forward_hook(normalize(target))
    with torch.no_grad():
        expected, before = hooked(x), model(x)
        set_statistics(model, wanted, images, **HOW)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert (before - expected).abs().max() > 1e-2


def test_constant_channels_are_shifted_alone(images):
    a, b, model = networks("mlp")
    for network in (a, b, model):
        network[1].weight.data[0] = 0
    repair(model, a, b, 0.5, images, **HOW)
    assert torch.isfinite(model[1].weight).all()
    torch.testing.assert_close(model[1].bias[0], (a[1].bias[0] + b[1].bias[0]) / 2)


COMPUTED = {
    "weight norm": weight_norm,
    "parametrized weight norm": parametrizations.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_computed_weights_are_scaled_by_what_is_behind_them(images, name, kind):
    a, b, model = networks(name)
    layer = "1" if name == "mlp" else "2"
    for network in (a, b, model):
        COMPUTED[kind](network.get_submodule(layer))
    of_a, of_b = (activation_statistics(end, images, **HOW) for end in (a, b))
    repair(model, a, b, 0.5, images, **HOW)
    for path, (mean, deviation) in activation_statistics(model, images, **HOW).items():
        torch.testing.assert_close(mean, (of_a[path].mean + of_b[path].mean) / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(deviation, (of_a[path].deviation + of_b[path].deviation) / 2, rtol=1e-4, atol=1e-5)


def refused():
    """Networks that cannot be repaired, and why."""
    yield TinyTen(3), "TinyTen has batch norm, whose statistics are re-estimated"
    yield nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "no hidden linear layer or convolution"
    yield nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)), "layer 1 has no bias"
    for norm in (spectral_norm, parametrizations.spectral_norm):
        network = networks("mlp")[2]
        norm(network[3])
        yield network, "its layer 3 has computed weights that cannot be scaled"
    tied = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    tied[3].weight = tied[1].weight
    yield tied, "its layer 1 shares its weights with 3"


def test_what_cannot_be_repaired_is_refused(images):
    for network, says in refused():
        with pytest.raises(UserError, match=says):
            repair(network, network, network, 0.5, images)
