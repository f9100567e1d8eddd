"""Proximal alternating minimization: learning the permutation of B together with the curve (section 4 of the paper).

The curve between A and P·B is θ(t) = (1−t)² A + 2t(1−t) [½A + ½P·B + φ] + t² P·B, which is

    θ(t) = (1−t) A + t P·B + 2t(1−t) φ.

One phase learns P, a doubly stochastic matrix for each permutation group and each of its blocks, with φ fixed; P is
then rounded to permutations; the other phase learns φ as any curve is learned. Both are held near where they started
by a proximal step of strength ν: x ← argmin ½‖x − value‖² + (η/2ν) ‖x − start‖², at the learning rate η.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import distributed
from .assignment import assign
from .batches import Data, Images, as_images, split
from .curves import Curve, FlatParameters, expect_alike, load_state
from .devices import autocast, compile_options
from .losses import Criterion, Loss, Tally
from .measuring import EVALUATION_SEED, undisturbed, use_batch_statistics
from .permutations import Permutations, PermutationSpec, compose, permute, soft_permute
from .training import CurveTask, Saves, expect_ends, fit, step_rates

NU = 1000.0  # strength of the proximal step: the larger, the weaker
PROJECTIONS = 20  # of the projection after each step, as published
BELOW_ZERO = 1e-6  # a matrix that is rounded has no entry below −BELOW_ZERO
PERMUTATION_DROP = 20  # epochs after which the permutations' learning rate is halved, whatever the curve's
DRAWS = 32  # random roundings that compete with the nearest and the old permutation
REFINED = 4  # largest terms of each group that are tried on the best candidate, group by group
TERMS = 11  # of a decomposition, the largest, among which they draw
CUT = 5e-4  # smaller entries are left out of it
SCREENED_IMAGES = 2_500  # training images on which roundings are compared; the winner has to hold on all

# From weights (k,) and index arrays (k, C): a doubly stochastic matrix, as a mixture of permutations
Terms = tuple[np.ndarray, np.ndarray]


# --- formulas ---------------------------------------------------------------------------------------------


def proximal(value: torch.Tensor, old: torch.Tensor, rate: float) -> torch.Tensor:
    """The minimizer of ½‖x − value‖² + (η/2ν) ‖x − old‖²: how far a phase may move from its start."""
    return (value + rate / NU * old) / (1 + rate / NU)


def project(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly doubly stochastic matrices near the given ones (…, n, n), by PROJECTIONS alternating projections.

    Each clips at 0 and goes to the nearest matrix with row and column sums of 1, first rows and then columns. Sums
    are exact but for rounding, and entries hardly below 0; a permutation is a fixed point. The number of rounds being
    fixed, a step of learning waits for no number of the device's; `doubly_stochastic` goes on to the end.
    """
    n = matrices.shape[-1]
    matrices = matrices.clone()
    for _ in range(PROJECTIONS):  # in place: matrices are small, and there are many rounds in a step
        matrices.clamp_(min=0)
        for axis in (-1, -2):
            matrices.sub_(matrices.sum(axis, keepdim=True).sub_(1), alpha=1 / n)
    return matrices


def doubly_stochastic(matrices: torch.Tensor) -> torch.Tensor:
    """`project`, and again as long as an entry is below −BELOW_ZERO, at most 100 times."""
    for _ in range(100):
        matrices = project(matrices)
        if not matrices.min() < -BELOW_ZERO:  # also where learning diverged and nothing compares
            break
    return matrices


# --- what the two phases learn -----------------------------------------------------------------------------


