"""Proof by running: a network with random weights, and the same one permuted, must compute the same function."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.symmetries.operations import bind
from utils.symmetries.spec import PermutationSpec, permute
from utils.symmetries.tracing import copy_with, plain_run, state_of, tensors_in, tree_map_tensors

TOLERANCE = 1e-5  # of the largest output: rounding in float64 stays far below it, a wrong order far above


class Calm(TorchDispatchMode):
    """Replaces what is drawn by chance by its mean, so that two runs can be compared."""

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        keywords = keywords or {}
        name = func._schema.name.removeprefix("aten::")
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*operands, **keywords)
        given = bind(func, operands, keywords)
        if name in ("native_dropout", "_fused_dropout"):
            return operands[0].clone(), torch.ones_like(operands[0], dtype=torch.bool)
        if name.startswith("rrelu_with_noise"):
            slope = (given["lower"] + given["upper"]) / 2
            return torch.where(operands[0] > 0, operands[0], operands[0] * slope)
        out = func(*operands, **keywords)
        return out.copy_(mean(name.rstrip("_"), out, given)) if isinstance(out, torch.Tensor) else out


def mean(name: str, out: torch.Tensor, given: dict) -> torch.Tensor:
    """The mean of what an operation draws."""
    if name == "bernoulli":
        p = given.get("p", given["self"])
        return p if isinstance(p, torch.Tensor) else torch.full_like(out, p)
    if name == "randperm":
        return torch.arange(len(out), dtype=out.dtype)
    return torch.full_like(out, 0.5 if name in ("rand", "rand_like", "uniform") else 0)


def fill(model: nn.Module, state: Mapping[str, torch.Tensor], reorder: Callable, seed: int) -> None:
    """Give the model random values, each reordered by `reorder(name, values)`. Entry by entry: networks are large."""
    for number, (name, target) in enumerate(state_of(model).items()):
        generator = torch.Generator().manual_seed(seed + number)
        target.copy_(reorder(name, random_like(state[name], generator)))


def random_like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values on which a function depends visibly: nothing is zero, or alike along a dimension; integers stay."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return tensor.detach()
    if tensor.dim() < 2 and not tensor.is_complex() and tensor.min() >= 0 and tensor.max() > 0:  # scales, variances
        return 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
    kind = torch.complex64 if tensor.is_complex() else torch.float32
    values = torch.randn(tensor.shape, generator=generator, dtype=kind)
    return values / math.sqrt(max(tensor[0].numel(), 4) if tensor.dim() > 1 else 10)


def to_double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().double() if tensor.is_floating_point() else tensor.detach().cpu().clone()


def example_values(value):
    """Examples in float64 on the CPU; those without values, or with all alike, by random ones."""

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and (tensor.is_meta or (tensor == tensor.flatten()[:1]).all()):
            return torch.randn(tensor.shape, dtype=torch.float64)
        return to_double(tensor)

    return tree_map_tensors(convert, value)


def outputs(
    model: nn.Module, modes: Sequence[str], load: Callable[[], None], example: tuple, keywords: dict
) -> dict[str, list]:
    """All outputs of the model in evaluation and in training mode, each time with newly loaded values."""
    found = {}
    for mode in modes:
        load()
        model.train(mode == "train")
        with plain_run(), Calm():
            output = model(*example, **keywords)
        found[mode] = [tensor.detach() for tensor in tensors_in(output)]
    return found


LARGER_BATCH = 16


def larger_batch(value):
    """Examples with more samples, of the same kind; as they are if they do not have one batch dimension."""
    if len({len(tensor) if tensor.dim() else 0 for tensor in tensors_in(value)}) != 1:
        return value

    def enlarge(tensor: torch.Tensor) -> torch.Tensor:
        more = torch.cat([tensor] * -(-LARGER_BATCH // max(len(tensor), 1)))
        return more + more.std() * torch.randn_like(more) if tensor.is_floating_point() else more

    return tree_map_tensors(enlarge, value)


@torch.no_grad()
def prove(model: nn.Module, spec: PermutationSpec, *example, seed: int = 0, **keywords) -> float:
    """Permute a randomized copy and compare what it computes; returns the largest relative difference.

    Raises ValueError, naming the model, if it is more than rounding.
    """
    permutations, state = spec.random(seed), state_of(model)

    def differences(ghost: nn.Module, modes: Sequence[str], example: tuple, keywords: dict) -> dict[str, float]:
        before, after = (
            outputs(ghost, modes, lambda reorder=reorder: fill(ghost, state, reorder, seed), example, keywords)
            for reorder in (
                lambda name, values: values,
                lambda name, values: permute({name: values}, spec, permutations)[name],
            )
        )
        return {mode: _largest(map(relative_difference, before[mode], after[mode])) for mode in modes}

    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with plain_run():
            example, keywords = example_values((example, keywords))
        ghost = copy_with(model, to_double)
        found = differences(ghost, spec.modes, example, keywords)
        if found.get("eval", 0) <= TOLERANCE < found.get("train", 0):
            # Batch norm over the two values of a channel with one place amplifies rounding without bounds
            with plain_run():
                example, keywords = larger_batch((example, keywords))
            found |= differences(ghost, ["train"], example, keywords)
    finally:
        torch.set_default_dtype(kind)
    for mode, difference in found.items():
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the symmetries of {type(model).__name__} could not be followed: permuted, it computes "
                f"something else in {mode} mode (relative difference {difference:.1e})"
            )
    return max(found.values())


def _largest(values: Iterable[float]) -> float:
    """The largest value, NaN if one is."""
    return max(values, key=lambda value: (math.isnan(value), value), default=0.0)


def relative_difference(x: torch.Tensor, y: torch.Tensor) -> float:
    """max |x − y| / max |x|; NaN if neither is finite in the same places."""
    if x.shape != y.shape:
        return math.inf
    x, y = (tensor.to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in (x, y))
    finite = x.isfinite()
    if x.numel() == 0:
        return 0.0
    if not torch.equal(finite, y.isfinite()) or not finite.any():
        return math.nan
    scale = x[finite].abs().max().item()
    return (x - y)[finite].abs().max().item() / scale if scale else (0.0 if torch.equal(x, y) else math.inf)
