"""Rotations found as permutations are: the matrices of B that bring its weights, or activations, to those of A.

Both networks are compared with their gains absorbed (`permutations.absorbed`). Of an orthogonal group, given all
others, the best matrix is that of the orthogonal Procrustes problem: with Σ = Σ W_A W_Bᵀ over all weights of its
units, U Vᵀ of the singular value decomposition of Σ. Invertible groups are brought to a basis in which both sides of
each product have the same Gram matrix, where what is left is orthogonal. Permutations take turns with them; the
distance ‖θ_A − g(θ_B)‖ falls until it no longer does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .assignment import assign, assign_groups, undecided
from .permutations import (
    KINDS,
    Group,
    Part,
    Permutations,
    PermutationSpec,
    WeightPair,
    absorbed,
    both_sides,
    by_units,
    compose_one,
    counted,
    dependents,
    expect_finite,
    other_side,
    pairs_of,
    rotated,
    without_ones,
)

ROUNDS = 30  # at most; most searches end after a few
GAIN = 1e-5  # of the squared distance, below which a round has gained nothing

Found = dict[int, np.ndarray]  # of some groups, index arrays or matrices


class Scores(NamedTuple):
    """Of an activation, how its channels in A go with those in B, (C, C): correlations, and sums of products."""

    correlation: np.ndarray
    product: np.ndarray


@torch.no_grad()
def match_rotations(
    network_a: nn.Module, network_b: nn.Module, spec: PermutationSpec, rows: Sequence[Scores] | None = None
) -> Permutations:
    """The permutations and rotations of B, one a group of `spec`, that match its weights to A's.

    The search begins with groups that some weights show beside no other group, such as a residual stream by its
    embeddings. rows: of activations, by which groups are matched as far as these show them alone, and only the
    rest by weights.

    ValueError if the spec has no kinds, or a weight is not finite.
    """
    if not spec.kinds:
        raise ValueError("this spec has permutations alone: permutation_spec(…, rotations=True) finds rotations")
    shown = _by_activations(spec, rows) if rows is not None else {}
    pairs = pairs_of(_weights("A", network_a, spec), _weights("B", network_b, spec), both_sides(spec))
    rest = [number for number in range(len(spec.groups)) if number not in shown]
    _, found = _in_turns(_changed(pairs, shown, len(spec.groups)), spec, rest)
    return [(found | shown).get(number, same) for number, same in enumerate(spec.identity())]


def _weights(which: str, network: nn.Module, spec: PermutationSpec) -> dict[str, torch.Tensor]:
    """In float64, on the CPU, gains absorbed."""
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    expect_finite(which, state, counted(state, spec))
    wide = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    return absorbed(wide, spec)


def _by_activations(spec: PermutationSpec, rows: Sequence[Scores]) -> Found:
    """Groups in no blocks, and with none in theirs that are rotated."""
    found, scores = {}, [row.correlation for row in rows]
    assigned, weak = assign_groups(spec, scores), undecided(spec, scores)
    for number, (_, depends_on) in enumerate(spec.groups):
        inner = {number, *dependents(spec, number)}
        if spec.kinds[number] in KINDS[1:3] and not depends_on:
            axes = ([[factor.groups for factor in segment] for segment in row.axis] for row in spec.rows)
            products = [row.product for row, axis in zip(rows, axes, strict=True) if axis == [[(number,)]]]
            if products:
                found[number] = nearest(sum(products), spec.kinds[number])
        elif not depends_on and inner.isdisjoint(weak) and {spec.kinds[n] for n in inner} == {KINDS[0]}:
            found |= {n: assigned[n] for n in inner}
    return found


# --- turns ---------------------------------------------------------------------------------------------------------


def _in_turns(pairs: list[WeightPair], spec: PermutationSpec, groups: Sequence[int]) -> tuple[float, Found]:
    """The squared distance, and the groups, after turns in which each is brought to its best, given all others.

    At first only weights count that move with no group which is still unknown, as long as there are any.
    """
    turns, count = {}, len(spec.groups)
    for group in (number for number in groups if not set(spec.groups[number].depends_on) & set(groups)):
        family = {group, *dependents(spec, group)}
        moved = [n for n, pair in enumerate(pairs) if any(_side(g, count) in family for g in pair.b.groups)]
        turns |= {group: (family, moved)} if moved else {}
    order = sorted(turns, key=lambda number: (spec.kinds[number] == KINDS[0], len(dependents(spec, number))))
    unknown, found, before = set().union(*(family for family, _ in turns.values())), spec.identity(), np.inf
    for sweep in range(ROUNDS):
        for group in order:
            family, moved = turns[group]
            loose = unknown - family
            clear = [n for n in moved if not any(_side(g, count) in loose for g in pairs[n].b.groups)]
            if not clear and sweep == 0:
                continue
            _, step = best([pairs[n] for n in clear or moved], spec, group)
            old = [pairs[n] for n in moved]
            new = _changed(old, step, count)
            if group in unknown or _distance(new) < _distance(old):
                for n, pair in zip(moved, new, strict=True):
                    pairs[n] = pair
                for number in step:
                    found[number] = compose_one(spec, number, found[number], step)
            unknown -= family
        now = _distance(pairs)
        if not unknown and before - now <= GAIN * now:
            break
        before = now
    return _distance(pairs), {number: found[number] for number in groups}


def _side(group: int | None, count: int) -> int | None:
    """The group, whichever side of a product it stands for."""
    return group if group is None else group % count


# --- the best of one group, given all others -------------------------------------------------------------------


def best(pairs: Sequence[WeightPair], spec: PermutationSpec, group: int) -> tuple[float, Found]:
    """The best order or matrix of a group that stands in no blocks, with those of the groups in its own blocks, each
    in the best way for each pair of blocks; and the squared distance then."""
    inner = dependents(spec, group)
    if not inner:
        if spec.kinds[group] != KINDS[0]:
            found = {group: _matrix(pairs, spec, group)}
        else:
            scores = sum(_units(pair.a, k) @ _units(pair.b, k).T for pair, k in _places(pairs, group))
            found = {group: assign(scores.numpy())}
        return _distance(_changed(pairs, found, len(spec.groups))), found
    inside = [Group(size, tuple(n for n in depends_on if n != group)) for size, depends_on in spec.groups]
    inside = replace(spec, groups=tuple(inside))
    places = range(spec.groups[group].size)
    of_a, of_b = ([[_block(pair[n], group, place) for pair in pairs] for place in places] for n in (0, 1))
    results = [[_in_turns(list(map(WeightPair, a, b)), inside, inner) for b in of_b] for a in of_a]
    costs = np.array([[cost for cost, _ in line] for line in results])
    order = assign(-costs)
    chosen = [results[i][j][1] for i, j in enumerate(order)]
    found = {number: np.stack([each[number] for each in chosen]) for number in chosen[0]}
    return costs[places, order].sum(), {group: order, **found}


def _places(pairs: Iterable[WeightPair], group: int) -> Iterable[tuple[WeightPair, int]]:
    """The dimensions of parts along which a group stands."""
    return ((pair, k) for pair in pairs for k, other in enumerate(pair.b.groups) if other == group)


def _units(part: Part, k: int) -> torch.Tensor:
    """(size, weights) along a dimension whose group stands in no blocks."""
    return by_units(part, k)[0, ..., 0]


def _block(part: Part, group: int, place: int) -> Part:
    """The part in one block, without the dimension that counts the blocks."""
    kept = [k for k, other in enumerate(part.groups) if other != group]
    values = part.values
    for k in sorted(set(range(values.dim())) - set(kept), reverse=True):
        values = values.select(k, place)
    blocks = tuple(tuple(kept.index(d) for d in part.blocks[k] if d in kept) for k in kept)
    return Part(values, tuple(part.dims[k] for k in kept), tuple(part.groups[k] for k in kept), blocks)


def _changed(pairs: Sequence[WeightPair], found: Found, count: int) -> list[WeightPair]:
    """The pairs with B changed so."""
    both = {n: torch.as_tensor(each) for n, each in found.items()}
    both |= {n + count: torch.as_tensor(other_side(each)) for n, each in found.items()}
    return [pair._replace(b=pair.b._replace(values=rotated(pair.b, both))) for pair in pairs]


def _distance(pairs: Iterable[WeightPair]) -> float:
    return sum((pair.a.values - pair.b.values).square().sum().item() for pair in pairs)


# --- matrices ------------------------------------------------------------------------------------------------------


def nearest(scores: np.ndarray, kind: str) -> np.ndarray:
    """The matrix R of an orthogonal kind with the largest ⟨R, Σ⟩, of scores Σ (size, size) (Schönemann, 1966)."""
    if kind == KINDS[1]:
        across = without_ones(len(scores))
        return 1 / len(scores) + across @ nearest(across.T @ scores @ across, KINDS[2]) @ across.T
    u, _, vt = np.linalg.svd(scores)
    return u @ vt


def _matrix(pairs: Sequence[WeightPair], spec: PermutationSpec, group: int) -> np.ndarray:
    """The best matrix of a group, or for an invertible one the best of a few that are known in closed form."""
    sides = []
    for side in (group, group + len(spec.groups)):
        found = [(_units(pair.a, k).numpy(), _units(pair.b, k).numpy()) for pair, k in _places(pairs, side)]
        sides.append([np.concatenate(each, 1) for each in zip(*found, strict=True)] if found else None)
    near, far = sides
    scores = sum(a @ b.T for a, b in filter(None, sides))
    if spec.kinds[group] != KINDS[3]:
        return nearest(scores, spec.kinds[group])
    candidates = [np.eye(len(scores)), nearest(scores, KINDS[2])]
    if near is None or far is None:
        (a, b), flip = near or far, near is None
        alone = np.linalg.lstsq(b.T, a.T, rcond=None)[0].T
        if np.linalg.cond(alone) < 1e8:
            candidates.append(other_side(alone) if flip else alone)
    else:
        candidates += balanced(near, far)

    def distance(matrix: np.ndarray) -> float:
        moved = zip(sides, (matrix, other_side(matrix)), strict=True)
        return sum(np.square(pair[0] - m @ pair[1]).sum() for pair, m in moved if pair is not None)

    return min(candidates, key=distance)


def balanced(near: Sequence[np.ndarray], far: Sequence[np.ndarray]) -> list[np.ndarray]:
    """S_A⁻¹ R S_B, where S W Wᵀ Sᵀ = S⁻ᵀ V Vᵀ S⁻¹ of the two sides W and V of each network, and R is orthogonal.

    near, far: the sides of A and B, (size, weights) each. Nothing where a side has not full rank.
    """
    bases = []
    for w, v in zip(near, far, strict=True):
        try:
            left = np.linalg.cholesky(w @ w.T)
        except np.linalg.LinAlgError:
            return []
        values, vectors = np.linalg.eigh(left.T @ v @ v.T @ left)
        if values[0] <= 1e-12 * values[-1]:
            return []
        bases.append(values[:, None] ** 0.25 * vectors.T @ np.linalg.inv(left))
    (a, b), (c, d) = near, far
    s, t = bases
    scores = s @ a @ (t @ b).T + other_side(s) @ c @ (other_side(t) @ d).T
    return [np.linalg.solve(s, nearest(scores, KINDS[2]) @ t)]
