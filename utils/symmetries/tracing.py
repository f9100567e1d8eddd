"""Run a network once and follow the axes of all its tensors.

The run is on meta tensors (shapes without values), under a dispatch mode that sees every operation after all Python
control flow. A network that looks at values is run on real ones.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from .algebra import Algebra
from .axes import Axis
from .proof import random_like
from .rules import ACTIVATIONS, PRODUCERS, accepts, called, fixed_like, rule_for
from .running import (
    ModulePath,
    bind,
    copy_with,
    extent,
    is_recurrent,
    modes,
    plain_run,
    state_of,
    step_by_step,
    tensors_in,
    to_meta,
    tree_map_tensors,
    with_values,
)

ONE_IMAGE = "more than 1 value per channel"  # batch normalization's complaint about a batch of one

OTHER_RUNS = 4  # with random weights, of a network that looks at values: each may take another way


class TracedAxes(Algebra):
    """The axes of all tensors of a run. Axes of state entries stay from run to run."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        super().__init__()
        self.state = state
        self.aliases = find_aliases(state)
        self.entries: dict[str, list[Axis]] = {}  # by owner, as far as a run has touched them
        self.known = WeakIdKeyDictionary()
        self.when_read = WeakIdKeyDictionary()
        self.names: dict[int, str] = {}
        self.originals = {tensor.untyped_storage()._cdata for tensor in state.values()}
        self.operation = ""

    def enter(self, model: nn.Module, inputs: list[torch.Tensor]) -> None:
        """Begin a run of `model`, a copy of the one whose state this is."""
        self.where = "the network's input"
        self.known = WeakIdKeyDictionary({tensor: fixed_like(self, tensor) for tensor in inputs})
        self.when_read.clear()
        self.names = {tensor.untyped_storage()._cdata: name for name, tensor in state_of(model).items()}

    def axes(self, tensor: torch.Tensor) -> list[Axis]:
        for axis in self.when_read.pop(tensor, ()):
            self.fix(axis)
        axes = self.known.get(tensor)
        if axes is None:
            axes = self._first_seen(tensor)
        self.known[tensor] = axes = [self.resolve(axis) for axis in axes]
        return axes

    def _first_seen(self, tensor: torch.Tensor) -> list[Axis]:
        name = self.names.get(tensor.untyped_storage()._cdata)
        if name is not None and (tensor.is_floating_point() or tensor.is_complex()):
            axes = self.entry(name)
            if tensor.shape == self.state[name].shape and tensor.stride() == self.state[name].stride():
                return axes
            for axis in axes:
                self.fix(axis)
        where, self.where = self.where, "a constant"
        axes = fixed_like(self, tensor)
        self.where = where
        return axes

    def entry(self, name: str) -> list[Axis]:
        """The axes of a state entry; entries that share memory share axes."""
        owner, order = self.aliases[name]
        if owner not in self.entries:
            self.entries[owner] = self.parameter(self.state[owner].shape)
        if order is None:
            for axis in self.entries[owner]:
                self.fix(axis)
            return fixed_like(self, self.state[name])
        return [self.entries[owner][d] for d in order]

    def put(self, tensor: torch.Tensor, axes: list[Axis]) -> None:
        """Note the axes of an output, which may be an input that was changed in place."""
        before = self.known.get(tensor)
        for axis, other in zip(before or (), axes if before else (), strict=True):
            self.unify(axis, other)
        self.known[tensor] = self.settle(axes)

    def fix_when_read(self, tensor: torch.Tensor, axes: list[Axis]) -> None:
        self.when_read[tensor] = axes


