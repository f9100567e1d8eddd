"""Proof by running: a network with random weights, and the same one permuted, must compute the same function.

And a wrong order of each group must show: what it would not change has not been proved.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..permutations import PermutationSpec, groups_in, parts_of, permute_entry
from . import running


class Precision(NamedTuple):
    """What numbers a proof computes in, and how much less an output may differ than it moves when weights move."""

    default: torch.dtype
    kinds: Mapping[torch.dtype, torch.dtype]
    largest_difference: float

    def widest(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the CPU in this precision, if it has fractions."""
        return running.with_values(tensor).to(self.kinds.get(tensor.dtype, tensor.dtype))


def _kinds(real: torch.dtype, imaginary: torch.dtype) -> dict[torch.dtype, torch.dtype]:
    kinds = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), real)
    return kinds | dict.fromkeys((torch.complex32, torch.complex64), imaginary)


# Rounding in float64 stays far below the bound, a wrong order far above; some operations know float32 alone.
DOUBLE = Precision(torch.float64, _kinds(torch.float64, torch.complex128), 1e-5)
SINGLE = Precision(torch.float32, _kinds(torch.float32, torch.complex64), 1e-3)
SIGNAL = 1e3  # times the difference that a right order makes, a wrong one makes at least
COLUMNS = 1e2  # times the bound, single columns of an output may differ: their moves are few, and small by chance


class InPrecision(running.Deterministic):
    """Deterministic, and in one precision whatever a network casts to: else casts would look like a wrong order.

    draws: whether random numbers are drawn after all.
    """

    def __init__(self, precision: Precision, *, draws: bool = False):
        super().__init__()
        self.precision, self.draws = precision, draws

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        keywords = dict(keywords or {})
        if keywords.get("dtype") in self.precision.kinds:
            keywords["dtype"] = self.precision.kinds[keywords["dtype"]]
        if self.draws:
            return func(*operands, **keywords)
        out = super().__torch_dispatch__(func, types, operands, keywords)
        # what torch.tensor(…) makes
        return self.precision.widest(out) if func is torch.ops.aten.lift_fresh.default else out


class TrueSlopes(TorchFunctionMode):
    """Looking up rows has the slopes that it has: without those left out of padding, and counted by frequency."""

    def __torch_function__(self, func, types, operands=(), keywords=None):
        if func is F.embedding:
            given = inspect.signature(func).bind(*operands, **(keywords or {})).arguments
            return func(**given | {"padding_idx": None, "scale_grad_by_freq": False, "sparse": False})
        return func(*operands, **(keywords or {}))


