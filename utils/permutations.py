"""Permutations of hidden units: what may be permuted in a network, and permuting it.

Convention throughout (as published): a permutation p of B says that B's channel p[i] goes to A's place i. A group
whose units stand in blocks has such a row for each block: p[block, i], where `block` is the place to which the block
goes. What may be permuted in a network is found by `utils.symmetries.spec`; nothing here knows an architecture.

Two heads of three units each, for example: group 0 moves heads, and group 1 the units of each head in an order of its
own. An axis on which they stand has 2 · 3 entries; it is one segment, the product of two factors.

>>> spec = PermutationSpec((Group(2), Group(3, depends_on=(0,))), {}, (), ())
>>> axis = ((Factor(2, (0,)), Factor(3, (1,))),)
>>> permutations = [np.array([1, 0]), np.array([[0, 1, 2], [2, 0, 1]])]

Head 1 goes to place 0, its units in their order; head 0 goes to place 1, with its last unit first:

>>> axis_index(axis, spec, permutations)
array([3, 4, 5, 2, 0, 1])

The units of group 1 by their heads, and the same units when a constant entry is concatenated in front:

>>> places_of(1, axis, spec)[..., 0]
array([[0, 1, 2],
       [3, 4, 5]])
>>> places_of(1, ((Factor(1),), *axis), spec)[..., 0]
array([[1, 2, 3],
       [4, 5, 6]])

A second permutation that swaps the heads again brings head 0 back to place 0, its last unit still first:

>>> [order.tolist() for order in compose(spec, permutations, [np.array([1, 0]), np.array([[0, 1, 2]] * 2)])]
[[0, 1], [[2, 0, 1], [0, 1, 2]]]
"""

import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from .devices import send

# Of each group of a spec an index array (*blocks, size); a rotated one may have matrices (*blocks, size, size).
Permutations = list[np.ndarray]

# What a group's units may undergo, each kind a part of the next: orders, orthogonal matrices that keep the vector of
# ones, orthogonal matrices, and invertible ones (with the inverse on the other side of each product).
KINDS = ("permutation", "orthogonal, ones kept", "orthogonal", "invertible")


# --- what may be permuted ----------------------------------------------------------------------------------


class Group(NamedTuple):
    """`size` units whose order is free; in each block, if it depends on other groups (the outermost first)."""

    size: int
    depends_on: tuple[int, ...] = ()


class Factor(NamedTuple):
    """One factor of a dimension: `size` places.

    groups: the group that moves it, or None. Several: one for each place of a fixed factor, which stands at `over`,
    (dimension, number in its segment).
    """

    size: int
    groups: tuple[int | None, ...] = (None,)
    over: tuple[int, int] | None = None


Segment = tuple[Factor, ...]  # a product of factors, the outermost first
Segments = tuple[Segment, ...]  # of an axis, which is their concatenation


class Tap(NamedTuple):
    """The `number`th operation of this name that the module at `path` calls; "" is the output of the module."""

    path: str
    operation: str
    number: int


@dataclass(frozen=True)
class Activation:
    """One row of a match: an activation whose channels are permuted.

    label: dotted name of its module, or of the module and the function that it calls.
    call: where the activation function is called; tap: where its channels are measured, mostly the same.
    dims: the dimensions of the tensor that together are the channels. axis: the channels.
    votes: the groups that this row's correlation helps to decide.
    mean: dimensions over which the mean is taken first: their units are compared elsewhere, and are too many here.
    """

    label: str
    call: Tap
    tap: Tap
    dims: tuple[int, ...]
    axis: Segments
    votes: frozenset[int]
    mean: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        return axis_size(self.axis)


class Fixed(NamedTuple):
    """A dimension of a state entry that keeps its order, and the operation that is the reason."""

    entry: str
    dimension: int
    reason: str


class Gain(NamedTuple):
    """Factors of an axis, such as those of a norm, that other weights absorb: the factors become 1.

    entries: the factors less `offset`, by all their names. targets: entries, their dimensions, and the power of the
    factors by which they are multiplied.
    """

    entries: tuple[str, ...]
    offset: float
    targets: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, repr=False)
