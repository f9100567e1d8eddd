"""Rules for operations that compute nothing: they view, move, join or take parts of tensors."""

import torch

from .algebra import MAX_MEMBERS
from .axes import ONE, Axis, atoms_of, product_size, size_of
from .rules import along, dims_of, fixed_like, pointwise, rule, without


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(n, out, self) -> list[Axis]:
    """Dimensions of equal sizes in all are merged and split."""
    axes, result = n.axes(self), []
    if self.dtype != out.dtype and self.shape != out.shape:
        return None
    if self.numel() == 0:
        return fixed_like(n, out)
    old, new = [*self.shape], [*out.shape]
    i = j = 0
    while i < len(old) or j < len(new):
        start, begin, left, right = i, j, 1, 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        whole = n.merge(axes[start:i]) if i > start else ONE
        result += n.split(whole, new[begin:j]) if j > begin else []
    return result


@rule("expand", "expand_as")
def expand(n, out, self) -> list[Axis]:
    axes = [ONE] * (out.dim() - self.dim()) + list(n.axes(self))
    return [n.free(size) if axis == ONE else axis for axis, size in zip(axes, out.shape, strict=True)]


@rule("repeat")
def repeat(n, self, repeats) -> list[Axis]:
    axes = [ONE] * (len(repeats) - self.dim()) + list(n.axes(self))
    return [n.merge([n.free(times), axis]) for times, axis in zip(repeats, axes, strict=True)]


@rule("permute")
def permute(n, self, dims) -> list[Axis]:
    return [n.axes(self)[d] for d in dims]


@rule("transpose")
def transpose(n, self, dim0, dim1) -> list[Axis]:
    axes = list(n.axes(self))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return axes


@rule("t")
def t(n, self) -> list[Axis]:
    return n.axes(self)[::-1]


@rule("unsqueeze")
def unsqueeze(n, self, dim) -> list[Axis]:
    axes = list(n.axes(self))
    axes.insert(dim % (self.dim() + 1), ONE)
    return axes


@rule("squeeze")
def squeeze(n, self, dim=None) -> list[Axis]:
    dims = [d for d in dims_of(dim, self.dim()) if self.shape[d] == 1] if self.dim() else []
    return without(n.axes(self), dims, False)


@rule("as_strided")
def as_strided(n, self, size, stride) -> list[Axis] | None:
    """Only new strides for dimensions of one entry, which change nothing, are understood."""
    new = [(a, b) for a, b in zip(size, stride, strict=True) if a > 1]
    old = [(a, b) for a, b in zip(self.shape, self.stride(), strict=True) if a > 1]
    return n.axes(self) if list(size) == list(self.shape) and new == old else None


@rule("view_as_real", "view_as_complex")
def as_complex(n, out, self) -> list[Axis]:
    axes = list(n.axes(self))
    if out.is_complex():
        n.fix(axes.pop())
        return axes
    return [*axes, n.fixed(2)]


@rule("pixel_shuffle")
def pixel_shuffle(n, out, self, upscale_factor) -> list[Axis]:
    axes = list(n.axes(self))
    channels, _, _ = n.split(axes[-3], (out.shape[-3], upscale_factor, upscale_factor))
    for axis in n.split(axes[-3], (out.shape[-3], upscale_factor**2))[1:]:
        n.fix(axis)
    return [*axes[:-3], channels, *(n.fixed(size) for size in out.shape[-2:])]


