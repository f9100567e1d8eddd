"""Checkpoints from elsewhere: read without running anything of theirs, and put into networks.

torch.load reads them with an unpickler that makes containers, arrays and tensors, and a stub of everything else.
"""

import io
import json
import math
import os
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from ..errors import FileError

State = Mapping[str, torch.Tensor]

# --- pickles -----------------------------------------------------------------------------------------------


class Stub(dict):
    """Stands for an object that is not made: of the class `origin`, with what was put into it by keys."""

    origin, args, state = "", (), None
    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, *args: object, **_: object):
        super().__init__()
        self.args = args

    def append(self, _: object) -> None:
        """What is put into a list or a set is left out."""

    add = extend = append


class _Tuple(tuple):
    """Hashed by identity: the hash of one that holds another twice, and so on, would never end."""

    __hash__ = object.__hash__


def _load_tuple(load: Callable, unpickler: pickle._Unpickler) -> None:
    load(unpickler)
    unpickler.stack[-1] = _Tuple(unpickler.stack[-1])


def _dtype(stub: Stub) -> np.dtype:
    """numpy's type of numbers, text or objects; entries of no bytes could be any number."""
    if not re.fullmatch(r"[biufSU][1-9]\d*|O\d*|\?", code := stub.args[0]):
        raise ValueError(f"it holds an array of {code[:20]}")
    return np.dtype(code).newbyteorder(stub.state[1].replace("|", "=") if stub.state else "=")


class _Unpickler(pickle._Unpickler):
    """Of the classes and functions that a pickle names, those that `file` knows are used; others become stubs."""

    file: "Pickles"

    def __init__(self, stream: BinaryIO, **_: object):
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        origin = f"{module}.{name}".replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        return self.file.known.get(origin) or type("Stub", (Stub,), {"origin": origin, "__module__": ""})

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, np.ndarray):
            _, shape, stub, is_fortran, data = state
            self.file.take(len(data))
            if (dtype := _dtype(stub)).hasobject and len(data) != math.prod(shape):  # before numpy takes the memory
                raise ValueError("it holds an array that lacks entries")
            made.__setstate__((1, shape, dtype, is_fortran, data))
        elif isinstance(made, Stub):  # and nothing else gets attributes
            made.state = state

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: load_build}
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8  # takes no memory before the bytes are there
    for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[code[0]] = partial(_load_tuple, dispatch[code[0]])


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
            "_codecs.encode": self._bytes,
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0, "b"),
            "numpy.core.multiarray.scalar": lambda stub, data: self._array(data, stub)[0].item(),
            "numpy.core.numeric._frombuffer": self._array,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": lambda make, _, args, __: make(*args),
            "torch.storage._load_from_bytes": lambda content: self.load_saved(io.BytesIO(self._bytes(content))),
        }

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it would become far larger than it is")

    def _bytes(self, text: str | bytes, *_: object) -> bytes:
        self.take(len(text))
        return text.encode("latin1") if isinstance(text, str) else bytes(text)

    def _array(self, data: bytes, stub: Stub, shape: tuple[int, ...] = (-1,), order: str = "C") -> np.ndarray:
        return np.frombuffer(self._bytes(data), _dtype(stub)).reshape(shape, order=order)

    def _tensor(self, storage: torch.TypedStorage, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
        self.take(math.prod(size) * storage.dtype.itemsize)
        if storage.nbytes() > self.size:
            raise ValueError("it holds tensors that lack numbers")
        whole = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
        return whole.as_strided(size, stride, offset)  # which refuses to reach beyond the numbers

    def load(self, stream: BinaryIO, **_: object) -> object:
        """What a pickle holds."""
        return self.Unpickler(stream).load()

    def load_saved(self, stream: BinaryIO) -> object:
        """What torch.save put into a file, of any age."""
        allowed = patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0"})  # which allows no other unpickler
        with warnings.catch_warnings(action="ignore"), allowed:
            return torch.load(stream, map_location="cpu", pickle_module=self, weights_only=False)


def read_content(stream: io.BytesIO) -> object:
    """What torch.save, safetensors, or pickle by itself, put into a file, with stubs for objects of other kinds.

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
            return _of_safetensors(content)
        elif (first := pickles.load(stream)) != torch.serialization.MAGIC_NUMBER:
            return _bounded(first)
        stream.seek(0)
        return _bounded(pickles.load_saved(stream))
    except ValueError:
        raise
    except Exception as error:  # what a damaged file leads to can be anything
        raise ValueError("it is nothing that torch.save wrote, or damaged") from error


SAFE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
SAFE |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}


def _of_safetensors(content: bytes) -> dict[str, torch.Tensor]:
    """The length of a header (8 bytes), the header (JSON), and the numbers of all tensors."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, numbers, state = json.loads(content[8:start]), content[start:], {}
    header.pop("__metadata__", None)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, end) = getattr(torch, SAFE[about["dtype"]]), about["shape"], about["data_offsets"]
        if first != sum(value.nbytes for value in state.values()) or end - first != math.prod(shape) * dtype.itemsize:
            raise ValueError("it is of safetensors, and damaged")
        state[name] = torch.empty(shape, dtype=dtype)
        state[name].view(-1).view(torch.uint8).numpy()[:] = np.frombuffer(numbers[first:end], np.uint8)
    return state


