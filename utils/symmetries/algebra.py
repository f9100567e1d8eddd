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

MAX_MEMBERS = 64  # a family of more members is not written out


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


class Algebra:
    """Makes atoms, looks at them and fixes them; unites, splits and cuts axes, and gives the members of families.

    Nothing is ever undone. `where` is noted as the reason for which an atom is fixed.
    """

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

    def fix(self, *axes: Axis) -> None:
        for axis in axes:
            for atom in atoms_of(self.resolve(axis)):
                if atom.reason is None:
                    atom.reason = self.where
                    members, atom.members, atom.over = atom.members or (), None, None
                    self.fix(*map(axis_of, members))

    # --- forgetting ------------------------------------------------------------------------------------------

    def forget(self, atom: Atom, other: Atom) -> None:
        """From now on the order of `atom` does not depend on `other`."""
        depends = self.depends(atom)
        if depends is None or other not in depends:
            return
        depends.discard(other)
        if atom.members is None:
            return
        over = self.leaf(atom.over)
        if other in atoms_of(over):
            self.collapse(atom)
            return
        for place, member in enumerate(list(atom.members)):
            hidden = {other, *atoms_of(self.resolve(axis_of(self.member(other, atom.over, place))))}
            for part in atoms_of(self.resolve(axis_of(member))):
                for target in hidden:
                    self.forget(part, target)

    def collapse(self, atom: Atom) -> None:
        """All members of a family become one."""
        members, atom.members, atom.over = atom.members, None, None
        first = axis_of(members[0])
        for member in members[1:]:
            self.unify(first, axis_of(member))
        if atom.bound is None and atom.reason is None:
            atom.bound = self.resolve(first)

    def settle(self, axes: Sequence[Axis]) -> list[Axis]:
        """The axes of a tensor: an atom forgets what it depends on where the tensor does not show it.

        Shown are atoms in the same product, and in other dimensions that are one product, each just once.
        """
        axes = [self.resolve(axis) for axis in axes]
        if not any(atom.depends for axis in axes for atom in atoms_of(axis)):
            return axes
        for dim, axis in enumerate(axes):
            for product in axis:
                for atom in product:
                    depends = self.depends(atom)
                    if not depends or atom.bound is not None:
                        continue
                    others = [a for d, other in enumerate(axes) if d != dim and len(other) == 1 for a in other[0]]
                    everywhere = [a for d, other in enumerate(axes) if d != dim for a in atoms_of(other)]
                    shown = [*product, *others]
                    for target in sorted(depends, key=lambda a: a.born):
                        if shown.count(target) != 1 or (*product, *everywhere).count(target) != 1:
                            self.forget(atom, target)
        return [self.resolve(axis) for axis in axes]

    # --- families --------------------------------------------------------------------------------------------

    def member(self, atom: Atom, over: Atom, place: int) -> Atom:
        """What a (possible) family is at a place of the fixed atom `over`."""
        if atom.members is not None and self.leaf(atom.over) == self.leaf(over):
            return atom.members[place]
        return atom

    def members(self, axis: Axis, over: Atom) -> list[Axis]:
        """The axis as it is at each place of the fixed atom `over`."""
        for atom in atoms_of(self.resolve(axis)):
            if atom.bound is None and self.may_depend_on(atom, over):
                self.write_out(atom, over)
        axis = self.resolve(axis)
        return [
            tuple(tuple(self.member(atom, over, place) for atom in product) for product in axis)
            for place in range(over.size)
        ]

    def inner(self, atom: Atom) -> list[Atom]:
        """The atoms of the members of a (possible) family."""
        return [part for member in atom.members or () for part in atoms_of(self.resolve(axis_of(member)))]

    def is_in(self, atom: Atom, family: Atom) -> bool:
        """Whether an atom is part of a member of a (possible) family, or of a family that is."""
        return any(part is atom or self.is_in(atom, part) for part in self.inner(family))

    def write_out(self, atom: Atom, over: Atom) -> None:
        """Make a family of an atom that depends on a fixed one."""
        if atom.members is not None:
            if self.leaf(atom.over) != axis_of(over):
                self.collapse(atom)
            return
        if over.size > MAX_MEMBERS or atom.reason is not None:
            self.forget(atom, over)
            return
        depends = None if atom.depends is None else set()  # alike everywhere, and so in each place
        atom.over, atom.members = over, [Atom(atom.size, (*atom.born, i), depends) for i in range(over.size)]
        if depends is None:
            atom.depends = {over}
            return
        for member in atom.members:
            member.depends = set()
        for other in sorted(self.depends(atom) - {over}, key=lambda a: a.born):
            if self.depends_on(other, over):
                self.write_out(other, over)
            if atom.members is None:  # the other one led back here
                return
            for place, member in enumerate(atom.members):
                member.depends.add(self.member(other, over, place))

    def family(self, over: Atom, axes: Sequence[Axis]) -> Axis:
        """An axis that is another one at each place of the fixed atom `over`."""
        atom = self.atom(size_of(axes[0]), {over})
        atom.over, atom.members = over, [self.wrap(axis) for axis in axes]
        for member in atom.members:
            atom.depends.update(*(self.depends(part) or () for part in atoms_of(self.leaf(member))))
        return axis_of(atom)

    # --- splitting -------------------------------------------------------------------------------------------

    def split_sum(self, atom: Atom, at: int) -> None:
        """A free atom becomes a sum of its first `at` places and the rest."""
        parts = [
            Atom(size, (*atom.born, i), None if atom.depends is None else set(self.depends(atom)))
            for i, size in enumerate((at, atom.size - at))
        ]
        if atom.members is not None:
            halves = [self.cut(axis_of(member), at) for member in atom.members]
            for part, axes in zip(parts, zip(*halves, strict=True), strict=True):
                part.over, part.members = atom.over, [self.wrap(axis) for axis in axes]
        atom.bound = axis_of(parts[0]) + axis_of(parts[1])

    def split_product(self, atom: Atom, sizes: Sequence[int], like: Product | None = None) -> Product:
        """An atom becomes a product. An inner factor may depend on outer ones, or as the product `like` does."""
        parts = tuple(Atom(size, (*atom.born, i), None, atom.reason) for i, size in enumerate(sizes))
        if atom.depends is not None:
            for i, part in enumerate(parts):
                part.depends = set(self.depends(atom))
                for j, other in enumerate(parts):
                    inner_first = like is not None and self.depends_on(like[min(i, j)], like[max(i, j)])
                    if i != j and (j < i) != inner_first:
                        part.depends.add(other)
        if atom.members is not None:
            columns = [self.split(axis_of(member), sizes) for member in atom.members]
            for part, axes in zip(parts, zip(*columns, strict=True), strict=True):
                part.over, part.members = atom.over, [self.wrap(axis) for axis in axes]
        if atom.bound is None:
            atom.bound = (parts,)
        return parts

    def cut(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """The axis as its first `at` entries and the rest."""
        left: list[Product] = []
        rest = list(self.resolve(axis))
        while at:
            product = rest.pop(0)
            size = product_size(product)
            if size > at:
                first, second = self.cut_product(product, at)
                left, rest, at = [*left, *first], [*second, *rest], 0
            else:
                left.append(product)
                at -= size
        return tuple(left), tuple(rest)

    def cut_product(self, product: Product, at: int) -> tuple[Axis, Axis]:
        size, outer, inner = product_size(product), product[0], product[1:]
        if not is_fixed(product):
            in_blocks = any(self.depends_on(atom, outer) for atom in inner)
            if outer.size <= MAX_MEMBERS and (in_blocks or outer.reason is not None):
                self.fix(axis_of(outer))
                return self.cut(sum(self.members((inner,), outer), ()), at)
            if at % product_size(inner) == 0 and outer.reason is None:
                self.split_sum(outer, at // product_size(inner))
                return self.cut((product,), at)
            self.fix((product,))
        return self.fixed(at), self.fixed(size - at)

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """The axis as dimensions of the given sizes, whose product is its own, as `view` does it."""
        axis = self.resolve(axis)
        large = [size for size in sizes if size != 1]
        if len(large) < len(sizes):
            found = iter(self.split(axis, large) if large else ())
            return [ONE if size == 1 else next(found) for size in sizes]
        if len(sizes) == 1:
            return [axis]
        if len(axis) != 1:
            return self._split_blocks(axis, sizes)
        factors, found = list(axis[0]), []
        for size in sizes:
            taken: Product = ()
            while size > 1:
                atom = factors.pop(0)
                if size % atom.size and not atom.size % size:
                    atom, rest = self.split_product(atom, (size, atom.size // size))
                    factors.insert(0, rest)
                if size % atom.size:
                    self.fix(axis)
                    return [self.fixed(size) for size in sizes]
                taken += (atom,)
                size //= atom.size
            found.append((taken,))
        return found

    def _split_blocks(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """A concatenation as (blocks, …): a family over the blocks, or alike in all where these are many."""
        blocks, length = sizes[0], math.prod(sizes[1:])
        if blocks > MAX_MEMBERS:
            if any(product_size(product) % length for product in axis):
                self.fix(axis)
                return [self.fixed(size) for size in sizes]
            parts = [self.split((product,), (product_size(product) // length, *sizes[1:])) for product in axis]
            for _, *inner in parts:
                for one, other in zip(parts[0][1:], inner, strict=True):
                    self.unify(one, other)
            return [sum((outer for outer, *_ in parts), ()), *parts[0][1:]]
        pieces = []
        for _ in range(blocks):
            piece, axis = self.cut(axis, length)
            pieces.append(piece)
        over = self.atom(blocks, set(), "blocks of a concatenation")
        return [axis_of(over), *self.split(self.family(over, pieces), sizes[1:])]

    def in_blocks(self, atom: Atom) -> Axis:
        """A concatenation that an outer factor has in each of its places: as a product of places and a family over
        them, if its parts have lengths with a common factor; else it is fixed."""
        axis = self.resolve(axis_of(atom))
        length = math.gcd(*map(product_size, axis))
        blocks = size_of(axis) // length
        if length > 1 and blocks <= MAX_MEMBERS:
            outer, inner = self._split_blocks(axis, (blocks, length))
            if len(inner) == 1:
                atom.bound = (outer[0] + inner[0],)
                return atom.bound
        self.fix(axis)
        return self.resolve(axis_of(atom))

    def merge(self, axes: Sequence[Axis]) -> Axis:
        """Neighbouring dimensions as one, as `view` does it."""
        merged, *others = (self.resolve(axis) for axis in axes)
        for axis in others:
            if len(axis) != 1 and size_of(merged) != 1:
                if (
                    len(merged) == 1
                    and len(merged[0]) == 1
                    and is_fixed(merged[0])
                    and size_of(merged) <= MAX_MEMBERS
                ):
                    merged = sum(self.members(axis, merged[0][0]), ())
                    continue
                self.fix(axis)
                axis = self.resolve(axis)
            merged = axis if merged == ONE else tuple(product + axis[0] for product in merged)
        return merged

    # --- uniting ---------------------------------------------------------------------------------------------

    def unify(self, x: Axis, y: Axis) -> None:
        """Both axes become one: what moves along one moves along the other."""
        x, y = self.resolve(x), self.resolve(y)
        if x == y:
            return
        if all(map(is_fixed, x)) != all(map(is_fixed, y)):
            self.fix(x, y)
        if len(x) == len(y) == 1:
            self.unify_products(x[0], y[0])
        elif [*map(product_size, x)] == [*map(product_size, y)]:
            for first, second in zip(x, y, strict=True):
                self.unify((first,), (second,))
        else:
            at = min(product_size(x[0]), product_size(y[0]))
            (first, x), (second, y) = self.cut(x, at), self.cut(y, at)
            self.unify(first, second)
            self.unify(x, y)

    def unify_products(self, x: Product, y: Product) -> None:
        if is_fixed(x) and is_fixed(y) and [a.size for a in x] != [a.size for a in y]:
            return
        pairs: list[tuple[Atom, Atom]] = []
        rest, other = list(x), list(y)
        while rest and other:
            a, b = rest[0], other[0]
            if a.size != b.size:
                whole, parts = (rest, other) if a.size > b.size else (other, rest)
                if not self._split_like(whole, parts):
                    self.fix((x,), (y,))
                    return
                continue
            pairs.append((rest.pop(0), other.pop(0)))
        # What others depend on comes first, so that dependences that agree are seen to agree.
        mine = set(x) | set(y) | {atom for pair in pairs for atom in pair}
        pairs.sort(key=lambda pair: sum(len((self.depends(atom) or set()) & mine) for atom in pair))
        for a, b in pairs:
            self.unify_atoms(a, b)

    def _split_like(self, whole: list[Atom], parts: list[Atom]) -> bool:
        """Split the first of `whole` as `parts` begins; False if it does not divide."""
        atom, count, size = whole[0], 0, 1
        while count < len(parts) and size < atom.size and atom.size % (size * parts[count].size) == 0:
            size *= parts[count].size
            count += 1
        if count == 0:
            return False
        if size == atom.size:
            like = tuple(parts[:count])
            whole[:1] = self.split_product(atom, [part.size for part in like], like)
        else:
            whole[:1] = self.split_product(atom, (size, atom.size // size))
        return True

    def unify_atoms(self, a: Atom, b: Atom) -> None:
        x, y = self.leaf(a), self.leaf(b)
        if x != axis_of(a) or y != axis_of(b):
            self.unify(x, y)
            return
        if a is b:
            return
        if b.born < a.born:
            a, b = b, a
        for family, other in ((a, b), (b, a)):
            if self.is_in(other, family):  # which is one with all other members then
                self.collapse(family)
                self.unify(self.leaf(a), self.leaf(b))
                return
        if (a.reason is None) != (b.reason is None):
            self.fix(axis_of(a), axis_of(b))
        if a.members is not None and b.members is not None and self.leaf(a.over) != self.leaf(b.over):
            self.collapse(a)
            self.collapse(b)
            self.unify_atoms(a, b)
            return
        mine, others = self.depends(a), self.depends(b)
        both = others if mine is None else mine if others is None else mine & others
        for atom in (a, b):
            for target in sorted((self.depends(atom) or set()) - (both or set()), key=lambda t: t.born):
                self.forget(atom, target)
            if atom.members is not None and both is not None and not both.issuperset(atoms_of(self.leaf(atom.over))):
                self.collapse(atom)
        if a.bound is not None or b.bound is not None:  # a family has become one atom
            self.unify(self.leaf(a), self.leaf(b))
            return
        pairs = list(zip(a.members, b.members, strict=True)) if a.members and b.members else []
        if a.members is None:
            a.over, a.members = b.over, b.members
        a.depends, b.bound = (None if both is None else set(both)), axis_of(a)
        for member, other in pairs:
            self.unify_atoms(member, other)
