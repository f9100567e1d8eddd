"""Which groups may do more than permute, found by running: from the slopes of what a network puts out.

Let a matrix exp(εX) change a group's units wherever they stand in the weights W. An output f then moves by
ε Σ ⟨∂f/∂W, XW⟩, a sum over these places. All matrices of a kind keep the function if and only if the sum is zero for
each X of the kind's Lie algebra: antisymmetric ones for rotations; those with X·1 = 0 for rotations that keep the
vector of ones; and besides, for invertible matrices M, symmetric ones, with a minus at the places that M⁻ᵀ changes.
At random weights, a sum that is zero for a few random X is zero for all. So no operation needs a rule.

The gain of a norm stands in the way of rotations until other weights absorb it. They can if scaling their units
undoes scaling it, for which X is diagonal. All that was found so is planted then, and has to keep the function.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ..permutations import KINDS, Fixed, Gain, PermutationSpec, both_sides, by_units, dependents, parts_of, permute
from .proof import DOUBLE, Trial, compared, example_values
from .running import Outputs, bind, plain_run, state_of

PERMUTATION, ONES, ORTHOGONAL, INVERTIBLE = KINDS
PROBES = 4  # random X for all outputs together; as many more as a group has places
MOST_PLACES = 64  # of an invertible group; of one with more only rotations are looked for
ROUNDING = 1e-7  # of a sum, relative to its terms
LARGEST_ROTATED = 1e-8  # relative difference of what a network puts out when it is rotated

NONLINEAR = "more meets its units than products, sums and norms of whole vectors"


class Place(NamedTuple):
    """Where a group stands: the entry, its dimension, the segment there, the factor in it, of a family the member."""

    entry: str
    dimension: int
    segment: int
    factor: int
    member: int


class Slopes(NamedTuple):
    """Of a group: its places, and in a row for each how random X there, of each form, move outputs.

    terms: the size of what is summed in the first three.
    """

    places: list[Place]
    antisymmetric: np.ndarray
    ones_kept: np.ndarray
    symmetric: np.ndarray
    terms: np.ndarray
    diagonal: np.ndarray


class GroupKind(NamedTuple):
    """Of a group: its kind; why it is no larger; where M⁻ᵀ stands for M; gains, and what absorbs each (`Gain`)."""

    kind: str
    reason: str
    far: Sequence[Place] = ()
    gains: Mapping[str, list[tuple[str, int, int]]] = {}


def with_kinds(
    spec: PermutationSpec, model: nn.Module, example: tuple, keywords: dict, wanted: Outputs | None, *, proof: bool
) -> PermutationSpec:
    """The spec with the kind of each group, and the gains that are to be absorbed first.

    Raises ValueError, naming the model, if rotations that keep its function one by one do not keep it together.
    """
    with in_double():
        given = example_values((example, keywords), DOUBLE)
        trial, tried = Trial(model, spec, wanted, DOUBLE), spec
        try:
            trial.randomize()
            outputs = trial.outputs(spec.modes, lambda: None, *given, draws=True)
            tried = replace(spec, modes=spec.modes[:1]) if trial.are_alike(outputs) else spec
            found, added = _by_slopes(trial, tried, given)
        except Exception as error:  # what a model raises when it cannot run can be of any kind
            found, added = [GroupKind(PERMUTATION, f"no slopes in float64: {error}")] * len(spec.groups), {}
        kept = _kept(trial, tried, found, added, given) if proof else rotating(spec, trial, found, added)
        return replace(kept, modes=spec.modes)


def prove_rotations(
    model: nn.Module, spec: PermutationSpec, *example, outputs: Outputs | None = None, **keywords
) -> float:
    """The largest relative difference of what the model computes when it is permuted and rotated (`prove`)."""
    with in_double():
        given = example_values((example, keywords), DOUBLE)
        return rotated_difference(Trial(model, spec, outputs, DOUBLE), spec, given, range(len(spec.groups)))


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Plain runs without gradients, in float64."""
    kind = torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE.default)
    try:
        with plain_run(), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(kind)