def read_objects(stream: io.BytesIO) -> object:
    """What numpy pickled into an .npy file, arrays of objects as lists; None for an array of numbers."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(stream)
    return _bounded(Pickles(len(stream.getvalue())).load(stream).tolist()) if dtype.hasobject else None


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


# Under which names a checkpoint may have its state dict, the first that is there counts
NAMES = ("model_state", "model_state_dict", "state_dict", "model", "net", "network", "module", "weights")
AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|shadow)(_|$)")  # beside the state of the network itself
SAVED_RIGHT = "save its state dict: torch.save(model.state_dict(), PATH)"
EXTRA = "_extra_state"  # what a module keeps besides, of any kind


def as_checkpoint(path: Path, content: object, entry: str | None = None) -> tuple[dict, list[str]]:
    """The content of the file at `path` as a checkpoint, with a state dict as `model_state`; and what is left aside.

    entry: where its network is, as "ema.module", or the prefix of its entries; None: where it is looked for.

    FileError for what is none.
    """
    if entry is not None:
        if (found := next(_entries(content, entry), None)) is not None:
            return as_checkpoint(path, found)
        held = ", ".join(map(str, [*content][:6] if isinstance(content, dict) else ())) or "none"
        raise FileError(path, f"has no entry {entry}; it holds {held}")
    if isinstance(content, (list, tuple)) and any(isinstance(part, dict) for part in content):
        content = {str(number): part for number, part in enumerate(content)}
    if not isinstance(content, dict) or isinstance(content, Stub) and not content:
        raise _no_state(path, content)
    networks = {"model_state": content["model_state"]} if "model_state" in content else dict(_networks(content))
    tensors = {name: value for name, value in content.items() if is_state_dict({name: value})}
    if not networks and 2 * len(tensors) > len(content):  # itself, perhaps with the epoch among its entries
        content = {name: value for name, value in content.items() if name not in tensors} | {"model_state": tensors}
        networks = {"model_state": tensors}
    place, *others = sorted(networks, key=_rank) or [name for name in NAMES if name in content] or [""]
    state = networks.get(place, content.get(place))
    if not is_state_dict(state):
        raise _no_state(path, state, place, content)
    if rivals := [other for other in others if _rank(other) == _rank(place) and networks[other] is not state]:
        raise FileError(path, f"holds several networks ({', '.join([place, *rivals][:6])}); {SAVED_RIGHT}")
    notes = [] if place == "model_state" else [f"its network is the entry {place}"]
    left = [other for other in others if len(networks[other]) == len(state)]  # averages, and not criteria
    notes += [f"the network in its entry {other} is left in the file" for other in left]
    aside = {name: value for name, value in content.items() if isinstance(value, Stub) and not value}
    notes += [f"its entry {name} is left aside ({value.origin})" for name, value in aside.items()]
    kept = {name: value for name, value in content.items() if name not in aside}
    arrays = {n: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for n, v in state.items()}
    # What a module keeps of another kind is left out
    return kept | {"model_state": {n: v for n, v in arrays.items() if isinstance(v, torch.Tensor)}}, notes


def _entries(content: object, path: str) -> Iterator[object]:
    """What there is under a name, under names joined by dots, or in a state dict under names that begin so."""
    parts = (
        {name: part for name, part in content.items() if isinstance(name, str)} if isinstance(content, dict) else {}
    )
    if path in parts:
        yield parts[path]
    if under := {name.removeprefix(f"{path}."): part for name, part in parts.items() if name.startswith(f"{path}.")}:
        yield under
    for name, part in parts.items():
        if path.startswith(f"{name}.") or name in NAMES:
            yield from _entries(part, path.removeprefix(f"{name}."))


def is_state_dict(value: object) -> bool:
    """Whether it is a dictionary of tensors, or of numpy's arrays, by name."""
    entries = value.items() if isinstance(value, dict) else ()
    kinds = (torch.Tensor, np.ndarray)
    named = [isinstance(name, str) and (isinstance(entry, kinds) or name.endswith(EXTRA)) for name, entry in entries]
    return len(named) > 0 and all(named)


