"""The training loop of networks, curves and permutations."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from . import distributed
from .batches import Images, as_images
from .curves import Curve
from .devices import has_fused_step
from .errors import FileError, UserError
from .outputs import cross_entropy, main_output
from .precision import autocast
from .progress import Progress, in_words
from .stages.files import load_checkpoint
from .stages.runs import Run
from .tasks import CurveTask


class Task(Protocol):
    """What is learned, and how. utils.tasks and utils.pam have those that there are."""

    module: torch.nn.Module  # SGD moves those of its parameters that require gradients

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, images: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The network's output for images x (b, 3, H, W) of the set `images`, and a penalty added to its loss."""

    def after_step(self, rate: float) -> None:
        """What is done after each step of this learning rate."""

    def validate(self, images: Images, batch_size: int, precision: str) -> Mapping[str, float]:
        """Metrics under the test transform, which must not disturb training on `images`."""

    def checkpoint(self) -> dict[str, object]:
        """What is learned as checkpoint entries: all that a resumed run needs of it."""

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        """Put what a checkpoint holds in place; ValueError, RuntimeError or KeyError if it does not fit."""


def step_rates(epochs: int, lr: float = 0.1, drop: int = 20, decay: float = 0.9996) -> list[float]:
    """The published schedule: halved every `drop` epochs, and a slow exponential decay; one rate an epoch."""
    return [lr * 0.5 ** (epoch // drop) * decay**epoch for epoch in range(epochs)]


def robust_rates(epochs: int, lr: float = 0.1) -> list[float]:
    """The published schedule of robust training: constant to half the epochs, linear to 1 % at 90 %, then 1 %."""
    return [lr * float(np.interp(epoch / epochs, (0.5, 0.9), (1.0, 0.01))) for epoch in range(epochs)]


def fit(
    task: Task,
    images: Images | Dataset | DataLoader,
    run: Run | None = None,
    *,
    rates: Sequence[float],
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 1,
    precision: str = "fp32",
    val_freq: int | None = None,
) -> dict[str, list[float]]:
    """Learn the task's module with SGD for one epoch a learning rate; return the history.

    Of several processes, each works on its part of every batch, and the gradients are summed: they stay alike.

    images: ours, or others as `utils.batches.as_images` takes them.
    run: where to save after every epoch, and to go on from; None: in memory only. What the task, the optimizer and
        the generator hold is all that a resumed run needs, so it ends as one that never stopped.
    rates: the learning rate of each epoch. momentum: Nesterov's, 0 for plain SGD. weight_decay: the optimizer's.
    seed: of all random draws. precision: fp32, or bf16 for autocast.
    val_freq: validate every so many epochs, and after the last; None for never.

    The history has one entry an epoch: loss_train and accuracy_train (on augmented images, while the weights
    move), and what the task's `validate` returns; NaN in epochs without validation.

    It seeds torch's global generator anew in every epoch, for dropout.

    Raises UserError if the loss or a weight stops being a finite number; the last good epoch stays saved.
    """
    learned = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    images = as_images(images, learned[0].device)
    how = {"momentum": momentum, "nesterov": momentum > 0, "weight_decay": weight_decay}
    optimizer = torch.optim.SGD(learned, rates[0], fused=has_fused_step(learned) or None, **how)
    distributed.batch_norm(task.module)
    generator = torch.Generator().manual_seed(seed)
    done, history = _restore(task, optimizer, generator, run) if run else (0, {})
    distributed.equal_main(task.module)
    steps = math.ceil(len(images) / batch_size)
    with Progress((len(rates) - done) * steps, "step") as progress:
        for epoch in range(done, len(rates)):
            if not rates[epoch] < 1e37:  # it has to be a float32
                raise UserError(
                    f"the learning rate of epoch {epoch + 1} would be {rates[epoch]:g}; use a smaller one"
                )
            for group in optimizer.param_groups:
                group["lr"] = rates[epoch]
            # For dropout. Anew for every epoch, so that no device's random state has to be saved
            torch.manual_seed((seed * 1_000_003 + epoch) * distributed.size() % 2**62 + distributed.rank())
            metrics = _epoch(task, optimizer, images, generator, batch_size, precision, progress, epoch)
            if not (math.isfinite(metrics["loss_train"]) and _are_finite(learned)):
                saved = f"epoch {epoch} is saved" if run and epoch else "nothing was saved"
                raise UserError(f"training diverged in epoch {epoch + 1} ({saved}); try a smaller learning rate")
            if val_freq and ((epoch + 1) % val_freq == 0 or epoch + 1 == len(rates)):
                metrics |= task.validate(images, batch_size, precision)
            _record(history, epoch, metrics)
            if run and distributed.is_main():
                run.save(epoch + 1, _state(task, optimizer, generator, epoch + 1, history))
            progress.line(f"epoch {epoch + 1}/{len(rates)}  " + in_words(metrics))
    if run:
        distributed.from_main(lambda: run.close(history))
    return history


def fit_curve(
    network_a: torch.nn.Module,
    network_b: torch.nn.Module,
    images: Images | Dataset | DataLoader,
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    seed: int = 1,
) -> Curve:
    """Learn the quadratic Bézier curve between two networks in memory, with the published schedule.

    The networks, which stay as they are, have one architecture; align B to A first. images: as in `fit`.
    """
    base = copy.deepcopy(network_a)
    curve = Curve.between(base, network_a.state_dict(), network_b.state_dict())
    fit(CurveTask(curve, weight_decay), images, rates=step_rates(epochs, lr), batch_size=batch_size, seed=seed)
    return curve


def train_step(
    task: Task,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    labels: torch.Tensor,
    images: Images,
    generator: torch.Generator,
    count: int,
    precision: str,
) -> torch.Tensor:
    """One step of SGD on images x (b, 3, H, W), this process' part of a batch of `count`; the logits (b, classes)."""
    optimizer.zero_grad()  # before a compiled network runs: a CUDA graph writes where the last gradients are
    with autocast(x.device, precision):
        output, penalty = task.forward(x, labels, images, generator)
        loss = cross_entropy(output, labels, count) + penalty / distributed.size()
    loss.backward()
    distributed.sum_gradients(optimizer.param_groups[0]["params"])
    optimizer.step()
    task.after_step(optimizer.param_groups[0]["lr"])
    return main_output(output).detach()


def _epoch(
    task: Task,
    optimizer: torch.optim.Optimizer,
    images: Images,
    generator: torch.Generator,
    batch_size: int,
    precision: str,
    progress: Progress,
    epoch: int,
) -> dict[str, float]:
    """Every image once, augmented; returns the training loss and accuracy over all processes."""
    task.module.train()
    loss_sum = torch.zeros((), device=images.device)
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    seen = 0
    for step, (x, labels) in enumerate(images.augmented(batch_size, generator), start=1):
        count = distributed.batch_length(len(labels), batch_size, len(images) - (step - 1) * batch_size)
        logits = train_step(task, optimizer, x, labels, images, generator, count, precision)
        loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
        progress.step()
        seen += len(labels)
        if progress.is_shown and step % 20 == 0:  # reading a number makes the host wait for the device
            accuracy = 100 * correct.item() / max(seen, 1)
            progress.show(epoch=epoch + 1, loss=loss_sum.item() / max(seen, 1), accuracy=accuracy)
    loss, right = distributed.sum_over_all(torch.stack([loss_sum, correct.to(loss_sum.dtype)])).tolist()
    return {"loss_train": loss / len(images), "accuracy_train": 100 * right / len(images)}


def _state(
    task: Task, optimizer: torch.optim.Optimizer, generator: torch.Generator, epoch: int, history: dict
) -> dict[str, object]:
    """All that a resumed run needs, after `epoch`."""
    return {
        "epoch": epoch,
        **task.checkpoint(),
        "optimizer_state": optimizer.state_dict(),
        "random_states": {"draws": generator.get_state()},
        "history": history,
    }


def _restore(
    task: Task, optimizer: torch.optim.Optimizer, generator: torch.Generator, run: Run
) -> tuple[int, dict[str, list[float]]]:
    """Put what the run has saved in place; returns the epochs it has behind it, and its history."""
    state = distributed.from_main(run.open)
    if state is None:
        if run.after is not None:
            _load_optimizer(optimizer, load_checkpoint(run.after)["optimizer_state"])
        return 0, {}
    try:
        task.load_checkpoint(state)
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(run.checkpoint, f"does not hold this run ({error})", "remake") from error
    epoch = state["epoch"]
    if epoch < run.epochs:
        if "random_states" in state:
            _load_optimizer(optimizer, state["optimizer_state"])
            generator.set_state(state["random_states"]["draws"])
            print(f"Going on after epoch {epoch}.")
        else:
            _restore_momentum(optimizer, state["optimizer_state"], run.resume)
            print(f"Going on after epoch {epoch} of a run of other code, with other random draws than it would have.")
    else:
        print(f"This run is finished: {run.checkpoint}")
    return epoch, {name: list(values) for name, values in state.get("history", {}).items()}


def _load_optimizer(optimizer: torch.optim.SGD, state: Mapping[str, object]) -> None:
    """Put an optimizer's state in place, but for how its steps are computed: the file may be of another device."""
    fused = [group["fused"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, is_fused in zip(optimizer.param_groups, fused, strict=True):
        group["fused"] = is_fused


def _restore_momentum(optimizer: torch.optim.SGD, stored: Mapping[str, object], path: Path) -> None:
    """Take over the momentum of other code's SGD, of the same parameters in the same order, and nothing else."""
    (group,) = optimizer.param_groups
    states = stored.get("state")
    states = [states.get(i) for i in range(len(group["params"]))] if isinstance(states, dict) else []
    buffers = [state.get("momentum_buffer") for state in states if isinstance(state, dict)]
    if [getattr(buffer, "shape", None) for buffer in buffers] != [parameter.shape for parameter in group["params"]]:
        raise FileError(path, "holds the state of an optimizer of other parameters, so that no run can go on from it")
    for parameter, buffer in zip(group["params"], buffers, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter).clone()


def _are_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all their numbers are finite: one number to be read, for which the host waits once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _record(history: dict[str, list[float]], epoch: int, metrics: Mapping[str, float]) -> None:
    for name in {**history, **metrics}:
        series = history.setdefault(name, [math.nan] * epoch)
        series.append(metrics.get(name, math.nan))