def find_aliases(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, list[int] | None]]:
    """For each entry the first one in the same memory, and its dimensions as dimensions of that one.

    None instead of dimensions: the memory overlaps in another way.
    """
    owners: dict[int, list[str]] = {}
    aliases: dict[str, tuple[str, list[int] | None]] = {}
    for name, tensor in state.items():
        aliases[name] = (name, list(range(tensor.dim())))
        first, last = extent(tensor)
        for owner in owners.setdefault(tensor.untyped_storage()._cdata, []):
            other = state[owner]
            begin, end = extent(other)
            if last < begin or first > end:
                continue
            mine, its = (
                sorted(range(t.dim()), key=lambda d, t=t: (t.stride(d), t.shape[d])) for t in (tensor, other)
            )
            same = first == begin and [(tensor.stride(d), tensor.shape[d]) for d in mine] == [
                (other.stride(d), other.shape[d]) for d in its
            ]
            order = [its[mine.index(d)] for d in range(tensor.dim())] if same else None
            aliases[name] = (owner, order)
            break
        else:
            owners[tensor.untyped_storage()._cdata].append(name)
    return aliases


@dataclass
class Call:
    """An operation, or a module, and the axes of its output.

    path, operation, number: in which module's call it was, which operation, and its index among such calls.
    is_fed: whether it depends on the network's input, and not on weights alone.
    """

    path: str
    operation: str
    number: int
    axes: list[Axis]
    label: str = ""
    is_fed: bool = True


@dataclass
class Trace:
    """What a run showed, in forward order; unknown: operations without a rule."""

    modes: tuple[str, ...] = ()  # in which the model runs
    activations: list[Call] = field(default_factory=list)
    producers: list[Call] = field(default_factory=list)
    modules: dict[tuple[str, int], list[Axis]] = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    order: list[Call] = field(default_factory=list)


