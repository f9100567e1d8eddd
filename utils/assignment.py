"""Assignments: the best permutations for scores of how alike each two channels are, units in blocks included."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from .errors import checked
from .permutations import (
    Activation,
    Permutations,
    PermutationSpec,
    axis_index,
    compose,
    dependents,
    groups_in,
    occurrences,
    places_of,
)

# A score has grown if it did by more than rounding in float64, relative to the sizes of what it sums up.
SCORE_ROUNDING = 1e-12

# So many channels, or fewer, are assigned at once, even where any good assignment would do.
EXACTLY = 2048
# Parts of a row, by which its few best columns are found; rows are gone through in pieces that fit into a cache.
PARTS, ROWS = 32, 64

Turn = tuple[int, ...]  # a group, and the groups inside its blocks if they are matched with it


def assign(score: np.ndarray, *, maximize: bool = True) -> np.ndarray:
    """The permutation p with the largest (or least) Σ_i score[i, p[i]]: channel p[i] of B goes to place i of A.

    Numbers of float64 that are minimized are not copied.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and often not needed

    return linear_sum_assignment(score, maximize=maximize)[1]


def assign_shifted(score: np.ndarray) -> np.ndarray:
    """As `assign`: a constant added to each column changes no assignment, and it is found twice as fast."""
    return assign(np.subtract(-_column_shifts(score), score, dtype=np.float64), maximize=False)