class PermutationSpec:
    """What may be permuted in a model.

    axes: for each state entry of which something moves, an axis for each dimension.
    rows: the activations that show permuted channels, in forward order.
    fixed: what stays, and why.
    modes: those in which the function is kept; a model that needs targets to train is seen in evaluation only.

    Where rotations were asked for:
    kinds: of each group, one of KINDS. reasons: for each group, what leaves it no more than that.
    gains: what is absorbed before anything is rotated.
    duals: (entry, dimension, number of the segment, of the factor in it, and of the group in that) where the matrix M
    of an invertible group becomes M⁻ᵀ.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, tuple[Segments, ...]]
    rows: tuple[Activation, ...]
    fixed: tuple[Fixed, ...]
    modes: tuple[str, ...] = ("eval", "train")
    kinds: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    gains: tuple[Gain, ...] = ()
    duals: frozenset[tuple[str, int, int, int, int]] = frozenset()

    def blocks(self, group: int) -> tuple[int, ...]:
        """For each group on which this one depends, its size."""
        return tuple(self.groups[other].size for other in self.groups[group].depends_on)

    def identity(self) -> Permutations:
        """Permutations that change nothing: for each group an index array (*blocks, size)."""
        return [
            np.tile(np.arange(group.size), (*self.blocks(number), 1)) if group.depends_on else np.arange(group.size)
            for number, group in enumerate(self.groups)
        ]

    def random(self, seed: int) -> Permutations:
        """Random permutations, in every block another one; for groups that may be rotated, matrices."""
        generator = np.random.default_rng(seed)

        def draw(units: np.ndarray, kind: str) -> np.ndarray:
            if kind == KINDS[0]:
                return generator.permuted(units, axis=-1)
            matrices = [random_matrix(units.shape[-1], kind, generator) for _ in np.ndindex(units.shape[:-1])]
            return np.reshape(matrices, (*units.shape, -1))

        return list(map(draw, self.identity(), self.kinds or [KINDS[0]] * len(self.groups)))

    def to_json(self) -> dict[str, object]:
        """The spec in lists, numbers and words, for `json.dump`."""
        rows = [vars(row) | {"votes": sorted(row.votes)} for row in self.rows]
        stored = vars(self) | {"axes": dict(self.axes), "rows": rows, "duals": sorted(self.duals)}
        return {key: value for key, value in stored.items() if self.kinds or key not in OF_ROTATIONS}

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> "PermutationSpec":
        """The spec of which `to_json` made this, whether or not it went through a file."""

        def axis(segments: Sequence[Sequence]) -> Segments:
            return tuple(
                tuple(Factor(size, tuple(groups), over and tuple(over)) for size, groups, over in segment)
                for segment in segments
            )

        kinds = {"label": str, "call": Tap._make, "tap": Tap._make, "dims": tuple, "axis": axis, "votes": frozenset}
        kinds |= {"mean": tuple}
        rows = [Activation(**{name: kinds[name](value) for name, value in row.items()}) for row in stored["rows"]]
        return cls(
            groups=tuple(Group(size, tuple(depends_on)) for size, depends_on in stored["groups"]),
            axes={name: tuple(map(axis, axes)) for name, axes in stored["axes"].items()},
            rows=tuple(rows),
            fixed=tuple(Fixed(*fixed) for fixed in stored["fixed"]),
            modes=tuple(stored["modes"]),
            kinds=tuple(stored.get("kinds", ())),
            reasons=tuple(stored.get("reasons", ())),
            gains=tuple(
                Gain(tuple(entries), offset, tuple(map(tuple, targets)))
                for entries, offset, targets in stored.get("gains", ())
            ),
            duals=frozenset(map(tuple, stored.get("duals", ()))),
        )

    def expect(self, state: Mapping[str, torch.Tensor], *, whole: bool = False) -> None:
        """ValueError, with the names, if this cannot be the spec of the network that has this state dict.

        whole: nor may the state have entries that the spec does not know.
        """
        shapes = {name: torch.Size(map(axis_size, axes)) for name, axes in self.axes.items()}
        if strange := [name for name in shapes if name not in state or shapes[name] != state[name].shape]:
            others = f", nor {_some(strange[1:])}" if strange[1:] else ""
            raise ValueError(f"the network has no entry {strange[0]} of this shape{others}")
        known = {*self.axes, *(fixed.entry for fixed in self.fixed)}
        tensors = (name for name, value in state.items() if isinstance(value, torch.Tensor) and value.numel() > 1)
        if whole and (strange := [name for name in tensors if name not in known]):
            raise ValueError(f"the spec is of a network without an entry {_some(strange)}")
        segments = itertools.chain.from_iterable(axis for axes in self.axes.values() for axis in axes)
        sizes = {(group, factor.size) for segment in segments for factor in segment for group in factor.groups}
        if {size for size in sizes if size[0] is not None} != {
            (i, group.size) for i, group in enumerate(self.groups)
        }:
            raise ValueError("its groups of units are not those of its weights")

    def checked(self, permutations: Sequence[Sequence | np.ndarray]) -> Permutations:
        """Index arrays, or matrices where the group's kind allows them, one a group.

        ValueError, with the group, if one is no permutation of its units, or no matrix of its kind.
        """
        if len(permutations) != len(self.groups):
            raise ValueError(f"there are {len(permutations)} permutations of {len(self.groups)} groups")
        arrays = list(map(np.asarray, permutations))
        for number, (array, identity) in enumerate(zip(arrays, self.identity(), strict=True)):
            if self.kinds and array.shape == (*identity.shape, identity.shape[-1]):
                if not is_of_kind(array, self.kinds[number]):
                    raise ValueError(f"group {number}: the matrix is not {self.kinds[number]}")
                continue
            if array.shape != identity.shape:
                raise ValueError(f"group {number}: an array {array.shape} where {identity.shape} is needed")
            if array.dtype.kind not in "iu" or not np.array_equal(np.sort(array, -1), np.sort(identity, -1)):
                raise ValueError(f"group {number}: not every number from 0 to {array.shape[-1] - 1} is there once")
        return arrays

    @property
    def log10_orders(self) -> float:
        """The decimal logarithm of the number of permutations that keep the function."""
        sizes = ((math.prod(self.blocks(number)), group.size) for number, group in enumerate(self.groups))
        return sum(blocks * math.lgamma(size + 1) for blocks, size in sizes) / math.log(10)

    def __repr__(self) -> str:
        """Five lines, and one of kinds if there are any; `to_json` has all of it."""
        units = sum(map(np.size, self.identity()))
        moved = sum(bool(groups_in(axis)) for axes in self.axes.values() for axis in axes)
        inside = [" × ".join(map(str, [*self.blocks(i), g.size])) for i, g in enumerate(self.groups)]
        reasons = Counter(fixed.reason.partition(" in ")[0] for fixed in self.fixed).most_common()
        kinds = Counter(zip(self.kinds, self.reasons, strict=True)).most_common()
        words = (f"{count} {kind}{f' ({reason})' * bool(reason)}" for (kind, reason), count in kinds)
        return "\n".join([
            f"PermutationSpec: {len(self.groups)} groups of {units:,} units, 10^{self.log10_orders:.1f} permutations",
            f"  sizes: {_some(inside, 12)}",
            f"  on {moved} dimensions of {len(self.axes)} entries: {_some(self.axes)}",
            f"  measured at {len(self.rows)} activations: {_some(row.label for row in self.rows)}",
            f"  fixed: {_some(f'{count} by {reason}' for reason, count in reasons)}",
            *([f"  kinds of groups: {_some(words, len(kinds))}"] if kinds else []),
        ])  # fmt: skip


OF_ROTATIONS = ("kinds", "reasons", "gains", "duals")


def _some(words: Iterable[str], count: int = 4) -> str:
    """The first of some words."""
    words = list(words)
    return ", ".join([*words[:count], *(["…"] if len(words) > count else [])]) or "none"


def axis_size(axis: Segments) -> int:
    return sum(map(segment_size, axis))


def segment_size(segment: Segment) -> int:
    return math.prod(factor.size for factor in segment)


def groups_in(axis: Segments) -> set[int]:
    return {g for segment in axis for factor in segment for g in factor.groups if g is not None}


def dependents(spec: PermutationSpec, group: int, *, direct: bool = False) -> list[int]:
    """The groups whose units stand in blocks that this group moves; direct: in no blocks within those."""
    return [
        number
        for number, (_, depends_on) in enumerate(spec.groups)
        if (group == depends_on[-1] if direct and depends_on else group in depends_on)
    ]


# --- tensors in parts --------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of a tensor, viewed with a dimension for each factor, so that at most one group moves each dimension.

    dims: the dimension of the tensor to which each belongs. groups: the group that moves it, or None.
    blocks: the part's dimensions over which its group's blocks are counted, the outermost first.
    """

    values: torch.Tensor
    dims: tuple[int, ...]
    groups: tuple[int | None, ...]
    blocks: tuple[tuple[int, ...], ...]


