"""What depends on the device networks run on: how weights lie in memory, how numbers get there, what it can do."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

# Where convolutions are fast with the channels last. On mps they have crashed or given wrong gradients in many
# releases of torch; elsewhere nobody here knows.
CHANNELS_LAST = frozenset({"cpu", "cuda"})

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


def free_memory(device: torch.device) -> float:
    """How many bytes a GPU can still take; no end of them on the CPU, to which nothing has to be copied."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return math.inf


def compile_options(device: torch.device) -> dict[str, object]:
    """How networks are compiled for a device: for each shape by itself, so that the last, smaller batch is apart.

    On CUDA each becomes a graph, whose kernels start at once. What it puts out is overwritten when it is run again.
    """
    return {"dynamic": False} | ({"mode": "reduce-overhead"} if device.type == "cuda" else {})


def has_fused_step(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether an optimizer can move these parameters by a single kernel, where starting kernels takes time."""
    return all(tensor.device.type == "cuda" and tensor.is_floating_point() for tensor in parameters)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """In this block networks run in bfloat16 if `precision` is bf16, and as they are if it is fp32 or tf32."""
    if precision not in ("fp32", "tf32", "bf16"):
        raise ValueError(f"the precisions are fp32, tf32 and bf16, not {precision!r}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
