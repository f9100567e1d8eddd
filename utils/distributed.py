"""Many processes as one, started by torchrun: each works on its part of every batch, and sums are taken over all.

With one process everything here does nothing. Files are written by process 0 alone, and results equal those of one
process within floating point.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F

Item, Result = TypeVar("Item"), TypeVar("Result")

_alone = False  # whether this process works for itself for a while


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0; its GPU has the same."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def local_size() -> int:
    """How many processes torchrun has started on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def size() -> int:
    """The number of processes that work together now."""
    return 1 if _alone or not dist.is_available() or not dist.is_initialized() else dist.get_world_size()


def start(device: torch.device) -> None:
    """Join the other processes, if there are any: by gloo for what is on the CPU, by nccl for what is on GPUs."""
    if not launched():
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Processes wait for each other while one prepares a dataset or is a whole point of a curve behind, which can take
    # hours. That one has ended shows without a timeout: its connections close, and torchrun ends the others.
    dist.init_process_group(backend, timeout=timedelta(days=7))


def stop() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this block, the process works for itself: on whole batches, without the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def part(count: int) -> slice:
    """Which of `count` things in a row are this process' part; parts differ by one in length at most."""
    if size() == 1:
        return slice(0, count)
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def whole(count: int) -> int:
    """How long the row is of which this process has a part of `count`."""
    return int(sum_over_all(torch.tensor(count))) if size() > 1 else count


def batch_length(part: int, batch_size: int, left: int) -> int:
    """How long the batch is of which this process has `part`: the next one of the `left` that are still to come."""
    return part if size() == 1 else min(batch_size, left)


def sum_over_all(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of every process' tensor, in place and returned."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def of_all(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, stacked in their order; they have one shape."""
    if size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes, at once."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = sum_over_all(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view(gradient.shape))


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


@torch.no_grad()
def equal_main(module: nn.Module) -> None:
    """Give the module of every process the parameters and buffers of process 0's, bit by bit."""
    if size() > 1:
        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value, src=0)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Process 0 runs the block, and then the others do, so that they find what it has prepared."""
    if size() > 1 and not is_main():
        dist.barrier()
    yield
    if size() > 1 and is_main():
        dist.barrier()


def shared_out(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """function(item) of every item, in order; each process works on some items, alone."""
    items = list(items)
    if size() == 1:
        return [function(item) for item in items]
    own = items[rank() :: size()]
    with alone():
        results = [function(item) for item in own]
    parts: list[list[Result]] = [[] for _ in range(size())]
    dist.all_gather_object(parts, results)
    return [parts[number % len(parts)][number // len(parts)] for number in range(len(items))]


# --- batch normalization over all processes' parts of a batch ----------------------------------------------


def batch_norm(model: nn.Module) -> None:
    """Let batch-norm layers take their statistics over the whole batch, whenever processes share one."""
    if not launched():
        return
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.forward = torch.compiler.disable(_forward_over_all).__get__(layer)


def _forward_over_all(layer: nn.modules.batchnorm._BatchNorm, x: torch.Tensor) -> torch.Tensor:
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
    """Batch normalization of this process' part x (b, C, …) of a batch by the whole batch's mean and variance."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        channels, others = x.shape[1], [axis for axis in range(x.dim()) if axis != 1]
        count = x.new_full((1,), x.numel() // channels, dtype=torch.float32)
        # The variance and mean of each part, sent at once; the batch's follow from them without cancellation.
        own = x.float() if len(x) else x.new_zeros((1, *x.shape[1:]), dtype=torch.float32)
        parts = of_all(torch.cat([*torch.var_mean(own, others, correction=0), count]))
        variances, means, counts = parts.split([channels, channels, 1], dim=1)
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


# --- errors ------------------------------------------------------------------------------------------------


# What gloo, nccl and torch's store say when the process at the other end of a connection is gone
LOST = ("by peer", "broken pipe", "connection was likely closed", "remote process exit")


def is_of_connection(error: BaseException) -> bool:
    """Whether an error is one of the processes' communication, whatever its cause."""
    if not launched() or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl", *LOST))


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    return is_of_connection(error) and any(words in str(error).lower() for words in LOST)


def silence_others() -> None:
    """What is printed in processes other than 0 is not seen; errors are."""
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
