"""Weight matching: which neuron of B has the weights of which neuron of A (Ainsworth et al., 2022, section 3.2).

No image is looked at. With θ the weights, the permutations π of B maximize ⟨θ_A, π(θ_B)⟩, and so minimize the
distance ‖θ_A − π(θ_B)‖. Given all other groups the best permutation of one is a linear assignment problem. The
paper's Algorithm 1 solves one after the other, in random order, until none betters anything: this is `_ascent`.
Behind it stand what makes it fast (scores are kept up to date, and only groups near a change are taken again), and
what it begins with (several orders, and invariants by which a network finds its own shuffled copy).
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from .assignment import (
    EXACTLY,
    Move,
    Turn,
    ascend,
    assign_alike,
    assign_blocks,
    assign_likely,
    assign_shifted,
    last,
    no_scores,
)
from .devices import send
from .permutations import (
    Part,
    Permutations,
    PermutationSpec,
    WeightPair,
    Weights,
    as_real,
    by_units,
    compose,
    counted,
    dependents,
    expect_finite,
    pairs_of,
    permute_entry,
    reordered,
)

# Random orders in which the groups are gone through. For large networks fewer, whose sweeps of all groups together
# have not more than so many multiplications; then of all searches the best after one sweep goes on alone, and where
# one sweep alone has more than `VERY_LARGE`, the one that begins best.
ORDERS = 12
MULTIPLICATIONS = 2e10
VERY_LARGE = 1e11

LARGE = 2**24  # weights, from which on products on a device are worth its waits

COPIED = 1e-5  # by how much less than 1 the cosine of the weights of copies is, at most

# ⟨θ_A, π(θ_B)⟩ has grown if it did by more than rounding in float32, relative to the norms of what has changed.
WEIGHT_ROUNDING = 1e-7

# --- Algorithm 1 -------------------------------------------------------------------------------------------


def _ascent(
    state: "_State", spec: PermutationSpec, turns: Sequence[Turn], generator: np.random.Generator
) -> Iterator[Permutations]:
    """Algorithm 1: coordinate ascent on ⟨θ_A, π(θ_B)⟩. After every sweep comes π, relative to B as it was given.

    repeat                                                                 (`ascend`)
        for each group g, in random order
            π_g ← argmax_P ⟨P, Σ A · π(B)ᵀ⟩, over all weights that g moves  (`take`)
    until no group betters anything
    """

    def take(turn: Turn, is_exact: bool) -> Move | None:
        group, *inside = turn
        if not (here := state.moved_by(turn)):
            return None
        if inside:  # matched with the orders of all inside left open, and then each of these in turn
            found = _blocks_matched(spec, here.values(), turn)
            inner = _State(permuted(here.values(), found))
            found = compose(spec, found, last(_ascent(inner, spec, [(other,) for other in inside], generator)))
        else:
            found = spec.identity()
            solve = assign_shifted if is_exact or spec.groups[group].size <= EXACTLY else assign_likely
            orders = [solve(scores) for scores in state.scores(group).cpu().numpy()]
            found[group] = np.stack(orders).reshape(found[group].shape)
        if not state.carry_out(turn, found):
            return None
        near = {other for pair in here.values() for other in pair.b.groups if other is not None}
        # Where a weight has the group twice, each place was matched to the other as it was.
        return Move(found, near, is_optimal=not inside and _is_there_once(here.values(), group))

    done = more = spec.identity()
    # Large groups are matched approximately first, until nothing gets better, and only then exactly.
    for is_exact in (False, True) if any(group.size > EXACTLY for group in spec.groups) else (True,):
        for more in ascend(spec, turns, partial(take, is_exact=is_exact), generator):
            yield compose(spec, done, more)
        done = compose(spec, done, more)


def is_better(changes: Iterable["_Change"]) -> bool:
    """Whether ⟨θ_A, π(θ_B)⟩ grows by more than rounding by some changes of B."""
    values = [(change.a.values, change.b.values) for change in changes]
    rows, norms = torch.cat(_products(values)), torch.stack([a.norm() * b.norm() for a, b in values])
    gain, scale = (each.double().sum() for each in torch.cat([rows, norms]).cpu().split([len(rows), len(norms)]))
    return bool(gain > WEIGHT_ROUNDING * scale)


def permuted(pairs: Collection[WeightPair], permutations: Sequence[np.ndarray]) -> list[WeightPair]:
    """The pairs with B's units reordered."""
    orders = {}
    devices = {group: pair.b.values.device for pair in pairs for group in pair.b.groups if group is not None}
    for group, device in devices.items():
        order = permutations[group]
        if (order != np.arange(order.shape[-1])).any():
            orders[group] = send(torch.as_tensor(order), device)
    return [pair._replace(b=pair.b._replace(values=reordered(pair.b, orders))) for pair in pairs]


