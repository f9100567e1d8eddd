"""REPAIR: the activations of a network between two others get back the variance that averaging took from them.

Where neurons of two networks are not perfectly correlated, those of a network between vary less, from layer to layer
ever less, and its outputs collapse (Jordan et al., 2022, section 3). So each channel of what convolutions and linear
layers put out is rescaled and shifted to the mean and the standard deviation that lie between those of the two
(section 4): E[x] = (1−t)·E[x_a] + t·E[x_b], and std(x) in the same way. This is an affine map of each channel, which
is fused into the layer's weight and bias: the network keeps its architecture, and has other weights.

Networks with batch norm need no such thing: re-estimating its statistics (`utils.measuring.reestimate_batch_norm`)
does the same for them, and repair is refused.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from .batches import Data, Source, as_images, call, split
from .curves import Curve, batch_norm_layers, copied, expect_alike, line
from .devices import autocast, device_of
from .errors import UserError
from .losses import main_output
from .measuring import EVALUATION_SEED, reestimate_batch_norm, undisturbed, watched
from .permutations import Permutations, PermutationSpec, absorbed, permute

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Spread(NamedTuple):
    """Mean and standard deviation (C,) of the channels of what a layer puts out, in float64 on the CPU."""

    mean: torch.Tensor
    deviation: torch.Tensor


Statistics = dict[str, Spread]  # by the layer's name in its network, in the order in which the layers run


@undisturbed
def repair(
    model: nn.Module,
    end_a: nn.Module,
    end_b: nn.Module,
    t: float,
    images: Data,
    *,
    batch_size: int = 512,
    precision: str = "fp32",
) -> None:
    """Repair the network at position t between two others, in place, by what it makes of the training images.

    At t = 0 and t = 1, where it is one of the two, nothing changes. images: tensors, a Dataset or a DataLoader,
    augmented, as for batch norm. Computed weights (of weight norm, pruning) are scaled by the parameters behind them.

    Raises UserError as `activation_statistics` does, or if a layer has no bias to be shifted by, or weights that
    cannot be scaled: those of a spectral norm, or of another layer too.
    """
    expect_alike(model, end_a, end_b)
    images = as_images(images, device_of(model))
    repairer((end_a, end_b), images, batch_size=batch_size, precision=precision)(model, (1 - t, t))


def repairer(
    ends: Iterable[nn.Module], images: Source, *, batch_size: int = 512, precision: str = "fp32"
) -> Callable[[nn.Module, Sequence[float]], None]:
    """A function that repairs networks among `ends`, each given with its weights (`mix_statistics`).

    The ends are measured once, here, one after the other: they may be one module that is loaded anew in between.
    """

    def repair(model: nn.Module, weights: Sequence[float]) -> None:
        wanted = mix_statistics(statistics, weights)
        set_statistics(model, wanted, images, batch_size=batch_size, precision=precision)

    statistics = [activation_statistics(end, images, batch_size=batch_size, precision=precision) for end in ends]
    return repair


def renormalizer(
    curve: Curve, images: Data, *, repaired: bool, batch_size: int = 512, precision: str = "fp32"
) -> Callable[[nn.Module, float], None]:
    """A function that makes the network at point t of a curve, given it and t, ready to be evaluated.

    It re-estimates batch-norm statistics; networks without batch norm are repaired before, if `repaired` is set.
    """
    images, ends = as_images(images, curve.fixed.device), map(curve.place, (0.0, 1.0))
    repair = repairer(ends, images, batch_size=batch_size, precision=precision) if repaired else None

    def renormalize(model: nn.Module, t: float) -> None:
        if repair is not None:
            repair(model, (1 - t, t))
        reestimate_batch_norm(model, images, batch_size=batch_size, precision=precision)

    return renormalize


@undisturbed
def merge(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    permutations: Permutations,
    train: Data,
    t: float = 0.5,
) -> nn.Module:
    """A new network, (1−t) · A + t · P(B), ready to be used, for permutations P of B that `align` found.

    Its batch norm is re-estimated on `train`; one without batch norm is repaired, if its layers allow it.
    """
    expect_alike(network_a, network_b)
    first, aligned = copied(network_a), copied(network_b)
    first.load_state_dict(absorbed(network_a.state_dict(), spec))
    aligned.load_state_dict(permute(network_b.state_dict(), spec, permutations))
    between = line(first, aligned)
    merged = between.place(t)
    renormalizer(between, train, repaired=not batch_norm_layers(merged))(merged, t)
    return merged


def mix_statistics(statistics: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """The statistics of several networks of one architecture, mixed with these weights.

    A network beyond the ends has weights below 0. They count as 0, so that no deviation is below 0, and the others
    are scaled to add up to 1.
    """
    shares = torch.tensor(weights, dtype=torch.float64).clamp(min=0).view(-1, 1)
    shares = shares / shares.sum()
    mixed = {}
    for name in statistics[0]:
        spreads = zip(*(network[name] for network in statistics), strict=True)
        mixed[name] = Spread(*((shares * torch.stack(values)).sum(0) for values in spreads))
    return mixed


@torch.no_grad()
def set_statistics(
    model: nn.Module, wanted: Statistics, images: Source, *, batch_size: int = 512, precision: str = "fp32"
) -> None:
    """Give what each layer puts out these statistics, over the augmented training images, by its weight and bias.

    Layer after layer, each measured on what the repaired ones before it put out, so that all end with the statistics
    that are wanted: published is one pass over the data, in which every layer is normalized by the batch. A pass goes
    no further than to the layer that it measures. A channel that never varies is shifted alone.
    """
    modules = dict(model.named_modules())
    calls = _calls(model, images)
    scaled = {name: _scaled_by(model, name) for name in wanted}
    for name, target in wanted.items():
        one = {name: calls[name]}
        now = activation_statistics(model, images, one, batch_size=batch_size, precision=precision)[name]
        varies = now.deviation > 1e-6 * now.mean.abs()
        scale = torch.where(varies, target.deviation / now.deviation, 1.0)
        _scale(scaled[name], scale)
        bias = modules[name].bias.cpu().double()
        # In this order, so that a layer that is right stays as it is to the last bit
        modules[name].bias.copy_(bias * scale + (target.mean - scale * now.mean))


def _scale(parameter: torch.Tensor, scale: torch.Tensor) -> None:
    values = parameter.cpu().double()
    parameter.copy_(values * scale.view(-1, *[1] * (values.dim() - 1)))


def _scaled_by(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter of a layer that scales what its channels put out: its weight, or one from which that is computed.

    Where it is computed, a copy of the layer is tried. Raises UserError if there is none.
    """
    layer = model.get_submodule(name)
    own, refusal = dict(layer.named_parameters()), f"{type(model).__name__} cannot be repaired: its layer {name} "
    if own.get("bias") is None:
        raise UserError(refusal + "has no bias to be shifted by")
    inside = set(layer.modules())
    for path, other in model.named_modules():
        if other not in inside and any(p is mine for p in other.parameters(recurse=False) for mine in own.values()):
            raise UserError(refusal + f"shares its weights with {path}")
    if "weight" in own:
        return own["weight"]
    if isinstance(layer, nn.Linear):
        shape = [layer.in_features]
    else:
        shape = [
            layer.in_channels,
            *(1 + d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)),
        ]
    scale = torch.linspace(0.5, 2, len(own["bias"]))
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(own["bias"])
    for entry in (entry for entry, value in own.items() if entry != "bias" and value.shape[:1] == scale.shape):
        trial = copied(layer).eval()
        trial.bias.zero_()
        expected = trial(x) * scale.to(x).view(-1, *[1] * (x.dim() - 2))
        _scale(trial.get_parameter(entry), scale.double())
        if torch.allclose(trial(x), expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item()):
            return own[entry]
    raise UserError(refusal + "has computed weights that cannot be scaled channel by channel")


