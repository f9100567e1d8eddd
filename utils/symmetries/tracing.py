"""Run a network once and follow the axes of all its tensors.

The run is on meta tensors (shapes without values), under a dispatch mode that sees every operation after all Python
control flow. A network that looks at values is run on real ones.
"""

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ..permutations import Tap
from . import running
from .algebra import Algebra, Atom, Axis, atoms_of, axis_of, is_fixed
from .proof import larger_batch, random_like
from .recording import ModulePath
from .rules import ATEN, accepts, called, fixed_like, rule_for, written_out

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
        self.when_read: Mapping[torch.Tensor, Callable[[], None]] = WeakIdKeyDictionary()
        self.names: dict[int, str] = {}
        self.originals = {running.memory_of(tensor) for tensor in state.values()}
        # Of all operations: whether they cut, the axes of what they read, and of what they put out
        self.read: dict[tuple[bool, tuple, tuple], None] = {}
        self.operation = ""

    def enter(self, model: nn.Module, inputs: list[torch.Tensor]) -> None:
        """Begin a run of `model`, a copy of the one whose state this is."""
        self.where = "the network's input"
        self.known = WeakIdKeyDictionary({tensor: fixed_like(self, tensor) for tensor in inputs})
        self.when_read.clear()
        self.names = {running.memory_of(tensor): name for name, tensor in running.state_of(model).items()}

    def axes(self, tensor: torch.Tensor) -> list[Axis]:
        if read := self.when_read.pop(tensor, None):
            read()
        axes = self.known.get(tensor)
        if axes is None:
            axes = self._first_seen(tensor)
        self.known[tensor] = axes = [self.resolve(axis) for axis in axes]
        return axes

    def _first_seen(self, tensor: torch.Tensor) -> list[Axis]:
        name = self.names.get(running.memory_of(tensor))
        if name is not None and (tensor.is_floating_point() or tensor.is_complex()):
            axes = self.entry(name)
            if tensor.shape == self.state[name].shape and tensor.stride() == self.state[name].stride():
                return axes
            self.fix(*axes)
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
            self.fix(*self.entries[owner])
            return fixed_like(self, self.state[name])
        return [self.entries[owner][d] for d in order]

    def put(self, tensor: torch.Tensor, axes: list[Axis]) -> None:
        """Note the axes of an output, which may be an input that was changed in place."""
        before = self.known.get(tensor)
        for axis, other in zip(before or (), axes if before else (), strict=True):
            self.unify(axis, other)
        self.known[tensor] = self.settle(axes)

    def fix_when_read(self, tensor: torch.Tensor, axes: list[Axis]) -> None:
        self.when_read[tensor] = lambda: self.fix(*axes)

    def find_when_read(self, out: torch.Tensor, source: torch.Tensor, find: Callable[[], list[Axis]]) -> None:
        """The axes of a part of a tensor, of which the shape alone may be wanted."""
        where = self.where

        def read() -> None:
            now, self.where = self.where, where
            self.known[out] = self.settle(find())
            self.note("select", [source], [out])
            self.where = now

        self.when_read[out] = read

    def note(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Note what an operation has read, as far as it is free, and what it has put out."""
        if name in ATEN["alike"] or any(tensor in self.when_read for tensor in outputs):
            return
        read = [tuple(axes) for axes in map(self.known.get, inputs) if axes]
        if not all(is_fixed(product) for axes in read for axis in axes for product in axis):
            put_out = tuple(tuple(self.known.get(tensor, ())) for tensor in outputs)
            self.read[name in ATEN["cut"], tuple(read), put_out] = None

    def fix_unread(self) -> None:
        """Fix axes of which parts were cut off and read by nothing: other data may read what these stand for.

        Read is an axis by what has it no more: by a product with another tensor that has it, or by any other
        operation (no cut) where a cut has kept it. A mean over a whole table reads no place of it by itself.
        """
        read, alone, cut, kept = set(), set(), set(), set()
        for cuts, inputs, outputs in self.read:
            before = Counter(atom for axes in inputs for atom in self._shown(axes))
            after = [self._shown(axes) for axes in outputs]
            if cuts:
                cut.update(*(before.keys() - shown for shown in after))
                kept.update(*(shown for shown in after if before.keys() - shown))
            else:
                lost = before.keys() - set().union(*after)
                read |= {atom for atom in lost if before[atom] > 1}
                alone |= lost
        read |= alone & kept
        self.where = "places that the run has not read"
        if unread := {atom for atom in cut - read if atom.reason is None and atom.bound is None}:
            for axis in [axis for axes in self.entries.values() for axis in axes]:
                if not unread.isdisjoint(self._shown([axis])):
                    self.fix(axis)

    def _shown(self, axes: list[Axis]) -> set[Atom]:
        """The atoms of axes, for families those of their members."""
        found: set[Atom] = set()
        for atom in {atom for axis in axes for atom in atoms_of(self.resolve(axis))}:
            parts = self.inner(atom)
            found |= self._shown(list(map(axis_of, parts))) if parts else {atom}
        return found


def find_aliases(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, list[int] | None]]:
    """For each entry the first one in the same memory, and its dimensions as dimensions of that one.

    None instead of dimensions: the memory overlaps in another way.
    """
    owners: dict[int, list[str]] = {}
    aliases: dict[str, tuple[str, list[int] | None]] = {}
    for name, tensor in state.items():
        aliases[name] = (name, list(range(tensor.dim())))
        first, last = running.extent(tensor)
        for owner in owners.setdefault(running.memory_of(tensor), []):
            other = state[owner]
            begin, end = running.extent(other)
            if last < begin or first > end:
                continue
            mine, its = (sorted(zip(t.stride(), t.shape, range(t.dim()), strict=True)) for t in (tensor, other))
            same = first == begin and [place[:2] for place in mine] == [place[:2] for place in its]
            matched = {d: its[number][2] for number, (*_, d) in enumerate(mine)} if same else {}
            aliases[name] = (owner, [matched[d] for d in range(tensor.dim())] if same else None)
            break
        else:
            owners[running.memory_of(tensor)].append(name)
    return aliases


@dataclass(eq=False)
class Call:
    """A call of an operation that is an activation function or makes units, and the axes of its output.

    is_fed: whether it depends on the network's input, and not on weights alone.
    """

    tap: Tap
    axes: list[Axis]
    label: str
    is_fed: bool


@dataclass
class Trace:
    """What a run showed: calls in forward order, the axes of what modules put out, and the modes in which it runs."""

    modes: tuple[str, ...] = ()
    calls: list[Call] = field(default_factory=list)
    modules: dict[Tap, list[Axis]] = field(default_factory=dict)


class Tracer(TorchDispatchMode):
    """Calls the rule of every operation that runs."""

    def __init__(self, traced: TracedAxes, module_path: ModulePath, given: list[torch.Tensor]):
        super().__init__()
        self.traced, self.module_path = traced, module_path
        self.fed = WeakIdKeyDictionary(dict.fromkeys(given))  # what depends on the network's inputs
        self.trace = Trace()
        self.is_inside = False  # an operation that is written out in others
        self.last: tuple[torch.Tensor | None, Call | None] = (None, None)

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        if any(
            running.memory_of(tensor) in self.traced.originals for tensor in running.tensors_in([operands, keywords])
        ):
            raise ValueError(
                "a copy of it computes with its own weights, as functions do that hold the network itself"
            )
        keywords = keywords or {}
        if torch.Tag.inplace_view in func.tags:  # squeeze_ and the like: the rule is for the tensor as it was
            before, tensor = running.to_meta(operands[0]), operands[0]
            self.traced.known[before] = self.traced.axes(tensor)
            out = func(*operands, **keywords)
            self.traced.known.pop(tensor)
            operands = (before, *operands[1:])
        else:
            out = func(*operands, **keywords)
        self.follow(func, operands, keywords, out)
        return out

    def follow(self, func, operands, keywords, out) -> None:
        traced, path = self.traced, self.module_path.stack[-1]
        traced.operation = name = func._schema.name.removeprefix("aten::")
        if not self.is_inside:
            traced.where = f"{name} in {path}" if path else name
        function = rule_for(func)
        inputs, outputs, result = running.tensors_in([operands, keywords]), running.tensors_in(out), None
        again = lambda tensor: func(tensor, *operands[1:], **keywords)  # noqa: E731
        given = {"tensors": inputs, "out": out, "again": again, **running.bind(func, operands, keywords)}
        if torch.Tag.nondeterministic_seeded in func.tags and running.is_seeded(given):
            traced.where = f"chance with a seed of its own{f' in {path}' if path else ''}"
        elif function is not None:
            with contextlib.suppress(Exception):  # of whatever kind: a form that the rule does not know
                result = function(traced, **{name: given[name] for name in accepts(function) if name in given})
        elif inputs and (parts := written_out(func)) is not None:
            with contextlib.suppress(Exception):
                result = self._inside(partial(parts, *operands, **keywords))
        if any(tensor in self.fed for tensor in inputs):
            self.fed.update(dict.fromkeys(outputs))
        if result is None:
            for tensor in inputs:  # not understood: nothing that it reads or makes may move
                traced.fix(*traced.axes(tensor))
            for tensor in outputs:
                traced.put(tensor, fixed_like(traced, tensor))
            return
        for tensor in outputs:
            if any(tensor is other for other in inputs):  # changed in place: it keeps the axes it has
                traced.axes(tensor)
        every = out if isinstance(out, (tuple, list)) else [out]
        for tensor, its in zip(every, result if isinstance(result, tuple) else [result] * len(every), strict=False):
            if isinstance(tensor, torch.Tensor):
                traced.put(tensor, its)
        if function is not None:
            traced.note(name, inputs, outputs)
        if not self.is_inside:
            self._note(called(func), path, outputs)

    def _inside(self, parts: Callable) -> list[Axis] | tuple[list[Axis], ...]:
        """The axes of what an operation puts out that is written out in others."""
        before, self.is_inside = self.is_inside, True
        try:
            with self:
                out = parts()
        finally:
            self.is_inside = before
        return self.traced.axes(out) if isinstance(out, torch.Tensor) else tuple(map(self.traced.axes, out))

    def _note(self, name: str, path: str, outputs: list[torch.Tensor]) -> None:
        if name in ATEN["activation"] | ATEN["producer"]:
            axes, label = self.traced.axes(outputs[0]), f"{path}.{name}".lstrip(".")
            call = Call(self.module_path.tap(name), axes, label, outputs[0] in self.fed)
            self.trace.calls.append(call)
            self.last = (outputs[0], call)

    def leaving(self, module: nn.Module, tap: Tap, output: torch.Tensor) -> None:
        """A module without modules in it whose last operation this was gives its name to the call."""
        tensor, call = self.last
        if output is tensor and call.tap.path == tap.path and next(module.children(), None) is None:
            call.label = tap.path
        self.trace.modules[tap] = self.traced.axes(output)


def follow(
    model: nn.Module, example: tuple, keywords: dict, wanted: running.Outputs | None = None
) -> tuple[TracedAxes, Trace]:
    """Run a copy of the model in all its modes; the trace is the one with training heads.

    Meta tensors come first. A network that looks at values gets some, as do recurrent layers, whose operations are
    others without; a network that needs targets to train evaluates only. wanted: the outputs that count.
    Raises what the model raises, if it does not run on the example; ValueError, naming the model, if it cannot be
    followed or copied or has tensors without a shape.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(model).__name__} has no shape before the first run: run the network on an example"
            )
    first = None
    ways = (running.with_values,) if running.is_recurrent(model) else (running.to_meta, running.with_values)
    for chosen, convert in itertools.product((("heads", "train", "eval"), ("eval",)), ways):
        traced = TracedAxes(running.state_of(model))
        run = partial(_follow, traced, model, chosen=chosen, wanted=wanted)
        try:
            values = running.tree_map_tensors(convert, (example, keywords))
            trace = running.without_gradients(partial(run, convert, *values))
        except Exception as error:  # what a model raises when it cannot run can be of any kind
            if ONE_IMAGE in str(error):
                raise
            first = error if convert is running.with_values and first is None else first
            continue
        if convert is running.with_values:
            running.without_gradients(partial(_follow_other_ways, run, (example, keywords)))
        return traced, trace
    given, named = running.tree_map_tensors(running.with_values, (example, keywords))
    # Which raises what is wrong with the example, if anything is
    running.without_gradients(partial(running.copy_with(model, running.with_values), *given, **named))
    operator = re.search(r"HigherOrderOperator (\w+)", str(first))  # torch.cond, flex_attention, …
    why = f"{operator[1]} hides what it runs; write it in plain operations" if operator else first
    raise ValueError(f"the operations of {type(model).__name__} cannot be followed: {why}") from first


