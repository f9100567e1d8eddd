"""Proof by running: a network with random weights, and the same one permuted, must compute the same function."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..permutations import PermutationSpec, permute_entry
from .running import (
    Deterministic,
    copy_with,
    has_fractions,
    leaves,
    plain_run,
    state_of,
    tensors_in,
    tree_map_tensors,
    with_values,
)

# Of the largest output: rounding in float64 stays far below it, a wrong order far above.
LARGEST_DIFFERENCE = 1e-5


WIDEST = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64)
WIDEST |= dict.fromkeys((torch.complex32, torch.complex64), torch.complex128)


class Float64(Deterministic):
    """Deterministic, and in float64 whatever a network casts to: else casts would look like a wrong order."""

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        keywords = dict(keywords or {})
        if keywords.get("dtype") in WIDEST:
            keywords["dtype"] = WIDEST[keywords["dtype"]]
        out = super().__torch_dispatch__(func, types, operands, keywords)
        return to_widest(out) if func is torch.ops.aten.lift_fresh.default else out  # what torch.tensor(…) makes


def randomize(model: nn.Module, state: Mapping[str, torch.Tensor], reorder: Callable, seed: int) -> None:
    """Give the model random values, each reordered by `reorder(name, values)`. Entry by entry: networks are large."""
    for number, (name, target) in enumerate(state_of(model).items()):
        generator = torch.Generator().manual_seed(seed + number)
        target.copy_(reorder(name, random_like(state[name], generator)))


def random_like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values on which a function depends visibly: nothing is zero, or alike along a dimension; integers stay."""
    if not has_fractions(tensor) or tensor.numel() == 0:
        return with_values(tensor)
    scale = 1 / math.sqrt(max(tensor[0].numel(), 4) if tensor.dim() > 1 else 10)
    if not tensor.is_complex() and _is_positive(tensor):
        wide = max(tensor.shape, default=1) == tensor.numel()
        return (1 if wide else scale) * (0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float32))
    kind = torch.complex64 if tensor.is_complex() else torch.float32
    return scale * torch.randn(tensor.shape, generator=generator, dtype=kind)


def _is_positive(tensor: torch.Tensor) -> bool:
    """Whether values look like scales or variances; of one without values each vector does."""
    if tensor.is_meta:
        return tensor.dim() < 2
    return tensor.min().item() >= 0 and tensor.max().item() > 0


def to_widest(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in float64 or complex128 if it has fractions."""
    return with_values(tensor).to(WIDEST.get(tensor.dtype, tensor.dtype))


def derangements(spec: PermutationSpec, seed: int) -> list[np.ndarray]:
    """Random permutations of which none, in no block, is the identity: that would prove nothing."""
    permutations = spec.random(seed)
    for permutation, identity in zip(permutations, spec.identity(), strict=True):
        still = (permutation == identity).all(-1)
        permutation[still] = np.roll(permutation[still], 1, -1)
    return permutations


def example_values(value):
    """Examples in float64 on the CPU; those without values, or with all alike, by random ones."""

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and (tensor.is_meta or (tensor == tensor.flatten()[:1]).all()):
            return torch.randn(tensor.shape, dtype=torch.float64)
        return to_widest(tensor)

    return tree_map_tensors(convert, value)


def outputs(
    model: nn.Module, modes: Sequence[str], load: Callable[[], None], example: tuple, keywords: dict
) -> dict[str, list]:
    """All outputs of the model in evaluation and in training mode, each time with newly loaded values."""
    found = {}
    for mode in modes:
        model.train(mode == "train")  # which may change weights
        load()
        given, named = tree_map_tensors(torch.clone, (example, keywords))  # which the model may change
        with plain_run(), Float64():
            output = model(*given, **named)
        found[mode] = [as_tensor(leaf) for leaf in leaves(output) if isinstance(leaf, NUMBERS)]
    return found


NUMBERS = (torch.Tensor, np.ndarray, float, complex)


def as_tensor(numbers: torch.Tensor | np.ndarray | complex) -> torch.Tensor:
    return numbers.detach() if isinstance(numbers, torch.Tensor) else torch.as_tensor(numbers)


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

    Raises ValueError, naming the model, if it is more than rounding, or if the copy does not run.
    """
    name, permutations, state = type(model).__name__, derangements(spec, seed), state_of(model)

    def reordered(entry: str, values: torch.Tensor) -> torch.Tensor:
        return permute_entry(values, spec.axes[entry], spec, permutations) if entry in spec.axes else values

    def differences(copied: nn.Module, modes: Sequence[str], example: tuple, keywords: dict) -> dict[str, float]:
        before, after = (
            outputs(copied, modes, lambda reorder=reorder: randomize(copied, state, reorder, seed), example, keywords)
            for reorder in (
                lambda name, values: values,
                reordered,
            )
        )
        return {mode: _largest(before[mode], after[mode]) for mode in modes}

    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with plain_run():
            example, keywords = example_values((example, keywords))
        copied = copy_with(model, to_widest)
        found = differences(copied, spec.modes, example, keywords)
        if found.get("eval", 0) <= LARGEST_DIFFERENCE < found.get("train", 0):
            # Batch norm over the two values of a channel with one place amplifies rounding without bounds
            with plain_run():
                more = larger_batch((example, keywords))
            with contextlib.suppress(Exception):  # a network may take batches of one size only
                found |= differences(copied, ["train"], *more)
    except Exception as error:  # what a model raises when it cannot run can be of any kind
        raise ValueError(
            f"the symmetries of {name} cannot be tried: its copy in float64 does not run ({error})"
        ) from error
    finally:
        torch.set_default_dtype(kind)
    for mode, difference in found.items():
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"the symmetries of {name} could not be followed: permuted, it computes "
                f"something else in {mode} mode (relative difference {difference:.1e})"
            )
    return max(found.values())


def _largest(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """The largest relative difference, NaN if one is; infinite if there are not as many outputs."""
    if len(before) != len(after):
        return math.inf
    differences = map(relative_difference, before, after)
    return max(differences, key=lambda value: (math.isnan(value), value), default=0.0)


def relative_difference(x: torch.Tensor, y: torch.Tensor) -> float:
    """max |x − y| / max |x| over finite entries; NaN if others differ."""
    if x.shape != y.shape:
        return math.inf
    x, y = (tensor.to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in (x, y))
    finite = x.isfinite()
    if not torch.equal(finite, y.isfinite()) or not x[~finite].equal(y[~finite]):  # NaN is not NaN
        return math.nan
    x, y = x[finite], y[finite]
    scale = x.abs().max().item() if x.numel() else 0.0
    return (x - y).abs().max().item() / scale if scale else (0.0 if torch.equal(x, y) else math.inf)
