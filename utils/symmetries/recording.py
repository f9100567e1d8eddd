"""In which module's call a run is, and the activations of a match's rows in normal runs on data."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from ..batches import Inputs
from ..errors import UserError
from ..permutations import Activation, PermutationSpec, Tap
from . import running
from .rules import ATEN, called

MAX_POSITIONS = 32  # larger maps are subsampled by 2, as published


def record(
    model: nn.Module,
    spec: PermutationSpec,
    x: torch.Tensor | Inputs,
    mask: torch.Tensor | None = None,
    *,
    before: bool = False,
) -> tuple[list[torch.Tensor], object]:
    """All that `observe` shows, by rows, and the network's output."""
    found: dict[int, torch.Tensor] = {}
    output = observe(
        model, spec, x, mask, take=lambda number, values: found.update({number: values.clone()}), before=before
    )
    return [found[number] for number in range(len(spec.rows))], output


def observe(
    model: nn.Module,
    spec: PermutationSpec,
    x: torch.Tensor | Inputs,
    mask: torch.Tensor | None = None,
    *,
    take: Callable[[int, torch.Tensor], object],
    before: bool = False,
) -> object:
    """Run the network on x, and show the channels of each row of a spec as soon as it has them; its output.

    It runs in evaluation, but with its heads for training. mask: of the positions that count (b, T), if not all do.
    take: called with the number of a row and its channels, (…, channels) in float32, which the network may change
    later. For a network that takes gradients of its own outputs it may be called again: the last call counts.
    before: show the input of each activation function, and not its output.
    """

    def run() -> tuple[set[int], object]:
        recorder = _Recorder(spec, ModulePath(model), before, mask, take)
        given = x if isinstance(x, Inputs) else ((x,), {})
        inputs, keywords = running.tree_map_tensors(torch.clone, tuple(given))  # which the network may change
        with running.restoring(model), running.plain_run(), running.step_by_step(model):
            running.only_heads(model)
            with recorder.module_path.watch(recorder.leaving), recorder:
                return recorder.shown, model(*inputs, **keywords)

    shown, output = running.without_gradients(run)
    if missing := [row.label for number, row in enumerate(spec.rows) if number not in shown]:
        raise UserError(
            f"{type(model).__name__} does not show {missing[0]} when it runs on data, where units are to be "
            "compared: what it runs depends on the data, or one kernel does that and more on this device"
        )
    return output


def _has_channels(tensor: torch.Tensor, row: Activation) -> bool:
    if max(row.dims) >= tensor.dim():
        return False
    entries = math.prod(tensor.shape[d] for d in row.dims)
    return entries == row.channels or (row.dims[0] == 0 and entries % row.channels == 0)


