"""The permutation structure of a network, derived from the network.

Hidden units can be reordered without changing what a network computes, as long as every weight that reads or
writes them is reordered with them. `permutation_spec` traces a model and finds which channels move together.
Nothing here knows an architecture by name.
"""

import contextlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional as F


class Segment(NamedTuple):
    """`channels` consecutive channels of one axis; each channel spans `repeat` entries (after a flatten)."""

    group: int | None  # None: these channels keep their place (network input, logits)
    channels: int
    repeat: int

    @property
    def length(self) -> int:
        return self.channels * self.repeat


Axis = tuple[Segment, ...]


@dataclass(frozen=True)
class Activation:
    """One row of a match: an activation whose channels are permuted."""

    label: str  # dotted name of the activation's module, or of its node
    node: str  # the traced node at which the activation is taken
    before: str  # the node that goes into the activation function
    axis: Axis  # its channels
    votes: frozenset[int]  # the groups whose permutation this row's correlation helps to decide

    @property
    def channels(self) -> int:
        return sum(segment.length for segment in self.axis)


@dataclass(frozen=True)
class PermutationSpec:
    """What may be permuted in a model.

    sizes: number of channels of each permutation group.
    axes: for each state entry, its permuted axes as {dimension: segments}; entries that never move are absent.
    rows: the permuted activations in forward order, which are the rows of a saved match.
    """

    sizes: tuple[int, ...]
    axes: dict[str, dict[int, Axis]]
    rows: tuple[Activation, ...]


def permutation_spec(model: nn.Module) -> PermutationSpec:
    """Trace `model` and return its PermutationSpec.

    A model may carry `aligned_by`, a dictionary {activation: node}: the activation is then measured at that node,
    and it alone decides its permutation. Both are module paths (or node names, for functional calls).

    Raises ValueError, naming the node, for an operation through which permutations cannot be followed.
    """
    return _ChannelTracer(model).spec(getattr(model, "aligned_by", {}))


def trace(model: nn.Module) -> fx.GraphModule:
    """The model's graph in training mode, so that heads that exist for training only are in it.

    The graph module shares the model's submodules, which are left in the modes they were in.
    """
    with modes_restored(model):
        model.train()
        try:
            graph = fx.Tracer().trace(model)
        except Exception as error:  # fx raises errors of many kinds for control flow that depends on data
            raise ValueError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
    return fx.GraphModule(model, graph)


