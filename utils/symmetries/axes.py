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
from collections.abc import Iterable
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
