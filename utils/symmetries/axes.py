"""The algebra of axes: what may be reordered along each dimension of a tensor.

An axis is a sum of products of atoms. An atom is a set of places whose order is free or fixed. A product (outer, …,
inner) is a dimension that a view could split in these factors; a sum is a concatenation. `((a, b), (c,))` is
a dimension of a·b + c entries. One entry alone is the empty product, `((),)`.

The order of an atom may *depend* on the places of other atoms: the channels inside a group of a grouped convolution
are reordered in each group in a way of its own. `depends` is the set of atoms that it may depend on; operations only
ever shrink it. If an atom depends on a fixed one, it is a *family*: at each place of the fixed atom it is another
atom, and selecting a place gives that member (query, key and value of a packed projection).

Nothing is undone: atoms are united, split in factors or summands, or fixed, as the operations of a network demand it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Atom:
    """size places, in the order of their birth.

    born: where the atom stands among all: atoms that come of a split stand where the whole stood.
    depends: atoms that its order may depend on; None: any (the values are all alike along it).
    reason: why it is fixed; None: it is free.
    bound: the axis that took its place (united or split), None for an atom that stands for itself.
    over, members: of a family, a fixed atom and the atom it is at each of its places.
    """

    size: int
    born: tuple[int, ...]
    depends: set[Atom] | None
    reason: str | None = None
    bound: Axis | None = None
    over: Atom | None = None
    members: list[Atom] | None = None


Product = tuple[Atom, ...]
Axis = tuple[Product, ...]
ONE: Axis = ((),)


def size_of(axis: Axis) -> int:
    return sum(product_size(product) for product in axis)


def product_size(product: Iterable[Atom]) -> int:
    return math.prod(atom.size for atom in product)


def atoms_of(axis: Axis) -> list[Atom]:
    return [atom for product in axis for atom in product]


def is_fixed(product: Product) -> bool:
    return all(atom.reason is not None for atom in product)


def axis_of(atom: Atom) -> Axis:
    return ((atom,),) if atom.size > 1 else ((),) * atom.size


class Atoms:
    """Makes atoms, looks at them and fixes them. `where` is noted as the reason of what is fixed."""

    def __init__(self):
        self.where = ""
        self.births = 0

    # --- making ----------------------------------------------------------------------------------------------

    def atom(self, size: int, depends: set[Atom] | None = None, reason: str | None = None) -> Atom:
        self.births += 1
        return Atom(size, (self.births,), depends, reason)

    def free(self, size: int) -> Axis:
        """An axis along which all values are alike, so that any order will do."""
        return axis_of(self.atom(size))

    def fixed(self, size: int) -> Axis:
        return axis_of(self.atom(size, set(), self.where))

    def parameter(self, shape: Sequence[int]) -> list[Axis]:
        """Axes of a new parameter: each dimension's order may depend on all others."""
        atoms = [self.atom(size, set()) for size in shape]
        for atom in atoms:
            atom.depends = {other for other in atoms if other is not atom and other.size > 1}
        return [axis_of(atom) for atom in atoms]

    def wrap(self, axis: Axis) -> Atom:
        """An atom that stands for an axis."""
        if len(axis) == 1 and len(axis[0]) == 1:
            return axis[0][0]
        atom = self.atom(size_of(axis))
        atom.bound = axis
        return atom

    # --- looking ---------------------------------------------------------------------------------------------

    def leaf(self, atom: Atom) -> Axis:
        """What an atom has become."""
        if atom.bound is not None:
            atom.bound = self.resolve(atom.bound)
            return atom.bound
        if atom.members is not None:
            first, *others = (self.resolve(axis_of(member)) for member in atom.members)
            if all(other == first for other in others):  # a family no more
                atom.bound = first
                return first
        return axis_of(atom)

    def resolve(self, axis: Axis) -> Axis:
        """The axis in atoms that stand for themselves, neighbouring fixed parts as one."""
        products: list[Product] = []
        for product in axis:
            parts: list[Product] = [()]
            for atom in product:
                inner = self.leaf(atom)
                if len(inner) > 1 and parts != [()]:  # a concatenation in each block: not a sum of products
                    inner = self.in_blocks(atom)
                parts = list(inner) if parts == [()] else [part + inner[0] for part in parts]
            products += parts
        merged: list[Product] = []
        for product in products:
            if merged and is_fixed(product) and is_fixed(merged[-1]):
                size = product_size(product) + product_size(merged[-1])
                reason = next((atom.reason for atom in merged[-1] + product), self.where)
                merged[-1] = (self.atom(size, set(), reason),)
            else:
                merged.append(product)
        return tuple(merged)

    def in_blocks(self, atom: Atom) -> Axis:
        """The sum that an atom has become, as one product."""
        raise NotImplementedError

    def depends(self, atom: Atom) -> set[Atom] | None:
        """The atoms that this one may depend on, as they now are. A dependence on a split sum is forgotten."""
        if not atom.depends:
            return atom.depends
        found: set[Atom] = set()
        for other in atom.depends:
            axis = self.leaf(other)
            if len(axis) == 1:
                found.update(axis[0])
        found.discard(atom)
        atom.depends = found
        return found

    def depends_on(self, atom: Atom, other: Atom) -> bool:
        depends = self.depends(atom)
        return depends is not None and other in depends

    def may_depend_on(self, atom: Atom, other: Atom) -> bool:
        depends = self.depends(atom)
        return (depends is None and atom.reason is None) or self.depends_on(atom, other)

    # --- fixing ----------------------------------------------------------------------------------------------

    def fix(self, axis: Axis) -> None:
        for atom in atoms_of(self.resolve(axis)):
            if atom.reason is None:
                atom.reason = self.where
                members, atom.members, atom.over = atom.members or (), None, None
                for member in members:
                    self.fix(axis_of(member))