class SoftPermutation(nn.Module):
    """A doubly stochastic matrix for each permutation group of a spec, and each of its blocks, the identity at first.

    Matrices of one size are learned as one stack (k, n, n), so that all of them are projected at once.
    """

    def __init__(self, spec: PermutationSpec):
        super().__init__()
        self.spec = spec
        self.project = project
        groups: dict[int, list[int]] = {}
        for number, group in enumerate(spec.groups):
            groups.setdefault(group.size, []).append(number)
        self.groups = list(groups.values())
        self.stacks = nn.ParameterList(
            torch.eye(size).repeat(sum(math.prod(spec.blocks(group)) for group in g), 1, 1)
            for size, g in groups.items()
        )

    def matrices(self) -> list[torch.Tensor]:
        """P (*blocks, C, C) of each group."""
        matrices: dict[int, torch.Tensor] = {}
        for groups, stack in zip(self.groups, self.stacks, strict=True):
            blocks = [self.spec.blocks(group) for group in groups]
            parts = stack.split([math.prod(shape) for shape in blocks])
            for group, shape, part in zip(groups, blocks, parts, strict=True):
                matrices[group] = part.view(*shape, *stack.shape[1:])
        return [matrices[group] for group in range(len(matrices))]

    def forward(self, parameters: Mapping[str, torch.Tensor], flat: FlatParameters) -> torch.Tensor:
        """P·B as a vector (parameters,), for B's named parameters."""
        with torch.autocast(self.stacks[0].device.type, enabled=False):  # weights are mixed in full precision
            return flat.flatten(soft_permute(parameters, self.spec, self.matrices()))

    def compile(self) -> None:
        """Compile the projection, which is hundreds of kernels in every step."""
        self.project = torch.compile(project, **compile_options(self.stacks[0].device))


class PermutationTask(CurveTask):
    """Soft permutations of B, with φ fixed: θ(t) runs from A, the curve's first row, to P·B.

    curve: its other rows are not used, and nothing of it is learned. state_b: B's state dict.
    phi: a vector (parameters,). The loss is cross-entropy alone: an L2 term would pull P off the permutations, whose
    P·B has the largest norm.
    """

    def __init__(
        self,
        curve: Curve,
        spec: PermutationSpec,
        state_b: Mapping[str, torch.Tensor],
        phi: torch.Tensor,
        test: Images | None = None,
        loss: Loss = "classification",
    ):
        super().__init__(curve, 0.0, test, loss=loss)
        self.spec, self.phi = spec, phi
        self.state_b = {name: value.to(phi.device) for name, value in state_b.items()}
        self.parameters = {name: self.state_b[name] for name in curve.whole.shapes}
        self.soft = SoftPermutation(spec).to(phi.device)
        curve.learned.requires_grad_(False)
        self.module = nn.ModuleDict({"soft": self.soft, "curve": curve})

    def point(self, t: float) -> torch.Tensor:
        return self.between(t, self.soft(self.parameters, self.curve.whole))

    def between(self, t: float, b: torch.Tensor) -> torch.Tensor:
        """θ(t) = (1−t) A + t P·B + 2t(1−t) φ for a permuted B, a vector."""
        phi = F.pad(self.phi, (0, len(b) - len(self.phi)))  # what is not learned goes straight
        return torch.lerp(self.curve.vector(0), b, t) + 2 * t * (1 - t) * phi

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """P ← (P + (η/ν) P_old) / (1 + η/ν) for the learning rate η, with P_old = 1; then project."""
        for stack in self.soft.stacks:
            start = torch.eye(stack.shape[-1], device=stack.device)
            stack.copy_(self.soft.project(proximal(stack, start, rate)))

    def checkpoint(self) -> dict[str, object]:
        return {"model_state": self.curve.base.state_dict(), "soft": self.soft.state_dict()}

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        load_state(self.curve.base, checkpoint["model_state"])
        self.soft.load_state_dict(checkpoint["soft"])


class TurningPointTask(CurveTask):
    """The turning point ½A + ½P·B + φ between A and P·B, a curve's ends, held near where it begins."""

    def __init__(
        self,
        curve: Curve,
        phi: torch.Tensor,
        weight_decay: float,
        test: Images | None = None,
        loss: Loss = "classification",
    ):
        super().__init__(curve, weight_decay, test, loss=loss)
        with torch.no_grad():
            self.start = torch.lerp(curve.row(0), curve.row(2), 0.5) + phi
            curve.row(1).copy_(self.start)
        curve.learned.requires_grad_(True)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        # The ends being fixed, a step of φ towards its start is one of the turning point towards its own.
        turning_point = self.curve.row(1)
        turning_point.copy_(proximal(turning_point, self.start, rate))
        super().after_step(rate)


# --- rounding ----------------------------------------------------------------------------------------------


