"""Weights by cells: views that have a dimension for each factor of the spec's axes, and so one for each group that
moves them.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .devices import send
from .permutations import Factor, PermutationSpec, Segments, segment_size


class Cell(NamedTuple):
    """A part of a weight of A and of B, with a dimension for each factor.

    groups: what moves each dimension, or None. blocks: the dimensions of the blocks in which its units stand.
    """

    a: torch.Tensor
    b: torch.Tensor
    groups: tuple[int | None, ...]
    blocks: tuple[tuple[int, ...], ...]


def cells_of(a: torch.Tensor, b: torch.Tensor, spec: PermutationSpec, axes: Sequence[Segments]) -> Iterator[Cell]:
    """A cell for each choice of one segment of every dimension, and of a member of a family of groups."""
    axes = [*axes, ((Factor(2),),)] if a.is_complex() else axes
    a, b = (real(value.detach()) for value in (a, b))
    sizes = [[segment_size(segment) for segment in axis] for axis in axes]
    for numbers in itertools.product(*map(range, map(len, axes))):
        parts = [a, b]
        for d, k in enumerate(numbers):
            parts = [part.narrow(d, sum(sizes[d][:k]), sizes[d][k]) for part in parts]
        factors = [(d, factor) for d, k in enumerate(numbers) for factor in axes[d][k]]
        parts = [part.reshape([factor.size for _, factor in factors]) for part in parts]
        yield from _members(*parts, spec, factors)


def _members(a: torch.Tensor, b: torch.Tensor, spec, factors: Sequence[tuple[int, Factor]]) -> Iterator[Cell]:
    """The cells of parts of two weights; factors: for each of their dimensions the weight's, and the factor."""
    over = next((factor.over for _, factor in factors if factor.over is not None), None)
    if over is None:
        groups = tuple(factor.groups[0] for _, factor in factors)
        # A group's blocks are looked for on its own dimension of the weight first.
        found = [
            [
                next(k for k in sorted(range(len(groups)), key=lambda k: factors[k][0] != d) if groups[k] == g)
                for g in on
            ]
            for (d, _), on in zip(
                factors, (spec.groups[g].depends_on if g is not None else () for g in groups), strict=True
            )
        ]
        yield Cell(a, b, groups, tuple(map(tuple, found)))
        return
    place = [k for k, (d, _) in enumerate(factors) if d == over[0]][over[1]]
    for member in range(factors[place][1].size):
        chosen = [
            (d, factor if factor.over != over else Factor(factor.size, (factor.groups[member],)))
            for d, factor in factors
        ]
        chosen[place] = (chosen[place][0], Factor(1))
        yield from _members(a.narrow(place, member, 1), b.narrow(place, member, 1), spec, chosen)


def permuted_cell(cell: Cell, spec: PermutationSpec, permutations: Sequence[np.ndarray]) -> torch.Tensor:
    """B's part, its units reordered: blocks first, then what is in each, in the order for the block's new place."""
    b, identity = cell.b, range(cell.b.dim())
    for k in sorted(identity, key=lambda k: len(cell.blocks[k])):
        if cell.groups[k] is None:
            continue
        order = torch.as_tensor(permutations[cell.groups[k]])
        if torch.equal(order, torch.arange(order.shape[-1]).expand_as(order)):
            continue
        if not cell.blocks[k]:
            b = b.index_select(k, send(order, b.device))
            continue
        dimensions = [*cell.blocks[k], k]
        index = order.permute([dimensions.index(d) for d in sorted(dimensions)])
        index = index.reshape([b.shape[d] if d in dimensions else 1 for d in identity])
        b = b.gather(k, send(index, b.device).expand(b.shape))
    return b


def units_of(value: torch.Tensor, cell: Cell, k: int, loose: Collection[int] = ()) -> torch.Tensor:
    """The weights of each unit along dimension k of a cell, (blocks, size, weights).

    loose: groups of which no order is known. Of the weights that they move, mean and deviation stand for all: so
        scaled that a product of two units is no less than in any order.
    """
    front = [*cell.blocks[k], k]
    free = [d for d, group in enumerate(cell.groups) if group in loose and d not in front]
    tied = [d for d in range(value.dim()) if d not in front and d not in free]
    units = value.permute(*front, *tied, *free)
    shape = units.shape
    last = len(front) + len(tied)
    units = units.reshape(
        math.prod(shape[: len(front) - 1]), shape[len(front) - 1], math.prod(shape[len(front) : last]), -1
    )
    if free:
        mean = units.mean(-1, keepdim=True)
        deviation = torch.linalg.vector_norm(units - mean, dim=-1)
        units = torch.stack([mean[..., 0] * units.shape[-1] ** 0.5, deviation], -1)
    return units.flatten(2)


def real(value: torch.Tensor) -> torch.Tensor:
    """Complex numbers as pairs of real ones in a last dimension."""
    return torch.view_as_real(value) if value.is_complex() else value
