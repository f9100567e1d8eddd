"""What each ATen operation does to axes, a few lines a rule.

A rule is called with the network (its axes and their algebra), the operation's output and its arguments by their
names in ATen. It returns the axes of the output, a list with one axis a dimension, or a tuple of such lists where not
all outputs have the same. It unites axes that have to move together and fixes those that may not move. None: not
understood.
"""

import functools
import inspect
import itertools
import operator
import re
from collections.abc import Callable, Sequence

import torch
from torch._decomp import decomposition_table

from .algebra import MAX_MEMBERS, ONE, Axis, atoms_of, axis_of, product_size, size_of

RULES: dict[str, Callable] = {}  # by ATen's name without overload and without the underscore of in-place forms
# What is elementwise, but not tagged so; operations that have a rule in common; nonlinear functions of one entry,
# after which units are compared; what makes new units out of old ones; and what takes a part of a tensor.
TABLE = """
elementwise hardswish log_sigmoid_forward copy masked_fill _prelu_kernel complex polar real imag bernoulli normal
            poisson _standard_gamma
alike       zeros ones full empty empty_strided new_zeros new_ones new_full new_empty new_empty_strided zeros_like
            ones_like full_like empty_like scalar_tensor rand randn rand_like randn_like uniform random exponential
            geometric log_normal cauchy fill zero randint_like
same        alias detach clone contiguous lift_fresh lift _softmax _log_softmax _safe_softmax softmax log_softmax
            _conj _to_copy native_dropout _fused_dropout rrelu_with_noise resolve_conj resolve_neg embedding_renorm
            fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
reduced     sum mean amax amin prod var std var_mean std_mean norm linalg_vector_norm logsumexp any all nansum aminmax
            count_nonzero
chosen      max min median nanmedian mode kthvalue argmax argmin
along       triu tril cumsum cumprod logcumsumexp cummax cummin roll flip _fft_r2c _fft_c2r _fft_c2c
activation  relu hardtanh leaky_relu elu celu gelu silu mish softplus sigmoid log_sigmoid_forward tanh hardswish
            hardsigmoid _prelu_kernel threshold softshrink hardshrink rrelu_with_noise clamp_min
producer    convolution mm addmm mv addmv bmm baddbmm embedding _embedding_bag _embedding_bag_forward_only _trilinear
            _cdist_forward
cut         slice select split split_with_sizes chunk unsafe_split unsafe_chunk unbind index _unsafe_index
            index_select gather unfold constant_pad_nd
"""
TABLED = re.findall(r"^(\w+) +((?:.+\n)(?: +.+\n)*)", TABLE, re.MULTILINE)
ATEN = {kind: frozenset(names.split()) for kind, names in TABLED}  # names of operations
SPATIAL = re.compile(r"(\w*pool|\w+_pad|_?upsample_\w+|grid_sampler_)[123]d(_with_indices|_aa)?")
# Of two operations that do the same, PyTorch takes one by how many samples there are.
SAME = {"_euclidean_dist": "_cdist_forward"}


def rule(*names: str) -> Callable:
    """The decorated function is the rule of these operations, or of those that TABLE lists under its name."""

    def add(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names or ATEN[function.__name__], function))
        return function

    return add


def rule_for(func: torch._ops.OpOverload) -> Callable | None:
    name = func._schema.name.removeprefix("aten::")
    if name not in RULES and name.endswith("_"):
        name = name[:-1]
    return RULES.get(name) or (None if name in COMPOSITES else RULES.get(family(name)))


@functools.cache
def family(name: str) -> str:
    """The rule of pools, padding and interpolation, and of what PyTorch tags as elementwise in any of its forms.

    In-place ones often lack the tag.
    """
    packet = getattr(torch.ops.aten, name, None)
    forms = [getattr(packet, form) for form in packet.overloads()] if packet is not None else []
    is_tagged = any(torch.Tag.pointwise in form.tags for form in forms)
    return "spatial" if SPATIAL.fullmatch(name) else "pointwise" if is_tagged or name in ATEN["elementwise"] else ""