def random_like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values on which a function depends visibly: nothing is zero, or alike along a dimension; integers stay."""
    if not running.has_fractions(tensor) or tensor.numel() == 0 or tensor.layout != torch.strided:
        return running.with_values(tensor)
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


def derangements(spec: PermutationSpec, seed: int) -> list[np.ndarray]:
    """Random permutations of which none, in no block, is the identity: that would prove nothing."""
    permutations = replace(spec, kinds=()).random(seed)
    for permutation, identity in zip(permutations, spec.identity(), strict=True):
        still = (permutation == identity).all(-1)
        permutation[still] = np.roll(permutation[still], 1, -1)
    return permutations


def example_values(value, precision: Precision):
    """Examples on the CPU; those without values, or with all alike, by random ones."""

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        wide = precision.widest(tensor)
        alike = tensor.layout == torch.strided and (tensor.is_meta or (tensor == tensor.flatten()[:1]).all())
        return torch.randn(wide.shape, dtype=wide.dtype) if tensor.is_floating_point() and alike else wide

    return running.tree_map_tensors(convert, value)


LARGER_BATCH = 16


def larger_batch(value):
    """Examples with more samples, of the same kind; as they are if they do not have one batch dimension."""
    if len({len(tensor) if tensor.dim() else 0 for tensor in running.tensors_in(value)}) != 1:
        return value

    def enlarge(tensor: torch.Tensor) -> torch.Tensor:
        more = torch.cat([tensor] * -(-LARGER_BATCH // max(len(tensor), 1)))
        return more + more.std() * torch.randn_like(more) if tensor.is_floating_point() else more

    return running.tree_map_tensors(enlarge, value)


class Trial:
    """A copy of a network with random weights, and what it puts out with them in this order or another."""

    def __init__(self, model: nn.Module, spec: PermutationSpec, wanted: running.Outputs | None, precision: Precision):
        self.spec, self.wanted, self.precision, self.seed = spec, wanted, precision, 0
        self.name = type(model).__name__
        self.state, self.orders = running.state_of(model), derangements(spec, self.seed)
        self.copies, self.marks = running.Copies(model, precision.widest), None

    def randomize(self, reorder: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, values: values) -> None:
        """Give all entries random values, each reordered by `reorder(name, values)`, one by one: they are large."""
        for number, (name, target) in enumerate(running.state_of(self.copies.latest).items()):
            generator = torch.Generator().manual_seed(self.seed + number)
            target.copy_(reorder(name, random_like(self.state[name], generator)))

    def reordered(self, moved: Collection[int], share: float = 1.0) -> Callable[[str, torch.Tensor], torch.Tensor]:
        """A function of entries that gives some groups, or a share of their entries (a wrong order), other places."""
        orders = [self.orders[g] if g in moved else order for g, order in enumerate(self.spec.identity())]

        def reorder(name: str, values: torch.Tensor) -> torch.Tensor:
            axes = self.spec.axes.get(name, ())
            if groups_in(sum(axes, ())).isdisjoint(moved):
                return values
            permuted = permute_entry(values, axes, self.spec, orders)
            if share == 1:
                return permuted
            chance = torch.rand(values.shape, generator=torch.Generator().manual_seed(self.seed))
            return torch.where(chance < share, permuted, values)

        return reorder

    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Give all entries values."""
        for name, target in running.state_of(self.copies.latest).items():
            target.detach().copy_(values[name])

    def run(self, example: tuple, keywords: dict, *, draws: bool = False) -> list[tuple[str, object]]:
        """What the network puts out; of its next call too, if that uses what this one has kept."""
        network, found = self.copies.latest, []
        with running.plain_run(), InPrecision(self.precision, draws=draws):
            for _ in range(2):
                given, named = running.tree_map_tensors(
                    torch.clone, (example, keywords)
                )  # which the model may change
                found += running.outputs_of(network(*given, **named), self.wanted)
                if not self.copies.have_kept():
                    break
        return found

    def outputs(self, modes: Sequence[str], load: Callable[[], None], *given, draws: bool = False) -> dict[str, list]:
        """What the network puts out in its modes, each time with weights as `load` loads them."""
        found, self.marks = {}, None
        for mode in modes:
            network = self.copies.fresh()
            network.train(mode == "train")
            if self.marks is None or self.marks != self._sums():  # a run, or the mode, may change weights
                load()
                self.marks = self._sums()
            with running.restoring(network):
                output = running.without_gradients(partial(self.run, *given, draws=draws))
            found[mode] = [as_tensor(value) for _, value in output]
        return found

    def are_alike(self, outputs: Mapping[str, list]) -> bool:
        """Whether there are two modes, and no difference in what is put out in them."""
        return len(outputs) > 1 and compared(*outputs.values(), [], self.precision).relative == 0

    def _sums(self) -> list[float]:
        return [parameter.reshape(-1)[:1000].sum().item() for parameter in self.copies.latest.parameters()]

    def move(self) -> None:
        """Other weights than these."""
        for tensor in filter(
            running.has_fractions, {id(t): t for t in running.state_of(self.copies.latest).values()}.values()
        ):
            tensor.copy_(tensor.flatten().roll(1).view_as(tensor)).mul_(0.75)

    @contextlib.contextmanager
    def random_sums(
        self,
        mode: str,
        given: tuple,
        *,
        values: Mapping[str, torch.Tensor] | None = None,
        times: int = 1,
        watch: Callable[[Mapping[str, torch.Tensor]], TorchDispatchMode] | None = None,
    ) -> Iterator[tuple[dict[str, torch.Tensor], list[torch.Tensor]]]:
        """The entries that have gradients, and `times` random sums of what is put out, of which these are taken.

        values: of all entries, else as they are. watch: makes what sees the run, in which random numbers are drawn
        then, from the entries of the network that runs.
        """
        network = self.copies.fresh()
        network.train(mode == "train")
        if values is not None:
            self.load(values)
        for parameter in filter(running.has_fractions, network.parameters()):
            parameter.requires_grad_()
        with running.restoring(network), torch.enable_grad():
            with TrueSlopes(), watch(running.state_of(network)) if watch else contextlib.nullcontext():
                outputs = [as_tensor(value, keep=True) for _, value in self.run(*given, draws=watch is not None)]
            outputs = [t for t in outputs if isinstance(t, torch.Tensor) and t.requires_grad]
            sums = [
                sum((torch.randn_like(t) * t / _typical(t) / math.sqrt(t.numel())).sum().real for t in outputs)
                for _ in range(times)
            ]
            yield {name: tensor for name, tensor in running.state_of(network).items() if tensor.requires_grad}, sums

    def shown(self, mode: str, *given) -> np.ndarray:
        """For each group, how far the outputs move when its entries change places at random, by their gradients.

        Of each entry the gradient is gone before that of the next is taken: together they would be a second network.
        """
        found = np.zeros(len(self.spec.groups))

        def count(names: list[str], tensor: torch.Tensor) -> None:
            move, tensor.grad = tensor.grad.mul_(tensor.detach()), None
            for name in names:
                for part in parts_of(move, self.spec.axes[name], self.spec):
                    moves = torch.linalg.vector_norm(part.values).item() ** 2
                    found[[g for g in part.groups if g is not None]] += moves

        with (
            contextlib.suppress(Exception),  # not all networks have gradients
            self.random_sums(mode, given) as (state, sums),
            contextlib.ExitStack() as hooks,
        ):
            for tensor in {id(tensor): tensor for tensor in state.values()}.values():
                names = [name for name, other in state.items() if other is tensor and name in self.spec.axes]
                hooks.callback(tensor.register_post_accumulate_grad_hook(partial(count, names)).remove)
            sums[0].backward()
        return np.sqrt(found)