def _by_slopes(trial: Trial, spec: PermutationSpec, given: tuple) -> tuple[list[GroupKind], dict[str, float]]:
    """What slopes say of each group: with gains as they are, and where that leaves permutations with gains of 1.

    Besides, for each factor of the outputs the number that is added to it.
    """
    tensors = state_of(trial.copies.latest)
    copies = {id(tensor): tensor.clone() for tensor in tensors.values()}
    state = {name: copies[id(tensor)] for name, tensor in tensors.items()}
    slopes, added = slopes_of(trial, spec, given, state)
    on = {place.entry: group for group, here in slopes.items() for place in here.places if place.entry in added}
    gains = {entry: group for entry, group in on.items() if state[entry].numel() == spec.groups[group].size}
    for entry in gains:
        state[entry].fill_(1 - added[entry])
    ones = slopes_of(trial, spec, given, state, gains)[0] if gains else {}

    def found(number: int) -> GroupKind:
        if number not in slopes:
            return GroupKind(PERMUTATION, "it moves blocks" if dependents(spec, number) else "it has no slope")
        kind, far = kind_of(slopes[number], spec.groups[number].size)
        if kind != PERMUTATION or number not in ones:
            return GroupKind(kind, "" if kind != PERMUTATION else NONLINEAR, far)
        kind, far = kind_of(ones[number], spec.groups[number].size)
        if kind == PERMUTATION:
            return GroupKind(kind, NONLINEAR)
        mine = {entry: absorbers(entry, slopes[number], spec, gains) for entry in gains if gains[entry] == number}
        if stuck := [entry for entry, targets in mine.items() if not targets]:
            return GroupKind(PERMUTATION, f"{stuck[0]} cannot be absorbed: no other weights undo it")
        return GroupKind(kind, "", far, mine)

    return [found(number) for number in range(len(spec.groups))], added


def rotating(
    spec: PermutationSpec, trial: Trial, found: Sequence[GroupKind], added: Mapping[str, float]
) -> PermutationSpec:
    """The spec with what was found of its groups; entries that are absorbed stay as they are."""
    state = state_of(trial.copies.latest)
    names = {name: [n for n, other in state.items() if other is tensor] for name, tensor in state.items()}
    gains = [
        Gain(tuple(names[e]), added[e], tuple((n, d, power) for target, d, power in t for n in names[target]))
        for group in found
        for e, t in group.gains.items()
    ]
    apart = [name for gain in gains for name in gain.entries]
    return replace(
        spec,
        axes={name: axes for name, axes in spec.axes.items() if name not in apart},
        fixed=(*spec.fixed, *(Fixed(n, d, "absorbed") for n in apart for d in range(len(spec.axes[n])))),
        kinds=tuple(group.kind for group in found),
        reasons=tuple(group.reason for group in found),
        duals=frozenset(
            place._replace(entry=n) for group in found for place in group.far for n in names[place.entry]
        ),
        gains=tuple(gains),
    )


# --- slopes ------------------------------------------------------------------------------------------------------


