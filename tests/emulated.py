"""A device that is not there: its tensors wrap tensors on the CPU, which do the work, and its rules are enforced.

    with emulated.rules(emulated.MPS) as emulation:
        stage.main(stage.parse_args(["--device", "emulated", ...]))

torch has a key for devices of others, PrivateUse1, and lets Python be one. A tensor on this device says that it is
there, so that autograd, optimizers and modules take it for one of a GPU; each operation on it comes to `Emulation`,
which checks what a GPU would refuse or compute wrongly, runs it on the tensors of the CPU, and wraps what comes out.
So the numbers are those of the CPU to the last bit, unless a rule makes the code under test take another way.
"""

import collections
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import _prims_common
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from utils import devices

NAME = "emulated"
TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent

# Why it cannot be had, if it cannot: what sets it up is no public part of torch
MISSING = None
if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    MISSING = f"torch {torch.__version__} lets no device be written in Python"


class Rules(NamedTuple):
    """channels_last: whether convolutions may have them. float64: whether there is such a thing on the device."""

    channels_last: bool
    float64: bool


CUDA = Rules(channels_last=True, float64=True)
MPS = Rules(channels_last=False, float64=False)


class Refused(Exception):
    """What a real device would refuse, or compute wrongly. Not a RuntimeError, which code under test may catch."""


# --- the device --------------------------------------------------------------------------------------------


def set_up() -> None:
    """Make torch know the device. It stays known as long as the process lives, and is done once."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return

    class Module(backend_registration._DummyBackendModule):
        """torch.emulated"""

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float32]

    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())


class Emulated(torch.Tensor):
    """A tensor on the device. `held`: the tensor on the CPU that it wraps, of the same sizes and strides."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Emulated":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"Emulated({self.held!r})"

    def tolist(self) -> list:
        return self.cpu().tolist()  # torch refuses it to subclasses

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise Refused(f"{function} outside of `rules`")


def is_device(value: object) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


# --- its rules ---------------------------------------------------------------------------------------------

# Operations whose result has a size that depends on numbers, or is read by the host
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}


# Operations besides views that compute nothing
ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}


class Call(NamedTuple):
    """One operation: its name without overloads, its tensors, and whether its results are on the device.

    waits: for copies, whether the host waits until they are done.
    """

    name: str
    ours: list[Emulated]
    others: list[torch.Tensor]
    dtype: torch.dtype | None
    to_device: bool
    waits: bool