def _follow_other_ways(run: Callable[..., Trace], example: tuple) -> None:
    for seed in range(OTHER_RUNS + 1):
        generator = torch.Generator().manual_seed(seed)

        def convert(tensor: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            return random_like(tensor, generator).to(tensor.dtype)

        values = running.tree_map_tensors(convert, example)
        with contextlib.suppress(Exception):  # not all weights need be possible
            run(convert, *(larger_batch(values) if seed == OTHER_RUNS else values))


def _follow(
    traced: TracedAxes,
    model: nn.Module,
    convert: Callable[[torch.Tensor], torch.Tensor],
    example: tuple,
    keywords: dict,
    chosen: tuple,
    wanted: running.Outputs | None,
) -> Trace:
    found: Trace | None = None
    copies = running.Copies(model, convert)
    meta = any(t.is_meta for t in running.tensors_in([example, keywords, dict(copies.latest.named_parameters())]))
    for mode in chosen:
        network = copies.fresh()
        running.only_heads(network) if mode == "heads" else network.train(mode == "train")
        values, named = running.tree_map_tensors(torch.clone, (example, keywords))
        module_path, given = ModulePath(network), running.tensors_in([values, named])
        traced.enter(network, given)
        for _ in range(2):
            tracer = Tracer(traced, module_path, given)
            device = torch.device("meta") if meta else contextlib.nullcontext()
            with (
                running.plain_run(),
                running.step_by_step(network),
                device,
                module_path.watch(tracer.leaving),
                tracer,
            ):
                output = running.outputs_of(network(*values, **named), wanted)
            for name, tensor in output:
                traced.where = f"the network's output {name}".rstrip()
                traced.fix(*(traced.axes(tensor) if isinstance(tensor, torch.Tensor) else ()))
            found = found or tracer.trace
            if not copies.have_kept():  # else its next call uses that
                break
    found.modes = tuple(mode for mode in chosen if mode != "heads")
    return found
