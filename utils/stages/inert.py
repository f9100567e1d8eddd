"""Pickles of other code, read without running anything.

No class or function that a pickle names is looked up. An object of any kind becomes an `Inert` that keeps what it was
to be made of, and `plain` afterwards makes numbers of those whose making is known: arrays, tensors, dictionaries.
"""

import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import torch


class Unreadable(ValueError):
    """Why a file cannot be read, as a sentence about it."""


class Inert:
    """Stands for an object that was not made: `origin` is what was to make it, of `args`, then `state`."""

    origin = ""  # of each class that `find_class` makes: module.name

    def __new__(cls, *args: object, **options: object):
        made = super().__new__(cls)
        made.args, made.state, made.items, made.entries = args, None, [], []
        return made

    def __init__(self, *args: object, **options: object):
        pass

    # What unpickling does to objects: state, items of lists and sets, entries of dictionaries
    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        self.items.append(item)

    add = append

    def extend(self, items: list[object]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: object, value: object) -> None:
        self.entries.append((key, value))


class Storage:
    """The numbers of tensors, which a file keeps apart from its pickle: of a type as torch.FloatStorage, as bytes."""

    __slots__ = ("data", "dtype")

    def __init__(self, origin: str):
        self.dtype, self.data = STORAGES.get(origin.rpartition(".")[2]), b""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a storage")


STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, storages: dict[str, Storage]):
        super().__init__(stream, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> type[Inert]:
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})

    def persistent_load(self, key: tuple) -> object:
        kind, made_by, *rest = key
        if kind == "module":  # a class, with its source code
            return made_by
        if kind != "storage":
            raise pickle.UnpicklingError("it refers to something outside")
        return self.storages.setdefault(str(rest[0]), Storage(made_by.origin))


def unpickle(stream: BinaryIO, storages: dict[str, Storage] | None = None) -> object:
    """What a pickle holds, with an Inert for every object. Unreadable if it is none.

    storages: where those go to which the pickle refers, by their keys.
    """
    try:
        return _Unpickler(stream, {} if storages is None else storages).load()
    except Exception as error:  # what an unpickler raises on a damaged file can be anything
        raise Unreadable("it is no pickle, or one that is damaged") from error


# --- the files of torch.save -------------------------------------------------------------------------------

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what files of torch before 1.6 begin with


def read_saved(stream: io.BytesIO) -> object:
    """What torch.save, or pickle by itself, put into a file. Unreadable for something else."""
    content = stream.getbuffer()
    try:
        if content[:2] == b"PK":
            return _read_archive(stream)
        if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
            raise Unreadable("it is of safetensors: torch.save what safetensors.torch.load_file reads from it")
        return _read_legacy(stream)
    except Unreadable:
        raise
    except Exception as error:  # what a damaged file leads to can be anything
        raise Unreadable("it is nothing that torch.save wrote, or damaged") from error


def _read_archive(stream: BinaryIO) -> object:
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(stream) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in infos:
            raise Unreadable("it is a TorchScript program: torch.save the state_dict() of what torch.jit.load reads")
        if "data.pkl" not in infos:
            raise Unreadable("it is an archive of something else")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
            raise Unreadable("its archive is compressed, as torch's never are")
        if "byteorder" in infos and archive.read(infos["byteorder"]) != b"little":
            raise Unreadable("its numbers are big-endian")
        with archive.open(infos["data.pkl"]) as pickled:
            tree = unpickle(pickled, storages)
        for key, storage in storages.items():
            storage.data = archive.read(infos[f"data/{key}"])
    return tree


def _read_legacy(stream: BinaryIO) -> object:
    """Of torch before 1.6: pickles one after another, then the storages, each after its length in entries."""
    storages: dict[str, Storage] = {}
    stream.seek(0)
    first = unpickle(stream, storages)
    if first != LEGACY_MAGIC:
        if not isinstance(first, (dict, Inert)):
            raise Unreadable("it is nothing that torch.save wrote")
        return first
    for _ in ("version of the format", "the machine's sizes of numbers"):
        unpickle(stream)
    tree = unpickle(stream, storages)
    for key in unpickle(stream):
        (length,), storage = struct.unpack("<q", stream.read(8)), storages[key]
        storage.data = stream.read(max(length, 0) * (storage.dtype or torch.int8).itemsize)
    return tree


# --- numpy's files -----------------------------------------------------------------------------------------


