"""What may be permuted in a network, and applying permutations to its state dict.

Convention: a permutation p of B says that B's channel p[i] goes to place i. A group that depends on others has
one such row for each of their places: p[block, i], where `block` is the place to which the block goes.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..devices import send


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
Axis = tuple[Segment, ...]  # a concatenation of segments


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
    axis: Axis
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


@dataclass(frozen=True)
class PermutationSpec:
    """What may be permuted in a model.

    axes: for each state entry of which something moves, an axis for each dimension.
    rows: the activations that show permuted channels, in forward order.
    fixed: what stays, and why.
    modes: those in which the function is kept; a model that needs targets to train is seen in evaluation only.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, tuple[Axis, ...]]
    rows: tuple[Activation, ...]
    fixed: tuple[Fixed, ...]
    modes: tuple[str, ...] = ("eval", "train")

    def blocks(self, group: int) -> tuple[int, ...]:
        """For each group on which this one depends, its size."""
        return tuple(self.groups[other].size for other in self.groups[group].depends_on)

    def identity(self) -> list[np.ndarray]:
        """Permutations that change nothing: for each group an index array (*blocks, size)."""
        return [
            np.tile(np.arange(group.size), (*self.blocks(number), 1)) if group.depends_on else np.arange(group.size)
            for number, group in enumerate(self.groups)
        ]

    def random(self, seed: int) -> list[np.ndarray]:
        """Random permutations, in every block another one."""
        generator = np.random.default_rng(seed)
        return [generator.permuted(permutation, axis=-1) for permutation in self.identity()]


def axis_size(axis: Axis) -> int:
    return sum(segment_size(segment) for segment in axis)


def segment_size(segment: Segment) -> int:
    return math.prod(factor.size for factor in segment)


def groups_in(axis: Axis) -> set[int]:
    return {g for segment in axis for factor in segment for g in factor.groups if g is not None}


# --- index arrays ------------------------------------------------------------------------------------------------


