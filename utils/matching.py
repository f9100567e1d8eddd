"""Neuron alignment: which neuron of B does the work of which neuron of A (Tatro et al., 2020, section 3).

What is compared are activations (utils.activations) or weights (utils.weights); what comes of it is an assignment
problem (utils.assignment).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .activations import ImagePair, Moments, correlation_scores, cross_correlations, cross_moments
from .assignment import assign_groups, undecided
from .attack import Attack
from .batches import Batch, Data, Images, as_images
from .curves import expect_alike
from .devices import device_of
from .permutations import Group, Permutations, PermutationSpec, axis_index, groups_in
from .weights import match_some, match_weights

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


def _by_correlation_before(network_a, network_b, spec, batches, seed, start) -> Permutations:
    scores = cross_correlations(network_a, network_b, spec, batches, before=True)
    return _by_scores(network_a, network_b, spec, scores)


def _by_distance(network_a, network_b, spec, batches, seed, start, *, before: bool) -> Permutations:
    moments = cross_moments(network_a, network_b, spec, batches, before=before)
    return _by_scores(network_a, network_b, spec, [moment.product() for moment in moments])


def _by_scores(network_a, network_b, spec: PermutationSpec, scores: Sequence[np.ndarray]) -> Permutations:
    """By scores (C, C) of each row; units that no row shows, or that never vary, by their weights."""
    weights = (dict(network.named_parameters()) for network in (network_a, network_b))
    return match_some(*weights, spec, assign_groups(spec, scores), undecided(spec, scores))


def _by_weights(network_a, network_b, spec, batches, seed, start) -> Permutations:
    weights = (dict(network.named_parameters()) for network in (network_a, network_b))
    return match_weights(*weights, spec, seed=seed, start=start)


def _as_it_is(network_a, network_b, spec, batches, seed, start) -> Permutations:
    return spec.identity()


def _at_random(network_a, network_b, spec, batches, seed, start) -> Permutations:
    return spec.random(seed)


METHODS = {
    "corr": Method(_by_correlation),
    "corr_pre": Method(_by_correlation_before),
    "w2_pre": Method(
        partial(_by_distance, before=True),
        distance=Distance(before=True, name="preactivation_distance", words="L2 distance before activation"),
    ),
    "w2_post": Method(
        partial(_by_distance, before=False),
        distance=Distance(before=False, name="activation_distance", words="L2 distance of activations"),
    ),
    "weight": Method(_by_weights, begins_with_a_match=True),
    "identity": Method(_as_it_is),
    "random": Method(_at_random),
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
) -> Permutations:
    """The permutations of B, one a group of `spec`, that match it to A.

    batches: any data (`utils.batches.as_images`), e.g. a DataLoader; read once. Only methods that compare activations
        need them. Padded positions do not count where a batch has a mask of tokens.
    method: corr or corr_pre, the greatest correlation of activations (section 3 of the paper) or of the inputs of
        activation functions; w2_post or w2_pre, their least L2 distance (and weight for units that no activation
        shows, or that never vary); weight, the least L2 distance of weights (`match_weights`);
        identity, B as it is; random, any permutations.
    seed: of the random permutations, and of the orders in which weights are matched.
    start: permutations with which weight matching begins.

    ValueError if there is no such method, it has no use for a start, or it needs data and has none; UserError if an
    activation is no finite number.
    """
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"a spec is what permutation_spec returns, and not a {type(spec).__name__}")
    expect_alike(network_a, network_b)
    if method not in METHODS:
        raise ValueError(f"the methods are {', '.join(METHODS)}, not {method!r}")
    if start is not None and not METHODS[method].begins_with_a_match:
        raise ValueError(f"the method {method} does not begin with a match")
    data = as_images(() if batches is None else batches, device_of(network_a), once=True)
    return METHODS[method].find(network_a, network_b, spec, data.batches(512), seed, start)


# --- images that are attacked, activations that are matched alone ------------------------------------------

ATTACK_SEED = 0  # of the random starts, which are the same for both networks


def attacked(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    networks: Sequence[nn.Module],
    images: Images,
    attack: Attack,
) -> Iterator[ImagePair]:
    """Every batch of images and labels as attacked on each of the two networks; images: how they are normalized."""
    generators = [torch.Generator().manual_seed(ATTACK_SEED) for _ in networks]
    for x, labels in batches:
        pairs = zip(networks, generators, strict=True)
        yield ImagePair(*(attack(network, x, labels, images, generator) for network, generator in pairs))


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
        axis = tuple(
            tuple(factor._replace(groups=tuple(number.get(g) for g in factor.groups)) for factor in segment)
            for segment in row.axis
        )
        rows.append(replace(row, axis=axis, votes=frozenset(number.values())))
    return PermutationSpec(tuple(groups), {}, tuple(rows), ()) if len(groups) > len(spec.groups) else None


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
        axis = tuple(
            tuple(factor._replace(groups=tuple(own.get(g, g) for g in factor.groups)) for factor in segment)
            for segment in row.axis
        )
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