def _layers(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules() if isinstance(module, LAYERS)}


def _calls(model: nn.Module, images: Source) -> dict[str, int]:
    """The hidden layers in the order in which they run, and how often each does."""
    calls: dict[str, int] = {}
    last: dict[str, torch.Tensor] = {}
    names = _layers(model)

    def count(layer: nn.Module, output: torch.Tensor) -> None:
        name = names[layer]
        calls[name] = calls.get(name, 0) + 1
        last[name] = output

    with watched(model, names, count):
        model.eval()
        output = main_output(call(model.forward, split(model, images.first(2))[0]))
    hidden = {name: number for name, number in calls.items() if last[name] is not output}
    if not hidden:
        raise UserError(f"{type(model).__name__} has no hidden linear layer or convolution that could be repaired")
    return hidden


PIECE = 2**18  # numbers of an activation that are read at once on the CPU: as many as its cache holds


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Of each channel of (b, C, …) how many numbers, their sum, and that of their squares: float64 (3, C).

    On the CPU by the kernel of batch norm, which adds up in float64 where channels lie one after the other: of other
    layouts in float32, number by number, so that a channel that never varies would seem to.
    """
    total = torch.zeros(3, values.shape[1], dtype=torch.float64)
    images = max(PIECE * len(values) // values.numel(), 1) if values.is_cpu else len(values)
    for part in values.split(images):
        channels = part.float().transpose(0, 1).flatten(1).contiguous()
        if part.is_cpu:
            mean, variance = torch.batch_norm_update_stats(channels[None], None, None, 0.0)
        else:
            variance, mean = torch.var_mean(channels, 1, correction=0)
        mean, variance = mean.cpu().double(), variance.cpu().double()
        total += channels.shape[1] * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])
    return total


class _Measured(Exception):
    """Ends a forward pass of which nothing more is wanted."""


@torch.no_grad()
def activation_statistics(
    model: nn.Module,
    images: Source,
    calls: Mapping[str, int] | None = None,
    *,
    batch_size: int = 512,
    precision: str = "fp32",
) -> Statistics:
    """What each hidden convolution and linear layer puts out, over the augmented training images.

    The layer whose output is the network's is none of them, nor is one that does not run in eval mode. calls: of some
    layers alone, by how often each runs; a pass ends where all of them have.

    Raises UserError if the network has batch norm, or no such layers.
    """
    if calls is None:
        if batch_norm_layers(model):
            raise UserError(
                f"{type(model).__name__} has batch norm, whose statistics are re-estimated at every point anyway; "
                "repair is for networks without",
                exit_code=2,
            )
        calls = _calls(model, images)
    names = {layer: name for layer, name in _layers(model).items() if name in calls}
    sums = {name: torch.zeros(3, len(layer.weight), dtype=torch.float64) for layer, name in names.items()}
    left: dict[str, int] = {}

    def add(layer: nn.Module, output: torch.Tensor) -> None:
        name = names[layer]
        if not left.get(name):
            return
        if output.numel():  # this process may have no part of a small batch
            sums[name] += _sums(output.flatten(0, -2) if isinstance(layer, nn.Linear) else output)
        left[name] -= 1
        if not any(left.values()):
            raise _Measured

    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    with watched(model, names, add):
        model.eval()
        for batch in images.augmented(batch_size, generator):
            left |= calls
            x, _ = split(model, batch)
            with autocast(images.device, precision), contextlib.suppress(_Measured):
                call(model.forward, x)
    statistics = {}
    for name in calls:
        count, first, second = images.total(sums[name])
        mean = first / count
        if not bool(mean.isfinite().all()):
            raise UserError(f"the statistics of {type(model).__name__} at {name} are no finite numbers")
        statistics[name] = Spread(mean, (second / count - mean.square()).clamp(min=0).sqrt())
    return statistics