def examine(
    model: nn.Module, spec: PermutationSpec, example: tuple, keywords: dict, *, wanted: running.Outputs | None
) -> tuple[float, list[int]]:
    """Permute a randomized copy and compare what it computes.

    Returns the largest relative difference, and the groups of which a wrong order would not show.
    Raises ValueError, naming the model, if the difference is more than rounding, if nothing that the network puts out
    depends on its weights, or if the copy does not run.
    """
    name, kind, failed = type(model).__name__, torch.get_default_dtype(), None
    for precision in (DOUBLE, SINGLE):
        torch.set_default_dtype(precision.default)
        try:
            with running.plain_run(), torch.no_grad():
                given = example_values((example, keywords), precision)
                trial = Trial(model, spec, wanted, precision)
                found = _differences(trial, spec.modes, *given)
                if all(found[mode].relative <= precision.largest_difference for mode in found):
                    unseen = _unseen(trial, found, *given)
            break
        except Exception as error:  # what a model raises when it cannot run can be of any kind
            failed = failed or error
        finally:
            torch.set_default_dtype(kind)
    else:
        raise ValueError(
            f"the symmetries of {name} cannot be tried: its copy in float64 does not run ({failed})"
        ) from failed
    for mode, difference in found.items():
        if not difference.relative <= precision.largest_difference:
            raise ValueError(
                f"the symmetries of {name} could not be followed: permuted, it computes "
                f"something else in {mode} mode (relative difference {difference.relative:.1e})"
            )
        if spec.groups and not difference.moves:
            raise ValueError(
                f"the symmetries of {name} cannot be proved: on this example, no number that it puts out in {mode} "
                "mode depends on its weights"
            )
    return max(difference.relative for difference in found.values()), unseen


def prove(
    model: nn.Module, spec: PermutationSpec, *example, outputs: running.Outputs | None = None, **keywords
) -> float:
    """The largest relative difference of what the model computes when it is permuted; ValueErrors as `examine`."""
    return examine(model, spec, example, keywords, wanted=outputs)[0]


