"""Checkpoints from elsewhere: read without running anything of theirs, and put into networks.

torch.load reads them with an unpickler that makes containers, arrays and tensors, and a stub of everything else.
"""

import functools
import io
import math
import operator
import os
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import BinaryIO
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from ..errors import UserError

State = Mapping[str, torch.Tensor]

# --- pickles -----------------------------------------------------------------------------------------------


class Stub(dict):
    """Stands for an object that is not made: of the class `origin`, with what was put into it, as a dictionary."""

    origin, code, state = "", "", None  # code: the first argument, if it is text
    __hash__, __eq__ = object.__hash__, object.__eq__

    def __new__(cls, *args: object, **_):
        made = super().__new__(cls)
        made.code = args[0] if args and isinstance(args[0], str) else ""
        return made

    def __init__(self, *_, **__):
        super().__init__()

    def append(self, item: object) -> None:
        self[len(self)] = item

    add = append

    def extend(self, items: list) -> None:
        self.update(enumerate(items, len(self)))


class _Array(np.ndarray):
    def __setstate__(self, state: tuple) -> None:
        _, shape, stub, is_fortran, data = state
        if (dtype := _dtype(stub)).hasobject and len(data) != math.prod(shape):  # before numpy takes the memory
            raise ValueError("it holds an array that lacks entries")
        super().__setstate__((1, shape, dtype, is_fortran, data))


def _dtype(stub: Stub) -> np.dtype:
    """numpy's type of numbers, text or objects."""
    if not re.fullmatch(r"[biufSU]\d+|O\d*|\?", stub.code):
        raise ValueError(f"it holds an array of {stub.code[:20]}")
    return np.dtype(stub.code).newbyteorder(stub.state[1].replace("|", "=") if stub.state else "=")


def _array(data: bytes, stub: Stub, shape: tuple[int, ...] = (-1,), order: str = "C") -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, _dtype(stub)).reshape(shape, order=order)


def _counted(load: Callable) -> Callable:
    """The making of a tuple, refused for one that would take for ever as a key: it holds others again and again."""

    def load_tuple(self: "_Unpickler") -> None:
        load(self)
        made = self.stack[-1]
        size = 1 + sum(self.sizes.get(id(part), (1, None))[0] for part in made)
        if size > 2_000:
            raise ValueError("it nests tuples too deeply")
        self.sizes[id(made)] = size, made

    return load_tuple


class _Unpickler(pickle._Unpickler):
    """Of the classes and functions that a pickle names, those that `file` knows are used; others become stubs."""

    file: "Pickles"
    dispatch = pickle._Unpickler.dispatch | {
        code[0]: _counted(pickle._Unpickler.dispatch[code[0]])
        for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    }
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8  # takes no memory before the bytes are there

    def __init__(self, stream: BinaryIO, **_):
        super().__init__(stream, encoding="latin1")
        self.sizes: dict[int, tuple[int, object]] = {}  # of tuples, by their id: how much is in them

    def find_class(self, module: str, name: str) -> object:
        origin = f"{module}.{name}".replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        return self.file.known.get(origin) or type("Stub", (Stub,), {"origin": origin, "__module__": ""})

    def _instantiate(self, klass: Callable, given: tuple) -> None:
        self.file.take(sum(map(sys.getsizeof, given)))
        super()._instantiate(klass, given)

    def load_reduce(self) -> None:
        self.file.take(sum(map(sys.getsizeof, self.stack[-1])))
        super().load_reduce()

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Array):
            made.__setstate__(state)
        elif isinstance(made, Stub):  # and nothing else gets attributes
            made.state = state

    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build}


