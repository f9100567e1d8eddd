"""The machine that a stage runs on: what a device is and can do, and what a piece of work takes of it."""

import contextlib
import ctypes
import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

from ..devices import autocast, memory_format
from ..errors import first_line

# In words of the errors that tell it without torch.OutOfMemoryError: mps, cuBLAS, cuDNN, the driver, the CPU
OUT_OF_MEMORY = (
    *("out of memory", "Invalid buffer size", "ALLOC_FAILED", "ALLOCATION_FAILED"),
    *("can't allocate memory", "not enough memory"),
)

# Of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_MEMORY = 2**30


# --- devices -----------------------------------------------------------------------------------------------


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


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process can keep busy: those it may run on, and no more than its cgroups' quotas fill."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, *map(math.ceil, _quotas(root))), 1)


def _quotas(root: Path) -> Iterator[float]:
    """The processor time that the cgroups around this process have, of v1 and v2, in cores; first a great many."""
    yield 2**20
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not {"", "cpu"} & set(controllers.split(",")):
            continue
        for mount in {"", "unified", "cpu", controllers}:
            for group in (Path(path), *Path(path).parents):  # in a container the path may be that outside of it
                folder = root / "sys/fs/cgroup" / mount / group.relative_to("/")
                files = (folder / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
                words = " ".join(file.read_text() for file in files if file.is_file()).split()
                if len(words) == 2 and all(map(str.isdecimal, words)):  # none is a limit that says max, or -1
                    yield int(words[0]) / int(words[1])


def limit_threads() -> None:
    """No more threads than cores that can be kept busy, unless OMP_NUM_THREADS, as torchrun sets it, says how many.

    Threads that wait for one another spin: without a core for each, a step in bf16 takes 26 times as long.
    """
    if not os.environ.get("OMP_NUM_THREADS") and (cores := usable_cores()) < torch.get_num_threads():
        torch.set_num_threads(cores)


def crowded() -> str | None:
    """What is to be said where this process' threads have no core each; None where they have."""
    threads, cores, there = torch.get_num_threads(), usable_cores(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads > cores:
        why = f"{threads} threads on {cores} core{'s' * (cores > 1)}"
    elif threads > 1 and round(load) > there:
        why = f"a load of {load:.1f} on {there} core{'s' * (there > 1)}"
    else:
        return None
    return f"Note: {why}: threads wait for one another there, in bf16 for long; OMP_NUM_THREADS=1 may be faster."


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions that multiply bf16 (AMX, AVX-512, ARM's); where Linux says so."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    features = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    return bool(features & {"amx_bf16", "avx512_bf16", "bf16"})


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
    with autocast(device, precision):
        output = F.conv2d(x, weight)
    output.float().sum().backward()
    weight.grad.sum().item()  # waits until all of it is done


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has not the memory for what is asked of it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def set_products(precision: str) -> None:
    """Let CUDA round the factors of convolutions to TF32 for the precision tf32, and for no other.

    Matrix products stay exact: points on curves, soft permutations and correlations are such products. torch has
    older names for these switches too (allow_tf32), and raises errors where both are used.
    """
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"


# --- what work takes ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def cost(device: torch.device | str = "cpu") -> Iterator[dict[str, float]]:
    """A dictionary that is filled when the work within is done.

    seconds: by the clock, all that the device was given done. memory: the MB that the work added at its peak, of a
    GPU to what torch had there, else to what the process had of the machine; absent where the system does not tell.
    """
    device, taken = torch.device(device), {}
    before = _begin(device)
    start = time.perf_counter()
    yield taken
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    taken["seconds"] = time.perf_counter() - start
    if before is not None and (peak := _peak(device)) is not None:
        taken["memory"] = max(peak - before, 0.0)


def _begin(device: torch.device) -> float | None:
    """Forget the peak so far; the MB in use, or None if that is not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None  # not Linux, or not allowed
    return _resident("VmRSS")


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _resident("VmHWM")


def _resident(name: str) -> float | None:
    """The process' resident memory in MB: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)
