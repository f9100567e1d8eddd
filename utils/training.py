"""What is learned, and the loop that learns it: networks, curves between two, and (in utils.pam) permutations."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .attack import Attack
from .batches import Images, as_images
from .curves import Curve, load_state
from .devices import autocast, has_fused_step
from .errors import FileError, UserError
from .losses import cross_entropy, main_output
from .measuring import evaluate, validate_curve
from .progress import Progress, in_words

# --- what is learned ----------------------------------------------------------------------------------------


class Task(Protocol):
    """What is learned, and how: below, and in `utils.pam`."""

    module: nn.Module  # SGD moves those of its parameters that require gradients

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


class NetworkTask:
    """A network, on images attacked as `attack` says if there is one; validated on `test` as it is."""

    def __init__(self, model: nn.Module, test: Images | None = None, attack: Attack | None = None):
        self.module, self.test, self.attack = model, test, attack

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, images: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, float]:
        if self.attack is not None:
            x = self.attack(self.module, x, labels, images, generator)
        return self.module(x), 0.0

    def after_step(self, rate: float) -> None:
        pass

    def validate(self, images: Images, batch_size: int, precision: str) -> dict[str, float]:
        """Test loss and accuracy."""
        if self.test is None:
            return {}
        loss, accuracy = evaluate(self.module, self.test, batch_size=batch_size, precision=precision)
        return {"loss_test": loss, "accuracy_test": accuracy}

    def checkpoint(self) -> dict[str, object]:
        return {"model_state": self.module.state_dict()}

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        load_state(self.module, checkpoint["model_state"])


class CurveTask:
    """The learned control points of a curve: each step takes a random θ(t), t uniform in [0, 1), for the whole batch.

    The loss has ½ · weight_decay · ‖θ(t)‖² in it, over all parameters. With an attack, images are attacked at the
    same θ(t). Validation is on `test` at a few fixed points.
    """

    def __init__(
        self, curve: Curve, weight_decay: float = 5e-4, test: Images | None = None, attack: Attack | None = None
    ):
        self.module, self.weight_decay, self.test, self.attack = curve, weight_decay, test, attack

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, images: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        curve = self.module
        theta = curve.point(draw_t(generator))
        if self.attack is not None:
            fixed = theta.detach()
            x = self.attack(lambda attacked: curve(attacked, fixed), x, labels, images, generator)
        return curve(x, theta), 0.5 * self.weight_decay * theta.square().sum()

    def after_step(self, rate: float) -> None:
        pass

    def validate(self, images: Images, batch_size: int, precision: str) -> dict[str, float]:
        if self.test is None:
            return {}
        return validate_curve(self.module.place, images, self.test, batch_size=batch_size, precision=precision)

    def checkpoint(self) -> dict[str, object]:
        return self.module.checkpoint()

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        self.module.load_checkpoint(checkpoint)


def draw_t(generator: torch.Generator) -> float:
    """A position on the curve, uniform in [0, 1), for one batch."""
    return torch.rand((), dtype=torch.float64, generator=generator).item()


# --- how it is learned --------------------------------------------------------------------------------------


def step_rates(epochs: int, lr: float = 0.1, drop: int = 20, decay: float = 0.9996) -> list[float]:
    """The published schedule: halved every `drop` epochs, and a slow exponential decay; one rate an epoch."""
    return [lr * 0.5 ** (epoch // drop) * decay**epoch for epoch in range(epochs)]


def robust_rates(epochs: int, lr: float = 0.1) -> list[float]:
    """The published schedule of robust training: constant to half the epochs, linear to 1 % at 90 %, then 1 %."""
    return [lr * float(np.interp(epoch / epochs, (0.5, 0.9), (1.0, 0.01))) for epoch in range(epochs)]


class Saves(Protocol):
    """Where a training run is saved after every epoch, and resumed from. `utils.stages.runs.Run` does it in files."""

    path: Path  # the file that `open` read

    def open(self) -> Mapping[str, object] | None:
        """What `save` was given last, or None to begin; at epoch 0, an optimizer's state alone, to begin with."""

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        """Keep the state after `epoch`."""

    def close(self, history: Mapping[str, list[float]]) -> None:
        """The run is complete."""