def _networks(content: Mapping[str, object], depth: int = 3, path: str = "") -> Iterator[tuple[str, dict]]:
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


def _no_state(path: Path, value: object, place: str = "", content: Mapping[str, object] | None = None) -> FileError:
    """What something is that should be a state dict."""
    beside = f" as its entry {place}" if place else ""
    if _is_network(value):
        whole = f"holds a whole network{beside} ({value.origin}), which only its own code can read; {SAVED_RIGHT}"
        return FileError(path, whole)
    kind = value.origin if isinstance(value, Stub) else type(value).__name__
    held = f"a {kind}{beside}" if place or content is None else ", ".join(map(str, [*content][:6])) or "nothing"
    expected = "which is a dictionary with a state dict as `model_state`, or a state dict"
    return FileError(path, f"is not a checkpoint, {expected}; it holds {held}; {SAVED_RIGHT}", "remake")


# --- state dicts put into networks -------------------------------------------------------------------------

# Modules that wrap a network, or a part of it: of DataParallel, compile, FSDP and checkpointing
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
BESIDE = ("total_ops", "total_params", "n_averaged", EXTRA)  # what profilers, averages and modules add to a state
BATCHES = "num_batches_tracked"  # which torch did not count before 0.4.1, and which changes nothing


def load_foreign(network: nn.Module, state: State) -> list[str]:
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
    """The network's state with the values of another one, and in words what was changed of these.

    Wrappers do not count in a name. The network's entries are those under the first prefix, mostly none, under which
    all its names are, of each weight with several names one. What is beside it is left aside with a line, and so is
    the same network under another prefix.
    """
    own, weights = network.state_dict(), {}
    wanted = {name: value for name, value in own.items() if not name.endswith(EXTRA)}
    for name, value in network.state_dict(keep_vars=True).items():
        weights.setdefault(id(value), []).extend([name] if name in wanted else [])
    wrappers = WRAPPERS - {part for name in wanted for part in name.split(".")}
    entries: dict[str, list[str]] = {}  # by their names without wrappers
    for entry in state:
        entries.setdefault(".".join(part for part in entry.split(".") if part not in wrappers), []).append(entry)
    prefix, *copies = _prefixes(state, entries, [names for names in weights.values() if names])
    inside = {bare.removeprefix(prefix): those for bare, those in entries.items() if bare.startswith(prefix)}
    beside = {name for name in inside if name.startswith(tuple(copies)) or name.endswith(BESIDE)} - wanted.keys()
    found = {name: state[those[0]] for name, those in inside.items() if name not in beside}
    for names in weights.values():
        those = [entry for name in names for entry in inside.get(name, ())]
        if unlike := [entry for entry in those if not _equal(state[entry], state[those[0]])]:
            raise ValueError(f"it has two values of one weight, {those[0]} and {unlike[0]}")
        found |= {name: state[those[0]] for name in names if those}
    counts = [name for name in wanted if name.removesuffix(BATCHES) + "running_mean" in found]
    found = {name: own[name] for name in counts} | found
    if reason := _misfit(found, wanted):
        raise ValueError(reason)
    if left := [those[0] for bare, those in entries.items() if bare.removeprefix(prefix) not in found]:
        print(f"{len(left)} entries ({left[0]}, …) are no part of {type(network).__name__} and left aside.")
    changes = []
    if renamed := [(those[0], name) for name, those in inside.items() if name in found and name != those[0]]:
        changes.append(f"{len(renamed)} entries renamed, e.g. {' to '.join(renamed[0])}")
    for (before, now), count in Counter((found[name].dtype, own[name].dtype) for name in wanted).items():
        if before != now:
            changes.append(f"{count} entries of {before} converted to {now}".replace("torch.", ""))
    own.update({name: found[name].reshape(value.shape).to(value.dtype) for name, value in wanted.items()})
    return own, changes


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other or one.dtype != other.dtype or one.shape != other.shape:
        return one is other
    return bool(((one == other) | (one != one) & (other != other)).all())  # NaN is NaN


