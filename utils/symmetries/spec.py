"""The permutation symmetries of any network, found by running it once and proved by running it again.

`permutation_spec` is the way in. No architecture is known here by name.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import torch
from torch import nn

from ..permutations import (
    Activation,
    Factor,
    Fixed,
    Group,
    PermutationSpec,
    Segments,
    Tap,
    axis_size,
    groups_in,
)
from .algebra import Atom, Axis, Product, atoms_of, axis_of, is_fixed, product_size
from .kinds import with_kinds
from .proof import examine
from .rules import ATEN
from .running import Outputs, has_fractions, plain_run, tree_map_tensors
from .tracing import ONE_IMAGE, Trace, TracedAxes, follow


def permutation_spec(
    model: nn.Module,
    *example,
    proof: bool = True,
    outputs: Outputs | None = None,
    rotations: bool = False,
    **keywords,
) -> PermutationSpec:
    """What may be permuted in `model` (section 3), as it runs on the example: its inputs, positional or by name.

    Without an example these are images (2, 3, 32, 32). Labels are no inputs: of a batch (x, labels) give x.

    outputs: what of its output counts, and keeps its order: fields by name or place, or a function that gives it; all
    by default, except for caches of keys and values. proof: whether the symmetries are tried, in float64.
    rotations: whether the spec says what may be rotated, too (`utils.symmetries.kinds`).

    A model may carry `aligned_by`, a dictionary {activation: node}: the activation is then measured at that node,
    a module path, and it alone decides its permutation. The model is left as it was. A warning names weights that
    the run does not use.

    Raises ValueError, naming the model, if permutations change what it computes (its run depends on data), or if that
    cannot be seen.
    """
    if not example and not keywords:
        example = (torch.zeros(2, 3, 32, 32),)
    try:
        spec = _spec(model, example, keywords, outputs, proof=proof)
    except ValueError as error:
        if ONE_IMAGE not in str(error):
            raise
        example, keywords = tree_map_tensors(_doubled, (example, keywords))
        spec = _spec(model, example, keywords, outputs, proof=proof)
    return with_kinds(spec, model, example, keywords, outputs, proof=proof) if rotations else spec


def _spec(
    model: nn.Module, example: tuple, keywords: dict, wanted: Outputs | None, *, proof: bool
) -> PermutationSpec:
    with plain_run():
        traced, trace = follow(model, example, keywords, wanted)
        unseen = True
        while unseen:
            builder = _Builder(traced)
            spec = builder.spec(trace, getattr(model, "aligned_by", {}))
            unseen = examine(model, spec, example, keywords, wanted=wanted)[1] if proof else []
            traced.where = "not proved: a wrong order of it would not show"
            for atom in [atom for atom, number in builder.numbers.items() if number in unseen]:
                traced.fix(axis_of(atom))
    if unused := [*dict.fromkeys(fixed.entry for fixed in spec.fixed if fixed.reason == UNUSED)]:
        names = ", ".join([*unused[:3], *["…"][: len(unused) - 3]])
        warnings.warn(
            f"{len(unused)} weights of {type(model).__name__} were never used on this example ({names}): "
            "what uses them on other data is not kept; try a larger example",
            stacklevel=3,
        )
    return spec


UNUSED = "never used"


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    """A batch of one as a batch of two."""
    return torch.cat([tensor, tensor]) if tensor.dim() and len(tensor) == 1 else tensor


MAX_CHANNELS = 4096  # of more, those that other activations show are not compared one by one


class _Builder:
    """Turns the axes of a run into groups, state axes and rows."""

    def __init__(self, traced: TracedAxes):
        self.traced = traced
        self._finish()
        traced.fix_unread()
        self._finish()
        atoms: dict[Atom, None] = {}
        for axes in traced.entries.values():
            for axis in axes:
                for atom in atoms_of(axis):
                    atoms |= dict.fromkeys(traced.inner(atom) or [atom])
        free = sorted((atom for atom in atoms if atom.reason is None), key=lambda atom: atom.born)
        self.numbers = {atom: number for number, atom in enumerate(free)}
        self.groups = tuple(Group(atom.size, tuple(map(self.numbers.get, self._outer(atom)))) for atom in free)

    def _free_dependences(self, atom: Atom) -> set[Atom]:
        return {other for other in self.traced.depends(atom) or () if other.reason is None}

    def _outer(self, atom: Atom) -> list[Atom]:
        """The free atoms on which one depends, those that depend on fewest first."""
        return sorted(self._free_dependences(atom), key=lambda a: (len(self._free_dependences(a)), a.born))

    # --- bringing axes into a form that a gather can follow ----------------------------------------------------

    def _finish(self) -> None:
        """Forget dependences that cannot be written down, until nothing changes."""
        traced, before = self.traced, None
        while before != (now := self._snapshot()):
            before = now
            for owner in traced.entries:
                axes = traced.settle(traced.entries[owner])
                for axis in axes:
                    for atom in atoms_of(traced.resolve(axis)):
                        self._simplify(atom)
                traced.entries[owner] = [self._write_blocks(axis) for axis in axes]

    def _snapshot(self) -> list[tuple[Atom, frozenset[Atom]]]:
        return [
            (atom, frozenset(self.traced.depends(atom) or ()))
            for axes in self.traced.entries.values()
            for axis in axes
            for atom in atoms_of(self.traced.resolve(axis))
            if atom.reason is None
        ]

    def _write_blocks(self, axis: Axis) -> Axis:
        """A product whose first factor is fixed and distinguishes the others, as a concatenation."""
        traced, written = self.traced, ()
        for product in traced.resolve(axis):
            if len(product) > 1 and any(
                a.members and traced.leaf(a.over) == axis_of(product[0]) for a in product[1:]
            ):
                written += self._write_blocks(sum(traced.members((product[1:],), product[0]), ()))
            else:
                written += (product,)
        return traced.resolve(written)

    def _simplify(self, atom: Atom) -> None:
        """Families have members that are atoms; dependences are a chain of groups, each in all before it."""
        traced = self.traced
        if atom.bound is not None or atom.reason is not None:
            return
        for other in sorted(traced.depends(atom) or (), key=lambda a: a.born):
            if other.reason is not None and atom.bound is None:
                traced.write_out(atom, other)
        if atom.bound is not None:
            return
        if atom.members is not None:
            for member in atom.members:
                axis = traced.resolve(axis_of(member))
                if len(axis) > 1:
                    traced.split_sum(atom, product_size(axis[0]))
                    return
                if len(axis[0]) > 1:
                    traced.split_product(atom, [part.size for part in axis[0]])
                    return
        for part in traced.inner(atom) or [atom]:
            self._chain(part)

    def _chain(self, atom: Atom) -> None:
        traced, kept = self.traced, set()
        for other in self._outer(atom):
            if traced.depends_on(other, atom) and atom.born < other.born:
                traced.forget(atom, other)
            elif self._free_dependences(other) - {atom} == kept:
                traced.forget(other, atom)
                kept.add(other)
            else:
                traced.forget(atom, other)

    # --- writing them down --------------------------------------------------------------------------------------

    def spec(self, trace: Trace, aligned_by: Mapping[str, str]) -> PermutationSpec:
        traced, axes, fixed = self.traced, {}, []
        for name in traced.state:
            owner, order = traced.aliases[name]
            if owner not in traced.entries or order is None:
                unused = UNUSED if has_fractions(traced.state[name]) else "not of floating point"
                reason = "overlaps another entry" if owner in traced.entries else unused
                fixed += [Fixed(name, d, reason) for d in range(traced.state[name].dim())]
                continue
            whole = [traced.entries[owner][d] for d in order]
            written = self.written(whole)
            for d, axis in enumerate(whole):
                reasons = {atom.reason: None for atom in atoms_of(axis) if atom.reason is not None}
                fixed += [Fixed(name, d, reason) for reason in reasons]
            if any(map(groups_in, written)):
                axes[name] = written
        rows = self.rows(trace, aligned_by)
        return PermutationSpec(self.groups, axes, rows, tuple(fixed), trace.modes)

    def written(self, axes: Sequence[Axis]) -> tuple[Segments, ...]:
        """Axes in groups."""
        return tuple(
            tuple(tuple(self._factor(atom, product, axes, d) for atom in product) for product in axis)
            for d, axis in enumerate(axes)
        )

    def _factor(self, atom: Atom, product: Product, axes: Sequence[Axis], dimension: int) -> Factor:
        if atom.reason is not None or (atom.members is None and atom not in self.numbers):
            return Factor(atom.size)
        if atom.members is None:
            return Factor(atom.size, (self.numbers[atom],))
        over = atoms_of(self.traced.leaf(atom.over))[0]
        groups = tuple(self.numbers.get(member) for member in self.traced.inner(atom))
        if over in product:
            return Factor(atom.size, groups, (dimension, product.index(over)))
        for d, axis in enumerate(axes):
            if d != dimension and len(axis) == 1 and over in axis[0]:
                return Factor(atom.size, groups, (d, axis[0].index(over)))
        raise ValueError("a family without what it depends on")

    def rows(self, trace: Trace, aligned_by: Mapping[str, str]) -> tuple[Activation, ...]:
        """Activations that show groups, and the first place where a group is made that none of them shows."""
        channels = {call: self._channels(call.axes) for call in trace.calls}
        taken = {call for call in trace.calls if call.tap.operation in ATEN["activation"]}
        for is_fed in (True, False):  # calls that no input reaches never vary, or only over places
            made = [call for call in trace.calls if call.tap.operation in ATEN["producer"] and call.is_fed == is_fed]
            for groups_shown in (self._alone, groups_in):
                counted = (call for call in taken if call.is_fed or not is_fed)
                shown = {group for call in counted for group in groups_shown(channels[call].axis)}
                for call in made:
                    if new := groups_shown(channels[call].axis) - shown:
                        taken.add(call)
                        shown |= new
        alone = {group for call in taken for group in self._alone(channels[call].axis)}
        for call in taken:
            if axis_size(channels[call].axis) > MAX_CHANNELS:
                channels[call] = self._channels(call.axes, alone)
        calls = [call for call in trace.calls if call in taken and groups_in(channels[call].axis)]
        labels, counts = [], Counter()
        for call in calls:  # :2, :3, … where one comes again
            counts[call.label] += 1
            labels.append(call.label if counts[call.label] == 1 else f"{call.label}:{counts[call.label]}")
        taps = {label: call.tap for label, call in zip(labels, calls, strict=True)}
        deciders: dict[int, str] = {}
        for label, node in aligned_by.items():
            if label not in labels or (node not in taps and Tap(node, "", 0) not in trace.modules):
                raise ValueError(f"aligned_by names {label!r} and {node!r}; the network lacks one of them")
            axis = channels[calls[labels.index(label)]].axis
            if node not in taps and self._channels(trace.modules[Tap(node, "", 0)]).axis != axis:
                raise ValueError(f"aligned_by: {label!r} and {node!r} do not have the same channels")
            deciders |= dict.fromkeys(groups_in(axis), label)
        rows = []
        for label, call in zip(labels, calls, strict=True):
            dims, axis, mean = channels[call]
            votes = self._alone(axis) | (groups_in(axis) - alone)
            votes = frozenset(g for g in votes if deciders.get(g, label) == label)
            node = aligned_by.get(label, label)
            rows.append(Activation(label, taps[label], taps.get(node, Tap(node, "", 0)), dims, axis, votes, mean))
        return tuple(rows)

    def _alone(self, axis: Segments) -> set[int]:
        """The groups of an axis whose units are distinguished whatever the order of any other group.

        Where a group stands in a product with one that is neither around it nor in it, or with itself, its units are
        seen only through an unknown order of the other.
        """
        found = groups_in(axis)
        for segment in axis:
            inside = groups_in((segment,))
            for number, factor in enumerate(segment):
                others = [f for i, f in enumerate(segment) if i != number]
                for case, group in ((k, g) for k, g in enumerate(factor.groups) if g is not None):
                    nested = {None, *self.groups[group].depends_on}
                    nested |= {g for g in inside if group in self.groups[g].depends_on}
                    here = [f.groups if f.over != factor.over else f.groups[case : case + 1] for f in others]
                    if not nested.issuperset(g for groups in here for g in groups):
                        found.discard(group)
        return found

    def _channels(self, axes: Sequence[Axis], known: Set[int] = frozenset()) -> "_Channels":
        """The dimensions of a tensor that show groups, and these as one axis, without the samples of a first one.

        None where two of them are concatenations: no axis is that. known: groups of which no dimension is needed.
        """
        axes = self.traced.settle(axes)
        for axis in axes:
            for atom in atoms_of(axis):
                if atom.reason is None and atom.members is None and atom not in self.numbers:
                    atom.reason = "no state entry has it"
        axes = [self._write_blocks(axis) for axis in axes]
        shown = [d for d, axis in enumerate(axes) if not all(map(is_fixed, axis))]
        needless = tuple(
            d for d in shown if known.issuperset(self.numbers.get(a) for a in atoms_of(axes[d]) if a.reason is None)
        )
        shown = [d for d in shown if d not in needless]
        overs = {
            over
            for d in shown
            for atom in atoms_of(axes[d])
            if atom.members is not None
            for over in atoms_of(self.traced.leaf(atom.over))
        }
        dims = [d for d, axis in enumerate(axes) if d in shown or overs & set(atoms_of(axis))]
        dims.sort(key=lambda d: len(axes[d]) == 1)  # a concatenation first
        missing = overs.difference(*(atoms_of(axes[d]) for d in dims))
        if not dims or missing or any(len(axes[d]) > 1 for d in dims[1:]):
            return _Channels()
        if len(axes[0]) == 1 and 0 in dims:  # samples, and what else is fixed, as the outer factors
            (product,) = axes[0]
            first = next((i for i, atom in enumerate(product) if atom.reason is None or atom in overs), 0)
            if first and dims[0] != 0:
                return _Channels()
            axes[0] = (product[first:],)
        (axis,) = self.written([self.traced.merge([axes[d] for d in dims])])
        around = {other for group in groups_in(axis) for other in self.groups[group].depends_on}
        return _Channels(tuple(dims), axis, needless) if around <= groups_in(axis) else _Channels()


class _Channels(NamedTuple):
    """The dimensions of a tensor that are channels, in this order, as one axis; those over which means are taken."""

    dims: tuple[int, ...] = ()
    axis: Segments = ()
    mean: tuple[int, ...] = ()
