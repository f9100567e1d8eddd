"""Neuron alignment: which neuron of B does the work of which neuron of A (Tatro et al., 2020, section 3).

What is compared are activations (utils.activations) or weights (utils.weights); what comes of it is an assignment
problem (utils.assignment).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .activations import Batch, Moments, Views, correlation_scores, cross_correlations, cross_moments
from .assignment import assign_groups, undecided
from .attack import Attack
from .batches import Images
from .cost import cost
from .permutations import Group, PermutationSpec, axis_index, groups_in
from .progress import track
from .stages.data import Data
from .weights import match_some, match_weights


class Given(NamedTuple):
    """What a method of alignment goes by: two networks, what may be permuted, and the arguments of `align`."""

    network_a: nn.Module
    network_b: nn.Module
    spec: PermutationSpec
    batches: Iterable[Batch]
    seed: int
    start: Sequence[np.ndarray] | None

    def weights(self) -> list[dict[str, torch.Tensor]]:
        return [dict(network.named_parameters()) for network in (self.network_a, self.network_b)]


def _by_scores(given: Given, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    found = assign_groups(given.spec, scores)
    return match_some(*given.weights(), given.spec, found, undecided(given.spec, scores))


def _by_correlation(given: Given) -> list[np.ndarray]:
    return _by_scores(given, correlation_scores(*given[:4]))


def _by_distance(given: Given, before: bool) -> list[np.ndarray]:
    return _by_scores(given, [moment.product() for moment in cross_moments(*given[:4], before=before)])


def _by_weights(given: Given) -> list[np.ndarray]:
    return match_weights(*given.weights(), given.spec, seed=given.seed, start=given.start)


METHODS: dict[str, Callable[[Given], list[np.ndarray]]] = {
    "corr": _by_correlation,
    "w2_pre": lambda given: _by_distance(given, before=True),
    "w2_post": lambda given: _by_distance(given, before=False),
    "weight": _by_weights,
    "identity": lambda given: given.spec.identity(),
    "random": lambda given: given.spec.random(given.seed),
}


def align(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    batches: Iterable[Batch] = (),
    *,
    method: str = "corr",
    seed: int = 1,
    start: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The permutations of B, one a group of `spec`, that match it to A.

    batches: images (b, 3, H, W), or tuples that begin with them, as a DataLoader gives; read once. Only methods that
        compare activations need them.
    method: corr, the greatest correlation of activations; w2_post or w2_pre, the least L2 distance of activations or
        of what goes into the activation functions (and weight for units that no activation shows, or that never
        vary); weight, the least L2 distance of weights (`match_weights`);
        identity, B as it is; random, any permutations.
    seed: of the random permutations, and of the orders in which weights are matched.
    start: permutations with which weight matching begins.

    ValueError if there is no such method, it has no use for a start, or it needs images and has none.
    """
    if method not in METHODS:
        raise ValueError(f"the methods are {', '.join(METHODS)}, not {method!r}")
    if start is not None and method != "weight":
        raise ValueError(f"the method {method} does not begin with a match")
    return METHODS[method](Given(network_a, network_b, spec, batches, seed, start))


class Aligned(NamedTuple):
    """What `align_on` finds: permutations, and what they are worth and took.

    before, after: the mean correlation of matched channels of each row, the logits last, (rows + 1,).
    matrices: where they are asked for, the correlations (C, C) of each row's channels, of A with those of B as it is.
    """

    permutations: list[np.ndarray]
    before: np.ndarray
    after: np.ndarray
    taken: dict[str, float]  # as `utils.cost.cost` has it
    matrices: list[np.ndarray] | None


def align_on(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    data: Data,
    *,
    batch_size: int,
    method: str,
    attack: Attack | None = None,
    matrices: bool = False,
    **how: object,
) -> Aligned:
    """`align` on the alignment images of `data`, and what comes of it on its test images.

    attack: how alignment images are attacked before the networks see them, if they are. matrices: whether how every
    two channels correlate is returned too. how: what else `align` takes.
    """

    def batches(images: Images, purpose: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return track(images.batches(batch_size), -(-len(images) // batch_size), "batch", purpose)

    compared: Iterable[Batch] = batches(data.alignment, "comparing activations")
    if attack is not None:
        compared = _attacked(compared, (network_a, network_b), data.alignment, attack)
    with cost(data.test.device) as taken:
        permutations = align(network_a, network_b, spec, compared, method=method, **how)
    on_test = cross_correlations(network_a, network_b, spec, batches(data.test, "measuring on test images"))
    before, after = (mean_correlations(spec, on_test, order) for order in (spec.identity(), permutations))
    return Aligned(permutations, before, after, taken, on_test[:-1] if matrices else None)


ATTACK_SEED = 0  # of the random starts, which are the same for both networks


def _attacked(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    networks: Sequence[nn.Module],
    images: Images,
    attack: Attack,
) -> Iterator[Views]:
    """Every batch of images and labels as attacked on each of the two networks."""
    generators = [torch.Generator().manual_seed(ATTACK_SEED) for _ in networks]
    for x, labels in batches:
        pairs = zip(networks, generators, strict=True)
        yield Views(*(attack(network, x, labels, images, generator) for network, generator in pairs))


def each_by_itself(spec: PermutationSpec) -> PermutationSpec | None:
    """The spec as if no two activations shared channels, each having groups of its own; None if none share any.

    In a residual stream its permutations differ from activation to activation, so they are nothing that a network can
    be permuted by: they tell how well the channels of each activation could be matched if nothing tied them.
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
