"""What depends on the device networks run on: how weights lie in memory, how numbers get there, what it can do."""

import copy
import ctypes
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch.nn import functional as F

from .errors import first_line

# Where convolutions are fast with the channels last. On mps they have crashed or given wrong gradients in many
# releases of torch; elsewhere nobody here knows.
CHANNELS_LAST = frozenset({"cpu", "cuda"})

# In words of the errors that tell it without torch.OutOfMemoryError: mps, cuBLAS, cuDNN, the driver, the CPU
OUT_OF_MEMORY = (
    *("out of memory", "Invalid buffer size", "ALLOC_FAILED", "ALLOCATION_FAILED"),
    *("can't allocate memory", "not enough memory"),
)

# Of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_MEMORY = 2**30

PIXELS_AT_ONCE = 2**22  # 4,096 images of 32×32


def memory_format(device: torch.device | str) -> torch.memory_format:
    """How images and 4-D weights lie in memory on this device."""
    last = torch.device(device).type in CHANNELS_LAST
    return torch.channels_last if last else torch.contiguous_format


def as_weight(view: torch.Tensor) -> torch.Tensor:
    """A weight whose channels lie last, as they may lie on its device: itself, or a copy in another order.

    `contiguous` would not do: it returns a 1×1 kernel as it is, which torch goes on to take for one of channels last.
    """
    return view if view.device.type in CHANNELS_LAST else view.clone(memory_format=torch.contiguous_format)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters and buffers are."""
    return next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor from the CPU on the device, where it is in time for what is done there next: the host does not wait.

    Only from pinned memory does CUDA promise that, and mps reads the memory itself, later, when it may be gone.
    """
    if tensor.device.type != "cpu" or device.type in ("cpu", "mps"):
        return tensor.to(device)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def random_state_kept(device: torch.device) -> AbstractContextManager:
    """After this block torch's global generators, that of a GPU included, are where they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" and torch.cuda.is_available() else [])


def images_at_once(device: torch.device, size: tuple[int, int]) -> int:
    """How many images of a size (height, width) to augment at once: on the CPU as few as there can be, for its cache.

    A GPU has so little to do for a batch that it would wait for the host to start what is next.
    """
    return 1 if device.type == "cpu" else PIXELS_AT_ONCE // (size[0] * size[1])


def compile_options(device: torch.device) -> dict[str, object]:
    """How networks are compiled for a device: for each shape by itself, so that the last, smaller batch is apart.

    On CUDA each becomes a graph, whose kernels start at once. What it puts out is overwritten when it is run again.
    """
    return {"dynamic": False} | ({"mode": "reduce-overhead"} if device.type == "cuda" else {})


def has_fused_step(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether an optimizer can move these parameters by a single kernel, where starting kernels takes time."""
    return all(tensor.device.type == "cuda" and tensor.is_floating_point() for tensor in parameters)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, up to a GB, for what it needs next.

    A batch of activations on the CPU is dozens of MB. glibc by itself gives memory of this size back at once, and the
    system clears every page of it anew: a quarter of an evaluation. Other C libraries stay as they are.
    """
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError):
        return
    library = ctypes.CDLL(None)
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        library.mallopt(option, KEPT_MEMORY)


def on_cpu(value: object, moved: dict[int, object] | None = None) -> object:
    """What is to be saved, with its tensors on the CPU, where every machine can read them.

    moved: what has been moved, by its id, so that what is there twice is saved once.
    """
    moved = {} if moved is None else moved
    if id(value) not in moved:
        moved[id(value)] = _moved(value, moved)
    return moved[id(value)]


def _moved(value: object, moved: dict[int, object]) -> object:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        made = copy.copy(value)  # a state dict has more than its entries
        made.update((name, on_cpu(entry, moved)) for name, entry in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(on_cpu(entry, moved) for entry in value)
    return value


def describe(device: torch.device) -> str:
    """A device in words, as `cuda:0 (NVIDIA H100)` and `cpu (2 threads)`."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' * (threads > 1)})"
    return str(device)


def why_unusable(device: torch.device, precision: str = "fp32") -> str | None:
    """Why networks cannot run on the device with this precision, in words that follow its name; None if they can.

    A convolution is run there, forwards and backwards: a GPU can be there, and hold tensors, without kernels for it.
    """
    if precision == "tf32" and not _has_tf32(device):
        return "has no tf32, which NVIDIA GPUs have from the Ampere generation on"
    if device.type == "cpu":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # several lines of torch's about the GPUs it is built for
            _run_kernels(device, precision)
    except (RuntimeError, AssertionError) as error:
        sentence, *_ = first_line(error).split(". ")
        return f"cannot be used here: {sentence}"
    return None


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _run_kernels(device: torch.device, precision: str) -> None:
    x = torch.ones(2, 4, 8, 8, device=device).contiguous(memory_format=memory_format(device))
    weight = torch.ones(4, 4, 3, 3, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = F.conv2d(x, weight)
    output.float().sum().backward()
    weight.grad.sum().item()  # waits until all of it is done


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has not the memory for what is asked of it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


# --- precision ---------------------------------------------------------------------------------------------


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """In this block networks run in bfloat16 if `precision` is bf16, and as they are otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_products(precision: str) -> None:
    """Let CUDA round the factors of convolutions to TF32 for the precision tf32, and for no other.

    Matrix products stay exact: points on curves, soft permutations and correlations are such products. torch has
    older names for these switches too (allow_tf32), and raises errors where both are used.
    """
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