def written_out(func: torch._ops.OpOverload) -> Callable | None:
    """The operation in others, as torch or COMPOSITES have it; in-place forms as those that are not."""
    name = func._schema.name.removeprefix("aten::")
    if name in COMPOSITES:
        return COMPOSITES[name]
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose
    if name.endswith("_"):
        func = getattr(getattr(torch.ops.aten, name[:-1], None), func._overloadname, None)
    return None if func is None or func._schema.is_mutable else decomposition_table.get(func)


def called(func: torch._ops.OpOverload) -> str:
    """What a tap calls an operation, whether it is in place or not."""
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    return SAME.get(name, name)


@functools.cache
def accepts(function: Callable) -> frozenset[str]:
    return frozenset(list(inspect.signature(function).parameters)[1:])  # the first is the network


MARKS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)  # strides of which none is a multiple of another


def dims_of(dim: int | Sequence[int] | None, count: int) -> list[int]:
    """Dimensions as numbers from 0; none given are all."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(count))
    return [d % max(count, 1) for d in ([dim] if isinstance(dim, int) else dim)]


def fixed_like(n, tensor: torch.Tensor) -> list[Axis]:
    return [n.fixed(size) for size in tensor.shape]


# --- written out in other operations, where torch itself does not ----------------------------------------------


def trilinear(i1, i2, i3, expand1, expand2, expand3, sumdim, unroll_dim=1):
    product = 1.0
    for tensor, dims in ((i1, expand1), (i2, expand2), (i3, expand3)):
        for d in sorted(dims):
            tensor = tensor.unsqueeze(d)
        product = product * tensor
    return product.sum(sumdim)


def grouped_matmul(rows, experts, offs, *_, **__):
    """(rows, k) @ (experts, k, b), each row with the matrix of one expert: rows stand in the order of experts."""
    if rows.dim() != 2 or experts.dim() != 3:
        raise NotImplementedError
    offs.flip(0)
    return rows.flip(0) @ experts.flip(0).mean(0)


def deformed(x, weight, offset, mask, bias, *more):
    """A convolution that looks at shifted places: (samples, shifts of each place in the kernel, H, W)."""
    if more[7] > 1:  # shifts of their own for parts of the channels
        raise NotImplementedError
    x = torch.convolution(x.flip(2, 3), weight, bias, more[:2], more[2:4], more[4:6], False, [0, 0], more[6])
    return x.flip(2, 3) + sum(shifts.flatten(1).flip(1).mean(1).view(-1, 1, 1, 1) for shifts in (offset, mask))


def pack_sequence(x, lengths, batch_first):
    """(time, batch, …) or (batch, time, …) → (steps, …)."""
    return (x.flip(0, 1).flatten(0, 1)[: lengths.sum().item()],)


def diag_embed(x, offset=0, dim1=-2, dim2=-1):
    if (offset, dim1, dim2) != (0, -2, -1):
        raise NotImplementedError
    return x.unsqueeze(-1) * torch.eye(x.shape[-1], device=x.device)


def diagonal(x, offset=0, dim1=0, dim2=1):
    if offset:
        raise NotImplementedError
    return (x.movedim((dim1, dim2), (-2, -1)) * torch.eye(x.shape[dim1], device=x.device)).sum(-1)


# What is flipped keeps its order.
COMPOSITES: dict[str, Callable] = {
    "_trilinear": trilinear,
    "_grouped_mm": grouped_matmul,
    "_cdist_forward": lambda x1, x2, *_: x1 @ x2.mT,
    "_euclidean_dist": lambda x1, x2: x1 @ x2.mT,
    "torchvision::deform_conv2d": deformed,
    "equal": lambda x, other: x.eq(other).all(),
    "index_reduce": lambda x, dim, index, source, *_, **__: x.index_add(dim, index, source),
    "diag_embed": diag_embed,
    "diagonal": diagonal,
    "view_as_complex": lambda x: x.flip(-1).mean(-1),
    "view_as_real": lambda x: x.unsqueeze(-1).expand(*x.shape, 2).flip(-1),
    "_pack_padded_sequence": pack_sequence,
}


# --- elementwise -------------------------------------------------------------------------------------------


@rule("pointwise")
def pointwise(n, out, tensors) -> list[Axis]:
    """All tensors broadcast to the output; dimensions of one entry ask nothing."""
    if isinstance(out, tuple):
        return tuple(pointwise(n, each, tensors if each.numel() else []) for each in out)
    if any(tensor.dim() > out.dim() for tensor in tensors):
        return None
    result = []
    for place in range(-out.dim(), 0):
        size = out.shape[place]
        shown = [n.axes(t)[place] for t in tensors if t.dim() >= -place and t.shape[place] == size]
        for axis in shown[1:]:
            n.unify(shown[0], axis)
        result.append(shown[0] if shown else n.free(size))
    return result


@rule()
def alike(n, out) -> list[Axis]:
    """New tensors whose entries are alike, random ones included, since chance has no order."""
    return [n.free(size) for size in out.shape]


@rule()
def same(n, self=None, input=None):
    return n.axes(input if self is None else self)


@rule("eye")
def eye(n, out) -> list[Axis] | None:
    """A unit matrix: rows move with columns."""
    axis = axis_of(n.atom(len(out), set()))
    return [axis, axis] if out.shape[0] == out.shape[1] else None


# --- sums over dimensions, and what looks along one ----------------------------------------------------------


def without(axes: list[Axis], dims: list[int], keepdim: bool) -> list[Axis]:
    return [ONE if d in dims else axis for d, axis in enumerate(axes) if keepdim or d not in dims]


@rule()
def reduced(n, self, dim=None, keepdim=False):
    return without(n.axes(self), dims_of(dim, self.dim()), keepdim)


@rule()
def chosen(n, out, self, dim=None, keepdim=False):
    """An entry and its place: whoever reads the place forbids the order to change."""
    axes, dims = n.axes(self), dims_of(dim, self.dim())
    places = out[1] if isinstance(out, tuple) else None if out.dtype == self.dtype else out
    if places is not None:
        n.fix_when_read(places, [axes[d] for d in dims])
    return without(axes, dims, keepdim)


@rule("sort", "topk", "argsort")
def sort(n, out, self, dim=-1):
    axes = list(n.axes(self))
    values, places = out if isinstance(out, tuple) else (out, out)
    n.fix_when_read(places, [axes[dim]])
    axes[dim] = n.fixed(values.shape[dim])
    return axes


@rule()
def along(n, out, self, dim=None, dims=None, diagonal=None):
    if diagonal is not None:  # of a triangle
        dims = [-2, -1]
    axes, first = list(n.axes(self)), out[0] if isinstance(out, tuple) else out
    for d in dims_of(dim if dims is None else dims, self.dim()):
        n.fix(axes[d])
        axes[d] = n.fixed(first.shape[d])
    return axes


@rule("spatial")
def spatial(n, out, self=None, input=None, grid=None, indices=None, random_samples=None):
    """Pools, padding by neighbours, interpolation: the last 1, 2 or 3 dimensions keep their order.

    Places at which the largest are, or random ones at which pools begin, belong to channels.
    """
    x = input if self is None else self
    first = out[0] if isinstance(out, tuple) else out
    count = int(re.search(r"(\d)_?d", n.operation)[1])
    axes = along(n, first, x, list(range(-count, 0)))
    if grid is not None:
        n.unify(axes[0], n.axes(grid)[0])
        n.fix(*n.axes(grid)[1:])
    for places in (t for t in (indices, random_samples) if t is not None):
        for d, axis in enumerate(n.axes(places)):
            n.unify(axes[d], axis) if d < x.dim() - count else n.fix(axis)
    return axes


# --- products --------------------------------------------------------------------------------------------------


def contract(n, x: list[Axis], y: list[Axis]) -> list[Axis]:
    """(…, a, k) @ (…, k, b)."""
    for left, right in zip(x[:-2], y[:-2], strict=True):
        n.unify(left, right)
    n.unify(x[-1], y[-2])
    return [*x[:-1], y[-1]]


@rule("mm", "bmm")
def matmul(n, self, mat2) -> list[Axis]:
    return contract(n, n.axes(self), n.axes(mat2))


@rule("addmm", "_addmm_activation", "_sparse_addmm")
def addmm(n, out, self, mat1, mat2) -> list[Axis]:
    n.put(out, contract(n, n.axes(mat1), n.axes(mat2)))
    return pointwise(n, out, [out, self])


@rule("convolution", "_convolution")
def convolution(n, out, input, weight, bias, stride, transposed, groups) -> list[Axis]:
    """Weight (out, in/groups, …), transposed (in, out/groups, …); groups are the outer factor of both channels.

    Places keep their order where a kernel looks at more than one.
    """
    x, w, places = n.axes(input), n.axes(weight), []
    for d, axis in enumerate(x[2:]):
        alone = weight.shape[d + 2] == stride[d % len(stride)] == 1 and input.shape[d + 2] == out.shape[d + 2]
        if not alone:  # or of another size with padding
            n.fix(axis)
        places.append(axis if alone else n.fixed(out.shape[d + 2]))
    n.fix(*w[2:])
    (group, inner), (of_weight, first) = (n.split(axis, (groups, size_of(axis) // groups)) for axis in (x[1], w[0]))
    n.unify(group, of_weight)
    n.unify(inner, first if transposed else w[1])
    channels = n.merge([of_weight, w[1]]) if transposed else w[0]
    scale(n, [channels], bias)
    return [x[0], channels, *places]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(n, out, weight, mode, per_sample_weights=None):
    """Sums, means or the largest (mode 2, whose places in the last output nobody reads) of a bag's rows."""
    rows, columns = n.axes(weight)
    n.fix(rows, *(n.axes(per_sample_weights) if per_sample_weights is not None else ()))
    return ([n.fixed(len(out[0])), columns], *(fixed_like(n, tensor) for tensor in out[1:]))


