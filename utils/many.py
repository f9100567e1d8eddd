"""Many networks aligned with each other: all to one of them, or cycle-consistently (Crisostomi et al., 2024).

Each network has permutations that bring it to one order of neurons that all share, the universe. Those of B to A are
composed: as B goes to the universe, and then back as A came. So matches around any cycle of networks compose to the
identity, exactly.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch import nn

from .activations import correlation_scores
from .assignment import assign_groups, assigned_score, undecided
from .batches import Batch, Data, as_images
from .curves import expect_alike
from .devices import device_of
from .permutations import Permutations, PermutationSpec, axis_index, compose, inverse, permute_entry
from .weights import Weights, match_some, match_weights, weight_similarity

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
    """For each network the permutations that bring it to the order of neurons that all share.

    batches: any data (`utils.batches.as_images`), or a function that gives batches anew for every two networks.
    method: corr or weight, as in `utils.matching.align`; seed: of the orders in which weights are matched.
    to: reference, each network is matched to the first, as if there were no others; universe, from there on each in
        turn is matched to all others as they stand, until none can be bettered. What grows is the sum over all pairs
        of networks of what the method maximizes. Of two networks the first is the universe.

    ValueError if the method or `to` is not known, or there are not two networks.
    """
    if method not in METHODS_OF_MANY or to not in TO:
        known = f"{' or '.join(METHODS_OF_MANY)} to {' or '.join(TO)}"
        raise ValueError(f"many networks are aligned by {known}, not {method} to {to}")
    expect_alike(*networks)
    if len(networks) < 2:
        raise ValueError("one network alone has none to be aligned with")

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