class ModulePath:
    """Knows in which module's call a run is, by a stack of module paths, and numbers what is called there."""

    def __init__(self, model: nn.Module):
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.stack: list[str] = [""]
        self.calls: Counter[tuple[str, str]] = Counter()

    def tap(self, operation: str, path: str | None = None) -> Tap:
        """The next call of an operation in this module, or in that at a path."""
        path = self.stack[-1] if path is None else path
        self.calls[path, operation] += 1
        return Tap(path, operation, self.calls[path, operation] - 1)

    @contextlib.contextmanager
    def watch(self, leaving: Callable[[nn.Module, Tap, torch.Tensor], object]) -> Iterator[None]:
        """Within, a run is followed from its start; `leaving(module, tap, output)` where a module gives a tensor."""
        self.calls.clear()

        def enter(module, _):
            self.stack.append(self.paths.get(id(module), self.stack[-1]))

        def leave(module, _, output):
            path = self.stack.pop()
            # In transformations of torch.func the output of a module is a wrapper, and no tensor of the run
            if isinstance(output, torch.Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(output):
                leaving(module, self.tap("", path), output)

        hooks = (
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Recorder(running.Deterministic):
    """Shows what the operations and modules put out that are the taps of rows."""

    def __init__(
        self,
        spec: PermutationSpec,
        module_path: ModulePath,
        before: bool,
        mask: torch.Tensor | None,
        take: Callable[[int, torch.Tensor], object],
    ):
        super().__init__()
        self.module_path, self.before, self.mask, self.take = module_path, before, mask, take
        self.rows: dict[Tap, list[tuple[int, Activation]]] = {}
        for number, row in enumerate(spec.rows):
            self.rows.setdefault(row.call if before else row.tap, []).append((number, row))
        self.operations = {tap.operation for tap in self.rows}
        self.passed: set[int] = set()
        self.shown: set[int] = set()

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        name = called(func)
        rows = self.rows.get(self.module_path.tap(name), ()) if name in self.operations else ()
        if rows and self.before:
            self.show(rows, next((a for a in operands if isinstance(a, torch.Tensor)), None), is_output=False)
        out = super().__torch_dispatch__(func, types, operands, keywords)
        if rows:
            self.show(rows, out[0] if isinstance(out, (tuple, list)) else out, is_output=True)
        return out

    def show(self, rows: list, tensor: torch.Tensor | None, is_output: bool) -> None:
        """Show a tensor as rows that have passed by none yet. What makes units has them only in its output."""
        for number, row in rows:
            if number in self.passed or not (is_output or row.call.operation not in ATEN["producer"]):
                continue
            self.passed.add(number)
            if tensor is not None and _has_channels(tensor, row):
                self.shown.add(number)
                tensor = tensor.detach()
                values = tensor.mean(row.mean, keepdim=True) if row.mean else tensor
                self.take(number, samples(values, row.dims, row.channels, self.mask))

    def leaving(self, module: nn.Module, tap: Tap, output: torch.Tensor) -> None:
        if rows := self.rows.get(tap):
            with _disable_current_modes():  # what is done with a row is none of the network's operations
                self.show(rows, output, is_output=True)


def samples(
    tensor: torch.Tensor, dims: tuple[int, ...], channels: int | None = None, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """(…, channels) in float32, with the dimensions `dims` as channels; maps above 32 × 32 are subsampled.

    All dimensions but the last are of samples. Most tensors are not copied.
    channels: how many there are, where `dims` begin with samples: the heads of all images are in one dimension.
    mask: which positions (b, T) count; a tensor without such positions counts as a whole.
    Real and imaginary parts of complex numbers are samples of their own.
    """
    if tensor.dim() == 4 and dims == (1,) and max(tensor.shape[2:]) > MAX_POSITIONS:
        mask = mask[:, ::2] if mask is not None and mask.shape[1] in tensor.shape[2:] else mask
        tensor = tensor[:, :, ::2, ::2]
    rows = tensor.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
    rows = rows.reshape(*rows.shape[:-1], -1, channels or rows.shape[-1])
    rows = rows if mask is None else rows[_counted(mask, rows.shape[:-1])]
    return (torch.cat([rows.real, rows.imag]) if rows.is_complex() else rows).float()


def _counted(mask: torch.Tensor, positions: tuple[int, ...]) -> torch.Tensor:
    """Where in a tensor of these positions the mask (b, T) is set: along every dimension of T, beside that of b.

    The samples are the first dimension, alone or with the positions, or the last where the channels began with them.
    """
    count, length = mask.shape
    if positions[0] == count * length:
        return mask.flatten().view(-1, *[1] * (len(positions) - 1)).expand(positions)
    batch = 0 if positions[0] == count and positions[-1] == 1 else len(positions) - 1
    counted = mask.new_ones(positions)
    for dim, size in enumerate(positions):
        if size == length and dim != batch and positions[batch] == count:
            shape = [1] * len(positions)
            shape[batch], shape[dim] = count, length
            counted = counted & (mask if batch < dim else mask.T).reshape(shape)
    return counted