def place_index(
    axes: Sequence[Axis], dimension: int, spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> np.ndarray:
    """For each new place along a dimension the old one, as an array that broadcasts to the tensor's shape.

    It is (1, …, n, …, 1), longer in another dimension if the order here depends on the place there.
    """
    parts, start = [], 0
    for number, segment in enumerate(axes[dimension]):
        places = _Digits(axes, dimension, number)
        old = np.zeros((1,) * len(axes), np.int64)
        for position, factor in enumerate(segment):
            new = places.of(dimension, position)
            chosen = [_lookup(group, new, spec, permutations, places) for group in factor.groups]
            moved = chosen[0]
            if factor.over is not None:
                case = places.of(*factor.over)
                for k, other in enumerate(chosen[1:], 1):
                    moved = np.where(case == k, other, moved)
            old = old * factor.size + moved
        parts.append(start + old)
        start += segment_size(segment)
    if not parts:  # nothing is there
        return np.zeros([0 if d == dimension else 1 for d in range(len(axes))], np.int64)
    shape = np.broadcast_shapes(*(tuple(1 if d == dimension else n for d, n in enumerate(p.shape)) for p in parts))
    wide = [np.broadcast_to(p, [p.shape[d] if d == dimension else n for d, n in enumerate(shape)]) for p in parts]
    return np.concatenate(wide, dimension)


def _lookup(group: int | None, new: np.ndarray, spec, permutations, places: "_Digits") -> np.ndarray:
    if group is None:
        return new
    blocks = [places.of_group(other) for other in spec.groups[group].depends_on]
    return np.asarray(permutations[group])[(*blocks, new)]


class _Digits:
    """The places of factors, for the entries of one segment of one dimension."""

    def __init__(self, axes: Sequence[Axis], dimension: int, segment: int):
        self.axes, self.dimension, self.segment = axes, dimension, segment

    def _segment(self, dimension: int) -> Segment:
        return self.axes[dimension][self.segment if dimension == self.dimension else 0]

    def of(self, dimension: int, position: int) -> np.ndarray:
        """The places of a factor, shaped along its dimension."""
        sizes = [factor.size for factor in self._segment(dimension)]
        inner = math.prod(sizes[position + 1 :])
        digits = np.arange(math.prod(sizes)) // inner % sizes[position]
        return digits.reshape([-1 if d == dimension else 1 for d in range(len(self.axes))])

    def of_group(self, group: int) -> np.ndarray:
        others = [d for d in range(len(self.axes)) if d != self.dimension and len(self.axes[d]) == 1]
        for dimension in (self.dimension, *others):
            for position, factor in enumerate(self._segment(dimension)):
                if group in factor.groups:
                    return self.of(dimension, position)
        raise ValueError(f"group {group} is not on this tensor")


def axis_index(axis: Axis, spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> np.ndarray:
    """The permutations of the groups of one axis as one index array over all of its entries."""
    return place_index((axis,), 0, spec, permutations)


def permute(
    state: Mapping[str, torch.Tensor], spec: PermutationSpec, permutations: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """The state dict with its channels reordered: a network that computes the same function.

    permutations: one index array a group; new channel i is old channel permutations[g][i].
    """
    permuted = OrderedDict(state)
    if hasattr(state, "_metadata"):  # the versions of modules, without which some refuse a state dict
        permuted._metadata = state._metadata
    for name, axes in ((name, spec.axes[name]) for name in state if name in spec.axes):
        indices = [place_index(axes, d, spec, permutations) for d in range(len(axes))]
        tensor = permuted[name]
        if all(index.size == index.shape[d] for d, index in enumerate(indices)):
            for d, index in enumerate(indices):
                if groups_in(axes[d]):
                    tensor = tensor.index_select(d, send(torch.as_tensor(index.ravel()), tensor.device))
        else:
            tensor = tensor[tuple(send(torch.as_tensor(index), tensor.device) for index in indices)]
        permuted[name] = tensor
    return permuted


# --- composing ---------------------------------------------------------------------------------------------------


def compose(spec: PermutationSpec, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The permutations that do what `first` and then `second` do: without blocks, first[second]."""
    composed = []
    for number in range(len(spec.groups)):
        # Where the block that second puts there was before: what it does to the outer blocks comes first.
        blocks = blocks_before(spec, number, second)
        composed.append(first[number][(*(index[..., None] for index in blocks), second[number])])
    return composed


def inverse(spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The permutations that undo others: `compose` of both, in either order, changes nothing."""
    undone = spec.identity()
    for number in sorted(range(len(spec.groups)), key=lambda number: len(spec.groups[number].depends_on)):
        # A block goes back to where it was; what is done in it there is undone here.
        undone[number] = np.argsort(permutations[number][blocks_before(spec, number, undone)], axis=-1)
    return undone


def blocks_before(spec: PermutationSpec, group: int, permutations: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """For each new block of a group the places at which it was before, an array (*blocks) for each outer group."""
    depends_on, grid = spec.groups[group].depends_on, np.indices(spec.blocks(group))
    return tuple(permutations[other][tuple(grid[: len(spec.groups[other].depends_on) + 1])] for other in depends_on)


def dependents(spec: PermutationSpec, group: int, *, direct: bool = False) -> list[int]:
    """The groups whose units stand in blocks that this group moves; direct: in no blocks within those."""
    return [
        number
        for number, (_, depends_on) in enumerate(spec.groups)
        if (group == depends_on[-1] if direct and depends_on else group in depends_on)
    ]


def places_of(group: int, axis: Axis, spec: PermutationSpec) -> np.ndarray:
    """Where a group's units stand on an axis, (*blocks, size, copies); no copies if it is not there."""
    found = [np.zeros((*spec.blocks(group), spec.groups[group].size, 0), np.int64)]
    found += [places.reshape(*places.shape[:-2], -1) for places in occurrences(group, axis, spec)]
    return np.concatenate(found, -1)


def occurrences(group: int, axis: Axis, spec: PermutationSpec, loose: Set[int] = frozenset()) -> Iterator[np.ndarray]:
    """Where a group's units stand on an axis, for each time that it is there: (*blocks, size, copies, loose copies).

    loose: groups beside which the copies of a unit are in no order that is known.
    """
    start = 0
    for segment in axis:
        places = start + np.arange(segment_size(segment)).reshape([factor.size for factor in segment])
        start += segment_size(segment)
        for position, factor in enumerate(segment):
            for case in (k for k, g in enumerate(factor.groups) if g == group):
                rest, here = list(range(len(segment))), places
                if factor.over is not None:
                    here = places.take(case, factor.over[1])
                    rest.remove(factor.over[1])
                front = [
                    *(next(i for i in rest if other in segment[i].groups) for other in spec.groups[group].depends_on),
                    position,
                ]
                rest = [i for i in rest if i not in front]
                others = {
                    i: segment[i].groups[case : case + 1] if segment[i].over == factor.over else segment[i].groups
                    for i in rest
                }
                beside = [i for i in rest if not loose.isdisjoint(others[i])]
                order = [*front, *(i for i in rest if i not in beside), *beside]
                kept = sorted(order)
                here = here.transpose([kept.index(i) for i in order])
                sizes = here.shape[: len(front)]
                yield here.reshape(*sizes, -1, math.prod(here.shape[len(order) - len(beside) :]))


# --- soft permutations -------------------------------------------------------------------------------------------


def soft_permute(
    parameters: Mapping[str, torch.Tensor], spec: PermutationSpec, matrices: Sequence[torch.Tensor | None]
) -> dict[str, torch.Tensor]:
    """`permute` with matrices for permutations: new channel i is Σ_j P[i, j] · old channel j. Differentiable.

    matrices: for each group P (*blocks, C, C), one for each block; the matrix of a permutation p has P[i, p[i]] = 1.
    None leaves a group as it is.
    """
    mixed = dict(parameters)
    for name in (name for name in spec.axes if name in parameters):
        tensor, axes = mixed[name], spec.axes[name]
        # Blocks move first, then what is in them, each in the order of its block's new place.
        depth = {g: len(spec.groups[g].depends_on) for axis in axes for g in groups_in(axis)}
        for level in sorted(set(depth.values())):
            for dimension, axis in enumerate(axes):
                if any(depth[g] == level and matrices[g] is not None for g in groups_in(axis)):
                    tensor = _mix(tensor, axes, dimension, spec, matrices, level)
        mixed[name] = tensor
    return mixed


def _mix(tensor: torch.Tensor, axes: Sequence[Axis], dimension: int, spec, matrices, level: int) -> torch.Tensor:
    """Mix along one dimension by the groups that depend on `level` others."""
    parts = tensor.split([segment_size(segment) for segment in axes[dimension]], dimension)
    done = []
    for part, segment in zip(parts, axes[dimension], strict=True):
        segments = [axis[0] if len(axis) == 1 else (Factor(n),) for axis, n in zip(axes, part.shape, strict=True)]
        segments[dimension] = segment
        factors = [(d, factor) for d, s in enumerate(segments) for factor in s]
        shape, value = part.shape, part.reshape([factor.size for _, factor in factors])
        first = sum(len(s) for s in segments[:dimension])
        for position in range(first, first + len(segment)):
            value = _mix_factor(value, factors, position, segments, spec, matrices, level)
        done.append(value.reshape(shape))
    return torch.cat(done, dimension) if len(done) > 1 else done[0]


def _mix_factor(value, factors, position: int, segments, spec, matrices, level: int) -> torch.Tensor:
    factor = factors[position][1]
    chosen = [None if g is None or len(spec.groups[g].depends_on) != level else matrices[g] for g in factor.groups]
    if all(matrix is None for matrix in chosen):
        return value
    blocks = [
        []
        if g is None
        else [next(i for i, (_, f) in enumerate(factors) if b in f.groups) for b in spec.groups[g].depends_on]
        for g in factor.groups
    ]
    if factor.over is None:
        return _multiply(chosen[0], value, blocks[0], position)
    over = sum(len(s) for s in segments[: factor.over[0]]) + factor.over[1]
    cases = [
        case
        if matrix is None
        else _multiply(matrix, case, [i - (over < i) for i in its], position - (over < position))
        for matrix, case, its in zip(chosen, value.unbind(over), blocks, strict=True)
    ]
    return torch.stack(cases, over)


def _multiply(matrix: torch.Tensor, value: torch.Tensor, blocks: list[int], position: int) -> torch.Tensor:
    """Σ_j matrix[*blocks, i, j] · value[…, j, …], where j is the dimension `position`, blocks others of `value`."""
    order = [*blocks, position]
    front = value.movedim(order, tuple(range(len(order))))
    flat = front.reshape(*front.shape[: len(order)], -1)
    return (matrix @ flat).view(front.shape).movedim(tuple(range(len(order))), order)


# --- shares ------------------------------------------------------------------------------------------------------


def moved_share(state: Mapping[str, torch.Tensor], spec: PermutationSpec) -> float:
    """The share of entries of all weights with two or more dimensions that some permutation moves."""
    moved = total = 0.0
    for name, tensor in _weights(state):
        total += tensor.numel()
        stays = math.prod(_fixed_share(axis) for axis in spec.axes[name]) if name in spec.axes else 1.0
        moved += (1 - stays) * tensor.numel()
    return moved / total if total else 0.0


def _weights(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.dim() >= 2 and tensor.numel() and has_fractions(tensor):
            yield name, tensor


def has_fractions(tensor: torch.Tensor) -> bool:
    """Whether it holds floating-point numbers, real or complex."""
    return tensor.is_floating_point() or tensor.is_complex()


def _fixed_share(axis: Axis) -> float:
    stays = sum(segment_size(segment) for segment in axis if not groups_in((segment,)))
    return stays / axis_size(axis)