def learn_permutations(
    task: PermutationTask,
    images: Images,
    saves: Saves | None = None,
    *,
    rates: Sequence[float],
    batch_size: int = 128,
    seed: int = 1,
    precision: str = "fp32",
    val_freq: int | None = None,
) -> Permutations:
    """The permutation phase: learn soft permutations by plain SGD, and round them (keywords as `fit`'s).

    Returns permutations near the soft ones, an index array a group, relative to the task's B. They are the identity
    unless others have a lower training loss along the curve. seed: of the draws among candidates, too.
    """
    fit(
        task,
        images,
        saves,
        rates=rates,
        momentum=0.0,
        val_freq=val_freq,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
    )

    def loss(permutations: Permutations, images: Images = images) -> float:
        return path_loss(task, permutations, images, batch_size=batch_size, precision=precision)

    def propose() -> tuple[list[Permutations], list[list[Terms]]]:
        soft = (matrix.detach().cpu().double() for matrix in task.soft.matrices())
        matrices = [doubly_stochastic(matrix).numpy() for matrix in soft]
        terms = [list(map(largest_terms, _blocks(matrix, 2))) for matrix in matrices]
        candidates = roundings(matrices, terms, task.spec.identity(), seed)
        unlike = {b"".join(order.tobytes() for order in candidate): candidate for candidate in candidates}
        return list(unlike.values()), terms

    # Processes on unlike machines could differ by a rounding error.
    candidates, terms = distributed.from_main(propose)
    screened = images.subset(images.spread(SCREENED_IMAGES)) if isinstance(images, Images) else images
    found, after, before = best_rounding(candidates, terms, screen=partial(loss, images=screened), loss=loss)
    moved = sum(int((places != np.arange(places.shape[-1])).sum()) for places in found)
    print(f"Rounded: {moved} channels moved; training loss along the path {after:.4f}, before {before:.4f}.")
    return found


@torch.no_grad()
def path_loss(
    task: PermutationTask, permutations: Permutations, images: Images, *, batch_size: int, precision: str
) -> float:
    """Mean cross-entropy on augmented training images along θ(t) for permuted B, with batch statistics.

    Each batch is taken at a t of its own; they are spread evenly over [0, 1], and are the same at every call.
    """
    curve = task.curve
    b = curve.whole.flatten(permute(task.state_b, task.spec, permutations))
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    steps = images.steps(batch_size)
    ts = (torch.randperm(steps, generator=generator).double() + 0.5) / steps
    use_batch_statistics(curve.base)
    images.join(curve.base)
    criterion, tally = Criterion(task.loss, curve.base, images), Tally(images.device)
    for t, batch in zip(ts.tolist(), images.augmented(batch_size, generator), strict=True):
        x, _ = split(curve.base, batch)
        with autocast(images.device, precision):
            output = curve(x, task.between(t, b))
        tally.add(criterion(output, batch))
    return tally.means(images)["loss"]


def birkhoff(matrix: np.ndarray) -> Terms:
    """A doubly stochastic matrix (n, n) as Σ_k weights[k] · permutation k: weights (k,) and index arrays (k, n).

    Birkhoff and von Neumann: as long as a permutation fits into what is left, take the assignment of largest sum on
    it, at the weight of its smallest entry. As published, entries below CUT are dropped, so that there are at most
    1 / CUT terms, whose sum is nearly the matrix; weights sum to 1.
    """
    rest = np.asarray(matrix, np.float64).copy()
    weights, permutations = [], []
    places = np.arange(len(rest))
    while True:
        rest[rest < CUT] = 0
        permutation = assign(np.where(rest > 0, rest, -len(rest)))
        weight = rest[places, permutation].min()
        if weight == 0:
            break
        rest[places, permutation] -= weight
        weights.append(weight)
        permutations.append(permutation)
    return np.array(weights) / np.sum(weights), np.array(permutations)


def largest_terms(matrix: np.ndarray) -> Terms:
    """The TERMS largest terms of P's decomposition, weights summing to 1, the largest first."""
    weights, permutations = birkhoff(matrix)
    largest = np.argsort(-weights, kind="stable")[:TERMS]
    return weights[largest] / weights[largest].sum(), permutations[largest]


def _blocks(array: np.ndarray, dimensions: int) -> np.ndarray:
    """What stands in each block of a group, along one first dimension: its last `dimensions` are a block's own."""
    return array.reshape(-1, *array.shape[array.ndim - dimensions :])