class Tracer(TorchDispatchMode):
    """Calls the rule of every operation that runs."""

    def __init__(self, traced: TracedAxes, module_path: ModulePath, given: list[torch.Tensor]):
        super().__init__()
        self.traced, self.module_path = traced, module_path
        self.fed = WeakIdKeyDictionary(dict.fromkeys(given))  # what depends on the network's inputs
        self.trace = Trace()
        self.counts: Counter = Counter()
        self.last: tuple[torch.Tensor | None, Call | None] = (None, None)

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        if any(t.untyped_storage()._cdata in self.traced.originals for t in tensors_in([operands, keywords])):
            raise ValueError(
                "a copy of it computes with its own weights, as functions do that hold the network itself"
            )
        if torch.Tag.inplace_view in func.tags:  # squeeze_ and the like: the rule is for the tensor as it was
            before, tensor = to_meta(operands[0]), operands[0]
            self.traced.known[before] = self.traced.axes(tensor)
            out = func(*operands, **(keywords or {}))
            self.traced.known.pop(tensor)
            self.follow(func, (before, *operands[1:]), keywords or {}, out)
            return out
        out = func(*operands, **(keywords or {}))
        self.follow(func, operands, keywords or {}, out)
        return out

    def follow(self, func, operands, keywords, out) -> None:
        traced, path = self.traced, self.module_path.stack[-1]
        name = func._schema.name.removeprefix("aten::")
        traced.operation = name
        traced.where = f"{name} in {path}" if path else name
        function = rule_for(func)
        result = None
        if function is not None:
            given = {"tensors": tensors_in([operands, keywords]), "out": out, **bind(func, operands, keywords)}
            with contextlib.suppress(Exception):  # of whatever kind: a form that the rule does not know
                result = function(traced, **{name: given[name] for name in accepts(function) if name in given})
        inputs, outputs = tensors_in([operands, keywords]), tensors_in(out)
        if any(tensor in self.fed for tensor in inputs):
            self.fed.update(dict.fromkeys(outputs))
        if result is None:
            self._not_understood(name, inputs, outputs)
            return
        for tensor in outputs:
            if any(tensor is other for other in inputs):  # changed in place: it keeps the axes it has
                traced.axes(tensor)
        several = isinstance(out, (tuple, list))
        for tensor, its in zip(out if several else [out], result if several else [result], strict=False):
            if isinstance(tensor, torch.Tensor):
                traced.put(tensor, its)
        self._note(called(func), path, outputs)

    def _not_understood(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Nothing that an unknown operation reads or makes may move."""
        for tensor in inputs:
            for axis in self.traced.axes(tensor):
                self.traced.fix(axis)
        for tensor in outputs:
            self.traced.put(tensor, fixed_like(self.traced, tensor))
        self.trace.unknown[name] += 1

    def _note(self, name: str, path: str, outputs: list[torch.Tensor]) -> None:
        kind = self.trace.activations if name in ACTIVATIONS else self.trace.producers if name in PRODUCERS else None
        if kind is None:
            return
        key = (path, name)
        axes, label = self.traced.axes(outputs[0]), f"{path}.{name}".lstrip(".")
        call = Call(path, name, self.counts[key], axes, label, outputs[0] in self.fed)
        self.counts[key] += 1
        kind.append(call)
        self.trace.order.append(call)
        self.last = (outputs[0], call)

    def leaving(self, module: nn.Module, path: str, output: object) -> None:
        """A module without modules in it whose last operation this was gives its name to the call."""
        if not isinstance(output, torch.Tensor):
            return
        tensor, call = self.last
        if output is tensor and call.path == path and next(module.children(), None) is None:
            call.label = path
        number = self.counts[(path, "")]
        self.counts[(path, "")] += 1
        self.trace.modules[path, number] = self.traced.axes(output)


def follow(model: nn.Module, example: tuple, keywords: dict) -> tuple[TracedAxes, Trace]:
    """Run a copy of the model in all its modes; the trace is the one with training heads.

    Meta tensors come first. A network that looks at values gets some, as do recurrent layers, whose operations are
    others without; a network that needs targets to train evaluates only.
    Raises what the model raises, if it does not run on the example; ValueError, naming the model, if it cannot be
    followed or copied or has tensors without a shape.
    """
    _check_shapes(model)
    first = None
    for chosen in (("heads", "train", "eval"), ("eval",)):
        for convert in (with_values,) if is_recurrent(model) else (to_meta, with_values):
            traced = TracedAxes(state_of(model))
            try:
                values = tree_map_tensors(convert, (example, keywords))
                trace = _follow(traced, copy_with(model, convert), *values, chosen)
            except Exception as error:  # what a model raises when it cannot run can be of any kind
                if ONE_IMAGE in str(error):
                    raise
                first = error if convert is with_values and first is None else first
                continue
            if convert is with_values:
                _follow_other_ways(traced, model, (example, keywords), chosen)
            return traced, trace
    given, named = tree_map_tensors(with_values, (example, keywords))
    copy_with(model, with_values)(*given, **named)  # which raises what is wrong with the example, if anything is
    raise ValueError(f"the operations of {type(model).__name__} cannot be followed: {first}") from first


def _follow_other_ways(traced: TracedAxes, model: nn.Module, example: tuple, chosen: tuple) -> None:
    for seed in range(OTHER_RUNS):
        generator = torch.Generator().manual_seed(seed)

        def convert(tensor: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            return random_like(tensor, generator).to(tensor.dtype)

        with contextlib.suppress(Exception):  # not all weights need be possible
            _follow(traced, copy_with(model, convert), *tree_map_tensors(convert, example), chosen)


def _check_shapes(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(model).__name__} has no shape before the first run: run the network on an example"
            )


def _follow(traced: TracedAxes, model: nn.Module, example: tuple, keywords: dict, chosen: tuple) -> Trace:
    found: Trace | None = None
    meta = any(tensor.is_meta for tensor in tensors_in([example, keywords, dict(model.named_parameters())]))
    for mode in modes(model):
        if mode not in chosen:
            continue
        module_path, given = ModulePath(model), tensors_in([example, keywords])
        tracer = Tracer(traced, module_path, given)
        traced.enter(model, given)
        device = torch.device("meta") if meta else contextlib.nullcontext()
        with plain_run(), step_by_step(model), device, module_path.watch(tracer.leaving), tracer:
            output = model(*example, **keywords)
        traced.where = "the network's output"
        for tensor in tensors_in(output):
            for axis in traced.axes(tensor):
                traced.fix(axis)
        found = found or tracer.trace
    found.modes = tuple(mode for mode in chosen if mode != "heads")
    return found