# --- comparing ---------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """relative: of what a right order makes, the most, to how far that output moves when weights do.

    spread: the root of its mean square, relative to typical values. moves: whether any output moves.
    """

    relative: float
    spread: float
    moves: bool


def _differences(trial: Trial, modes: Sequence[str], *given) -> dict[str, Difference]:
    every = range(len(trial.spec.groups))
    before = trial.outputs(modes, trial.randomize, *given)
    alike = trial.are_alike(before)
    moved = trial.outputs(modes[:1] if alike else modes, trial.move, *given)
    moved = dict.fromkeys(modes, moved[modes[0]]) if alike else moved
    after = trial.outputs(modes, lambda: trial.randomize(trial.reordered(every)), *given)
    found = {mode: compared(before[mode], after[mode], moved[mode], trial.precision) for mode in modes}
    largest = trial.precision.largest_difference
    if "eval" in modes and found["eval"].relative <= largest < found.get("train", found["eval"]).relative:
        # Batch norm over the two values of a channel with one place amplifies rounding without bounds
        with contextlib.suppress(Exception):  # a network may take batches of one size only
            found |= _differences(trial, ["train"], *larger_batch(given))
    return found


def _unseen(trial: Trial, found: Mapping[str, Difference], *given) -> list[int]:
    """The groups of which a wrong order shows in no mode: by gradients, and where these do not show it by trying."""
    noise = {mode: SIGNAL * max(found[mode].spread, torch.finfo(trial.precision.default).eps) for mode in found}
    left = set(range(len(trial.spec.groups)))
    for mode in sorted(found):
        if left:
            left &= set(np.flatnonzero(trial.shown(mode, *given) <= noise[mode]).tolist())
    more = [given]
    with contextlib.suppress(Exception):
        more.append(larger_batch(given))
    for number, inputs in enumerate(more if left else ()):
        # a network may take batches of one size only
        with contextlib.suppress(Exception) if number else contextlib.nullcontext():
            trial.seed += len(trial.state)
            before = trial.outputs([*found], trial.randomize, *inputs)
            for group in sorted(left):
                wrong = trial.outputs(
                    [*found], lambda group=group: trial.randomize(trial.reordered([group], 0.5)), *inputs
                )
                if any(_spread(before[mode], wrong[mode]) > noise[mode] for mode in found):
                    left.discard(group)
    return sorted(left)


def as_tensor(value, *, keep: bool = False) -> torch.Tensor | str | bytes:
    """Numbers in the widest kind, texts as they are; keep: with what gradients are taken of."""
    if isinstance(value, (str, bytes)):
        return value
    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    tensor = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    return tensor if keep else tensor.detach().clone()


def compared(before: list, after: list, moved: list, precision: Precision) -> Difference:
    """running.Outputs with weights in one order and in another, beside those with other weights."""
    if len(before) != len(after):
        return Difference(math.inf, math.inf, True)
    others = [*moved, *[None] * (len(before) - len(moved))]
    found = [_relative(x, y, z, precision) for x, y, z in zip(before, after, others, strict=False)]
    relative = max((ratio for ratio, _ in found), key=lambda ratio: (math.isnan(ratio), ratio), default=0.0)
    return Difference(relative, _spread(before, after), any(moves for _, moves in found))


def _relative(x, y, z, precision: Precision) -> tuple[float, bool]:
    """max |x − y| / max |x − z|, as a whole and in columns, of finite entries; whether x and z differ."""
    if not _are_alike(x, y):
        return (math.inf if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor) or x != y else 0.0), False
    if x.numel() == 0:
        return 0.0, False
    if is_other := not _are_alike(x, z):
        z = torch.zeros_like(x)
    finite = x.isfinite()
    if not torch.equal(finite, y.isfinite()) or not x[~finite].equal(y[~finite]):  # NaN is not NaN
        return math.nan, True
    difference, moves = ((x - tensor).abs().where(finite & tensor.isfinite(), 0.0) for tensor in (y, z))
    acts = (difference > 0) | (moves > 0)
    rounding = SIGNAL * torch.finfo(precision.default).eps * x.abs().where(acts, 0.0).max().item()

    def ratio(difference: torch.Tensor, moves: torch.Tensor) -> float:
        return torch.where(difference > rounding, difference / moves, 0.0).max().item()

    largest = ratio(difference.max(), moves.max())
    for d in range(1, x.dim()):
        rest = [other for other in range(x.dim()) if other != d]
        largest = max(largest, ratio(difference.amax(rest), moves.amax(rest)) / COLUMNS)
    return largest, is_other or moves.max().item() > rounding


def _are_alike(x, y) -> bool:
    return isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.shape == y.shape and x.dtype == y.dtype


def _spread(before: list, after: list) -> float:
    """The root of the mean square of a difference relative to typical values: of all outputs."""
    total = 0.0
    for x, y in zip(before, after, strict=False):
        if _are_alike(x, y):
            difference = (x - y).abs().nan_to_num(0.0, 0.0)
            total += (difference / _typical(x)).square().mean().item() if x.numel() else 0.0
        elif isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor) or x != y:
            return math.inf
    return math.sqrt(total) if len(before) == len(after) else math.inf


def _typical(tensor: torch.Tensor) -> float:
    """The median of absolute values that are numbers other than 0; 1 if there are none."""
    values = tensor.detach().abs()
    values = values[values.isfinite() & (values > 0)]
    return values.median().item() if values.numel() else 1.0
