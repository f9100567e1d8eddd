"""Several processes as one, started by torchrun: each works on its part of every batch, and sums run over all.

Images that are made then carry a `Share` of their batches, by which whoever works on them joins in (`utils.batches`);
in a single process they carry none. Process 0 alone writes files. Results equal those of one process up to rounding.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

Item, Result = TypeVar("Item"), TypeVar("Result")

_alone = False  # whether this process works for itself for a while


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def size() -> int:
    """The number of processes that work together now."""
    return 1 if _alone or not dist.is_available() or not dist.is_initialized() else dist.get_world_size()


def start(device: torch.device) -> None:
    """Join the other processes, if there are any: by gloo on the CPU, by nccl on GPUs."""
    if not launched():
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Processes wait for each other while one prepares a dataset or is a whole point of a curve behind, which can take
    # hours. No timeout is needed when one has ended: its connections close, and torchrun ends the others.
    dist.init_process_group(backend, timeout=timedelta(days=7))


def stop() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def silence_others() -> None:
    """Print nothing in processes other than 0, but for errors."""
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this block, the process works for itself: on whole batches, without the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def from_main(function: Callable[[], Result]) -> Result:
    """What `function` returns, or raises, in process 0, in all of them; the others do not run it."""
    if size() == 1:
        return function()
    outcome: list[object] = [None, None]
    if is_main():
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def spread_out(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) of every item, in order; of as many items as there are processes, each works on one, alone."""
    if size() == 1:
        yield from map(function, items)
        return
    items, together = list(items), size()
    for first in range(0, len(items), together):
        with alone():
            results = [function(item) for item in items[first : first + together][rank() :][:1]]
        parts: list[list[Result]] = [[] for _ in range(together)]
        dist.all_gather_object(parts, results)
        yield from (result for part in parts for result in part)


def sum_over_all(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of every process' tensor, in place and returned."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


# --- batches that processes share --------------------------------------------------------------------------


class Share:
    """What this process does of a batch that all work on; within `alone`, all of it."""

    def part(self, count: int) -> slice:
        """Which of `count` things in a row are this process' part; parts differ by one in length at most."""
        return slice(0, count) if size() == 1 else slice(count * rank() // size(), count * (rank() + 1) // size())

    def whole(self, count: int) -> int:
        """How long the row is of which this process has a part of `count`."""
        return int(sum_over_all(torch.tensor(count)))

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of every process' tensor, in place and returned."""
        return sum_over_all(tensor)

    def own_seed(self, seed: int) -> int:
        """A seed of this process alone."""
        return seed * size() % 2**62 + rank()

    def by_main(self, saves: Any) -> "_ByMain":
        """`utils.training.Saves` of which process 0 alone does the work."""
        return _ByMain(saves)

    @torch.no_grad()
    def join(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Let batch norm take its statistics over whole batches, and the optimizer's steps sum all gradients.

        With an optimizer, every process' parameters and buffers become those of process 0, bit by bit.
        """
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                layer.forward = torch.compiler.disable(_forward_over_all).__get__(layer)
        if optimizer is not None:
            optimizer.register_step_pre_hook(_sum_gradients)
            for value in (*module.parameters(), *module.buffers()):
                dist.broadcast(value, src=0)


class _ByMain:
    def __init__(self, saves: Any):
        self.saves, self.path = saves, None

    def open(self) -> Mapping[str, object] | None:
        state, self.path = from_main(lambda: (self.saves.open(), getattr(self.saves, "path", None)))
        return state

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        if is_main():
            self.saves.save(epoch, state)

    def close(self, history: Mapping[str, list[float]]) -> None:
        from_main(lambda: self.saves.close(history))


def share() -> Share | None:
    """The share of what is made now; None in a single process."""
    return Share() if size() > 1 else None


def _sum_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Replace the gradients by their sums over all processes, at once."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = sum_over_all(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view(gradient.shape))


def _forward_over_all(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    if size() == 1 or not layer.training:
        return type(layer).forward(layer, x)
    output, mean, variance, count = _BatchNormOverAll.apply(x, layer.weight, layer.bias, layer.eps)
    if layer.track_running_stats:
        with torch.no_grad():
            layer.num_batches_tracked += 1
            # Without momentum, running statistics are the mean over all batches
            momentum = 1 / layer.num_batches_tracked if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(variance * (count / (count - 1)), momentum)
    return output


class _BatchNormOverAll(torch.autograd.Function):
    """Batch normalization of this process' part x (b, C, …) of a batch by the whole batch's mean and variance.

    torch's SyncBatchNorm has no CPU.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        channels, others = x.shape[1], [axis for axis in range(x.dim()) if axis != 1]
        count = x.new_full((1,), x.numel() // channels, dtype=torch.float32)
        # The variance and mean of each part, sent at once; the batch's follow from them without cancellation.
        own = x.float() if len(x) else x.new_zeros((1, *x.shape[1:]), dtype=torch.float32)
        statistics = torch.cat([*torch.var_mean(own, others, correction=0), count])
        parts = [torch.empty_like(statistics) for _ in range(size())]
        dist.all_gather(parts, statistics)
        variances, means, counts = torch.stack(parts).split([channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        output = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, mean, scale, count = ctx.saved_tensors
        channels, others = x.shape[1], [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, channels] + [1] * (x.dim() - 2)
        normalized = (x.float() - mean.view(shape)) * scale.view(shape)
        bias_part, weight_part = gradient.sum(others, dtype=torch.float32), (gradient * normalized).sum(others)
        # Parameters get this process' sums here, as from any layer; the input's gradient needs the whole batch's.
        whole = sum_over_all(torch.cat([bias_part, weight_part])) / count
        about = whole[:channels].view(shape) + normalized * whole[channels:].view(shape)
        x_gradient = scale.view(shape) * (gradient - about)
        if weight is None:  # a layer without parameters
            return x_gradient.to(x.dtype), None, None, None
        return (weight.view(shape) * x_gradient).to(x.dtype), weight_part, bias_part, None