# --- scores kept up to date -------------------------------------------------------------------------------


class _Change(NamedTuple):
    """What a turn changes of a pair: all, or some places along one dimension.

    a: of A. b: of B, by how much it changes. after: what B has there then. d, places: the dimension and the places.
    """

    a: Part
    b: Part
    after: torch.Tensor
    d: int = 0
    places: torch.Tensor | None = None


class _State:
    """The weights as they stand in a search, and the scores of groups as far as they are known for them."""

    def __init__(self, pairs: Iterable[WeightPair]):
        self.pairs = [pair._replace(b=pair.b._replace(values=pair.b.values.clone())) for pair in pairs]
        self.numbers: dict[int | None, list[int]] = defaultdict(list)
        for number, pair in enumerate(self.pairs):
            for group in set(pair.b.groups):
                self.numbers[group].append(number)
        self.known: dict[int, torch.Tensor] = {}

    def moved_by(self, turn: Turn) -> dict[int, WeightPair]:
        """The pairs that a group of the turn moves, by their numbers."""
        return {n: self.pairs[n] for n in sorted({n for group in turn for n in self.numbers[group]})}

    def scores(self, group: int) -> torch.Tensor:
        """How alike each two units of a group are, all other groups staying as they are: (blocks, size, size)."""
        if group not in self.known:
            self.known[group] = scores_of(self.moved_by((group,)).values(), group)
        return self.known[group]

    def carry_out(self, turn: Turn, permutations: Sequence[np.ndarray]) -> bool:
        """Permute a turn's groups of B, if that is better than to leave them; whether it was.

        Known scores are brought up to date, by the products with what has changed alone; those of which more than
        half is new are forgotten instead.
        """
        group, known, here = turn[0], self.known, self.moved_by(turn)
        order, is_once = permutations[group], _is_there_once(here.values(), group)
        few = _few(turn, order)
        changes = {n: _change(pair, permutations, group, few if is_once else None) for n, pair in here.items()}
        if not is_better(changes.values()):
            return False
        is_reordered = len(turn) == 1 and is_once
        if is_reordered and group in known:
            known[group] = _columns_moved(known[group], order, few)
        for number, (a, b, after, d, places) in changes.items():
            values = self.pairs[number].b.values
            values.copy_(after) if places is None else values.index_copy_(d, places, after)
            for k, other in enumerate(b.groups):
                if other not in known or (other == group and is_reordered):
                    continue
                if few is not None:
                    kind = known[other].dtype
                    known[other].baddbmm_(_units(a, k, kind), _units(b, k, kind).mT)
                else:
                    del known[other]
        return True


def _change(pair: WeightPair, permutations: Sequence[np.ndarray], group: int, moved: np.ndarray | None) -> _Change:
    """What permutations change of a pair; moved: the units of its group that move, where these are few."""
    a, b = pair
    d = 0 if moved is None else b.groups.index(group)
    if moved is None or any(d in blocks for blocks in b.blocks):
        after = permuted([pair], permutations)[0].b.values
        return _Change(a, b._replace(values=after - b.values), after)
    places, new = (send(torch.as_tensor(index), b.values.device) for index in (moved, permutations[group][moved]))
    after = b.values.index_select(d, new)
    a, was = (part._replace(values=part.values.index_select(d, places)) for part in (a, b))
    return _Change(a, b._replace(values=after - was.values), after, d, places)


def _few(turn: Turn, order: np.ndarray) -> np.ndarray | None:
    """The units that move, where a turn of one group without blocks moves few, as it does late in a search."""
    moved = np.flatnonzero(order != np.arange(order.shape[-1]))
    return moved if len(turn) == order.ndim == 1 and 2 * len(moved) <= len(order) else None


def _columns_moved(scores: torch.Tensor, order: np.ndarray, few: np.ndarray | None) -> torch.Tensor:
    """The scores (blocks, size, size) with B's units in another order; few: those that move, where these are few."""
    if few is not None:
        places, new = (send(torch.as_tensor(index), scores.device) for index in (few, order[few]))
        return scores.index_copy_(-1, places, scores.index_select(-1, new))
    index = send(torch.as_tensor(order), scores.device).view(len(scores), 1, -1)
    return scores.gather(-1, index.expand(scores.shape))


