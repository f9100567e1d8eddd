"""Neuron alignment: which neuron of B does the work of which neuron of A (Tatro et al., 2020, section 3).

What is compared are activations (utils.activations) or weights (utils.weights); what comes of it is an assignment
problem (utils.assignment).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .activations import ImagePair, Moments, correlation_scores, cross_correlations, cross_moments
from .assignment import assign_groups, assigned_score, undecided
from .attack import Attack
from .batches import Batch, Data, Images, as_images
from .curves import expect_alike
from .devices import device_of, random_state_kept
from .permutations import (
    KINDS,
    Group,
    Permutations,
    PermutationSpec,
    Segments,
    Weights,
    axis_index,
    compose,
    dependents,
    groups_in,
    inverse,
    permute_entry,
)
from .rotations import Scores, match_rotations
from .weights import match_some, match_weights, weight_similarity

# --- methods -----------------------------------------------------------------------------------------------


class Distance(NamedTuple):
    """The L2 distance that a method makes least: of activations, or of their inputs (`before`).

    name, words: of its column in tables.
    """

    before: bool
    name: str
    words: str


class Method(NamedTuple):
    """A method of alignment, registered here and nowhere else.

    find: from A, B, what may be permuted, batches, a seed and a match to begin with (or None), the permutations of B.
    begins_with_a_match: whether it has a use for the last. distance: what it makes least, if this is measured too.
    """

    find: Callable[[nn.Module, nn.Module, PermutationSpec, Iterable[Batch], int, Permutations | None], Permutations]
    begins_with_a_match: bool = False
    distance: Distance | None = None


def _by_correlation(network_a, network_b, spec, batches, seed, start) -> Permutations:
    return _by_scores(network_a, network_b, spec, correlation_scores(network_a, network_b, spec, batches))


def _by_moments(network_a, network_b, spec, batches, seed, start, *, before: bool, score) -> Permutations:
    moments = cross_moments(network_a, network_b, spec, batches, before=before)
    return _by_scores(network_a, network_b, spec, list(map(score, moments)))


def _by_scores(network_a, network_b, spec: PermutationSpec, scores: Sequence[np.ndarray]) -> Permutations:
    """By scores (C, C) of each row; units that no row shows, or that never vary, by their weights."""
    weights = (dict(network.named_parameters()) for network in (network_a, network_b))
    return match_some(*weights, spec, assign_groups(spec, scores), undecided(spec, scores))


def _by_weights(network_a, network_b, spec, batches, seed, start) -> Permutations:
    weights = (dict(network.named_parameters()) for network in (network_a, network_b))
    return match_weights(*weights, spec, seed=seed, start=start)


METHODS = {
    "corr": Method(_by_correlation),
    "corr_pre": Method(partial(_by_moments, before=True, score=Moments.correlation)),
    "w2_pre": Method(
        partial(_by_moments, before=True, score=Moments.product),
        distance=Distance(before=True, name="preactivation_distance", words="L2 distance before activation"),
    ),
    "w2_post": Method(
        partial(_by_moments, before=False, score=Moments.product),
        distance=Distance(before=False, name="activation_distance", words="L2 distance of activations"),
    ),
    "weight": Method(_by_weights, begins_with_a_match=True),
    "identity": Method(lambda a, b, spec, batches, seed, start: spec.identity()),
    "random": Method(lambda a, b, spec, batches, seed, start: spec.random(seed)),
}


def align(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    batches: Data | None = None,
    *,
    method: str = "corr",
    seed: int = 1,
    start: Permutations | None = None,
    rotations: bool = False,
    groups: Collection[int | str] = (),
) -> Permutations:
    """The permutations of B that match it to A: for each group of `spec` an index array (*blocks, size).

    Unit p[i] of B goes to A's place i. network_a, network_b: of one architecture; they stay as they are.
    batches: tensors x or (x, labels), a Dataset, a DataLoader or any batches; read once. Only methods that compare
        activations need them. Padded positions do not count where a batch has a mask of tokens.
    method: corr or corr_pre, the greatest correlation of activations (section 3 of the paper) or of the inputs of
        activation functions; w2_post or w2_pre, their least L2 distance (and weight for units that no activation
        shows, or that never vary); weight, the least L2 distance of weights (`match_weights`);
        identity, B as it is; random, any permutations.
    seed: of the random permutations, and of the orders in which weights are matched.
    start: permutations with which weight matching begins.
    rotations: find matrices for groups that the spec lets rotate (`match_rotations`), by weight or by corr. The
        result is for networks whose gains are absorbed: `permute` does that to B, and `absorbed` to A.
    groups: those that stay as they are, with all that stand in their blocks, by their numbers in `spec.groups`; or
        names of state entries, e.g. embedding.weight, for all groups that move these.

    ValueError if there is no such method or group, the method has no use for a start, or it needs data and has none,
    and if rotations are wanted that the spec or the method does not know; UserError if an activation is no finite
    number.
    """
    expect_alike(network_a, network_b)
    if method not in METHODS:
        raise ValueError(f"the methods are {', '.join(METHODS)}, not {method!r}")
    if start is not None and not METHODS[method].begins_with_a_match:
        raise ValueError(f"the method {method} does not begin with a match")
    if rotations and (method not in ("weight", "corr") or start is not None):
        raise ValueError(f"rotations are found by weight or corr, and from no start; not by {method}")
    held, same = _numbers(spec, groups), spec.identity()
    loose = _without(spec, held) if held else spec
    if start is not None:
        orders = zip(start, loose.identity(), strict=True)
        start = [one if number in held else order for number, (order, one) in enumerate(orders)]
    device = device_of(network_a)
    data = as_images(() if batches is None else batches, device, once=True)
    with random_state_kept(device):  # a DataLoader draws a seed
        if not rotations:
            found = METHODS[method].find(network_a, network_b, loose, data.batches(512), seed, start)
        elif method == "weight":
            found = match_rotations(network_a, network_b, loose)
        else:
            moments = cross_moments(network_a, network_b, loose, data.batches(512))
            rows = [Scores(moment.correlation(), moment.product()) for moment in moments[:-1]]  # without logits
            found = match_rotations(network_a, network_b, loose, rows)
    return [same[number] if number in held else each for number, each in enumerate(found)]


def _numbers(spec: PermutationSpec, groups: Collection[int | str]) -> set[int]:
    """Groups by number or by the state entries that they move, and all that stand in their blocks."""
    if isinstance(groups, str):
        raise ValueError(f"groups are several, as [{groups!r}]")
    found: set[int] = set()
    for named in groups:
        if isinstance(named, str) and named in spec.axes:
            found = found.union(*map(groups_in, spec.axes[named]))
        elif not isinstance(named, str) and named in range(len(spec.groups)):
            found.add(int(named))
        else:
            known = f"0 to {len(spec.groups) - 1}, or the names of state entries that they move"
            raise ValueError(f"there is no group {named!r}; groups are {known}")
    return found.union(*(dependents(spec, group) for group in found))


def _without(spec: PermutationSpec, held: Collection[int]) -> PermutationSpec:
    """The spec, with the same numbers, as if some groups moved nothing: they have a single unit, which is nowhere."""
    number = {group: group for group in range(len(spec.groups)) if group not in held}
    groups = tuple(group if n in number else Group(1) for n, group in enumerate(spec.groups))
    axes = {name: tuple(_regrouped(axis, number) for axis in of_entry) for name, of_entry in spec.axes.items()}
    rows = (replace(row, axis=_regrouped(row.axis, number), votes=row.votes & number.keys()) for row in spec.rows)
    kinds = tuple(KINDS[0] if n in held else kind for n, kind in enumerate(spec.kinds))
    duals = frozenset((name, d, *place) for name, d, *place in spec.duals if _at(axes[name][d], *place) is not None)
    return replace(spec, groups=groups, axes=axes, rows=tuple(rows), kinds=kinds, duals=duals)


def _at(axis: Segments, segment: int, factor: int, number: int) -> int | None:
    """A group of an axis, by its place."""
    return axis[segment][factor].groups[number]


# --- images that are attacked, activations that are matched alone ------------------------------------------

ATTACK_SEED = 0  # of the random starts, which are the same for both networks


def attacked(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    networks: Sequence[nn.Module],
    images: Images,
    attack: Attack,
) -> Iterator[ImagePair]:
    """Every batch of images and labels as attacked on each of the two networks; images: how they are normalized."""
    both = [(network, torch.Generator().manual_seed(ATTACK_SEED)) for network in networks]
    for x, labels in batches:
        yield ImagePair(*(attack(network, x, labels, images, generator) for network, generator in both))


def each_by_itself(spec: PermutationSpec) -> PermutationSpec | None:
    """The spec as if no two activations shared channels, each having groups of its own; None if none share any.

    In a residual stream its permutations differ from activation to activation, so that no network can be permuted by
    them: they show how well the channels of each activation could be matched if nothing tied them.
    """
    groups: list[Group] = []
    rows = []
    for row in spec.rows:
        number = {group: len(groups) + i for i, group in enumerate(sorted(groups_in(row.axis)))}
        for group in number:
            size, depends_on = spec.groups[group]
            groups.append(Group(size, tuple(number[other] for other in depends_on)))
        rows.append(replace(row, axis=_regrouped(row.axis, number), votes=frozenset(number.values())))
    return PermutationSpec(tuple(groups), {}, tuple(rows), ()) if len(groups) > len(spec.groups) else None


def _regrouped(axis: Segments, number: Mapping[int, int]) -> Segments:
    """An axis whose groups have other numbers."""
    return tuple(
        tuple(factor._replace(groups=tuple(map(number.get, factor.groups))) for factor in segment) for segment in axis
    )


def unheard_apart(spec: PermutationSpec) -> PermutationSpec | None:
    """The spec in which those that share channels with others, but do not help to decide, have groups of their own.

    None if all help. In the published ResNet32 the outputs of stage 1 are such: the stem decides for them.
    """
    groups, number, rows = list(spec.groups), {}, []
    deciders = {row.axis: row.votes for row in spec.rows if row.votes}
    for row in spec.rows:
        unheard = deciders.get(row.axis, frozenset()) - row.votes
        for group in sorted(unheard - number.keys()):
            number[group] = len(groups)
            groups.append(spec.groups[group])
        own = {group: number[group] for group in unheard}
        axis = _regrouped(row.axis, {group: group for group in groups_in(row.axis)} | own)
        rows.append(replace(row, axis=axis, votes=row.votes | frozenset(own.values())))
    return PermutationSpec(tuple(groups), {}, tuple(rows), ()) if number else None


# --- how well channels are matched -------------------------------------------------------------------------


def mean_correlations(
    spec: PermutationSpec, correlations: Sequence[np.ndarray], permutations: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean correlation of each row's matched channels, the logits last, for B permuted so: (rows + 1,).

    Two channels that both never vary have no correlation and do not count.
    """
    means = []
    for matrix, order in zip(correlations, _orders(spec, correlations, permutations), strict=True):
        varies = matrix.any(axis=1) | matrix.any(axis=0)[order]
        means.append(matrix[np.arange(len(order)), order][varies].mean() if varies.any() else 0.0)
    return np.array(means)