# --- normalization ---------------------------------------------------------------------------------------------


def scale(n, axes: Sequence[Axis], *factors: torch.Tensor | None) -> None:
    """Factors and shifts, where there are any, have these axes."""
    for factor in (factor for factor in factors if factor is not None):
        for axis, other in zip(axes, n.axes(factor), strict=True):
            n.unify(axis, other)


@rule("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update")
def batch_norm(n, out, input, weight=None, bias=None, running_mean=None, running_var=None):
    axes = n.axes(input)
    scale(n, axes[1:2], weight, bias, running_mean, running_var)
    return (axes, *([axes[1]] if t.dim() == 1 and t.numel() else fixed_like(n, t) for t in out[1:]))


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(n, out, input, normalized_shape, weight=None, bias=None):
    axes, last = n.axes(input), len(normalized_shape)
    scale(n, axes[-last:], weight, bias)
    lead = [*axes[:-last], *[ONE] * last]
    return (axes, *(lead for _ in out[1:])) if isinstance(out, tuple) else axes


@rule("native_group_norm")
def group_norm(n, input, weight, bias, group):
    axes = n.axes(input)
    scale(n, axes[1:2], weight, bias)
    blocks, _ = n.split(axes[1], (group, input.shape[1] // group))
    return (axes, [axes[0], blocks], [axes[0], blocks])


# --- views: what computes nothing, but moves, joins or takes parts of tensors --------------------------------


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(n, out, self) -> list[Axis] | None:
    """Dimensions that have as many entries in all are merged and split."""
    if self.dtype != out.dtype and self.shape != out.shape:
        return None
    if self.numel() < 2:
        return fixed_like(n, out)
    result, last = [], 0
    before, after = (list(itertools.accumulate(tensor.shape, operator.mul)) for tensor in (self, out))
    for entries in sorted({*before} & {*after}):
        whole = n.merge([axis for axis, end in zip(n.axes(self), before, strict=True) if last < end <= entries])
        result += n.split(whole, [size for size, end in zip(out.shape, after, strict=True) if last < end <= entries])
        last = entries
    return result


@rule("permute", "transpose", "t", "unsqueeze", "squeeze", "expand")
def rearranged(n, out, self, again) -> list[Axis]:
    """Dimensions in another order, more and fewer: known by their strides in one where each has its own."""
    marked = torch.empty_strided(self.shape, MARKS[: self.dim()], device="meta")
    axes = dict(zip(MARKS, n.axes(self), strict=False))
    strides = zip(out.shape, again(marked).stride(), strict=True)
    return [axes.get(stride) or (n.free(size) if stride == 0 else ONE) for size, stride in strides]


@rule("as_strided")
def as_strided(n, self, size, stride) -> list[Axis] | None:
    """Only new strides for dimensions of one entry, which change nothing, are understood."""
    new = [(a, b) for a, b in zip(size, stride, strict=True) if a > 1]
    old = [(a, b) for a, b in zip(self.shape, self.stride(), strict=True) if a > 1]
    return n.axes(self) if list(size) == list(self.shape) and new == old else None


@rule("pixel_shuffle")
def pixel_shuffle(n, out, self, upscale_factor) -> list[Axis]:
    axes = list(n.axes(self))
    channels, _, _ = n.split(axes[-3], (out.shape[-3], upscale_factor, upscale_factor))
    n.fix(*n.split(axes[-3], (out.shape[-3], upscale_factor**2))[1:])
    return [*axes[:-3], channels, *fixed_like(n, out)[-2:]]


@rule("col2im")
def fold(n, out, self) -> list[Axis]:
    """(…, C · kernel, places) → (…, C, H, W)."""
    *batch, channels, places = n.axes(self)
    n.fix(places)
    channels, kernel = n.split(channels, (out.shape[-3], self.shape[-2] // out.shape[-3]))
    n.fix(kernel)
    return [*batch, channels, *fixed_like(n, out)[-2:]]


@rule("pixel_unshuffle", "im2col")
def unshuffle(n, out, self) -> list[Axis]:
    """(…, C, H, W) → (…, C · pixels, …): the channel stays the outer factor."""
    *batch, channels, height, width = n.axes(self)
    n.fix(height, width)
    pixels = n.fixed(out.shape[len(batch)] // self.shape[-3])
    return [*batch, n.merge([channels, pixels]), *fixed_like(n, out)[len(batch) + 1 :]]


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


def narrowed(n, axes: list[Axis], dim: int, start: int, length: int) -> list[Axis]:
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
    return narrowed(n, n.axes(self), dim, start, length)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk")
def split(n, out, self, dim=0):
    starts = [sum(t.shape[dim] for t in out[:i]) for i in range(len(out))]
    return tuple(narrowed(n, n.axes(self), dim, start, t.shape[dim]) for start, t in zip(starts, out, strict=True))


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
def select(n, out, self, dim, index) -> list[Axis]:
    n.find_when_read(out, self, lambda: member(n, n.axes(self), dim, index % self.shape[dim]))
    return [n.free(size) for size in out.shape]


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
            n.fix(*n.axes(index))
            places += index.nonzero().unbind(1)
        else:
            places.append(index)
    axes = n.axes(self)
    used = [d for d, index in enumerate(places) if index is not None]
    n.fix(*(axes[d] for d in used))
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
    n.fix(*found)
    wanted = [*rest[:at], *found, *rest[at:]]
    for axis, other in zip(reversed(wanted), reversed(n.axes(values)), strict=False):
        if size_of(other) > 1:
            n.unify(axis, other)
    return n.axes(self)


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