def _is_there_once(pairs: Iterable[WeightPair], group: int) -> bool:
    """Whether a group stands at one dimension of each pair."""
    return all(pair.b.groups.count(group) == 1 for pair in pairs)


def scores_of(pairs: Iterable[WeightPair], group: int) -> torch.Tensor:
    """The sum of A · Bᵀ over the weights of each unit of a group, all others as they stand: (blocks, size, size)."""
    total = 0.0
    for a, b in pairs:
        for k in (k for k, other in enumerate(b.groups) if other == group):
            total = total + _units(a, k) @ _units(b, k).mT
    return total


def _units(part: Part, k: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weights of each unit along dimension k, (blocks, size, weights), in `dtype` or a more exact one."""
    units = by_units(part, k)[..., 0]
    return units.to(torch.promote_types(units.dtype, dtype))


# --- starts ----------------------------------------------------------------------------------------------


@torch.no_grad()
def match_weights(
    weights_a: Weights,
    weights_b: Weights,
    spec: PermutationSpec,
    *,
    seed: int = 1,
    start: Sequence[np.ndarray] | None = None,
) -> Permutations:
    """The permutations of B, one a group of `spec`, that match its weights to A's: the best that were found.

    weights_a, weights_b: the parameters of the two networks by name, or their state dicts. All that the permutations
        move counts, biases and weights of batch norm too, but not its running statistics: these follow from the
        weights and the images, are in units of activations, and are estimated anew between two networks.
    seed: of the random orders.
    start: permutations to begin with, than which the result is no worse. By default searches begin with the identity,
        and one with invariants of each unit under all permutations: so a network finds its own shuffled copy.

    Raises ValueError, with its name, if a weight is not finite.
    """
    weights_a, weights_b = _nearby("A", weights_a, spec), _nearby("B", weights_b, spec)
    pairs = pairs_of(weights_a, weights_b, spec)
    generator = np.random.default_rng(seed)
    sizes = ((b.values.numel(), b.values.shape[k], group) for _, b in pairs for k, group in enumerate(b.groups))
    sweep = sum(count * size for count, size, group in sizes if group is not None)
    orders = int(np.clip(MULTIPLICATIONS // max(sweep, 1), 1, ORDERS))

    def similarity(permutations: Sequence[np.ndarray]) -> float:
        return weight_similarity(weights_a, weights_b, spec, permutations)

    starts = [spec.identity() if start is None else start] * orders
    if start is None:
        starts.append(_blocks_matched(spec, pairs, range(len(spec.groups))))
        squares = (weight_similarity(weights, weights, spec, spec.identity()) for weights in (weights_a, weights_b))
        # B is a copy of A: no search ends higher, by the Cauchy–Schwarz inequality.
        if similarity(starts[-1]) >= (1 - COPIED) * math.prod(squares) ** 0.5:
            starts = starts[-1:]

    if sweep > VERY_LARGE:
        starts = [max(starts, key=similarity)]
    searches = [_search(pairs, spec, first, generator) for first in starts]
    if orders < ORDERS and len(searches) > 1:
        first, best = max(((next(search), search) for search in searches), key=lambda begun: similarity(begun[0]))
        searches = [itertools.chain([first], best)]
    return max(map(last, searches), key=similarity)


def _search(
    pairs: Sequence[WeightPair], spec: PermutationSpec, start: Sequence[np.ndarray], generator: np.random.Generator
) -> Iterator[Permutations]:
    """Permutations no worse than `start`, better after every sweep; of the last ones none can be bettered alone."""
    turns: list[Turn] = [(group,) for group in range(len(spec.groups))]
    for group, (_, depends_on) in enumerate(spec.groups):
        if not depends_on and (inside := dependents(spec, group)):
            turns.append((group, *inside))
    for done in _ascent(_State(permuted(pairs, start)), spec, turns, generator):
        yield compose(spec, start, done)


@torch.no_grad()
def match_some(
    weights_a: Weights,
    weights_b: Weights,
    spec: PermutationSpec,
    permutations: Sequence[np.ndarray],
    groups: Collection[int],
) -> Permutations:
    """The permutations of B, in which some groups are matched by their weights, given all others as they are."""
    if not groups:
        return list(permutations)
    weights_a, weights_b = _nearby("A", weights_a, spec), _nearby("B", weights_b, spec)
    pairs = permuted(pairs_of(weights_a, weights_b, spec, groups), permutations)
    turns = [(group, *(other for other in dependents(spec, group) if other in groups)) for group in groups]
    generator, found = np.random.default_rng(0), []
    for start in (spec.identity(), _blocks_matched(spec, pairs, groups)):
        done = last(_ascent(_State(permuted(pairs, start)), spec, turns, generator))
        found.append(compose(spec, permutations, compose(spec, start, done)))
    return max(found, key=lambda each: weight_similarity(weights_a, weights_b, spec, each))


def _blocks_matched(spec: PermutationSpec, pairs: Iterable[WeightPair], loose: Collection[int]) -> Permutations:
    """The best permutations of `loose` groups by how alike each two units of each two blocks are, whatever the order
    of the others of these groups. All other groups stay as they are.

    A pair counts for its innermost loose groups, in equal parts.
    """
    found = spec.identity()
    for root in (group for group in loose if set(spec.groups[group].depends_on).isdisjoint(loose)):
        totals = no_scores(spec, [root, *(other for other in dependents(spec, root) if other in loose)])
        for pair in pairs:
            outer = {d for blocks in pair.b.blocks for d in blocks}
            inner = [k for k, group in enumerate(pair.b.groups) if group in loose and k not in outer]
            for k in (k for k in inner if pair.b.groups[k] in totals):
                _add_alike(totals[pair.b.groups[k]], *(_invariants(part, k, loose) for part in pair), len(inner))
        matched = assign_blocks(spec, totals, solve=assign_alike)
        found = [matched[group] if group in totals else order for group, order in enumerate(found)]
    return found


def _add_alike(total: np.ndarray, a: torch.Tensor, b: torch.Tensor, parts: int) -> None:
    """Add, divided by `parts`, how alike units of A and B (blocks, size, n) are, to (blocks, blocks, size, size).

    Less half of both squares, which decides nothing, but makes nothing more alike than what is equal.
    """
    # Nor does a mean that all units share, and it would cost precision.
    mean = a.mean((0, 1))
    a, b = (units - mean for units in (a, b))
    scores = (a.flatten(0, 1) @ b.flatten(0, 1).T).view(*a.shape[:2], *b.shape[:2]).transpose(1, 2)
    total += scores.cpu().double().numpy() / parts
    square_a, square_b = (units.square().sum(-1).cpu().double().numpy() / (2 * parts) for units in (a, b))
    total -= square_a[:, None, :, None]
    total -= square_b[None, :, None, :]


def _invariants(part: Part, k: int, loose: Collection[int]) -> torch.Tensor:
    """Numbers of each unit along dimension k that no permutation of loose groups changes, (blocks, size, n).

    Of weights that loose groups move, mean and deviation stand for all: so scaled that a product of two units is no
    less than in any order.
    """
    units = by_units(part, k, loose)
    if units.shape[-1] > 1:
        mean = units.mean(-1, keepdim=True)
        deviation = torch.linalg.vector_norm(units - mean, dim=-1)
        units = torch.stack([mean[..., 0] * units.shape[-1] ** 0.5, deviation], -1)
    return units.flatten(2)


# --- compared weights --------------------------------------------------------------------------------------


def weight_similarity(
    weights_a: Weights, weights_b: Weights, spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> float:
    """⟨θ_A, π(θ_B)⟩ over what `match_weights` counts: the objective, which grows as the distance falls."""
    names = counted(weights_a, spec)
    moved = (permute_entry(weights_b[name].detach(), spec.axes[name], spec, permutations) for name in names)
    pairs = ((as_real(weights_a[name].detach()), as_real(b)) for name, b in zip(names, moved, strict=True))
    return torch.cat(_products(pairs)).cpu().double().sum().item() if names else 0.0


def _nearby(which: str, weights: Weights, spec: PermutationSpec) -> Weights:
    """What is compared, on the CPU unless it is large: a device would wait for each of many decisions."""
    compared = {name: weights[name].detach() for name in counted(weights, spec)}
    if sum(value.numel() for value in compared.values()) <= LARGE:
        compared = {name: value.cpu() for name, value in compared.items()}
    expect_finite(which, compared, compared)
    return compared


def _products(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """⟨a, b⟩ of pairs of the same shape, row by row: rows are to be added in float64, which not every device has."""
    return [(a * b).flatten(min(a.dim() - 1, 1)).sum(-1).flatten() for a, b in pairs]
