"""Weight matching: which neuron of B has the weights of which neuron of A (Ainsworth et al., 2022, section 3.2).

No image is looked at. With θ the weights, the permutations of B maximize ⟨θ_A, π(θ_B)⟩, and so minimize the distance
‖θ_A − π(θ_B)‖. Given all other groups the best permutation of one is an assignment: groups are taken in turns, in
random order, until none can be bettered.

A weight is looked at by cells (utils.cells), which have a dimension for each group that moves them.
"""

import collections
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch

from .assignment import assign, assign_blocks
from .cells import Cell, cells_of, permuted_cell, real, units_of
from .devices import send
from .permutations import PermutationSpec, compose, dependents, groups_in, permute

# Random orders in which the groups are gone through. For large networks fewer, whose sweeps of all groups together
# have not more than so many multiplications; then of all searches the best after one sweep goes on alone.
ORDERS = 12
MULTIPLICATIONS = 2e10

# A permutation is better if ⟨θ_A, π(θ_B)⟩ grows by more than rounding, relative to the norms of what it changes.
ROUNDING = 1e-7

STATISTICS = ("running_mean", "running_var")


@torch.no_grad()
def match_weights(
    weights_a: Mapping[str, torch.Tensor],
    weights_b: Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    *,
    seed: int = 1,
    start: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The permutations of B, one a group of `spec`, that match its weights to A's: the best that were found.

    weights_a, weights_b: the parameters of the two networks by name, or their state dicts. All that the permutations
        move counts, biases and weights of batch norm too, but not its running statistics: these follow from the
        weights and the images, are in units of activations, and are estimated anew between two networks.
    seed: of the random orders.
    start: permutations to begin with, than which the result is no worse. By default searches begin with the identity,
        and one with what no permutation changes of each unit: so a network finds its own shuffled copy.
    """
    names = counted(weights_a, spec)
    cells = [cell for name in names for cell in cells_of(weights_a[name], weights_b[name], spec, spec.axes[name])]
    generator = np.random.default_rng(seed)
    sweep = sum(
        cell.a.numel() * cell.a.shape[k] for cell in cells for k, g in enumerate(cell.groups) if g is not None
    )
    orders = int(np.clip(MULTIPLICATIONS // max(sweep, 1), 1, ORDERS))
    starts = [spec.identity() if start is None else start] * orders
    if start is None:
        starts.append(_by_invariants(cells, spec))

    def similarity(permutations: Sequence[np.ndarray]) -> float:
        return weight_similarity(weights_a, weights_b, spec, permutations)

    searches = [_search(cells, spec, first, generator) for first in starts]
    if orders < ORDERS:
        first, best = max(((next(search), search) for search in searches), key=lambda begun: similarity(begun[0]))
        searches = [itertools.chain([first], best)]
    return max(map(_last, searches), key=similarity)


@torch.no_grad()
def match_some(
    weights_a: Mapping[str, torch.Tensor],
    weights_b: Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    permutations: Sequence[np.ndarray],
    groups: Collection[int],
) -> list[np.ndarray]:
    """The permutations of B, in which some groups are matched by their weights, given all others as they are."""
    if not groups:
        return list(permutations)
    names = [
        name for name in counted(weights_a, spec) if any(groups_in(axis) & set(groups) for axis in spec.axes[name])
    ]
    cells = [cell for name in names for cell in cells_of(weights_a[name], weights_b[name], spec, spec.axes[name])]
    cells = _moved(cells, spec, permutations)
    turns = [(group, *(other for other in dependents(spec, group) if other in groups)) for group in groups]
    generator = np.random.default_rng(0)
    starts = (spec.identity(), assign_blocks(spec, _totals(cells, spec, groups)))
    searched = (_last(_ascend(_moved(cells, spec, start), spec, turns, generator)) for start in starts)
    found = [
        compose(spec, permutations, compose(spec, start, done)) for start, done in zip(starts, searched, strict=True)
    ]
    return max(found, key=lambda each: weight_similarity(weights_a, weights_b, spec, each))


def weight_similarity(
    weights_a: Mapping[str, torch.Tensor],
    weights_b: Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    permutations: Sequence[np.ndarray],
) -> float:
    """⟨θ_A, π(θ_B)⟩ over what `match_weights` counts: the objective, which grows as the distance falls."""
    names = counted(weights_a, spec)
    permuted = permute({name: weights_b[name].detach() for name in names}, spec, permutations)
    return sum(_product(real(weights_a[name].detach()), real(permuted[name])) for name in names)


def counted(weights: Mapping[str, torch.Tensor], spec: PermutationSpec) -> list[str]:
    """The names of what weight matching compares."""
    return [
        name
        for name, value in weights.items()
        if name in spec.axes
        and (value.is_floating_point() or value.is_complex())
        and name.rpartition(".")[2] not in STATISTICS
    ]


def _product(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a * b).flatten(min(a.dim() - 1, 1)).sum(-1).cpu().double().sum().item()


Turn = tuple[int, ...]  # a group that is permuted, and what is inside its blocks if that is permuted with it


# --- scores ------------------------------------------------------------------------------------------------


def _scores(cells: Sequence[Cell], group: int) -> torch.Tensor:
    """How alike each two units of a group are, all other groups staying as they are: (blocks, size, size)."""
    total = 0.0
    for cell in cells:
        for k in (k for k, other in enumerate(cell.groups) if other == group):
            total = total + units_of(cell.a, cell, k) @ units_of(cell.b, cell, k).mT
    return total


def _assigned(scores: torch.Tensor) -> np.ndarray:
    """The best order of the units in each block, (blocks, size)."""
    # Less what is common to a row or a column: the assignment is the same, and is found twice as fast.
    scores = scores - scores.amax(-1, keepdim=True)
    scores = (scores - scores.amax(-2, keepdim=True)).cpu().double().numpy()
    return np.stack(list(map(assign, scores)))


def _keep_up(
    known: dict[int, torch.Tensor], cells: Sequence[Cell], before: Sequence[Cell], turn: Turn, order: np.ndarray
) -> None:
    """Bring known scores up to date after a turn has permuted these cells, `before` as they were.

    Only the units that have moved change the scores of other groups: late in a search these are few. Scores of which
    more than half is new are forgotten instead.

    order: of the turn's group.
    """
    group = turn[0]
    is_alone = len(turn) == 1 and order.ndim == 1
    if is_alone and group in known:
        known[group] = known[group].index_select(-1, send(torch.as_tensor(order), known[group].device))
    changed = torch.as_tensor(np.flatnonzero(order != np.arange(order.shape[-1])))
    is_small = is_alone and 2 * len(changed) <= len(order)
    for cell, old in zip(cells, before, strict=True):
        for k, other in enumerate(cell.groups):
            if other not in known or (other == group and is_alone and cell.groups.count(group) == 1):
                continue
            d = cell.groups.index(group) if group in cell.groups else None
            if not is_small or d in cell.blocks[k] or max(map(cell.groups.count, (group, other))) > 1:
                del known[other]
                continue
            moved = send(changed, cell.b.device)
            a, new, was = (value.index_select(d, moved) for value in (cell.a, cell.b, old.b))
            known[other] = known[other] + units_of(a, cell, k) @ units_of(new - was, cell, k).mT


def _totals(cells: Sequence[Cell], spec: PermutationSpec, loose: Collection[int]) -> dict[int, np.ndarray]:
    """How alike each two units of each two blocks are in `loose` groups, whatever the order of the others of these.

    All other groups stay as they are. A cell counts for its innermost loose groups, in equal parts.
    """
    totals = {}
    for group in loose:
        blocks, size = math.prod(spec.blocks(group)), spec.groups[group].size
        totals[group] = np.zeros((blocks, blocks, size, size))
    for cell in cells:
        outer = {d for blocks in cell.blocks for d in blocks}
        inner = [k for k, group in enumerate(cell.groups) if group in totals and k not in outer]
        for k in inner:
            a, b = (units_of(value, cell, k, loose) for value in (cell.a, cell.b))
            # What all units share decides nothing, and would cost precision.
            mean = a.mean((0, 1))
            scores = (a - mean).flatten(0, 1) @ (b - mean).flatten(0, 1).T
            scores = scores.view(*a.shape[:2], *b.shape[:2]).transpose(1, 2)
            totals[cell.groups[k]] += scores.cpu().double().numpy() / len(inner)
    return totals


def _by_invariants(cells: Sequence[Cell], spec: PermutationSpec) -> list[np.ndarray]:
    """The permutations that match units by what no permutation of others changes."""
    return assign_blocks(spec, _totals(cells, spec, range(len(spec.groups))))


# --- search ------------------------------------------------------------------------------------------------


def _search(
    cells: Sequence[Cell],
    spec: PermutationSpec,
    start: Sequence[np.ndarray],
    generator: np.random.Generator,
) -> Iterator[list[np.ndarray]]:
    """Permutations no worse than `start`, better after every sweep; of the last ones none can be bettered alone."""
    turns: list[Turn] = [(group,) for group in range(len(spec.groups))]
    for group, (_, depends_on) in enumerate(spec.groups):
        if not depends_on and (inside := dependents(spec, group)):
            turns.append((group, *inside))
    for done in _ascend(_moved(cells, spec, start), spec, turns, generator):
        yield compose(spec, start, done)


def _last(search: Iterator[list[np.ndarray]]) -> list[np.ndarray]:
    return collections.deque(search, maxlen=1).pop()


def _ascend(
    cells: list[Cell],
    spec: PermutationSpec,
    turns: Sequence[Turn],
    generator: np.random.Generator,
) -> Iterator[list[np.ndarray]]:
    """Take turns in random order until none betters anything.

    After every sweep of those that may, comes what was done to B, as is done to `cells`.
    """
    touched: dict[int, list[int]] = {group: [] for group in range(len(spec.groups))}
    for number, cell in enumerate(cells):
        for group in set(cell.groups) - {None}:
            touched[group].append(number)
    done, stale = spec.identity(), set(turns)
    known: dict[int, torch.Tensor] = {}  # scores of groups, as all stand
    while True:
        for turn in [turns[i] for i in generator.permutation(len(turns))]:
            if turn not in stale:
                continue
            stale.remove(turn)
            numbers = sorted({number for group in turn for number in touched[group]})
            here = [cells[number] for number in numbers]
            if turn[0] not in known and len(turn) == 1 and here:
                known[turn[0]] = _scores(here, turn[0])
            move, moved = _best_move(here, spec, turn, generator, known)
            if not _is_better(moved, here):
                continue
            _keep_up(known, moved, here, turn, move[turn[0]])
            done = compose(spec, done, move)
            for number, cell in zip(numbers, moved, strict=True):
                cells[number] = cell
            near = {group for cell in moved for group in cell.groups}
            is_optimal = len(turn) == 1 and all(cell.groups.count(*turn) == 1 for cell in moved)
            stale |= {other for other in turns if other[0] in near and not (other == turn and is_optimal)}
        yield done
        if not stale:
            return


def _best_move(
    cells: Sequence[Cell],
    spec: PermutationSpec,
    turn: Turn,
    generator: np.random.Generator,
    known: Mapping[int, torch.Tensor],
) -> tuple[list[np.ndarray], list[Cell]]:
    """The permutations of a turn, and the cells permuted so.

    They are the best where each weight has the group once. Else they are as good as a turn makes them: of a weight
    that has it twice, each place is matched to the other as it is; of blocks with several groups inside, first
    the orders of all others inside are left open, and then each is matched in turn.
    """
    move = spec.identity()
    group, *inside = turn
    if not inside:
        if cells:
            move[group] = _assigned(known[group]).reshape(move[group].shape)
        return move, _moved(cells, spec, move)
    move = assign_blocks(spec, _totals(cells, spec, turn))
    moved = _moved(cells, spec, move)
    return compose(spec, move, _last(_ascend(moved, spec, [(other,) for other in inside], generator))), moved


def _moved(cells: Sequence[Cell], spec: PermutationSpec, move: Sequence[np.ndarray]) -> list[Cell]:
    return [cell._replace(b=permuted_cell(cell, spec, move)) for cell in cells]


def _is_better(cells: Sequence[Cell], before: Sequence[Cell]) -> bool:
    gain = scale = 0.0
    for cell, old in zip(cells, before, strict=True):
        change = cell.b - old.b
        gain += _product(cell.a, change)
        scale += (cell.a.norm() * change.norm()).item()
    return gain > ROUNDING * scale