def correlations_before_and_after(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    permutations: Sequence[np.ndarray],
    images: Iterable[Batch],
) -> dict[str, np.ndarray]:
    """Mean correlations of B as it is, `unaligned`, and permuted, `aligned`: each (rows + 1,), the logits last."""
    correlations = cross_correlations(network_a, network_b, spec, images)
    ways = {"unaligned": spec.identity(), "aligned": permutations}
    return {which: mean_correlations(spec, correlations, order) for which, order in ways.items()}


def mean_distances(
    spec: PermutationSpec, moments: Sequence[Moments], permutations: Sequence[np.ndarray]
) -> np.ndarray:
    """Root mean squared distance of each row's matched channels, the logits last, for B permuted so: (rows + 1,)."""
    squares = [moment.squared_distance() for moment in moments]
    orders = _orders(spec, squares, permutations)
    matched = [matrix[np.arange(len(order)), order] for matrix, order in zip(squares, orders, strict=True)]
    return np.sqrt([values.mean().clip(min=0) for values in matched])  # rounding can leave less than 0


def _orders(
    spec: PermutationSpec, matrices: Sequence[np.ndarray], permutations: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each row, and for the logits, which are as they were, the channel of B at each place of A."""
    return [*(axis_index(row.axis, spec, permutations) for row in spec.rows), np.arange(len(matrices[-1]))]


# --- many networks -----------------------------------------------------------------------------------------

# Many networks are aligned all to one of them, or cycle-consistently (Crisostomi et al., 2024): each has permutations
# that bring it to one order of neurons that all share, the universe. Those of B to A are composed: as B goes to the
# universe, and then back as A came. So matches around any cycle of networks compose to the identity, exactly.

GAIN = 1e-6  # below this share of its size, the objective has not grown

METHODS_OF_MANY = ("corr", "weight")
TO = ("reference", "universe")

# From the number of a network and the permutations of all: better ones of it, or None
Rematch = Callable[[int, Sequence[Permutations]], Permutations | None]


def align_many(
    networks: Sequence[nn.Module],
    spec: PermutationSpec,
    batches: Data | Callable[[], Iterable[Batch]] = (),
    *,
    method: str = "corr",
    to: str = "universe",
    seed: int = 1,
) -> list[Permutations]:
    """For each network the permutations (as `align` gives them) that bring it to an order of neurons all share.

    batches: tensors x or (x, labels), a Dataset, a DataLoader; or a function that gives them anew for two networks.
    method: corr or weight, as in `utils.matching.align`; seed: of the orders in which weights are matched.
    to: reference, each network is matched to the first, as if there were no others; universe, from there on each in
        turn is matched to all others as they stand, until none can be bettered. What grows is the sum over all pairs
        of networks of what the method maximizes. Of two networks the first is the universe.

    ValueError if the method or `to` is not known, or there are not two networks.
    """
    if method not in METHODS_OF_MANY or to not in TO:
        known = f"{' or '.join(METHODS_OF_MANY)} to {' or '.join(TO)}"
        raise ValueError(f"many networks are aligned by {known}, not {method} to {to}")
    if isinstance(networks, nn.Module) or len(networks) < 2:
        raise ValueError("one network alone has none to be aligned with")
    expect_alike(*networks)

    def read() -> Iterable[Batch]:
        data, once = (batches(), True) if callable(batches) else (batches, False)
        return as_images(data, device_of(networks[0]), once=once).batches(512)

    is_joint = to == "universe" and len(networks) > 2
    if method == "weight":
        weights = [dict(network.named_parameters()) for network in networks]
        to_first = [match_weights(weights[0], others, spec, seed=seed) for others in weights[1:]]
        rematch: Rematch = partial(_match_to_others, weights, spec, seed)
    else:
        pairs = combinations(range(len(networks)), 2) if is_joint else ((0, j) for j in range(1, len(networks)))
        with random_state_kept(device_of(networks[0])):
            scores = {(i, j): correlation_scores(networks[i], networks[j], spec, read()) for i, j in pairs}
        to_first = [assign_groups(spec, scores[0, j]) for j in range(1, len(networks))]
        rematch = partial(_assign_to_others, scores, spec)
    permutations = [spec.identity(), *to_first]
    if is_joint:
        permutations = _in_turns(permutations, rematch)
    if method == "corr":
        weights = [dict(network.named_parameters()) for network in networks]
        reference = _permuted(weights[0], spec, permutations[0])
        for j in range(1, len(networks)):
            rest = undecided(spec, scores[0, j])
            permutations[j] = match_some(reference, weights[j], spec, permutations[j], rest)
    return permutations


def _permuted(weights: Weights, spec: PermutationSpec, permutations: Permutations) -> dict[str, torch.Tensor]:
    """What can be moved of a network's weights, as these permutations move it."""
    moving = weights.keys() & spec.axes.keys()
    return {name: permute_entry(weights[name], spec.axes[name], spec, permutations) for name in sorted(moving)}


def _in_turns(permutations: list[Permutations], rematch: Rematch) -> list[Permutations]:
    waiting = set(range(len(permutations)))
    while waiting:
        for i in sorted(waiting):
            waiting.discard(i)
            if (better := rematch(i, permutations)) is not None:
                permutations[i] = better
                waiting |= set(range(len(permutations))) - {i}
    return permutations


def _match_to_others(weights, spec, seed: int, i: int, permutations: Sequence[Permutations]) -> Permutations | None:
    """By weights: ⟨Σ π_j(θ_j), π_i(θ_i)⟩ over the others j."""
    with torch.no_grad():
        others = [_permuted(weights[j], spec, permutations[j]) for j in range(len(weights)) if j != i]
        total = {name: sum(other[name] for other in others) for name in others[0]}
    found = match_weights(total, weights[i], spec, start=permutations[i], seed=seed)
    new, old = (weight_similarity(total, weights[i], spec, one) for one in (found, permutations[i]))
    return found if new > old + GAIN * abs(old) else None


def _assign_to_others(
    scores: Mapping[tuple[int, int], Sequence[np.ndarray]], spec, i: int, permutations: Sequence[Permutations]
) -> Permutations | None:
    """By correlation: the sum of those with the others j, in the order of the universe."""
    total = [0.0] * len(spec.rows)
    for j in (j for j in range(len(permutations)) if j != i):
        for row, activation in enumerate(spec.rows):
            matrix = scores[j, i][row] if j < i else scores[i, j][row].T
            total[row] = total[row] + matrix[axis_index(activation.axis, spec, permutations[j])]
    found = assign_groups(spec, total)
    new, old = (assigned_score(spec, total, one) for one in (found, permutations[i]))
    return found if new > old + GAIN * abs(old) else None


def pairwise(spec: PermutationSpec, to_universe_a: Permutations, to_universe_b: Permutations) -> Permutations:
    """The permutations of B that match it to A, from those that bring each of them to the universe."""
    return compose(spec, to_universe_b, inverse(spec, to_universe_a))


def mean_state(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of state dicts (integer entries, which count batches, are those of the first)."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
