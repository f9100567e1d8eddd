"""Assignments: from scores of how alike each two channels are to the best permutations, units in blocks included."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.symmetries.spec import PermutationSpec, blocks_before, dependents, groups_in, places_of


def assign(score: np.ndarray) -> np.ndarray:
    """The permutation p that maximizes Σ_i score[i, p[i]]: channel p[i] of B goes to place i of A."""
    return linear_sum_assignment(score, maximize=True)[1]


def assign_groups(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The best permutation of each group from a matrix (C_a, C_b) of scores of each row of the spec.

    A group that several activations show (a residual stream) is decided by the sum of those that vote. Units in
    blocks are matched exactly (`assign_blocks`).
    """
    return assign_blocks(spec, dict(enumerate(group_scores(spec, scores))))


def assign_blocks(spec: PermutationSpec, totals: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """The best permutation of each group from its scores: the best assignment of units for each pair of blocks, and
    of blocks on top of it.

    totals: of each group (blocks of A, blocks of B, size, size). With a group come all that depend on it and on which
        it depends; groups that are left out stay as they are.
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
        order = assign(score)
        return score[np.arange(size), order].sum(), order, inner

    def write(group: int, block: tuple[int, ...], order: np.ndarray, inner: list) -> None:
        permutations[group][block] = order
        for child, results in inner:
            for i, j in enumerate(order):
                write(child, (*block, i), *results[i][j][1:])

    for number in totals:
        if not spec.groups[number].depends_on:
            write(number, (), *best(number, 0, 0)[1:])
    return permutations


def group_scores(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each group the sum of what its rows say, (blocks of A, blocks of B, size, size).

    scores: for each row how alike each two channels are, (C_a, C_b); what follows the rows (the logits) says nothing.
    Where a row shows the members of blocks in an order of their own, their scores count for the members alone:
    `assign_blocks` adds what they say of the blocks, for the best order of theirs.
    """
    totals = []
    for number, group in enumerate(spec.groups):
        blocks = math.prod(spec.blocks(number))
        totals.append(np.zeros((blocks, blocks, group.size, group.size)))
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        shown = groups_in(row.axis)
        for number in (number for number in row.votes if shown.isdisjoint(dependents(spec, number))):
            total = totals[number]
            places = places_of(number, row.axis, spec).reshape(len(total), total.shape[-1], -1)
            for copy in np.moveaxis(places, -1, 0):
                total += matrix[copy[:, None, :, None], copy[None, :, None, :]]
    return totals


def assigned_score(spec: PermutationSpec, totals: Sequence[np.ndarray], permutations: Sequence[np.ndarray]) -> float:
    """The sum of the scores of what is matched: what `assign_blocks` maximizes, of whatever permutations."""
    score = 0.0
    for number, (total, permutation) in enumerate(zip(totals, permutations, strict=True)):
        blocks = spec.blocks(number)
        before = np.ravel_multi_index(blocks_before(spec, number, permutations), blocks).ravel() if blocks else [0]
        places = np.arange(total.shape[-1])
        for place, (block, order) in enumerate(zip(before, permutation.reshape(-1, len(places)), strict=True)):
            score += total[place, block][places, order].sum()
    return score
