"""What each ATen operation does to axes, a few lines a rule.

A rule is called with the network (its axes and their algebra), the operation's output and its arguments by their
names in ATen. It returns the axes of the output, a list with one axis a dimension; for several outputs, a tuple of
such lists. It unites axes that have to move together and fixes those that may not move. None: not understood.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence

import torch

from .axes import ONE, Axis, axis_of, size_of

RULES: dict[str, Callable] = {}  # by ATen's name without overload and without the underscore of in-place forms
# Elementwise, but not tagged so.
ELEMENTWISE = frozenset(
    """
    hardswish log_sigmoid_forward copy masked_fill _prelu_kernel complex polar real imag bernoulli normal poisson
    _standard_gamma
    """.split()  # noqa: SIM905 (a list of strings would be a column)
)
TABLE = """
alike      zeros ones full empty empty_strided new_zeros new_ones new_full new_empty new_empty_strided zeros_like
           ones_like full_like empty_like scalar_tensor rand randn rand_like randn_like uniform random exponential
           geometric log_normal cauchy fill zero randint_like
same       alias detach clone contiguous lift_fresh lift _softmax _log_softmax _safe_softmax softmax log_softmax
           _conj _to_copy native_dropout _fused_dropout rrelu_with_noise resolve_conj resolve_neg embedding_renorm
           fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
reduced    sum mean amax amin prod var std var_mean std_mean norm linalg_vector_norm logsumexp any all nansum aminmax
           count_nonzero
chosen     max min median nanmedian mode kthvalue argmax argmin
along      cumsum cumprod logcumsumexp cummax cummin roll flip _fft_r2c _fft_c2r _fft_c2c
spatial    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
           fractional_max_pool2d fractional_max_pool3d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
           _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d reflection_pad1d
           reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
           upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
           _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
           upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d
           grid_sampler_3d
plane      triu tril
"""


def rule(*names: str) -> Callable:
    def add(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def named(kind: str) -> list[str]:
    """The operations that TABLE lists under a kind."""
    kinds = re.findall(r"^(\w+) ((?:.+\n)(?: +.+\n)*)", TABLE, re.MULTILINE)
    return next(names.split() for name, names in kinds if name == kind)


def rule_for(func: torch._ops.OpOverload) -> Callable | None:
    name = func._schema.name.removeprefix("aten::")
    if name not in RULES and name.endswith("_"):
        name = name[:-1]
    return RULES.get(name, RULES["pointwise"] if is_pointwise(name) else None)


@functools.cache
def is_pointwise(name: str) -> bool:
    """Whether PyTorch tags the operation as elementwise, in any of its forms: in-place ones often lack the tag."""
    packet = getattr(torch.ops.aten, name, None)
    forms = [getattr(packet, form) for form in packet.overloads()] if packet is not None else []
    return name in ELEMENTWISE or any(torch.Tag.pointwise in form.tags for form in forms)


def bind(func: torch._ops.OpOverload, operands: tuple, keywords: dict) -> dict:
    """The arguments of a call by name, those with default values included."""
    arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return arguments | dict(zip((a.name for a in func._schema.arguments), operands, strict=False)) | keywords


def accepts(function: Callable) -> frozenset[str]:
    return frozenset(list(inspect.signature(function).parameters)[1:])  # the first is the network


def dims_of(dim: int | Sequence[int] | None, count: int) -> list[int]:
    """Dimensions as numbers from 0; none given are all."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(count))
    return [d % max(count, 1) for d in ([dim] if isinstance(dim, int) else dim)]


def fixed_like(n, tensor: torch.Tensor) -> list[Axis]:
    return [n.fixed(size) for size in tensor.shape]


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