def has_pickle(stream: io.BytesIO) -> bool:
    """Whether an .npy file, of which nothing has been read, holds objects, which numpy pickles."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(stream)
    if not dtype.hasobject:
        stream.seek(0)
    return dtype.hasobject


def unpickle_array(stream: io.BytesIO) -> object:
    """The pickle in an .npy file behind its header, as `plain` has it."""
    return plain(unpickle(stream))


# --- what was to be made, made plain -----------------------------------------------------------------------


def plain(tree: object) -> object:
    """The tree with dictionaries, lists, numbers, numpy's arrays and torch's tensors made; others stay Inert.

    Tuples and sets become lists, as do arrays of objects. Unreadable for what cannot be made, as an array that lacks
    bytes.
    """
    try:
        return _Plain().of(tree)
    except Unreadable:
        raise
    except Exception as error:  # what damaged descriptions of arrays lead to can be anything
        raise Unreadable("it holds arrays that are damaged") from error


class _Plain:
    def __init__(self):
        self.made: dict[int, object] = {}  # each object once, however often it is referred to
        self.under_way: set[int] = set()

    def of(self, value: object) -> object:
        if not isinstance(value, (dict, list, tuple, set, frozenset, Inert)):
            return value
        if id(value) in self.under_way:
            raise Unreadable("it contains itself")
        if id(value) not in self.made:
            self.under_way.add(id(value))
            self.made[id(value)] = self._make(value)
            self.under_way.remove(id(value))
        return self.made[id(value)]

    def _make(self, value: object) -> object:
        if isinstance(value, dict):
            return {key: self.of(entry) for key, entry in value.items()}
        if not isinstance(value, Inert):
            return [self.of(item) for item in value]
        module, _, name = value.origin.rpartition(".")
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        make = _MAKERS.get(f"{module}.{name}")
        if make is None:  # of a dictionary, or a list, of another kind
            make = _dictionary if value.entries else _list if value.items else None
        return value if make is None else make(self, value)


def _dictionary(plainly: _Plain, inert: Inert) -> dict:
    pairs = [*inert.entries, *((key, entry) for pair in inert.args if isinstance(pair, list) for key, entry in pair)]
    return {key: plainly.of(entry) for key, entry in pairs}


def _list(plainly: _Plain, inert: Inert) -> list:
    given = (item for part in inert.args if isinstance(part, (list, tuple, set)) for item in part)
    return [plainly.of(item) for item in [*given, *inert.items]]


def _bytes(plainly: _Plain, inert: Inert) -> bytes:
    return inert.args[0].encode("latin1")


def _dtype(inert: Inert) -> np.dtype:
    """numpy's type of numbers, text or objects."""
    code = str(inert.args[0])
    if not re.fullmatch(r"[biufSU]\d+|O\d*|\?", code):
        raise Unreadable(f"it holds an array of {code[:20]}")
    order = inert.state[1] if inert.state else "="
    return np.dtype(code).newbyteorder(order if order in "<>" else "=")


def _array(plainly: _Plain, inert: Inert) -> object:
    _, shape, dtype, is_fortran, data, *_ = inert.state
    dtype, data = _dtype(dtype), plainly.of(data)
    if dtype.hasobject:
        return _nested(data, shape)
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _nested(entries: list, shape: Sequence[int]) -> object:
    """The entries of an array of objects as lists in lists; of an array without axes, its entry itself."""
    if math.prod(shape) != len(entries):
        raise Unreadable("it holds an array that lacks entries")
    for length in reversed(shape[1:]):
        entries = [entries[start : start + length] for start in range(0, len(entries), length)]
    return entries if shape else entries[0]


def _array_of_buffer(plainly: _Plain, inert: Inert) -> np.ndarray:
    data, dtype, shape, order = inert.args
    return np.frombuffer(data, _dtype(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _number(plainly: _Plain, inert: Inert) -> object:
    dtype, data = inert.args
    data = plainly.of(data)
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, _dtype(dtype))[0].item()


def _tensor(plainly: _Plain, inert: Inert) -> torch.Tensor:
    storage, offset, size, stride = (plainly.of(argument) for argument in inert.args[:4])
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise Unreadable("it holds tensors of an unknown type")
    empty = torch.empty(0, dtype=storage.dtype)
    data = torch.frombuffer(bytearray(storage.data), dtype=storage.dtype) if storage.data else empty
    return data.as_strided(size, stride, offset)  # which refuses to reach beyond the data


def _first(plainly: _Plain, inert: Inert) -> object:
    return plainly.of(inert.args[0])


def _nested_storage(plainly: _Plain, inert: Inert) -> object:
    return _read_legacy(io.BytesIO(plainly.of(inert.args[0])))


_MAKERS: dict[str, Callable[[_Plain, Inert], object]] = {
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary,
    "builtins.dict": _dictionary,
    "builtins.list": _list,
    "builtins.set": _list,
    "_codecs.encode": _bytes,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _number,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.storage._load_from_bytes": _nested_storage,
}
