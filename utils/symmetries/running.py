"""Copies of models, and runs of them that leave no trace: their tensors and modes."""

import contextlib
import copy
import functools
import operator
import random
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

OWN_SEED = 7_164_289_350_216  # of the runs here: none that a network is likely to set
Value = TypeVar("Value")

# --- tensors -----------------------------------------------------------------------------------------------------


def leaves(value, modules: bool = False, seen: dict[int, object] | None = None) -> Iterator[object]:
    """What is in nested lists, dictionaries, dataclasses and other plain objects, and in modules if wanted."""
    seen = {} if seen is None else seen
    for leaf in tree_leaves(value):
        if id(leaf) not in seen:
            seen[id(leaf)] = leaf  # kept, so that no other object takes its place
            yield leaf
            if inner := [part for _, part in _parts(leaf, modules)]:
                yield from leaves(inner, modules, seen)


PLAIN = (torch.Tensor, int, float, complex, str, bytes, type, types.NoneType, types.ModuleType, torch.dtype)
EMPTY = types.CellType()
UNNAMED = (set, frozenset, deque, types.GeneratorType)


def _parts(leaf, modules: bool = False) -> list[tuple[str, object]]:
    """What is in an object that is no plain value, with the names that it has there, if any."""
    if isinstance(leaf, PLAIN):
        return []
    if isinstance(leaf, Mapping):
        return [(str(key), part) for key, part in leaf.items()]
    if isinstance(leaf, UNNAMED) or (isinstance(leaf, np.ndarray) and leaf.dtype == np.dtype(object)):
        return [("", part) for part in leaf]
    if isinstance(leaf, functools.partial):
        return [("", leaf.func), ("", leaf.args), ("", leaf.keywords)]
    if isinstance(leaf, types.FunctionType):
        return [("", cell.cell_contents) for cell in leaf.__closure__ or () if cell != EMPTY]
    if isinstance(leaf, nn.Module) and (not modules or isinstance(leaf, torch.jit.ScriptModule)):
        return []
    slots = [getattr(kind, "__slots__", ()) for kind in type(leaf).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some) if name[:2] != "__"]
    values = {name: getattr(leaf, name) for name in names if hasattr(leaf, name)}
    return [*(values | getattr(leaf, "__dict__", {})).items()]


def tensors_in(value, modules: bool = False) -> list[torch.Tensor]:
    """All tensors in a nested value, each once."""
    return [leaf for leaf in leaves(value, modules) if isinstance(leaf, torch.Tensor)]


def tree_map_tensors(convert: Callable[[torch.Tensor], torch.Tensor], value):
    """A copy of a nested value in which every tensor is `convert` of the original's."""
    memo = {id(t): convert(t).requires_grad_(t.requires_grad) for t in tensors_in(value)}
    return tree_map(lambda leaf: copy.deepcopy(leaf, memo), value)


# What of a network's output counts: fields by name or place, or a function that gives it.
Outputs = str | int | Sequence[str | int] | Callable[[object], object]
CACHES = re.compile(r"cache|past_key_values", re.IGNORECASE)  # what a network may be given in its next call
SEEN = (torch.Tensor, np.ndarray, np.generic, int, float, complex, str, bytes)


def outputs_of(output, wanted: Outputs | None = None) -> list[tuple[str, object]]:
    """The numbers and texts that a network puts out, each with the name of its field; caches only if wanted.

    Raises ValueError if it puts out nothing of a wanted name.
    """
    if callable(wanted):
        output = wanted(output)
    elif wanted is not None:
        names = [wanted] if isinstance(wanted, (str, int)) else wanted
        try:
            output = {str(n): getattr(output, n) if hasattr(output, str(n)) else output[n] for n in names}
        except (LookupError, TypeError) as error:
            raise ValueError(f"the network does not put out {', '.join(map(str, names))}") from error
    return list(_outputs("", output, {}, wanted is not None))


def _outputs(name: str, value, seen: dict[int, object], caches: bool) -> Iterator[tuple[str, object]]:
    if isinstance(value, SEEN) and getattr(value, "dtype", None) != np.dtype(object):
        yield name, value
    elif id(value) not in seen:
        seen[id(value)] = value
        for key, part in _inner(value):
            if caches or not (CACHES.search(key) or CACHES.search(type(part).__name__)):
                yield from _outputs(key or name, part, seen, caches)


