"""What a piece of work takes: seconds, and memory."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch


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