class Pickles:
    """A module such as pickle, for torch.load of one file, of `size` bytes: nothing in it is run, however it is made.

    What is made may take 32 MiB and 20 times as much memory as the file.
    """

    __name__ = "pickle"

    def __init__(self, size: int):
        self.size, self.left = size, 2**25 + 20 * size
        self.Unpickler = type("Unpickler", (_Unpickler,), {"file": self})
        self.known: dict[str, Callable] = {
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": lambda text, *_: text.encode("latin1"),
            "numpy.core.multiarray._reconstruct": lambda *_: np.ndarray.__new__(_Array, (0,), "b"),
            "numpy.core.multiarray.scalar": lambda stub, data: _array(data, stub)[0].item(),
            "numpy.core.numeric._frombuffer": _array,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": lambda make, _, args, __: make(*args),
            "torch.storage._load_from_bytes": lambda content: self.load_saved(io.BytesIO(content)),
        }

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it would become far larger than it is")

    def _tensor(self, storage: torch.TypedStorage, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
        self.take(math.prod(size) * storage.dtype.itemsize)
        if storage.nbytes() > self.size:
            raise ValueError("it holds tensors that lack numbers")
        whole = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
        return whole.as_strided(size, stride, offset)  # which refuses to reach beyond the numbers

    def load(self, stream: BinaryIO, **_) -> object:
        """What a pickle holds."""
        return self.Unpickler(stream).load()

    def load_saved(self, stream: BinaryIO) -> object:
        """What torch.save put into a file, of any age."""
        allowed = patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0"})  # which allows no other unpickler
        with warnings.catch_warnings(action="ignore"), allowed:
            return torch.load(stream, map_location="cpu", pickle_module=self, weights_only=False)


def read_content(stream: io.BytesIO) -> object:
    """What torch.save, or pickle by itself, put into a file, with stubs for objects of other kinds.

    ValueError for a file of something else.
    """
    content = stream.getvalue()
    pickles = Pickles(len(content))
    try:
        if content[:2] == b"PK":
            if "constants.pkl" in torch._C.PyTorchFileReader(stream).get_all_records():
                raise ValueError(
                    "it is a TorchScript program: torch.save the state_dict() of what torch.jit.load reads"
                )
        elif content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
            raise ValueError("it is of safetensors: torch.save what safetensors.torch.load_file reads from it")
        elif (first := pickles.load(stream)) != torch.serialization.MAGIC_NUMBER:
            return _bounded(first)
        stream.seek(0)
        return _bounded(pickles.load_saved(stream))
    except ValueError:
        raise
    except Exception as error:  # what a damaged file leads to can be anything
        raise ValueError("it is nothing that torch.save wrote, or damaged") from error


def read_objects(stream: io.BytesIO) -> object:
    """What numpy pickled into an .npy file, arrays of objects as lists; None for an array of numbers."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(stream)
    if not dtype.hasobject:
        return None
    return _bounded(Pickles(len(stream.getvalue())).load(stream).tolist())


MOST = 300_000


def _bounded(content: object) -> object:
    """The content itself. ValueError if a walk through it would never end, e.g. if lists hold one list twice."""
    left, seen, again = [[content]], set(), 0
    while left and again < MOST:
        one = left.pop()
        parts = [*one, *one.values()] if isinstance(one, dict) else one
        again += 1 + len(parts) if id(one) in seen else 0
        seen.add(id(one))
        left += [part for part in parts if isinstance(part, (dict, list, tuple, set, frozenset))]
    if left:
        raise ValueError(f"it repeats more than {MOST} things")
    return content


# --- the network in a checkpoint ---------------------------------------------------------------------------


class Unusable(UserError):
    """What a file is instead of a checkpoint, as a phrase of which the file is the subject."""


# Under which names a checkpoint may have its state dict, the first that is there counts
NAMES = ("model_state", "model_state_dict", "state_dict", "model", "net", "network", "module", "weights")
AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|shadow)(_|$)")  # beside the state of the network itself
DEPTH = 3  # of dictionaries in which a state dict is looked for
EXPECTED = "is not a checkpoint, which is a dictionary with a state dict as `model_state`, or a state dict"
SAVED_RIGHT = "save its state dict: torch.save(model.state_dict(), PATH)"


def as_checkpoint(content: object, entry: str | None = None) -> tuple[dict, list[str]]:
    """The content of a file as a checkpoint, with a state dict as `model_state`; and what was left aside, in words.

    entry: where its network is, as "ema.module"; None: where it is looked for.

    Raises Unusable for what is none.
    """
    if entry is not None:
        return as_checkpoint(_entry(content, entry))
    if isinstance(content, (list, tuple)) and any(isinstance(part, dict) for part in content):
        content = {str(number): part for number, part in enumerate(content)}
    if not isinstance(content, dict) or isinstance(content, Stub) and not content:
        raise Unusable(_no_state(content))
    networks = {"model_state": content["model_state"]} if "model_state" in content else dict(_networks(content))
    tensors = {name: value for name, value in content.items() if is_state_dict({name: value})}
    if not networks and 2 * len(tensors) > len(content):  # itself, perhaps with the epoch among its entries
        return {"model_state": _tensors(tensors)}, [_aside(*one) for one in content.items() if one[0] not in tensors]
    place, *others = sorted(networks, key=_rank) or [name for name in NAMES if name in content] or [""]
    state = networks.get(place, content.get(place))
    if not is_state_dict(state):
        raise Unusable(_no_state(state, place, content))
    if rivals := [other for other in others if _rank(other) == _rank(place) and networks[other] is not state]:
        raise Unusable(f"holds several networks ({', '.join([place, *rivals][:6])}); {SAVED_RIGHT}")
    kept = {name: value for name, value in content.items() if not (isinstance(value, Stub) and not value)}
    notes = [] if place == "model_state" else [f"its network is the entry {place}"]
    left = [other for other in others if len(networks[other]) == len(state)]  # averages, and not criteria
    notes += [f"the network in its entry {other} is left in the file" for other in left]
    notes += [_aside(name, value) for name, value in content.items() if name not in kept]
    return kept | {"model_state": _tensors(state)}, notes


def _entry(content: object, path: str) -> object:
    """What a file has under a name, or under names joined by dots."""
    try:
        return content[path] if path in content else functools.reduce(operator.getitem, path.split("."), content)
    except (KeyError, TypeError) as error:
        there = ", ".join(map(str, [*content][:6])) if isinstance(content, dict) else ""
        raise Unusable(f"has no entry {path}; it holds {there or 'none'}") from error


def is_state_dict(value: object) -> bool:
    """Whether it is a dictionary of tensors, or of numpy's arrays, by name."""
    entries = value.items() if isinstance(value, dict) else ()
    kinds = (torch.Tensor, np.ndarray)
    return len(entries) > 0 and all(isinstance(name, str) and isinstance(entry, kinds) for name, entry in entries)


def _tensors(state: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for name, v in state.items()}


def _networks(content: Mapping[str, object], depth: int = DEPTH, path: str = "") -> Iterator[tuple[str, dict]]:
    """The state dicts and whole networks in a dictionary, by their places."""
    for name, value in content.items():
        if isinstance(name, str) and (is_state_dict(value) or _is_network(value)):
            yield f"{path}{name}", value
        elif isinstance(name, str) and isinstance(value, dict) and depth > 1:
            yield from _networks(value, depth - 1, f"{path}{name}.")


def _rank(place: str) -> tuple[bool, int]:
    """By which networks are sorted: averages last, and by the usual names."""
    names = place.split(".")
    known = [NAMES.index(name) for name in names if name in NAMES]
    return any(AVERAGED.search(name) for name in names), min(known, default=len(NAMES))


def _is_network(value: object) -> bool:
    """Whether an object that was not made is a torch module: their state has these."""
    state = value.state if isinstance(value, Stub) else None
    return isinstance(state, dict) and {"_modules", "_parameters"} <= set(state)


def _no_state(value: object, place: str = "", content: Mapping[str, object] | None = None) -> str:
    """What something is that should be a state dict."""
    beside = f" as its entry {place}" if place else ""
    if _is_network(value):
        return f"holds a whole network{beside} ({value.origin}), which only its own code can read; {SAVED_RIGHT}"
    names = ", ".join(map(str, [*(content or ())][:6])) or "nothing"
    held = f"a {_kind(value)}{beside}" if place or content is None else names
    return f"{EXPECTED}; it holds {held}; {SAVED_RIGHT}"


def _aside(name: object, value: object) -> str:
    return f"its entry {name} is left aside ({_kind(value)})"


def _kind(value: object) -> str:
    """The type of a value in words; of an object that was not made, its class."""
    return value.origin if isinstance(value, Stub) else type(value).__name__


# --- state dicts put into networks -------------------------------------------------------------------------

# Modules that wrap a network, or a part of it: of DataParallel, compile, FSDP and checkpointing
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNTERS = ("total_ops", "total_params", "n_averaged")  # what profilers, and averages of weights, add to a state
BATCHES = "num_batches_tracked"  # which torch did not count before 0.4.1, and which changes nothing


def load_state(network: nn.Module, state: State) -> list[str]:
    """Put a state dict into a network; returns, in words, what was changed of it. ValueError if it does not fit."""
    fitting, changes = _fit(network, state)
    network.load_state_dict(fitting)
    return changes


def load_points(curve: nn.Module, checkpoint: Mapping[str, object]) -> None:
    """Put the learned control points of a checkpoint into a `Curve`. ValueError, in one line, if they are others.

    Points are called and stored as states of networks may be (`fitted`).
    """
    points = checkpoint.get("points") or {curve.num_bends // 2: checkpoint["model_state"]}
    if not isinstance(points, dict) or not all(map(is_state_dict, points.values())):
        raise ValueError("its points are no state dicts")
    curve.load_checkpoint({"points": {index: fitted(curve.base, state) for index, state in points.items()}})


def fitted(network: nn.Module, state: State) -> dict[str, torch.Tensor]:
    """A state dict with the network's own names and types of numbers. ValueError, in one line, if it does not fit."""
    return _fit(network, state)[0]


def _fit(network: nn.Module, state: State) -> tuple[dict[str, torch.Tensor], list[str]]:
    own = network.state_dict()
    names = _names(state, own)
    counters = [name for name in names if name.endswith(COUNTERS) and name not in own]
    found = {name: state[entry] for name, entry in names.items() if name not in counters}
    for name in own:
        if name.removesuffix(BATCHES) + "running_mean" in found:
            found.setdefault(name, own[name])
    if reason := _misfit(found, own):
        raise ValueError(reason)
    changes = []
    if renamed := [name for name, entry in names.items() if name in own and name != entry]:
        changes.append(f"{len(renamed)} entries renamed, e.g. {names[renamed[0]]} to {renamed[0]}")
    for dtype in dict.fromkeys(value.dtype for value in found.values()):
        if cast := [value.dtype for name, value in own.items() if found[name].dtype == dtype != value.dtype]:
            changes.append(f"{len(cast)} entries of {dtype} converted to {cast[0]}".replace("torch.", ""))
    if counters:
        print(f"{len(counters)} counters ({counters[0]}, …) are no part of {type(network).__name__} and left aside.")
    own.update({name: found[name].reshape(value.shape).to(value.dtype) for name, value in own.items()})
    return own, changes


def _names(state: State, own: Collection[str]) -> dict[str, str]:
    """The entries' names, by those that they had before the network was wrapped or made a part of something."""
    wrappers = WRAPPERS - {part for name in own for part in name.split(".")}
    bare: dict[str, str] = {}
    for name in state:
        short = ".".join(part for part in name.split(".") if part not in wrappers)
        if short in bare:
            raise ValueError(f"it has {short} twice")
        bare[short] = name
    first = next(iter(own), "")
    prefixes = [""] if first in bare else [name.removesuffix(first) for name in bare if name.endswith(f".{first}")]
    whole = [prefix for prefix in prefixes if all(prefix + name in bare for name in own)]
    if len(whole) > 1:
        raise ValueError(f"it holds several networks ({', '.join(prefix[:-1] for prefix in whole)})")
    prefix = next(iter(whole or prefixes), "")
    return {short.removeprefix(prefix): name for short, name in bare.items()}


def _misfit(state: State, own: State) -> str:
    """What a state has too little, too much or otherwise, with the first entry of each; '' if it fits."""
    shared = {name: (state[name], value) for name, value in own.items() if name in state}
    shapes = {n: (a.shape, b.shape) for n, (a, b) in shared.items() if a.shape != b.shape}
    shapes = {n: (a, b) for n, (a, b) in shapes.items() if a.numel() != 1 or b.numel() != 1}
    if len(shared) == len(own) == len(state) and [*own][-1:] == [*shapes][-1:]:  # the last layer, and others like it
        heads = {(*a[:1], *b[:1]) if a[1:] == b[1:] else () for a, b in shapes.values()}
        if len(heads) == 1 and all(heads):
            return "it has {} classes, and {} are wanted".format(*heads.pop())
    odd = [n for n, (a, b) in shared.items() if a.is_complex() or a.is_floating_point() < b.is_floating_point()]
    problems = {
        "lacks {}": [name for name in own if name not in state],
        "has {} too many": [name for name in state if name not in own],
        "has another shape of {}": [f"{name} ({tuple(a)} instead of {tuple(b)})" for name, (a, b) in shapes.items()],
        "has another kind of numbers in {}": [f"{name} ({state[name].dtype})" for name in odd],
    }
    told = [
        words.format(names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
        for words, names in problems.items()
        if names
    ]
    return f"it {', '.join(told)}" if told else ""