def fit(
    task: Task,
    images: Images | Dataset | DataLoader,
    saves: Saves | None = None,
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
    saves: where to save after every epoch, and to resume from; None: in memory only. What the task, the optimizer
        and the generator hold is all that a resumed run needs, so it ends as one that never stopped.
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
    optimizer = torch.optim.SGD(
        learned,
        rates[0],
        momentum=momentum,
        nesterov=momentum > 0,
        weight_decay=weight_decay,
        fused=has_fused_step(learned) or None,
    )
    if images.share is not None and saves is not None:
        saves = images.share.by_main(saves)
    generator = torch.Generator().manual_seed(seed)
    done, history = _restore(task, optimizer, generator, saves, len(rates)) if saves else (0, {})
    images.join(task.module, optimizer)
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
            torch.manual_seed(images.own_seed(seed * 1_000_003 + epoch))
            metrics = _epoch(task, optimizer, images, generator, batch_size, precision, progress, epoch)
            if not (math.isfinite(metrics["loss_train"]) and _are_finite(learned)):
                saved = f"epoch {epoch} is saved" if saves and epoch else "nothing was saved"
                raise UserError(f"training diverged in epoch {epoch + 1} ({saved}); try a smaller learning rate")
            if val_freq and ((epoch + 1) % val_freq == 0 or epoch + 1 == len(rates)):
                metrics |= task.validate(images, batch_size, precision)
            _record(history, epoch, metrics)
            if saves:
                saves.save(epoch + 1, _state(task, optimizer, generator, epoch + 1, history))
            progress.line(f"epoch {epoch + 1}/{len(rates)}  " + in_words(metrics))
    if saves:
        saves.close(history)
    return history


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
        count = images.batch_length(len(labels), batch_size, (step - 1) * batch_size)
        logits = train_step(task, optimizer, x, labels, images, generator, count, precision)
        loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
        progress.step()
        seen += len(labels)
        if progress.is_shown and step % 20 == 0:  # reading a number makes the host wait for the device
            accuracy = 100 * correct.item() / max(seen, 1)
            progress.show(epoch=epoch + 1, loss=loss_sum.item() / max(seen, 1), accuracy=accuracy)
    loss, right = images.total(torch.stack([loss_sum, correct.to(loss_sum.dtype)])).tolist()
    return {"loss_train": loss / len(images), "accuracy_train": 100 * right / len(images)}


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
        loss = cross_entropy(output, labels, count) + penalty * (len(labels) / count)
    loss.backward()
    optimizer.step()
    task.after_step(optimizer.param_groups[0]["lr"])
    return main_output(output).detach()


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
    task: Task, optimizer: torch.optim.SGD, generator: torch.Generator, saves: Saves, epochs: int
) -> tuple[int, dict[str, list[float]]]:
    """Put what was saved in place; returns the epochs done, and their history."""
    state = saves.open()
    if state is None:
        return 0, {}
    try:
        if state["epoch"]:
            task.load_checkpoint(state)
        if state["epoch"] < epochs:
            _load_momentum(optimizer, state["optimizer_state"])
        if "random_states" in state:
            generator.set_state(state["random_states"]["draws"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(saves.path, f"does not hold this run ({error})", "remake") from error
    return state["epoch"], {name: list(values) for name, values in state.get("history", {}).items()}


def _load_momentum(optimizer: torch.optim.SGD, state: Mapping[str, object]) -> None:
    """Put the momentum of a saved optimizer in place; its settings are this run's own, whoever saved it."""
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    stored = [index for group in state["param_groups"] for index in group["params"]]
    buffers = {index: entry.get("momentum_buffer") for index, entry in state["state"].items()}
    if stored != list(parameters) or any(
        buffer is not None and buffer.shape != parameters[index].shape for index, buffer in buffers.items()
    ):
        raise ValueError("its optimizer has other parameters")
    own = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})


def _are_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all their numbers are finite: one number to be read, for which the host waits once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _record(history: dict[str, list[float]], epoch: int, metrics: Mapping[str, float]) -> None:
    for name in {**history, **metrics}:
        series = history.setdefault(name, [math.nan] * epoch)
        series.append(metrics.get(name, math.nan))