@rule("col2im")
def fold(n, out, self) -> list[Axis]:
    """(…, C · kernel, places) → (…, C, H, W)."""
    *batch, channels, places = n.axes(self)
    n.fix(places)
    channels, kernel = n.split(channels, (out.shape[-3], self.shape[-2] // out.shape[-3]))
    n.fix(kernel)
    return [*batch, channels, *(n.fixed(size) for size in out.shape[-2:])]


@rule("diag_embed")
def diag_embed(n, self, offset, dim1, dim2) -> list[Axis] | None:
    axes = list(n.axes(self))
    return [*axes, axes[-1]] if (offset, dim1, dim2) == (0, -2, -1) else None


@rule("diagonal")
def diagonal(n, self, offset, dim1, dim2) -> list[Axis] | None:
    axes, dims = list(n.axes(self)), dims_of([dim1, dim2], self.dim())
    if offset or len({self.shape[d] for d in dims}) > 1:
        return None
    n.unify(*(axes[d] for d in dims))
    return [*without(axes, dims, False), n.resolve(axes[dims[0]])]


@rule("_pack_padded_sequence")
def pack(n, out, input):
    """(time, batch, …) or (batch, time, …) → (steps, …)."""
    time, batch, *rest = n.axes(input)
    for axis in (time, batch):
        n.fix(axis)
    return ([n.fixed(len(out[0])), *rest], fixed_like(n, out[1]))


@rule("pixel_unshuffle", "im2col")
def unshuffle(n, out, self) -> list[Axis]:
    """(…, C, H, W) → (…, C · pixels, …): the channel stays the outer factor."""
    channels = self.dim() - 3
    axes = n.axes(self)
    for axis in axes[-2:]:
        n.fix(axis)
    pixels = out.shape[channels] // self.shape[channels]
    merged = n.merge([axes[channels], n.fixed(pixels)])
    return [*axes[:-3], merged, *(n.fixed(size) for size in out.shape[channels + 1 :])]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(n, self, groups) -> list[Axis]:
    axes = list(n.axes(self))
    axes[1] = n.merge(n.split(axes[1], (groups, self.shape[1] // groups))[::-1])
    return axes


# --- parts -------------------------------------------------------------------------------------------------------


@rule("cat")
def cat(n, tensors, dim=0) -> list[Axis]:
    tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    axes = [list(n.axes(tensor)) for tensor in tensors]
    for other in axes[1:]:
        for d, axis in enumerate(other):
            if d != dim % len(other):
                n.unify(axes[0][d], axis)
    axes[0][dim] = sum((other[dim] for other in axes), ())
    return axes[0]


@rule("stack")
def stack(n, tensors, dim=0) -> list[Axis]:
    """At each place of the new dimension the others may be other axes; alike where there are many places."""
    over = n.fixed(len(tensors))
    if 1 < len(tensors) <= MAX_MEMBERS:
        axes = [_in_turn(n, over, columns) for columns in zip(*map(n.axes, tensors), strict=True)]
    else:
        axes = list(pointwise(n, tensors[0], tensors))
    axes.insert(dim % (len(axes) + 1), over)
    return axes


def _in_turn(n, over: Axis, axes: tuple[Axis, ...]) -> Axis:
    return axes[0] if size_of(axes[0]) < 2 or len(set(axes)) == 1 else n.family(over[0][0], axes)


def part(n, axes: list[Axis], dim: int, start: int, length: int) -> list[Axis]:
    """The axes when a range of a dimension is taken; families over it, if it is fixed, give their members."""
    whole, dim = n.resolve(axes[dim]), dim % len(axes)
    taken = n.cut(n.cut(whole, start)[1], length)[0]
    axes = [taken if d == dim else axis for d, axis in enumerate(axes)]
    over = atoms_of(whole)
    if len(over) == 1 and over[0].reason is not None and length:
        for d, axis in enumerate(axes):
            if d != dim and _depends(n, axis, over[0]):
                members = n.members(axis, over[0])[start : start + length]
                axes[d] = n.family(taken[0][0], members) if length > 1 else members[0]
    return axes


@rule("slice")
def slice_(n, out, self, dim=0, start=None, step=1) -> list[Axis]:
    size, length = self.shape[dim], out.shape[dim]
    if length == size and step == 1:
        return n.axes(self)
    start = min(max(start + size if start < 0 else start, 0), size) if start is not None else 0
    if step != 1 and length and start < step and length * step == size:  # one place of each so many
        axes = list(n.axes(self))
        axes[dim], places = n.split(axes[dim], (length, step))
        n.fix(places)
        return axes
    if step != 1 or length == 0:
        return along(n, out, self, dim)
    return part(n, n.axes(self), dim, start, length)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk")
def split(n, out, self, dim=0):
    starts = [sum(t.shape[dim] for t in out[:i]) for i in range(len(out))]
    return tuple(part(n, n.axes(self), dim, start, t.shape[dim]) for start, t in zip(starts, out, strict=True))


def member(n, axes: list[Axis], dim: int, place: int) -> list[Axis]:
    """The axes left when one place of a dimension is taken, which fixes it; families give their member."""
    dim %= len(axes)
    start = 0
    for product in n.resolve(axes[dim]):
        if start <= place < start + product_size(product):
            break
        start += product_size(product)
    n.fix((product,))
    rest = [axis for d, axis in enumerate(axes) if d != dim]
    left = place - start
    for i, atom in enumerate(product):
        inner = product_size(product[i + 1 :])
        digit, left = divmod(left, inner)
        rest = [n.members(axis, atom)[digit] if _depends(n, axis, atom) else axis for axis in rest]
    return rest


def _depends(n, axis: Axis, atom) -> bool:
    return any(n.may_depend_on(other, atom) for other in atoms_of(n.resolve(axis)))


@rule("select")
def select(n, self, dim, index) -> list[Axis]:
    return member(n, n.axes(self), dim, index % self.shape[dim])


@rule("unbind")
def unbind(n, out, self, dim=0):
    return tuple(member(n, n.axes(self), dim, place) for place in range(len(out)))


@rule("constant_pad_nd")
def constant_pad(n, self, pad) -> list[Axis]:
    axes = list(n.axes(self))
    for i in range(len(pad) // 2):
        before, after = pad[2 * i : 2 * i + 2]
        axis = n.cut(axes[-1 - i], max(-before, 0))[1]
        axis = n.cut(axis, size_of(axis) - max(-after, 0))[0]
        axes[-1 - i] = n.free(max(before, 0)) + axis + n.free(max(after, 0))
    return axes


@rule("unfold")
def unfold(n, out, self, dimension) -> list[Axis]:
    axes = list(n.axes(self))
    n.fix(axes[dimension])
    axes[dimension] = n.fixed(out.shape[dimension])
    return [*axes, n.fixed(out.shape[-1])]


def looked_up(n, self, indices) -> tuple[list[Axis], list[Axis], int]:
    """The dimensions that indices leave; those of the places, which are fixed where they point; where these stand."""
    places: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):  # as the places that it names
            for axis in n.axes(index):
                n.fix(axis)
            places += index.nonzero().unbind(1)
        else:
            places.append(index)
    axes = n.axes(self)
    used = [d for d, index in enumerate(places) if index is not None]
    for d in used:
        n.fix(axes[d])
    shape = torch.empty(torch.broadcast_shapes(*(places[d].shape for d in used)), device="meta")
    found = pointwise(n, shape, [places[d] for d in used])
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    return [axis for d, axis in enumerate(axes) if d not in used], found, at


@rule("index", "_unsafe_index")
def index(n, out, self, indices) -> list[Axis]:
    """The looked-up dimensions stand in the place of those that are looked up, or in front."""
    rest, found, at = looked_up(n, self, indices)
    return [*rest[:at], *found, *rest[at:]]


@rule("index_put", "_index_put_impl")
def index_put(n, self, indices, values) -> list[Axis]:
    rest, found, at = looked_up(n, self, indices)
    for axis in found:
        n.fix(axis)
    wanted = [*rest[:at], *found, *rest[at:]]
    for axis, other in zip(reversed(wanted), reversed(n.axes(values)), strict=False):
        if size_of(other) > 1:
            n.unify(axis, other)
    return n.axes(self)


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def index_add(n, self, dim, source=None) -> list[Axis]:
    """Some places along one dimension change, by those of another tensor; the others are one."""
    axes = n.axes(self)
    for d, axis in enumerate(n.axes(source) if source is not None else axes):
        n.fix(axis) if d == dim % self.dim() else n.unify(axes[d], axis)
    n.fix(axes[dim])
    return n.axes(self)


@rule("index_select")
def index_select(n, self, dim, index) -> list[Axis]:
    axes = list(n.axes(self))
    n.fix(axes[dim])
    axes[dim] = n.axes(index)[0] if index.dim() else ONE
    return axes


@rule("gather", "scatter", "scatter_add", "scatter_reduce")
def gather(n, out, self, dim, index, src=None) -> list[Axis]:
    """Looked up along one dimension; the others are one with those of the places."""
    tensors = [t for t in (self, index, src) if isinstance(t, torch.Tensor)]
    for d in range(self.dim()):
        axes = [n.axes(tensor)[d] for tensor in tensors]
        alike = d != dim % self.dim() and len({tensor.shape[d] for tensor in tensors}) == 1
        for axis in axes:
            n.unify(axes[0], axis) if alike else n.fix(axis)
    return n.axes(index if n.operation == "gather" else self)