def parts_of(tensor: torch.Tensor, axes: Sequence[Segments], spec: PermutationSpec) -> Iterator[Part]:
    """A part for each choice of one segment of every dimension, and of a member of each family of groups."""
    for numbers in itertools.product(*(range(len(axis)) for axis in axes)):
        values, factors = tensor, []
        for d, number in enumerate(numbers):
            segment = axes[d][number]
            if len(axes[d]) > 1:
                values = values.narrow(d, axis_size(axes[d][:number]), segment_size(segment))
            factors += [(d, factor) for factor in segment]
        yield from _members(values.view([factor.size for _, factor in factors]), factors, spec)


def _members(values: torch.Tensor, factors: Sequence[tuple[int, Factor]], spec: PermutationSpec) -> Iterator[Part]:
    """The parts for each place of the fixed factors over which there are families; factors: with their dimensions."""
    over = next((factor.over for _, factor in factors if factor.over is not None), None)
    if over is None:
        dims, groups = tuple(d for d, _ in factors), tuple(factor.groups[0] for _, factor in factors)
        blocks = [()] * len(groups)
        for place, group in enumerate(groups):
            if group is not None and (outer := spec.groups[group].depends_on):
                # Blocks are looked for on the group's own dimension of the tensor first.
                found = sorted(range(len(groups)), key=lambda k, place=place: dims[k] != dims[place])
                blocks[place] = tuple(next(k for k in found if groups[k] == other) for other in outer)
        yield Part(values, dims, groups, tuple(blocks))
        return
    place = [k for k, (d, _) in enumerate(factors) if d == over[0]][over[1]]
    for member in range(factors[place][1].size):
        chosen = [(d, Factor(f.size, (f.groups[member],)) if f.over == over else f) for d, f in factors]
        chosen[place] = (over[0], Factor(1))
        yield from _members(values.narrow(place, member, 1), chosen, spec)


