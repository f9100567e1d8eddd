"""How fast a machine can be, to compare a piece of work with: one large matrix product, the work's own kernels.

And what takes the time.
"""

import contextlib
import os
import platform
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compared import Work

SIDE = 2048  # of the matrices whose product tells how fast the machine can be
PRODUCTS = 20
RUNS = 5  # of an operator alone, of which the fastest counts


def product(precision: str, device: torch.device | str = "cpu", side: int = SIDE) -> Work:
    """Products of large matrices: what is done with the most operations a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(side, side).to(device, dtype)

    def work() -> None:
        for _ in range(PRODUCTS):
            matrix @ matrix

    return work


def speed(seconds: float, side: int = SIDE) -> float:
    """Operations a second of the work that `product` gives, if it took so many seconds."""
    return 2 * side**3 * PRODUCTS / seconds


def operations(work: Work) -> int:
    """The floating-point operations of convolutions and matrix products in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class _Alone(TorchDispatchMode):
    """Adds up the seconds of operators, each the least of several runs one after another."""

    seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        taken = []
        for _ in range(RUNS):
            start = time.perf_counter()
            result = func(*args, **(kwargs or {}))
            taken.append(time.perf_counter() - start)
        self.seconds += min(taken)
        return result


def kernels(work: Work) -> float:
    """Seconds of all operators in a piece of work, each alone at its best: what it takes if nothing is between them.

    The work is done, with numbers that have no meaning where operators write in place.
    """
    with _Alone() as alone:
        work()
    return alone.seconds


# Kinds of operators, by what their names have in them: the first that fits
KINDS = {
    "gradients of convolutions": ("convolution_backward",),
    "convolutions": ("convolution",),
    "batch norm and its gradient": ("batch_norm",),
    "ReLU and its gradient": ("threshold", "clamp_min", "relu"),
    "casts and copies": ("copy",),
}


def shares(work: Work) -> dict[str, float]:
    """How much of the time of all operators in a piece of work each kind takes, and all others take, in percent."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    taken = dict.fromkeys((*KINDS, "all others"), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "all others")
        taken[kind] += event.self_cpu_time_total
    return {kind: 100 * time / sum(taken.values()) for kind, time in taken.items()}


def machine() -> dict[str, object]:
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