def roundings(
    matrices: Sequence[np.ndarray], terms: Sequence[Sequence[Terms]], identity: Permutations, seed: int
) -> Iterator[Permutations]:
    """Candidates for the permutations near soft ones.

    First the old permutation (the identity), then the assignment nearest to each P, then DRAWS that take, in each
    block of a group, one of the `terms`, the largest of P's decomposition, with probability by weight.

    matrices: P (*blocks, C, C) of each group.
    """
    nearest = [order.copy() for order in identity]
    for order, matrix in zip(nearest, matrices, strict=True):
        for block, soft in zip(_blocks(order, 1), _blocks(matrix, 2), strict=True):
            block[:] = assign(soft)
    yield from (identity, nearest)
    generator = np.random.default_rng(seed)
    for _ in range(DRAWS):
        drawn = [order.copy() for order in identity]
        for order, blocks in zip(drawn, terms, strict=True):
            for block, (weights, permutations) in zip(_blocks(order, 1), blocks, strict=True):
                block[:] = permutations[generator.choice(len(weights), p=weights)]
        yield drawn


def best_rounding(
    candidates: Sequence[Permutations],
    terms: Sequence[Sequence[Terms]],
    screen: Callable[[Permutations], float],
    loss: Callable[[Permutations], float],
) -> tuple[Permutations, float, float]:
    """The best permutations found, with their loss and that of the first candidate, which it never exceeds.

    The best of the candidates by `screen`, a cheap estimate, is refined: block by block of each group, it takes the
    first of the block's `terms` that lower the estimate. The result has to beat the first candidate by `loss` itself.
    """
    first = candidates[0]
    estimates = [screen(candidate) for candidate in candidates]
    best, lowest = candidates[int(np.argmin(estimates))], min(estimates)
    for group, blocks in enumerate(terms):
        for number, (_, permutations) in enumerate(blocks):
            for permutation in permutations[:REFINED]:
                tried = [order.copy() for order in best]
                _blocks(tried[group], 1)[number] = permutation
                if not np.array_equal(tried[group], best[group]) and (estimate := screen(tried)) < lowest:
                    best, lowest = tried, estimate
    old, new = loss(first), loss(best)
    return (best, new, old) if new < old else (first, old, old)


# --- both phases in turn ------------------------------------------------------------------------------------


@undisturbed
def learn_pam(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    images: Data,
    *,
    outer_iters: int = 1,
    inner_iters_perm: int = 20,
    inner_iters_phi: int = 250,
    start: Sequence[np.ndarray] | None = None,
    loss: Loss = "classification",
    lr: float = 0.1,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    seed: int = 1,
) -> tuple[Permutations, Curve]:
    """Learn the permutations of B together with the Bézier curve from A to P·B (section 4), with the published rates.

    The networks, which stay as they are, have one architecture, and `spec` is theirs. images: tensors (x, labels), a
    Dataset, a DataLoader, or any batches that can be read again. loss, lr, weight_decay: as `fit_curve` has them.
    outer_iters: how often both phases are run; inner_iters_perm, inner_iters_phi: epochs of each.
    start: permutations of B to begin with, e.g. those of `align`; the identity without them.

    Returns the permutations, one a group of `spec`, and the curve, whose last control point is the permuted B.
    """
    if spec.kinds:
        raise ValueError("PAM learns permutations alone: it takes a spec without rotations")
    expect_alike(network_a, network_b)
    state_a, state_b = (network.state_dict() for network in (network_a, network_b))
    permutations = spec.identity() if start is None else list(start)
    curve = Curve.between(network_a, state_a, state_b)
    images = as_images(images, curve.fixed.device)
    expect_ends(curve, network_a, network_b, images)
    perm_rates = step_rates(outer_iters * inner_iters_perm, lr / 2, PERMUTATION_DROP)
    phi_rates = step_rates(outer_iters * inner_iters_phi, lr)
    phi = torch.zeros_like(curve.row(0))
    for i in range(outer_iters):
        state = permute(state_b, spec, permutations)
        curve.connect({0: state_a, 2: state}, apart=spec.axes.keys())
        task = PermutationTask(curve, spec, state, phi, loss=loss)
        rates = perm_rates[i * inner_iters_perm :][:inner_iters_perm]
        order = learn_permutations(task, images, rates=rates, batch_size=batch_size, seed=seed)
        permutations = compose(spec, permutations, order)
        curve.connect({0: state_a, 2: permute(state_b, spec, permutations)})
        rates = phi_rates[i * inner_iters_phi :][:inner_iters_phi]
        task = TurningPointTask(curve, phi, weight_decay, loss=loss)
        fit(task, images, rates=rates, batch_size=batch_size, seed=seed)
        phi = (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()
    return permutations, curve