@rule("equal", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
def compared(n, out, self, target=None, other=None, weight=None):
    """Each entry with another, and mostly one answer for all."""
    tensors = [tensor for tensor in (self, target, other, weight) if tensor is not None]
    if any(tensor.shape != self.shape for tensor in tensors):
        return None
    axes = pointwise(n, self, tensors)
    return axes if isinstance(out, torch.Tensor) and out.dim() else []


@rule(*named("alike"))
def alike(n, out) -> list[Axis]:
    """New tensors whose entries are alike, random ones included, since chance has no order."""
    return [n.free(size) for size in out.shape]


@rule(*named("same"))
def same(n, out, self=None, input=None):
    axes = n.axes(input if self is None else self)
    return tuple(axes for _ in out) if isinstance(out, (tuple, list)) else axes


@rule("eye")
def eye(n, out) -> list[Axis] | None:
    """A unit matrix: rows move with columns."""
    axis = axis_of(n.atom(len(out), set()))
    return [axis, axis] if out.shape[0] == out.shape[1] else None


@rule("glu")
def glu(n, self, dim) -> list[Axis]:
    axes = list(n.axes(self))
    left, right = n.cut(axes[dim], self.shape[dim] // 2)
    n.unify(left, right)
    axes[dim] = left
    return axes


# --- sums over dimensions, and what looks along one ----------------------------------------------------------


def without(axes: list[Axis], dims: list[int], keepdim: bool) -> list[Axis]:
    return [ONE if d in dims else axis for d, axis in enumerate(axes) if keepdim or d not in dims]


@rule(*named("reduced"))
def reduced(n, out, self, dim=None, keepdim=False):
    kept = without(n.axes(self), dims_of(dim, self.dim()), keepdim)
    return tuple(kept for _ in out) if isinstance(out, tuple) else kept


@rule(*named("chosen"))
def chosen(n, out, self, dim=None, keepdim=False):
    """An entry and its place: whoever reads the place forbids the order to change."""
    if dim is not None and isinstance(dim, torch.Tensor):
        return None
    axes = n.axes(self)
    dims = dims_of(dim, self.dim())
    places = out[1] if isinstance(out, tuple) else None if out.dtype == self.dtype else out
    if places is not None:
        n.fix_when_read(places, [axes[d] for d in dims])
    kept = without(axes, dims, keepdim)
    return (kept, kept) if isinstance(out, tuple) else kept


@rule("sort", "topk", "argsort")
def sort(n, out, self, dim=-1):
    axes = list(n.axes(self))
    values, places = out if isinstance(out, tuple) else (out, out)
    n.fix_when_read(places, [axes[dim]])
    axes[dim] = n.fixed(values.shape[dim])
    return (axes, axes) if isinstance(out, tuple) else axes


@rule(*named("along"))
def along(n, out, self, dim=None, dims=None):
    axes, first = list(n.axes(self)), out[0] if isinstance(out, tuple) else out
    for d in dims_of(dim if dims is None else dims, self.dim()):
        n.fix(axes[d])
        axes[d] = n.fixed(first.shape[d])
    return tuple(axes for _ in out) if isinstance(out, tuple) else axes


@rule(*named("plane"))
def plane(n, out, self) -> list[Axis]:
    return along(n, out, self, [-2, -1])


@rule(*named("spatial"))
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
        for axis in n.axes(grid)[1:]:
            n.fix(axis)
    for places in (t for t in (indices, random_samples) if t is not None):
        for d, axis in enumerate(n.axes(places)):
            n.unify(axes[d], axis) if d < x.dim() - count else n.fix(axis)
    return tuple(axes for _ in out) if isinstance(out, tuple) else axes


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


@rule("addmm", "baddbmm", "_addmm_activation")
def addmm(n, out, self, mat1=None, mat2=None, batch1=None, batch2=None) -> list[Axis]:
    x, y = (mat1, mat2) if batch1 is None else (batch1, batch2)
    n.put(out, contract(n, n.axes(x), n.axes(y)))
    return pointwise(n, out, [out, self])


@rule("_cdist_forward", "_euclidean_dist")
def distances(n, x1, x2) -> list[Axis] | None:
    """Between the rows of (…, a, k) and of (…, b, k)."""
    *batch, rows, inner = n.axes(x2)
    return contract(n, n.axes(x1), [*batch, inner, rows]) if x1.dim() == x2.dim() else None


@rule("mv", "dot", "vdot")
def mv(n, self, vec=None, tensor=None, other=None) -> list[Axis]:
    *rows, inner = n.axes(self)
    vector = next(v for v in (vec, tensor, other) if v is not None)
    n.unify(inner, n.axes(vector)[0])
    return rows


@rule("addmv")
def addmv(n, out, self, mat, vec) -> list[Axis]:
    n.put(out, mv(n, mat, vec))
    return pointwise(n, out, [out, self])


@rule("_trilinear")
def trilinear(n, i1, i2, i3, expand1, expand2, expand3, sumdim):
    """Three tensors broadcast after unsqueezing, their product summed over some dimensions."""
    wide = [t.reshape(_unsqueezed(t.shape, dims)) for t, dims in ((i1, expand1), (i2, expand2), (i3, expand3))]
    for tensor, source, dims in zip(wide, (i1, i2, i3), (expand1, expand2, expand3), strict=True):
        axes = list(n.axes(source))
        for d in sorted(dims):
            axes.insert(d, ONE)
        n.put(tensor, axes)
    product = torch.empty(torch.broadcast_shapes(*(t.shape for t in wide)), device="meta")
    return without(pointwise(n, product, wide), list(sumdim), False)


def _unsqueezed(shape: Sequence[int], dims: Sequence[int]) -> list[int]:
    shape = list(shape)
    for d in sorted(dims):
        shape.insert(d, 1)
    return shape


@rule("convolution", "_convolution")
def convolution(n, out, input, weight, bias, stride, transposed, groups) -> list[Axis]:
    """Weight (out, in/groups, …), transposed (in, out/groups, …); groups are the outer factor of both channels.

    Places keep their order where a kernel looks at more than one.
    """
    x, w, places = n.axes(input), n.axes(weight), []
    for d, axis in enumerate(x[2:]):
        alone = weight.shape[d + 2] == stride[d % len(stride)] == 1
        if not (alone and input.shape[d + 2] == out.shape[d + 2]):  # of another size with padding
            n.fix(axis)
            axis = n.fixed(out.shape[d + 2])
        places.append(axis)
    for axis in w[2:]:
        n.fix(axis)
    if groups > 1:
        (group, inner), (of_weight, first) = (
            n.split(axis, (groups, size_of(axis) // groups)) for axis in (x[1], w[0])
        )
        n.unify(group, of_weight)
        n.unify(inner, first if transposed else w[1])
        channels = n.merge([of_weight, w[1]]) if transposed else w[0]
    else:
        n.unify(x[1], w[0] if transposed else w[1])
        channels = w[1] if transposed else w[0]
    if bias is not None:
        n.unify(channels, n.axes(bias)[0])
    return [x[0], channels, *places]


@rule("torchvision::deform_conv2d")
def deformable(n, out, input, weight, offset, mask, bias) -> list[Axis] | None:
    """A convolution that looks at shifted places: (samples, shifts of each place in the kernel, H, W)."""
    if weight.shape[1] != input.shape[1] or offset.shape[1] != 2 * weight[0, 0].numel():  # in groups
        return None
    for shifts in (offset, mask):
        n.unify(n.axes(input)[0], n.axes(shifts)[0])
        for axis in n.axes(shifts)[1:]:
            n.fix(axis)
    axes = convolution(n, out, input, weight, bias, [1, 1], False, 1)
    for axis in axes[2:]:
        n.fix(axis)
    return [*axes[:2], *(n.fixed(size) for size in out.shape[2:])]


@rule("embedding")
def embedding(n, weight, indices) -> list[Axis]:
    rows, columns = n.axes(weight)
    n.fix(rows)
    return [*n.axes(indices), columns]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(n, out, weight, mode, per_sample_weights=None):
    """Sums, means or the largest (mode 2, whose places in the last output nobody reads) of a bag's rows."""
    rows, columns = n.axes(weight)
    n.fix(rows)
    for axis in n.axes(per_sample_weights) if per_sample_weights is not None else ():
        n.fix(axis)
    return ([n.fixed(len(out[0])), columns], *(fixed_like(n, tensor) for tensor in out[1:]))


# --- normalization ---------------------------------------------------------------------------------------------


@rule("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update")
def batch_norm(n, out, input, weight=None, bias=None, running_mean=None, running_var=None):
    axes = n.axes(input)
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None:
            n.unify(axes[1], n.axes(tensor)[0])
    return (axes, *([axes[1]] if t.dim() == 1 and t.numel() else fixed_like(n, t) for t in out[1:]))


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(n, out, input, normalized_shape, weight=None, bias=None):
    axes = n.axes(input)
    last = len(normalized_shape)
    for tensor in (weight, bias):
        if tensor is not None:
            for axis, other in zip(axes[-last:], n.axes(tensor), strict=True):
                n.unify(axis, other)
    lead = [*axes[:-last], *[ONE] * last]
    return (axes, *(lead for _ in out[1:])) if isinstance(out, tuple) else axes


@rule("native_group_norm")
def group_norm(n, out, input, weight, bias, group):
    axes = list(n.axes(input))
    for tensor in (weight, bias):
        if tensor is not None:
            n.unify(axes[1], n.axes(tensor)[0])
    blocks, _ = n.split(axes[1], (group, input.shape[1] // group))
    return (axes, [axes[0], blocks], [axes[0], blocks])


@rule("_weight_norm_interface")
def weight_norm(n, v, g, dim=0):
    for axis, other, size in zip(n.axes(v), n.axes(g), g.shape, strict=True):
        if size > 1:
            n.unify(axis, other)
    return (n.axes(v), n.axes(g))