def reordered(part: Part, orders: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The part's values, reordered: blocks first, then the units in each, in the order for its new place.

    orders: an index array (*blocks, size) for each group that moves, on the device of the values.
    """
    values = part.values
    for k in sorted(range(values.dim()), key=lambda k: len(part.blocks[k])):
        if part.groups[k] not in orders:
            continue
        order, dimensions = orders[part.groups[k]], [*part.blocks[k], k]
        if len(dimensions) == 1:
            values = values.index_select(k, order)
            continue
        index = order.permute([dimensions.index(d) for d in sorted(dimensions)])
        index = index.reshape([n if d in dimensions else 1 for d, n in enumerate(values.shape)])
        values = values.gather(k, index.expand(values.shape))
    return values


def by_units(part: Part, k: int, loose: Collection[int] = ()) -> torch.Tensor:
    """The part's values by the units along its dimension k: (blocks, size, values, values that `loose` groups move).

    loose: groups beside which the values of a unit stand in no order that is known.
    """
    front = [*part.blocks[k], k]
    beside = [d for d, group in enumerate(part.groups) if group in loose and d not in front]
    tied = [d for d in range(part.values.dim()) if d not in front and d not in beside]
    values = part.values.permute(*front, *tied, *beside)
    ends = (0, len(front) - 1, len(front), len(front) + len(tied), values.dim())
    return values.reshape([math.prod(values.shape[start:end]) for start, end in itertools.pairwise(ends)])


def _changed(
    tensor: torch.Tensor, axes: Sequence[Segments], spec: PermutationSpec, change: Callable[[Part], torch.Tensor]
) -> torch.Tensor:
    """The tensor, with `change` of each of its parts in the place of that part."""
    parts = list(parts_of(tensor, axes, spec))
    if len(parts) == 1:
        return change(parts[0]).reshape(tensor.shape)
    changed = torch.empty_like(tensor)
    for part, place in zip(parts, parts_of(changed, axes, spec), strict=True):
        place.values.copy_(change(part))
    return changed


# --- weights that are compared ---------------------------------------------------------------------------

Weights = Mapping[str, torch.Tensor]  # of a network, by name


class WeightPair(NamedTuple):
    """A part of a weight in A, and the same part in B: a dimension for each factor, moved by at most one group."""

    a: Part
    b: Part


def counted(weights: Weights, spec: PermutationSpec) -> list[str]:
    """The names of what weight matching compares."""
    return [
        name
        for name, value in weights.items()
        if name in spec.axes
        and (value.is_floating_point() or value.is_complex())
        and name.rpartition(".")[2] not in ("running_mean", "running_var")
    ]


def expect_finite(which: str, weights: Weights, names: Iterable[str]) -> None:
    """ValueError, with the first name, if some weights of A or B (`which`) are not finite."""
    if broken := [name for name in names if not weights[name].isfinite().all()]:
        raise ValueError(f"{broken[0]} of {which} has numbers that are not finite: weights cannot be matched by it")


def pairs_of(
    weights_a: Weights, weights_b: Weights, spec: PermutationSpec, groups: Collection[int] | None = None
) -> list[WeightPair]:
    """The parts of all weights of A and B that are compared; groups: only of weights that one of these moves."""
    pairs: list[WeightPair] = []
    for name in counted(weights_a, spec):
        if groups is not None and groups_in(sum(spec.axes[name], ())).isdisjoint(groups):
            continue
        axes = [*spec.axes[name], *([((Factor(2),),)] if weights_a[name].is_complex() else [])]
        pairs += map(
            WeightPair, *(parts_of(as_real(each[name].detach()), axes, spec) for each in (weights_a, weights_b))
        )
    return pairs


def as_real(value: torch.Tensor) -> torch.Tensor:
    """Complex numbers as pairs of real ones in a last dimension."""
    return torch.view_as_real(value) if value.is_complex() else value


# --- permuting ---------------------------------------------------------------------------------------------


def permute(
    state: Mapping[str, torch.Tensor], spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """The state dict with its channels reordered (P_l W_l P_{l−1}ᵀ): a network that computes the same function.

    permutations: an index array (*blocks, size) for each group; new channel i is old channel permutations[g][i].
        Where the spec allows rotations, matrices (*blocks, size, size) too: new channel i is Σ_j M[i, j] · old
        channel j. Gains are absorbed first then, whatever the permutations (`absorbed`).

    Raises ValueError, with the names, if the state is not that of the spec's whole network, or with the group, if its
    permutation is none.
    """
    spec.expect(state, whole=True)
    permutations = spec.checked(permutations)
    permuted = OrderedDict(absorbed(state, spec))
    if hasattr(state, "_metadata"):  # the versions of modules, without which some refuse a state dict
        permuted._metadata = state._metadata
    spec, permutations = both_sides(spec), [*permutations, *map(other_side, permutations)]
    for name, axes in spec.axes.items():
        permuted[name] = permute_entry(permuted[name], axes, spec, permutations)
    return permuted


def permute_entry(
    tensor: torch.Tensor, axes: Sequence[Segments], spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> torch.Tensor:
    """`permute` of one entry, whose axes these are."""
    groups = set().union(*map(groups_in, axes))
    found = {group: send(torch.as_tensor(permutations[group]), tensor.device) for group in groups}
    return _changed(tensor, axes, spec, partial(rotated, found=found))


def rotated(part: Part, found: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The part's values as index arrays and matrices of groups change them: first all orders, then all matrices."""
    matrices = {group: each for group, each in found.items() if each.is_floating_point()}
    values = reordered(part, {group: each for group, each in found.items() if group not in matrices})
    if matrices.keys().isdisjoint(part.groups):
        return values
    wide = values.to(torch.promote_types(values.dtype, torch.float64))
    return _mixed(part._replace(values=wide), matrices).to(values.dtype)


def axis_index(axis: Segments, spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> np.ndarray:
    """The permutations of the groups of one axis as one index array (entries,): for each new place the old one."""
    return permute_entry(torch.arange(axis_size(axis)), (axis,), spec, permutations).numpy()


def occurrences(
    group: int, axis: Segments, spec: PermutationSpec, loose: Collection[int] = ()
) -> Iterator[np.ndarray]:
    """Where a group's units stand on an axis, for each time that it is there: (blocks, size, copies, loose copies).

    loose: groups beside which the copies of a unit stand in no order that is known.
    """
    for part in parts_of(torch.arange(axis_size(axis)), (axis,), spec):
        for k in (k for k, other in enumerate(part.groups) if other == group):
            yield by_units(part, k, loose).numpy()


def places_of(group: int, axis: Segments, spec: PermutationSpec) -> np.ndarray:
    """Where a group's units stand on an axis, (*blocks, size, copies); no copies if it is not there."""
    shape = (*spec.blocks(group), spec.groups[group].size)
    found = [places.reshape(*shape, -1) for places in occurrences(group, axis, spec)]
    return np.concatenate([np.zeros((*shape, 0), np.int64), *found], -1)


def soft_permute(
    parameters: Mapping[str, torch.Tensor], spec: PermutationSpec, matrices: Sequence[torch.Tensor | None]
) -> dict[str, torch.Tensor]:
    """`permute` with matrices for permutations: new channel i is Σ_j P[i, j] · old channel j. Differentiable.

    matrices: for each group P (*blocks, C, C), one for each block; the matrix of a permutation p has P[i, p[i]] = 1.
    None leaves a group as it is.
    """
    mixed = dict(parameters)
    for name in (name for name in spec.axes if name in parameters):
        axes = spec.axes[name]
        # Blocks move first, then the units in them, each in the order of its block's new place.
        depth = {g: len(spec.groups[g].depends_on) for axis in axes for g in groups_in(axis)}
        for level, (d, axis) in itertools.product(sorted(set(depth.values())), enumerate(axes)):
            here = {g: matrices[g] for g in groups_in(axis) if depth[g] == level and matrices[g] is not None}
            if here:  # what other dimensions concatenate is mixed in one product
                alone = [a if i == d or len(a) == 1 else ((Factor(axis_size(a)),),) for i, a in enumerate(axes)]
                mixed[name] = _changed(mixed[name], alone, spec, partial(_mixed, dimension=d, matrices=here))
    return mixed


def _mixed(part: Part, matrices: Mapping[int, torch.Tensor], dimension: int | None = None) -> torch.Tensor:
    """Σ_j matrix[*blocks, i, j] · values[…, j, …] for each group; dimension: only those of one of the tensor."""
    values = part.values
    for k, group in enumerate(part.groups):
        if group in matrices and dimension in (None, part.dims[k]):
            order = [*part.blocks[k], k]
            front = values.movedim(order, tuple(range(len(order))))
            flat = front.reshape(*front.shape[: len(order)], -1)
            values = (matrices[group] @ flat).view(front.shape).movedim(tuple(range(len(order))), order)
    return values


# --- rotating ----------------------------------------------------------------------------------------------


def absorbed(state: Mapping[str, torch.Tensor], spec: PermutationSpec) -> dict[str, torch.Tensor]:
    """The state dict of a network that computes the same, whose gains are all 1; networks are compared so.

    ValueError, with the name, where a gain is 0 and a bias would have to be divided by it.
    """
    state = dict(state)
    for entries, offset, targets in spec.gains:
        gain = state[entries[0]].double().flatten() + offset
        for name, d, power in targets:
            if power < 0 and not gain.all():
                raise ValueError(f"{entries[0]} has zeros, by which {name} would have to be divided")
            scale = (gain**power).reshape([-1 if d == i else 1 for i in range(state[name].dim())])
            state[name] = (state[name] * scale).to(state[name].dtype)
        for name in entries:
            state[name] = torch.full_like(state[name], 1 - offset)
    return state


def both_sides(spec: PermutationSpec) -> PermutationSpec:
    """The spec with every group twice: group n + number is, of n, the other side of each product of an invertible."""
    count, axes = len(spec.groups), dict(spec.axes)
    for name, d, p, f, m in spec.duals:
        dims = [[list(segment) for segment in axis] for axis in axes[name]]
        groups = list(dims[d][p][f].groups)
        groups[m] += count
        dims[d][p][f] = dims[d][p][f]._replace(groups=tuple(groups))
        axes[name] = tuple(tuple(map(tuple, axis)) for axis in dims)
    return replace(spec, groups=spec.groups * 2, axes=axes, kinds=spec.kinds * 2) if spec.duals else spec


def rotates(permutation: np.ndarray) -> bool:
    """Whether these are matrices, and not an index array."""
    return permutation.dtype.kind == "f"


def other_side(permutation: np.ndarray) -> np.ndarray:
    """M⁻ᵀ of matrices M; index arrays are their own."""
    return np.linalg.inv(permutation).swapaxes(-1, -2) if rotates(permutation) else permutation


def random_matrix(size: int, kind: str, generator: np.random.Generator) -> np.ndarray:
    """A random matrix of a kind, (size, size), in float64."""

    def orthogonal(n: int) -> np.ndarray:
        q, r = np.linalg.qr(generator.standard_normal((n, n)))
        return q * np.sign(np.diag(r))

    if kind == "invertible":
        return orthogonal(size) * np.exp(generator.uniform(-0.5, 0.5, size)) @ orthogonal(size)
    if kind == "orthogonal":
        return orthogonal(size)
    across = without_ones(size)
    return 1 / size + across @ orthogonal(size - 1) @ across.T


def without_ones(size: int) -> np.ndarray:
    """An orthonormal basis of all that is orthogonal to the vector of ones, (size, size − 1)."""
    return np.linalg.qr(np.column_stack([np.ones(size), np.eye(size, size - 1)]))[0][:, 1:]


def is_of_kind(matrix: np.ndarray, kind: str) -> bool:
    """Whether matrices (*blocks, size, size) are of a kind, up to rounding in float32."""
    if matrix.dtype.kind != "f" or not np.isfinite(matrix).all() or kind == "permutation":
        return False
    if kind == "invertible":
        return bool((np.linalg.cond(matrix) < 1e12).all())
    keeps_ones = kind == "orthogonal" or np.allclose(matrix.sum(-1), 1, atol=1e-5)
    return keeps_ones and np.allclose(matrix @ matrix.swapaxes(-1, -2), np.eye(matrix.shape[-1]), atol=1e-5)


# --- composing ---------------------------------------------------------------------------------------------


def compose(spec: PermutationSpec, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Permutations:
    """The permutations that do what `first` and then `second` do: without blocks first[second], or second @ first."""
    return [compose_one(spec, number, first[number], second) for number in range(len(spec.groups))]


def compose_one(
    spec: PermutationSpec, group: int, first: np.ndarray, second: Sequence[np.ndarray] | Mapping[int, np.ndarray]
) -> np.ndarray:
    """`compose` of one group; second: of it and of those on which it depends."""
    # Where the block that second puts there was before: what it does to the outer blocks comes first.
    blocks = _blocks_before(spec, group, second)
    if rotates(first) or rotates(second[group]):
        return as_matrices(second[group]) @ as_matrices(first)[blocks]
    return first[(*(index[..., None] for index in blocks), second[group])]


def as_matrices(permutation: np.ndarray) -> np.ndarray:
    """Matrices (*blocks, size, size) of index arrays (*blocks, size)."""
    return permutation if rotates(permutation) else np.eye(permutation.shape[-1])[permutation]


def inverse(spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> Permutations:
    """The permutations that undo others: `compose` of both, in either order, changes nothing."""
    undone = spec.identity()
    for number in sorted(range(len(spec.groups)), key=lambda number: len(spec.groups[number].depends_on)):
        # A block goes back to where it was, and there its units do.
        before = permutations[number][_blocks_before(spec, number, undone)]
        undone[number] = np.linalg.inv(before) if rotates(before) else np.argsort(before, axis=-1)
    return undone


def _blocks_before(spec: PermutationSpec, group: int, permutations: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """For each new block of a group the places at which it was before, an array (*blocks) for each outer group."""
    depends_on, grid = spec.groups[group].depends_on, np.indices(spec.blocks(group))
    return tuple(permutations[other][tuple(grid[: len(spec.groups[other].depends_on) + 1])] for other in depends_on)