def _inner(value) -> Iterable[tuple[str, object]]:
    """What is in an output, with names; containers are those that PyTorch knows, and whatever can be counted."""
    parts, _ = tree_flatten(value, is_leaf=lambda part: part is not value)
    if isinstance(value, Mapping) or (len(parts) == 1 and parts[0] is value):
        is_counted = isinstance(value, (Collection, Iterator)) and not isinstance(value, Mapping)
        return [*_parts(value), *(("", part) for part in (value if is_counted else ()))]
    return zip(getattr(value, "_fields", [""] * len(parts)), parts, strict=True)


def memory_of(tensor: torch.Tensor) -> int:
    """A number of the memory in which the tensor is; a sparse one is in several, and shares none."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else -id(tensor)


def to_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def has_fractions(tensor: torch.Tensor) -> bool:
    """Whether it holds floating-point numbers, real or complex."""
    return tensor.is_floating_point() or tensor.is_complex()


def with_values(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; one without values gets random ones, or zeros for integers."""
    make = torch.randn if has_fractions(tensor) else torch.zeros
    return make(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().cpu().clone()


# --- models ------------------------------------------------------------------------------------------------------


def copy_with(model: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of the model whose tensors are `convert` of the original's; shared ones stay shared.

    So do plain attributes in the memory of a state entry. Entries in the same memory are distinguished.

    Raises ValueError, naming the model, if it holds what cannot be copied.
    """
    memo: dict[int, object] = {}
    owners: dict[int, torch.Tensor] = {}
    parts = list(leaves(model, modules=True))
    held, entries = [leaf for leaf in parts if isinstance(leaf, torch.Tensor)], state_of(model).values()
    ids = {id(tensor) for tensor in held}
    for tensor in [*(entry for entry in entries if id(entry) in ids), *held]:
        if id(tensor) in memo:
            continue
        memory, new = memory_of(tensor), None
        if memory in owners and not isinstance(tensor, nn.Parameter):
            new = _view_like(tensor, owners[memory], memo[id(owners[memory])])
        if new is None:
            new = convert(tensor.detach())
            owners.setdefault(memory, tensor)
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new
    functions = [leaf for leaf in parts if isinstance(leaf, types.FunctionType) and leaf.__closure__]
    memo |= {id(function): _with_own_cells(function) for function in functions}
    try:
        copied = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{type(model).__name__} cannot be copied, so that it cannot be tried: {error}") from error
    for function in functions:
        for cell, new in zip(function.__closure__, memo[id(function)].__closure__, strict=True):
            if cell != EMPTY:
                new.cell_contents = _copy_of(cell.cell_contents, memo)
    for module in copied.modules():
        if isinstance(module, torch.jit.ScriptModule):  # it has copied its tensors by itself
            module._apply(convert)
    return copied


def _with_own_cells(function: types.FunctionType) -> types.FunctionType:
    """The function, whose closure is yet to be filled: one that holds the model is to hold its copy."""
    cells = tuple(types.CellType() for _ in function.__closure__)
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    return new


def _copy_of(value, memo: Mapping[int, object]):
    """What has been copied for a value, or the value itself."""
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, memo.get(id(value.__self__), value.__self__))
    return memo.get(id(value), value)


def _view_like(tensor: torch.Tensor, owner: torch.Tensor, copied: torch.Tensor) -> torch.Tensor | None:
    """The view of a copy of `owner` that `tensor` is of `owner` itself; None if it reaches beyond it."""
    first, last = extent(tensor)
    begin, end = extent(owner)
    if first < begin or last > end or copied.stride() != owner.stride():
        return None
    return copied.detach().as_strided(tensor.shape, tensor.stride(), first - begin + copied.storage_offset())


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first and the last place in memory that a tensor takes."""
    first = tensor.storage_offset()
    return first, first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    tensors = ((name, tensor) for name, tensor in state.items() if isinstance(tensor, torch.Tensor))
    return {name: tensor for name, tensor in tensors if tensor.layout == torch.strided}


class Copies:
    """Copies of a model to run: one for all runs, unless it keeps what it has computed for its next call."""

    def __init__(self, model: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]):
        self.make = functools.partial(copy_with, model, convert)
        self._renew()

    def _renew(self) -> None:
        self.latest = self.make()
        self.before = self.now = _beside_state(self.latest)

    def have_kept(self) -> bool:
        """Whether the copy, which has run, holds other tensors than when it was made, beside its state."""
        self.now = _beside_state(self.latest)
        return not (len(self.now) == len(self.before) and all(map(operator.is_, self.now, self.before)))

    def fresh(self) -> nn.Module:
        """A copy that has kept nothing; what has been loaded into another is lost."""
        if self.now is not self.before and self.have_kept():
            self._renew()
        return self.latest


def _beside_state(model: nn.Module) -> list[torch.Tensor]:
    """The tensors that a model's modules have as attributes, and are neither parameters nor buffers."""
    state, every = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}, vars(nn.Module()).keys()
    plain = (module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule))
    own = [value for module in plain for name, value in vars(module).items() if name not in every]
    return [tensor for tensor in tensors_in(own) if id(tensor) not in state]