def slopes_of(
    trial: Trial,
    spec: PermutationSpec,
    given: tuple,
    state: Mapping[str, torch.Tensor],
    gains: Mapping[str, int] | None = None,
) -> tuple[dict[int, Slopes], dict[str, float]]:
    """The slopes of groups in all modes, and the vectors that a run multiplies by, with what it adds to them.

    state: what is tried; tied entries are one tensor. gains: entries that do not count; only their groups are of
    interest then. Groups that move blocks, or stand on an entry without a slope, are left out.
    """
    wanted = set(range(len(spec.groups)) if gains is None else gains.values())
    first = {id(tensor): name for name, tensor in reversed(state.items())}  # of the names of a tied entry
    places: dict[int, list[Place]] = defaultdict(list)
    for name in (name for name in spec.axes if first[id(state[name])] == name and name not in (gains or ())):
        for group, place in _places(spec, name):
            if group in wanted and state[name].numel() and not dependents(spec, group):
                places[group].append(place)
    rows: dict[int, list] = defaultdict(list)
    # As many outputs as determine the coefficients of all places
    most = max((2 * len(here) // spec.groups[group].size for group, here in places.items()), default=0)
    times = -(-min(max(most, 1), 32) // len(spec.modes))
    factors: dict[str, float] = {}
    watch = partial(Factors, found=factors)
    for mode in spec.modes:
        with trial.random_sums(mode, given, values=state, times=times, watch=watch) as (moving, sums):
            weights = state | {entry: state[entry] + added for entry, added in factors.items()}
            places = {g: here for g, here in places.items() if all(place.entry in moving for place in here)}
            take = partial(torch.autograd.grad, inputs=[*moving.values()], retain_graph=True, materialize_grads=True)
            for total in sums:
                slopes = dict(zip(moving, take(total), strict=True))
                for group, here in places.items():
                    rows[group].append(_moved(here, spec, group, weights, slopes, times * len(spec.modes)))
    arrays = {group: [np.concatenate(each, 1) for each in zip(*rows[group], strict=True)] for group in places}
    return {group: Slopes(here, *arrays[group]) for group, here in places.items()}, factors


def _places(spec: PermutationSpec, entry: str) -> Iterator[tuple[int, Place]]:
    for d, axis in enumerate(spec.axes[entry]):
        for s, segment in enumerate(axis):
            for f, factor in enumerate(segment):
                yield from ((g, Place(entry, d, s, f, m)) for m, g in enumerate(factor.groups) if g is not None)


def _moved(
    places: Sequence[Place], spec: PermutationSpec, group: int, weights: Mapping, slopes: Mapping, outputs: int
) -> list:
    """The rows of `Slopes` for one of so many outputs, for X = a bᵀ ∓ b aᵀ with random a and b in each block of the
    group."""
    count = -(-(PROBES + (len(places) if len(places) <= MOST_PLACES else 0)) // outputs)
    ab = torch.randn(2, count, math.prod(spec.blocks(group)), spec.groups[group].size, dtype=torch.float64)
    rows = []
    for place in places:
        pieces = zip(*(_units(each[place.entry], spec, group, place) for each in (weights, slopes)), strict=True)
        rows.append([sum(form).numpy() for form in zip(*(_forms(w, slope, ab) for w, slope in pieces), strict=True)])
    return [np.stack(form) for form in zip(*rows, strict=True)]


def _forms(w: torch.Tensor, slope: torch.Tensor, ab: torch.Tensor) -> list[torch.Tensor]:
    """Of units (blocks, size, values), their part in each row of `Slopes`."""
    if not (used := slope.flatten(0, 1).any(0)).all():  # e.g. of an embedding, the tokens of the example
        w, slope = w[..., used], slope[..., used]
    seen = [torch.einsum("xcbn,bnv->xcbv", ab, values) for values in (slope, w)]
    means = [ab.mean(-1, keepdim=True) * values.sum(-2) for values in (slope, w)]
    sums = []
    for (g_a, g_b), (w_a, w_b) in (seen, [each - mean for each, mean in zip(seen, means, strict=True)]):
        sums += [(g_a * w_b).sum((-1, -2)), (g_b * w_a).sum((-1, -2))]
    p, q, r, s = sums
    return [p - q, r - s, p + q, p.abs() + q.abs(), (slope * w).sum((0, -1))]


def _units(tensor: torch.Tensor, spec: PermutationSpec, group: int, place: Place) -> list[torch.Tensor]:
    """(blocks, size, values) of a group at one place, for each part of the tensor that it has there."""
    number, marked = group + len(spec.groups), both_sides(replace(spec, duals=frozenset([place])))
    parts = parts_of(tensor, marked.axes[place.entry], marked)
    return [by_units(part, k)[..., 0] for part in parts for k, other in enumerate(part.groups) if other == number]


class Factors(TorchDispatchMode):
    """Notes which vectors of the state a run multiplies by, or by their sum with a number; what divides is none."""

    KEEP = ("view", "_unsafe_view", "reshape", "unsqueeze", "expand", "_to_copy", "clone", "detach", "alias")

    def __init__(self, state: Mapping[str, torch.Tensor], *, found: dict[str, float]):
        super().__init__()
        self.found = found
        vectors = {t: (name, 0.0) for name, t in reversed(state.items()) if t.numel() == max(t.shape, default=0)}
        self.known = WeakIdKeyDictionary(vectors)

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        out, given = func(*operands, **(keywords or {})), bind(func, operands, keywords or {})
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        for tensor in (tensor for tensor in tensors if tensor in self.known):
            entry, added = self.known[tensor]
            if name == "mul" or ("norm" in name and tensor is given.get("weight")):
                self.found[entry] = added
            elif name == "add" and len(tensors) == 1:
                self.known[out] = entry, added + given["other"] * given["alpha"]
            elif name in self.KEEP:
                self.known[out] = entry, added
        return out


# --- what slopes say ---------------------------------------------------------------------------------------------


def kind_of(slopes: Slopes, size: int) -> tuple[str, list[Place]]:
    """The largest kind that keeps all outputs, and for invertible matrices the places on the far side of products."""
    if size < 2 or not slopes.terms.any():
        return PERMUTATION, []
    if not _is_zero(slopes.antisymmetric, slopes.terms):
        return ONES if size > 2 and _is_zero(slopes.ones_kept, slopes.terms) else PERMUTATION, []
    if len(slopes.places) <= MOST_PLACES:
        first = np.linalg.norm(slopes.symmetric, axis=1).argmax()
        signs = np.where(_balancing(slopes.symmetric, first, range(len(slopes.places))) < 0, -1, 1)[:, None]
        if _is_zero(slopes.symmetric * signs, slopes.terms):
            return INVERTIBLE, [place for place, sign in zip(slopes.places, signs, strict=True) if sign < 0]
    return ORTHOGONAL, []


def absorbers(
    entry: str, slopes: Slopes, spec: PermutationSpec, gains: Collection[str]
) -> list[tuple[str, int, int]]:
    """What absorbs a gain: entries, dimensions, and the power of the gain by which each is multiplied; or nothing."""
    entries = [place.entry for place in slopes.places]
    others = [number for number, other in enumerate(entries) if other not in gains]
    powers = np.rint(_balancing(slopes.diagonal, entries.index(entry), others))
    if not _is_zero(slopes.diagonal * powers[:, None], np.abs(slopes.diagonal)):
        return []
    moved = [(place, -int(power)) for place, power in zip(slopes.places, powers, strict=True) if power]
    axes = [spec.axes[place.entry][place.dimension] for place, _ in moved]
    if any(len(axis) > 1 or len(axis[0]) > 1 for axis in axes):  # not of the whole dimension
        return []
    return [(place.entry, place.dimension, power) for place, power in moved if place.entry != entry]


def _balancing(rows: np.ndarray, one: int, others: Collection[int]) -> np.ndarray:
    """The coefficients of rows, 1 for one of them and else 0 but for some others, with which their sum is least."""
    coefficients, others = np.eye(len(rows))[one], [number for number in others if number != one]
    coefficients[others] = np.linalg.lstsq(rows[others].T, -rows[one], rcond=1e-10)[0]
    return coefficients


def _is_zero(rows: np.ndarray, terms: np.ndarray) -> bool:
    """Whether a sum over places is rounding."""
    return bool((np.abs(rows.sum(0)) <= ROUNDING * terms.sum(0).max()).all())


# --- planting ----------------------------------------------------------------------------------------------------


def _kept(
    trial: Trial, spec: PermutationSpec, found: list[GroupKind], added: Mapping[str, float], given: tuple
) -> PermutationSpec:
    """What keeps the function when it is planted: kinds of groups that alone do not are lowered."""
    lower = {ONES: PERMUTATION, ORTHOGONAL: ONES, INVERTIBLE: ORTHOGONAL}
    while True:
        rotated = rotating(spec, trial, found, added)
        turning = [number for number, group in enumerate(found) if group.kind != PERMUTATION]
        if not turning or rotated_difference(trial, rotated, given, turning) <= LARGEST_ROTATED:
            return rotated
        wrong = [n for n in turning if not rotated_difference(trial, rotated, given, [n]) <= LARGEST_ROTATED]
        if not wrong:
            raise ValueError(
                f"the rotations of {trial.name} could not be followed: together they change its function"
            )
        for n in wrong:
            kind = lower[found[n].kind]
            kind = PERMUTATION if spec.groups[n].size == 2 and kind == ONES else kind
            found[n] = GroupKind(kind, NONLINEAR, gains={} if kind == PERMUTATION else found[n].gains)


def rotated_difference(trial: Trial, spec: PermutationSpec, given: tuple, groups: Collection[int]) -> float:
    """The largest relative difference of outputs when gains are absorbed, and these groups permuted and rotated."""
    trial.copies.fresh()
    trial.randomize()
    state = {name: tensor.clone() for name, tensor in state_of(trial.copies.latest).items()}
    moves = zip(spec.identity(), spec.random(trial.seed), strict=True)
    chosen = [moved if n in groups else same for n, (same, moved) in enumerate(moves)]

    rotated = permute(state, spec, chosen)
    before, after = (trial.outputs(spec.modes, partial(trial.load, values), *given) for values in (state, rotated))
    moved = trial.outputs(spec.modes, trial.move, *given)
    return max(compared(before[mode], after[mode], moved[mode], DOUBLE).relative for mode in spec.modes)