def _prefixes(state: State, entries: Mapping[str, Sequence[str]], weights: Sequence[Sequence[str]]) -> list[str]:
    """What stands before the names of the network, and before those of further copies of the same values.

    weights: the names of each. ValueError if the state holds several networks.
    """
    known = [names for names in weights if not names[0].endswith(BATCHES)]
    ends = [(bare, name) for name in known[0] for bare in entries if f".{bare}".endswith(f".{name}")]
    starts, whole = sorted(dict.fromkeys(bare.removesuffix(name) for bare, name in ends), key=len), {}
    for start in starts:
        there = [next((start + name for name in names if start + name in entries), None) for names in known]
        if None not in there:
            whole[start] = [state[entries[bare][0]] for bare in there]
    if not whole:
        return [*starts, ""][:1]
    first, *others = whole
    if any(not all(map(_equal, whole[first], whole[other])) for other in others):
        raise ValueError(f"it holds several networks ({', '.join(start[:-1] or 'one by itself' for start in whole)})")
    return [first, *(other.removeprefix(first) for other in others)]


def _misfit(state: State, own: State) -> str:
    """What a state has too little, too much or otherwise, with the first entry of each; '' if it fits."""
    shared = {name: (state[name], value) for name, value in own.items() if name in state}
    shapes = {n: (a.shape, b.shape) for n, (a, b) in shared.items() if a.shape != b.shape}
    shapes = {n: (a, b) for n, (a, b) in shapes.items() if (a.numel(), b.numel()) != (1, 1)}
    if len(shared) == len(own) == len(state) and [*own][-1:] == [*shapes][-1:]:  # the last layer, and others like it
        heads = {(*a[:1], *b[:1]) if a[1:] == b[1:] else () for a, b in shapes.values()}
        if len(heads) == 1 and all(heads):
            return "it has {} classes, and {} are wanted".format(*heads.pop())
    odd = [
        n
        for n, (a, b) in shared.items()
        if a.is_complex() > b.is_complex() or a.is_floating_point() < b.is_floating_point()
    ]
    problems = {
        "lacks {}": [name for name in own if name not in state],
        "has {} too many": [name for name in state if name not in own],
        "has another shape of {}": [f"{name} ({tuple(a)} instead of {tuple(b)})" for name, (a, b) in shapes.items()],
        "has another kind of numbers in {}": [f"{name} ({state[name].dtype})" for name in odd],
    }
    more = {words: f" and {len(names) - 1} more" if len(names) > 1 else "" for words, names in problems.items()}
    told = [words.format(names[0] + more[words]) for words, names in problems.items() if names]
    return f"it {', '.join(told)}" if told else ""