def assign_likely(score: np.ndarray) -> np.ndarray:
    """As `assign`, but each row has the choice among its own column and the few that suit it best: ten times as fast
    for thousands of channels, and nearly as good. There must be `PARTS` channels or more."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    size, shifts, entries = len(score), _column_shifts(score), []
    for start in range(0, size, ROWS):
        piece = score[start : start + ROWS] + shifts
        # Above the median of the maxima of parts of a row there are about ⅔ as many entries.
        parts = piece[:, : size - size % PARTS].reshape(len(piece), PARTS, -1)
        chosen = piece > np.median(parts.max(-1), axis=-1, keepdims=True)
        chosen[np.arange(len(piece)), np.arange(start, start + len(piece))] = True
        places = np.flatnonzero(chosen)
        entries.append((piece.ravel()[places], places + start * size))
    values, places = (np.concatenate(each) for each in zip(*entries, strict=True))
    # Whole numbers, of which all sums are exact: the solver compares differences of them.
    values = values.astype(np.float64) - values.min()
    values = np.rint(values / (values.max() or 1) * 2**30) + 1
    graph = csr_array((values, np.divmod(places, size)), shape=score.shape)
    return min_weight_full_bipartite_matching(graph, maximize=True)[1]


def _column_shifts(score: np.ndarray) -> np.ndarray:
    """For each column by how much the best of its row is ahead of it, where that is least."""
    pieces = (score[start : start + ROWS] for start in range(0, len(score), ROWS))
    return reduce(np.minimum, ((piece.max(1, keepdims=True) - piece).min(0) for piece in pieces))


def assign_alike(score: np.ndarray) -> np.ndarray:
    """As `assign`; of many channels those first that are most alike to each other, and then what is left.

    Where each channel has a copy that is more alike than any other, this is the best permutation, found at once.
    """
    if len(score) <= EXACTLY:
        return assign(score)
    best = score.argmax(1)
    order, is_mutual = best.copy(), score.argmax(0)[best] == np.arange(len(score))
    rows, columns = np.flatnonzero(~is_mutual), np.delete(np.arange(len(score)), best[is_mutual])
    order[rows] = columns[(assign if len(rows) <= EXACTLY else assign_likely)(score[np.ix_(rows, columns)])]
    return order


def assign_groups(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> Permutations:
    """The best permutation of each group from a matrix (C_a, C_b) of scores of each row of the spec.

    A group that several activations show (a residual stream) is decided by the sum of those that vote. Units in
    blocks are matched exactly (`assign_blocks`). Where units are shown by products of two groups, either of which can
    be matched only in some order of the other, they are matched in any order first, and then in turns, until none
    can be bettered: so a network finds its own shuffled copy.
    """
    found = assign_blocks(spec, group_scores(spec, scores))
    turns = [(group, *dependents(spec, group)) for group in _shown_in_products(spec)]
    if not turns:
        return found
    moved = _moved(spec, scores, found)
    searched = [compose(spec, found, _ascended(spec, moved, order)) for order in (turns, turns[::-1])]
    return max(searched, key=lambda permutations: assigned_score(spec, scores, permutations))


def assign_blocks(
    spec: PermutationSpec,
    totals: Mapping[int, np.ndarray],
    solve: Callable[[np.ndarray], np.ndarray] = assign,
) -> Permutations:
    """The best permutation of each group from its scores: the best assignment of units for each pair of blocks, and
    of blocks on top of it.

    totals: of each group (blocks of A, blocks of B, size, size). With a group come all that depend on it. Groups that
        are left out stay as they are, and so do the blocks of those whose outer groups are left out.
    """
    permutations = spec.identity()
    children = {number: dependents(spec, number, direct=True) for number in totals}

    def best(group: int, a: int, b: int) -> tuple[float, np.ndarray, list]:
        """For block b of B on block a of A: the score, the order, and for each child its results by places."""
        score = totals[group][a, b]
        size, inner = len(score), []
        for child in children[group]:
            results = [[best(child, a * size + i, b * size + j) for j in range(size)] for i in range(size)]
            score = score + np.array([[value for value, *_ in line] for line in results])
            inner.append((child, results))
        order = solve(score)
        return score[np.arange(size), order].sum(), order, inner

    def write(group: int, block: tuple[int, ...], order: np.ndarray, inner: list) -> None:
        permutations[group][block] = order
        for child, results in inner:
            for i, j in enumerate(order):
                write(child, (*block, i), *results[i][j][1:])

    for number in totals:
        if totals.keys().isdisjoint(spec.groups[number].depends_on):
            for place, block in enumerate(np.ndindex(spec.blocks(number))):
                write(number, block, *best(number, place, place)[1:])
    return permutations


def group_scores(
    spec: PermutationSpec, scores: Sequence[np.ndarray], groups: Iterable[int] | None = None
) -> dict[int, np.ndarray]:
    """For each group the sum of what its rows say, (blocks of A, blocks of B, size, size).

    scores: for each row how alike each two channels are, (C_a, C_b); further matrices (the logits') are ignored.
    groups: those that are to be matched, all by default; the others stay as they are.
    Where a row shows the members of blocks in an order of their own, their scores count for the members alone:
    `assign_blocks` adds what they say of the blocks, for the best order of theirs. Where it shows units beside those
    of another group that is to be matched, they are alike as far as they can be in whatever order of the others; so
    are units beside those of their own group if all are to be matched, while else these count as they stand.
    """
    loose = frozenset(range(len(spec.groups)) if groups is None else groups)
    totals = no_scores(spec, sorted(loose))
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        for number in _voters(spec, row, loose):
            beside = loose if groups is None else loose - {number}
            for places in occurrences(number, row.axis, spec, beside):
                for copy in places.transpose(2, 3, 0, 1):  # (loose copies, blocks, size)
                    for units in copy:
                        totals[number] += matrix[units[:, None, :, None], copy[:, None, :, None]].max(0)
    return totals


def no_scores(spec: PermutationSpec, groups: Iterable[int]) -> dict[int, np.ndarray]:
    """For each group zeros, (blocks of A, blocks of B, size, size)."""
    counts = {group: (math.prod(spec.blocks(group)), spec.groups[group].size) for group in groups}
    return {group: np.zeros((blocks, blocks, size, size)) for group, (blocks, size) in counts.items()}


def undecided(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> list[int]:
    """The groups of which no row says anything: those between weights alone, e.g. the units of a learned query."""
    decided: set[int] = set()
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        for number in row.votes - decided:
            places = places_of(number, row.axis, spec).ravel()
            if matrix[np.ix_(places, places)].any():
                decided.add(number)
    return sorted(set(range(len(spec.groups))) - decided)


def assigned_score(spec: PermutationSpec, scores: Sequence[np.ndarray], permutations: Sequence[np.ndarray]) -> float:
    """The sum of what the rows say of matched channels, as far as they vote: what `assign_groups` maximizes."""
    total = 0.0
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        voters = _voters(spec, row, frozenset(range(len(spec.groups))))
        deciding = [places_of(number, row.axis, spec).ravel() for number in voters]
        places = np.unique(np.concatenate([np.zeros(0, np.int64), *deciding]))  # the channels that decide
        total += matrix[places, axis_index(row.axis, spec, permutations)[places]].sum()
    return total


def _voters(spec: PermutationSpec, row: Activation, groups: Set[int]) -> list[int]:
    """The groups for which a row's scores count: those that vote and whose members, if any, the row does not show."""
    shown = groups & groups_in(row.axis)
    return [number for number in sorted(row.votes & groups) if shown.isdisjoint(dependents(spec, number))]


# --- turns -------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """What a turn has done to B.

    near: the groups whose turns may better something again; is_optimal: not this turn itself.
    """

    permutations: Permutations
    near: Set[int]
    is_optimal: bool = False


def ascend(
    spec: PermutationSpec,
    turns: Sequence[Turn],
    take: Callable[[Turn], Move | None],
    generator: np.random.Generator | None = None,
) -> Iterator[Permutations]:
    """Coordinate ascent: take turns until none betters anything. After every sweep comes what all did to B.

    take: carries out a turn if that is better than to leave B as it is, for which it returns None.
    generator: of random orders; None: the turns are taken as they stand.
    """
    done, waiting = spec.identity(), set(turns)
    while True:
        order = range(len(turns)) if generator is None else generator.permutation(len(turns))
        for turn in checked(turns[number] for number in order):
            if turn not in waiting:
                continue
            waiting.remove(turn)
            if (move := take(turn)) is not None:
                done = compose(spec, done, move.permutations)
                near = {other for other in turns if other[0] in move.near}
                waiting |= near - {turn} if move.is_optimal else near
        yield done
        if not waiting:
            return


def last(search: Iterator[Permutations]) -> Permutations:
    """Where a search ends."""
    return collections.deque(search, maxlen=1).pop()


# --- units that are shown by products of two groups ----------------------------------------------------------


def _shown_in_products(spec: PermutationSpec) -> list[int]:
    """The groups that some row shows, and decides, in products with themselves or with groups that are neither around
    nor in them."""
    found = set()
    for row in spec.rows:
        for number in row.votes - found:
            others = frozenset(groups_in(row.axis)).difference(dependents(spec, number))
            if any(places.shape[-1] > 1 for places in occurrences(number, row.axis, spec, others)):
                found.add(number)
    return sorted(found)


def _ascended(spec: PermutationSpec, scores: Sequence[np.ndarray], turns: Sequence[Turn]) -> Permutations:
    """What `ascend` does to B, whose channels are in the order of `scores` at first."""
    scores = list(scores)

    def take(turn: Turn) -> Move | None:
        here = [number for number, row in enumerate(spec.rows) if not groups_in(row.axis).isdisjoint(turn)]
        part = replace(spec, rows=tuple(spec.rows[number] for number in here))
        before = [scores[number] for number in here]
        found = assign_blocks(part, group_scores(part, before, turn))
        if len(turn) > 1:  # their members were matched in any order of the units beside them
            inside = [(number, *dependents(spec, number)) for number in turn[1:]]
            found = compose(spec, found, _ascended(part, _moved(part, before, found), inside))
        old, new = (assigned_score(part, before, each) for each in (spec.identity(), found))
        if new - old <= SCORE_ROUNDING * sum(np.abs(matrix).sum() for matrix in before):
            return None
        for number, matrix in zip(here, _moved(part, before, found), strict=True):
            scores[number] = matrix
        return Move(found, set().union(*(groups_in(row.axis) for row in part.rows)))

    return last(ascend(spec, turns, take))


def _moved(
    spec: PermutationSpec, scores: Sequence[np.ndarray], permutations: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The scores of each row with the channels of a B that is permuted so."""
    pairs = zip(spec.rows, scores[: len(spec.rows)], strict=True)
    return [matrix[:, axis_index(row.axis, spec, permutations)] for row, matrix in pairs]