@contextlib.contextmanager
def modes_restored(*networks: nn.Module) -> Iterator[None]:
    """After this block each of the networks' modules is in training or eval mode as before it."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


# --- finding them ------------------------------------------------------------------------------------------

# What may lie between two layers without disturbing a permutation. An activation is a row of the match.
ACTIVATIONS = {
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid,
    torch.relu, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus, F.hardtanh,
    torch.sigmoid, F.sigmoid, torch.tanh, F.tanh, "relu", "relu_", "sigmoid", "tanh",
}  # fmt: skip
CHANNELWISE = {
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample,
    nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
    F.max_pool2d, F.avg_pool2d, F.interpolate, operator.neg, "contiguous", "clone", "float",
}  # fmt: skip
ELEMENTWISE = {
    operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.sub, torch.mul,
    torch.maximum, torch.minimum, "add", "add_", "sub", "mul", "mul_",
}  # fmt: skip

FIXED = 0  # the id of every channel that must stay in place


@dataclass
class _Value:
    """The channel axis of an intermediate tensor: an id and a repeat for each channel.

    channels None: the network's input, whose width nobody has told yet.
    A repeat of None: a flatten, until a layer that reads it tells its size.
    """

    channels: list[tuple[int, int | None]] | None
    flat: bool = False  # (N, channels), not (N, channels, height, width)
    spatial: int | None = None  # height × width where it is known


class _ChannelTracer:
    """Walks the graph once and unites the ids of channels that must move together."""

    def __init__(self, model: nn.Module):
        self.module = trace(model)
        self.parent = [FIXED]  # union-find over channel ids
        self.entries: dict[tuple[str, int], list[tuple[int, int]]] = {}  # (state entry, axis) → its channels
        self.values: dict[fx.Node, _Value] = {}
        self.activations: list[fx.Node] = []
        self.producers: list[fx.Node] = []
        for node in self.module.graph.nodes:
            self.visit(node)

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def unite(self, i: int, j: int) -> None:
        i, j = self.find(i), self.find(j)
        self.parent[max(i, j)] = min(i, j)  # the smaller id leads: FIXED wins, and order follows the graph

    def visit(self, node: fx.Node) -> None:
        inputs = [self.values[source] for source in node.all_input_nodes if source in self.values]
        if node.op == "placeholder":
            self.values[node] = _Value(None)
        elif node.op == "output":
            for value in inputs:
                self.fix(value)
        elif node.op == "get_attr":
            refuse(node, "the network reads a tensor that belongs to no layer")
        elif node.op == "call_module":
            module = self.module.get_submodule(node.target)
            if len(inputs) != 1:
                refuse(node, "a layer with several inputs")
            self.values[node] = self.visit_module(node, module, inputs[0])
        elif inputs and not _is_size(node):
            self.values[node] = self.visit_call(node, inputs)

    def visit_module(self, node: fx.Node, module: nn.Module, x: _Value) -> _Value:
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            channels = self.read(node, x, module.in_channels)
            if module.groups == module.in_channels == module.out_channels > 1:  # depthwise: each stays itself
                self.attach(node, module, channels)
                return _Value(channels)
            if module.groups > 1:
                refuse(node, "a grouped convolution")
            self.attach(node, module, channels, axis=1)
            return _Value(self.produce(node, module, module.out_channels))
        if isinstance(module, nn.Linear):
            if x.channels is not None and not x.flat:
                refuse(node, "a linear layer on a tensor that is not flat")
            self.attach(node, module, self.read(node, x, module.in_features), axis=1)
            return _Value(self.produce(node, module, module.out_features), flat=True)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)):
            self.attach(node, module, self.read(node, x, module.num_features))
            return x
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return _pooled(x, module.output_size)
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return _flattened(x)
        return self.visit_plain(node, type(module), x)

    def visit_call(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        call, x = node.target, inputs[0]
        arguments = [*node.args[1:], *node.kwargs.values()]
        if call in ELEMENTWISE:
            return self.combine(node, inputs)
        if call in (torch.cat, torch.concat):
            return self.concatenate(node, inputs)
        if call is F.adaptive_avg_pool2d:
            return _pooled(x, arguments[0])
        if call in (torch.mean, "mean"):
            dims, keep = (*arguments, False)[:2]
            if x.flat or not isinstance(dims, (tuple, list)) or sorted(dims) not in ([2, 3], [-2, -1]):
                refuse(node, "only a mean over height and width keeps the channels")
            return _Value(x.channels, flat=not keep, spatial=1)
        if call in (torch.flatten, "flatten") and arguments in ([1], [1, -1]):
            return _flattened(x)
        if call in ("view", "reshape", torch.reshape):
            shape = arguments[0] if isinstance(arguments[0], (tuple, list)) else arguments
            if len(shape) == 2 and shape[1] == -1:
                return _flattened(x)
        return self.visit_plain(node, call, x)

    def visit_plain(self, node: fx.Node, kind: object, x: _Value) -> _Value:
        if kind in ACTIVATIONS:
            self.activations.append(node)
            return x
        if kind in CHANNELWISE:
            return _Value(x.channels, x.flat)
        if kind in (F.dropout, F.dropout2d):
            refuse(node, "a functional dropout is traced as always on; use the layer nn.Dropout")
        return refuse(node, f"{getattr(kind, '__name__', kind)} is not known to leave channels apart")

    def combine(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        """An elementwise sum or product: channel i of one operand moves with channel i of the others."""
        known = [value for value in inputs if value.channels is not None]
        if len(known) < len(inputs):
            for value in known:
                self.fix(value)
        for value in known[1:]:
            if value.flat != known[0].flat or [r for _, r in value.channels] != [r for _, r in known[0].channels]:
                refuse(node, "it combines tensors of different channels")
            for (i, _), (j, _) in zip(value.channels, known[0].channels, strict=True):
                self.unite(i, j)
        return known[0] if known else inputs[0]

    def concatenate(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        parts, dim = (*node.args, *node.kwargs.values(), 0)[:2]
        flat = inputs[0].flat
        if any(v.flat != flat for v in inputs) or not (dim == 1 or (dim == -1 and flat)):
            refuse(node, "only a concatenation of channels can be followed")
        if len(parts) != len(inputs) or any(v.channels is None for v in inputs):
            refuse(node, "it concatenates the network's input, or a tensor with itself")
        if sum(any(r is None for _, r in v.channels) for v in inputs) > 1:
            refuse(node, "it concatenates two flattened tensors of unknown sizes")
        spatial = inputs[0].spatial if len({v.spatial for v in inputs}) == 1 else None
        return _Value([channel for v in inputs for channel in v.channels], flat, spatial)

    def fix(self, value: _Value) -> None:
        for i, _ in value.channels or ():
            self.unite(i, FIXED)

    def read(self, node: fx.Node, value: _Value, size: int) -> list[tuple[int, int]]:
        """The channels of a value that a layer reads as `size` entries, which tells what was unknown."""
        if value.channels is None:
            value.channels = [(FIXED, 1)] * size
        pending = sum(r is None for _, r in value.channels)
        rest = size - sum(r or 0 for _, r in value.channels)
        if rest % pending if pending else rest:
            refuse(node, f"it reads {size} entries and is given {len(value.channels)} channels")
        # In place: an activation between the flatten and this layer has the same list.
        value.channels[:] = [(i, r or rest // pending) for i, r in value.channels]
        return value.channels

    def produce(self, node: fx.Node, module: nn.Module, count: int) -> list[tuple[int, int]]:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        channels = [(i, 1) for i in range(start, start + count)]
        self.attach(node, module, channels)
        self.producers.append(node)
        return channels

    def attach(self, node: fx.Node, module: nn.Module, channels: list[tuple[int, int]], axis: int = 0) -> None:
        """Record whose channels lie on an axis of a layer's tensors; a layer used twice unites both uses."""
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.dim() > axis:
                known = self.entries.setdefault((f"{node.target}.{name}", axis), channels)
                for (i, r), (j, s) in zip(known, channels, strict=True):
                    if r != s:
                        refuse(node, "it is used twice, on tensors of different shapes")
                    self.unite(i, j)

    def spec(self, aligned_by: Mapping[str, str]) -> PermutationSpec:
        # Channels whose ids lie on the same axes, equally often, are interchangeable: they form a group.
        signatures: dict[int, list] = {}
        for key, channels in self.entries.items():
            for i, repeat in channels:
                if self.find(i) != FIXED:
                    signatures.setdefault(self.find(i), []).append((key, repeat))
        members: dict[tuple, list[int]] = {}
        for i in sorted(signatures):
            members.setdefault(tuple(sorted(signatures[i])), []).append(i)
        place = {i: (group, k) for group, ids in enumerate(members.values()) for k, i in enumerate(ids)}
        sizes = tuple(len(ids) for ids in members.values())

        axes: dict[str, dict[int, Axis]] = {}
        for (name, dimension), channels in self.entries.items():
            axis = self.segments(name, channels, place, sizes)
            if _groups(axis):
                axes.setdefault(name, {})[dimension] = axis
        return PermutationSpec(sizes, axes, self.rows(aligned_by, place, sizes))

    def rows(self, aligned_by: Mapping[str, str], place: dict, sizes: tuple[int, ...]) -> tuple[Activation, ...]:
        nodes = {_label(node): node for node in self.values}
        order = {node: position for position, node in enumerate(self.values)}

        def axis_at(node: fx.Node) -> Axis:
            return self.segments(_label(node), self.values[node].channels or [], place, sizes)

        taken = {node: axis_at(node) for node in self.activations}
        for node in self.producers:  # a group that no activation shows is measured where it is made
            if _groups(axis_at(node)) - set().union(*map(_groups, taken.values())):
                taken[node] = axis_at(node)
        deciders: dict[int, fx.Node] = {}
        for activation, point in aligned_by.items():
            if activation not in nodes or point not in nodes:
                raise ValueError(f"aligned_by names {activation!r} and {point!r}; the network lacks one of them")
            if axis_at(nodes[activation]) != axis_at(nodes[point]):
                raise ValueError(f"aligned_by: {activation!r} and {point!r} do not have the same channels")
            deciders |= dict.fromkeys(_groups(axis_at(nodes[activation])), nodes[activation])

        rows = []
        for node in sorted((node for node, axis in taken.items() if _groups(axis)), key=order.get):
            votes = frozenset(g for g in _groups(taken[node]) if deciders.get(g, node) is node)
            tap = nodes[aligned_by.get(_label(node), _label(node))]
            before = node.all_input_nodes[0] if node in self.activations else node
            rows.append(Activation(_label(node), tap.name, before.name, taken[node], votes))
        return tuple(rows)

    def segments(self, name: str, channels: list, place: dict, sizes: tuple[int, ...]) -> Axis:
        """An axis as runs of whole groups, in order, and of fixed channels."""
        axis: list[Segment] = []
        expected = 0  # the place in the running group that comes next
        for i, repeat in channels:
            group, k = place.get(self.find(i), (None, 0))
            last = axis[-1] if axis else None
            continues = last is not None and last.group == group and last.repeat == repeat
            if continues and (group is None or expected == k > 0):
                axis[-1] = last._replace(channels=last.channels + 1)
            elif k == 0:
                axis.append(Segment(group, 1, repeat))
            else:
                raise ValueError(f"permutations cannot be followed through {name}: its channels are interleaved")
            expected = k + 1
        if any(s.group is not None and s.channels != sizes[s.group] or s.repeat is None for s in axis):
            raise ValueError(f"permutations cannot be followed through {name}: it holds part of a permuted group")
        return tuple(axis)


def refuse(node: fx.Node, reason: str) -> NoReturn:
    raise ValueError(f"permutations cannot be followed through {_label(node)}: {reason}")


def _label(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _groups(axis: Axis) -> set[int]:
    return {segment.group for segment in axis if segment.group is not None}


def _is_size(node: fx.Node) -> bool:
    return node.target == "size" or (node.target is getattr and node.args[1] in ("shape", "dtype", "device"))


def _pooled(x: _Value, size: int | tuple | None) -> _Value:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return _Value(x.channels, x.flat, height * width if height and width else None)


def _flattened(x: _Value) -> _Value:
    if x.channels is None or x.flat:
        return _Value(x.channels, flat=True)
    return _Value([(i, x.spatial) for i, _ in x.channels], flat=True)