class Emulation(TorchDispatchMode):
    """Runs what is done to tensors of the device, by its rules.

    waits: how often the host waited for the device, by the innermost place (file, line) in the repository. Copies
    count in both directions, unless they are said to be non_blocking: from memory that is not pinned, which is what
    tensors on the CPU are, CUDA returns when the device has done all before and the copy.

    operations: how many there were. kernels: how many of them start work on a device, by their names.
    """

    def __init__(self, rules: Rules):
        super().__init__()
        self.rules = rules
        self.waits: collections.Counter[tuple[str, int]] = collections.Counter()
        self.operations = 0
        self.kernels: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat, structure = pytree.tree_flatten((args, kwargs))
        ours = [value for value in flat if isinstance(value, Emulated)]
        if not ours and not is_device(kwargs.get("device")):
            return function(*args, **kwargs)
        others = [value for value in flat if isinstance(value, torch.Tensor) and not isinstance(value, Emulated)]
        name = function.overloadpacket.__name__
        without_waiting = args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking")
        to_device = _is_to_device(name, args, kwargs, bool(ours))
        call = Call(name, ours, others, kwargs.get("dtype"), to_device, not without_waiting)
        self.check(call)
        inner = [torch.device("cpu") if is_device(value) else getattr(value, "held", value) for value in flat]
        inner_args, inner_kwargs = pytree.tree_unflatten(inner, structure)
        result = function(*inner_args, **inner_kwargs)
        if name == "_to_copy" and any(result is tensor.held for tensor in ours):
            result = result.clone()
        if torch.Tag.inplace_view in function.tags:  # the sizes and strides of the tensor itself change too
            with torch._C._DisableTorchDispatch():
                function(*args, **kwargs)
        self.operations += 1
        if not function.is_view and name not in ALLOCATE:
            self.kernels[name] += 1
        return self.wrapped(call, result)

    def wrapped(self, call: Call, result: object) -> object:
        """The results as tensors of the device; those of operations in place are the tensors that they were given."""
        given = {id(tensor.held): tensor for tensor in call.ours}

        def wrap(value: object) -> object:
            if not isinstance(value, torch.Tensor) or not call.to_device:
                return value
            if id(value) in given:
                return given[id(value)]
            if not self.rules.float64 and value.dtype in (torch.float64, torch.complex128):
                raise Refused(f"{call.name} makes {value.dtype}, which the device does not have")
            return Emulated(value)

        for tensor in call.ours:
            if tensor.size() != tensor.held.size() or tensor.stride() != tensor.held.stride():
                raise NotImplementedError(f"{call.name} changed the sizes of a tensor")
        return pytree.tree_map(wrap, result)

    def check(self, call: Call) -> None:
        copies = call.name in ("copy_", "_to_copy")
        if not copies and call.ours and any(tensor.dim() for tensor in call.others):
            raise Refused(f"{call.name} of tensors on different devices")
        if not self.rules.channels_last and ("convolution" in call.name or "backward" in call.name):
            for tensor in call.ours:
                if tensor.dim() == 4 and _prims_common.suggest_memory_format(tensor.held) == torch.channels_last:
                    raise Refused(f"{call.name} of a tensor whose channels lie last")
        if copies and self.is_between_devices(call):
            self.check_copy(call)
        elif call.name in READS or (call.name in ("index", "index_put_") and _selects(call)):
            self.count()

    def is_between_devices(self, call: Call) -> bool:
        if call.name == "copy_":
            return bool(call.others)
        return bool(call.ours) != call.to_device

    def check_copy(self, call: Call) -> None:
        """On the way to the CPU the device converts, and so must have the type that is wanted there."""
        wanted = [call.dtype, *(tensor.dtype for tensor in call.others)]
        if not self.rules.float64 and not call.to_device and torch.float64 in wanted:
            raise Refused(f"{call.name} converts to float64 on the device, which does not have it")
        if not call.waits and not call.to_device:
            raise Refused(f"{call.name} to the CPU is read before it has arrived")
        if call.waits:
            self.count()

    def count(self) -> None:
        self.waits[_place()] += 1


def _is_to_device(name: str, args: tuple, kwargs: dict, has_ours: bool) -> bool:
    """Whether what an operation gives is on the device."""
    if name == "_local_scalar_dense":
        return False
    if name == "copy_":
        return isinstance(args[0], Emulated)
    device = kwargs.get("device")
    return has_ours if device is None else is_device(device)


def _selects(call: Call) -> bool:
    """Whether an index is a mask, of which the host has to know how many entries it selects."""
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in call.ours[1:])


def _place() -> tuple[str, int]:
    """File and line, of those in the repository that are no tests, where the program is."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(REPOSITORY) and not path.is_relative_to(TESTS) and ".venv" not in path.parts:
            return str(path.relative_to(REPOSITORY)), frame.f_lineno
        frame = frame.f_back
    return "", 0


# --- in tests ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rules(which: Rules) -> Iterator[Emulation]:
    """In this block there is a device `emulated` with these rules."""
    set_up()
    known = devices.CHANNELS_LAST
    devices.CHANNELS_LAST = known | {NAME} if which.channels_last else known - {NAME}
    try:
        # Backwards in this thread too, where what is refused can be raised
        with torch.autograd.set_multithreading_enabled(False), Emulation(which) as emulation:
            yield emulation
    finally:
        devices.CHANNELS_LAST = known