# --- runs --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_run() -> Iterator[None]:
    """Nothing fused or compiled, and the generators of random numbers as they were after it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what a network may draw from)
    # What is compiled has imported the compiler, which takes a second
    compiled = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    try:
        # The CPU's generator alone: what is run is there, or is meta, and others may not even be restored (mps)
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), eager:
            torch.default_generator.manual_seed(OWN_SEED)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def without_gradients(run: Callable[[], Value]) -> Value:
    """The result of a run without gradients; with them, if the network takes gradients of its own outputs."""
    try:
        with torch.no_grad():
            return run()
    except RuntimeError as error:
        if "require grad" not in str(error):
            raise
    with torch.enable_grad():
        return run()


def is_seeded(given: Mapping[str, object]) -> bool:
    """Whether a network has seeded what it draws from, so that it draws the same in each run: a constant."""
    return given.get("generator") is not None or torch.initial_seed() != OWN_SEED


class Deterministic(TorchDispatchMode):
    """Replaces random draws by their means, so that two runs can be compared; seeded ones are as they are."""

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        keywords = dict(keywords or {})
        name = func._schema.name.removeprefix("aten::")
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*operands, **keywords)
        given = bind(func, operands, keywords)
        if is_seeded(given):
            if (drawn := given.get("generator")) is not None:  # it may be kept from run to run
                keywords |= {"generator": torch.Generator(drawn.device).manual_seed(drawn.initial_seed())}
            return func(*operands, **keywords)
        if name in ("native_dropout", "_fused_dropout"):
            return operands[0].clone(), torch.ones_like(operands[0], dtype=torch.bool)
        if name.startswith("rrelu_with_noise"):
            slope = (given["lower"] + given["upper"]) / 2
            return torch.where(operands[0] > 0, operands[0], operands[0] * slope)
        out = func(*operands, **keywords)
        return out.copy_(mean(name.rstrip("_"), out, given)) if isinstance(out, torch.Tensor) else out


def mean(name: str, out: torch.Tensor, given: dict) -> torch.Tensor:
    """The mean of what an operation draws, which may depend on what it is given."""
    if name == "randperm":
        return torch.arange(len(out), dtype=out.dtype)
    if name == "bernoulli":
        value = given.get("p", given["self"])
    elif name == "normal":
        value = given.get("mean", 0)
    elif name in ("poisson", "_standard_gamma"):
        value = given["self"]
    elif name == "exponential":
        value = 1 / given["lambd"]
    elif name == "uniform":
        value = (given["from"] + given["to"]) / 2
    else:
        value = 0.5 if name in ("rand", "rand_like") else 0
    return value.expand_as(out) if isinstance(value, torch.Tensor) else torch.full_like(out, value)


def bind(func: torch._ops.OpOverload, operands: tuple, keywords: dict) -> dict:
    """The arguments of a call by name, those with default values included."""
    arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return arguments | dict(zip((a.name for a in func._schema.arguments), operands, strict=False)) | keywords


def is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


@contextlib.contextmanager
def step_by_step(model: nn.Module) -> Iterator[None]:
    """Recurrent layers do not run as one kernel, which would hide their units."""
    backends = (torch.backends.mkldnn, torch.backends.cudnn) if is_recurrent(model) else ()
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, enabled in zip(backends, before, strict=True):
            backend.enabled = enabled


@contextlib.contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """After this block the modes of the model's modules are as before it, and its buffers, which a run may change."""
    before = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, training, buffers in before:
            module.training = training
            for name, buffer in buffers.items():
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
        for buffer, value in values.items():
            buffer.detach().copy_(value)


def only_heads(model: nn.Module) -> None:
    """Modules that contain others train, so that heads for training run; the others evaluate.

    By attribute alone: what else a module may do when its mode changes would not be undone.
    """
    for module in model.modules():
        module.training = next(module.children(), None) is not None
