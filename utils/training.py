"""What is learned, and the loop that learns it: networks, curves between two, and (in utils.pam) permutations."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from . import distributed
from .attack import Attack
from .batches import Data, Images, Inputs, Source, as_images, call, split
from .curves import Curve, copied, expect_alike, load_state, stored
from .devices import autocast, device_of, has_fused_step, memory_format
from .errors import FileError, UserError
from .losses import Criterion, Loss, Metrics, Tally, main_output
from .measuring import measure, undisturbed
from .progress import Progress, in_words

# --- what is learned ----------------------------------------------------------------------------------------


VALIDATION_POINTS = (0.25, 0.5, 0.75)  # of a curve, while it is learned


class NetworkTask:
    """A network, on images attacked as `attack` says if there is one; validated on `test` as it is.

    Whatever is learned has these names and methods. module: SGD moves those of its parameters that require gradients.
    network: is called with what its forward takes of a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        test: Images | None = None,
        attack: Attack | None = None,
        loss: Loss = "classification",
    ):
        self.module, self.network, self.test, self.attack, self.loss = model, model, test, attack, loss

    def forward(
        self, x: torch.Tensor | Inputs, labels: object, images: Source, generator: torch.Generator
    ) -> tuple[object, torch.Tensor | float]:
        """The network's output for x of a batch (`utils.batches.split`), and a penalty added to its loss."""
        if self.attack is not None:
            x = self.attack(self.module, x, labels, images, generator)
        return call(self.module, x), 0.0

    def after_step(self, rate: float) -> None:
        """What is done after each step of this learning rate."""

    def validate(self, images: Images, batch_size: int, precision: str) -> Metrics:
        """Metrics on `test` if there is one, under the test transform; training on `images` is not disturbed."""
        if self.test is None:
            return {}
        return measure(self.module, {"_test": self.test}, batch_size=batch_size, precision=precision, loss=self.loss)

    def checkpoint(self) -> dict[str, object]:
        """What is learned as checkpoint entries: all that a resumed run needs of it."""
        return {"model_state": self.module.state_dict()}

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        """Put what a checkpoint holds in place; ValueError, RuntimeError or KeyError if it does not fit."""
        load_state(self.module, checkpoint["model_state"])


class CurveTask(NetworkTask):
    """The learned control points of a curve: each step takes a random θ(t), t uniform in [0, 1), for the whole batch.

    The loss has ½ · weight_decay · ‖θ(t)‖² in it, over all parameters. With an attack, images are attacked at the
    same θ(t). Validation is on `test` at a few fixed points.
    """

    def __init__(
        self,
        curve: Curve,
        weight_decay: float = 5e-4,
        test: Images | None = None,
        attack: Attack | None = None,
        loss: Loss = "classification",
    ):
        super().__init__(curve, test, attack, loss)
        self.curve, self.network, self.weight_decay = curve, curve.base, weight_decay

    def point(self, t: float) -> torch.Tensor:
        """θ(t) as a vector, as `Curve.point` gives it."""
        return self.curve.point(t)

    def forward(
        self, x: torch.Tensor | Inputs, labels: object, images: Source, generator: torch.Generator
    ) -> tuple[object, torch.Tensor | float]:
        curve, theta = self.curve, self.point(draw_t(generator))
        if self.attack is not None:
            fixed = theta.detach()
            x = self.attack(lambda attacked: curve(attacked, fixed), x, labels, images, generator)
        penalty = 0.5 * self.weight_decay * theta[: len(curve.flat)].square().sum() if self.weight_decay else 0.0
        return curve(x, theta), penalty

    def after_step(self, rate: float) -> None:
        self.curve.settle()

    def validate(self, images: Images, batch_size: int, precision: str) -> Metrics:
        if self.test is None:
            return {}
        network = self.curve.network()

        def at(t: float) -> Metrics:
            model, test = self.curve.place_vector(self.point(t), network), {f"_test_at_{t}": self.test}
            return measure(
                model, test, for_batch_norm=images, batch_size=batch_size, precision=precision, loss=self.loss
            )

        return {name: value for each in distributed.spread_out(at, VALIDATION_POINTS) for name, value in each.items()}

    def checkpoint(self) -> dict[str, object]:
        return self.curve.checkpoint()

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        self.curve.load_checkpoint(checkpoint)


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


OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Schedule = Sequence[float] | Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def rates_of(optimizer: MakeOptimizer, schedule: Schedule | None, epochs: int) -> list[float]:
    """The learning rate of each epoch: the optimizer's own, or as the schedule says (`fit_curve`)."""
    if not callable(optimizer):
        raise TypeError("an optimizer is a function that makes one, such as lambda p: torch.optim.AdamW(p, 3e-4)")
    if schedule is not None and not callable(schedule):
        if isinstance(schedule, str) or not hasattr(schedule, "__len__"):
            raise TypeError("a schedule is a list of learning rates, or a function of the optimizer")
        if len(schedule) != epochs:
            raise ValueError(f"the schedule has {len(schedule)} learning rates for {epochs} epochs")
        return list(schedule)
    trial = optimizer([nn.Parameter(torch.zeros(1))])
    scheduler, rates = schedule and schedule(trial), []
    for _ in range(epochs):
        rates.append(trial.param_groups[0]["lr"])
        trial.step()
        if scheduler:
            scheduler.step()
    return rates


class Saves(Protocol):
    """Where a training run is saved after every epoch, and resumed from: `utils.stages.runs.Run` does it in files.

    open: what `save` was given last, or None to begin; at epoch 0, an optimizer's state alone, to begin with.
    path: the file that it read. save: keep the state after an epoch. close: the run is complete.
    """

    path: Path

    def open(self) -> Mapping[str, object] | None: ...

    def save(self, epoch: int, state: Mapping[str, object]) -> None: ...

    def close(self, history: Mapping[str, list[float]]) -> None: ...


def fit(
    task: NetworkTask,
    images: Data,
    saves: Saves | None = None,
    *,
    rates: Sequence[float],
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    optimizer: MakeOptimizer | str = "sgd",
    seed: int = 1,
    precision: str = "fp32",
    val_freq: int | None = None,
    verbose: bool = True,
) -> dict[str, list[float]]:
    """Learn the task's module for one epoch a learning rate; return the history.

    Of several processes, each works on its part of every batch, and the gradients are summed: they stay alike.

    images: ours, or others as `utils.batches.as_images` takes them.
    saves: where to save after every epoch, and to resume from; None: in memory only. What the task, the optimizer
        and the generator hold is all that a resumed run needs, so it ends as one that never stopped.
    rates: the learning rate of each epoch.
    optimizer: sgd, with Nesterov's momentum (0 for none); adam or adamw, whose β1 is the momentum; each with this
        weight_decay. Or a function that makes one with settings of its own.
    seed: of all random draws. precision: fp32, or bf16 for autocast.
    val_freq: validate every so many epochs, and after the last; None for never.

    The history has one entry an epoch: loss_train and accuracy_train (on augmented images, while the weights
    move), and what the task's `validate` returns; NaN in epochs without validation.

    It seeds torch's global generator anew in every epoch, for dropout.

    Raises UserError if the loss or a weight stops being a finite number; the last good epoch stays saved.
    """
    if not rates:
        raise ValueError("learning takes at least one epoch")
    learned = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    if not any(map(torch.numel, learned)):
        raise ValueError("there is nothing to be learned: a curve has a third control point, or ends that move")
    images = as_images(images, learned[0].device)
    if isinstance(optimizer, str):
        is_sgd, fused = optimizer == "sgd", has_fused_step(learned) or None
        own = {"momentum": momentum, "nesterov": momentum > 0} if is_sgd else {"betas": (momentum, 0.999)}
        optimizer = partial(OPTIMIZERS[optimizer], lr=rates[0], weight_decay=weight_decay, fused=fused, **own)
    optimizer = optimizer(learned)
    if images.share is not None and saves is not None:
        saves = images.share.by_main(saves)
    generator = torch.Generator().manual_seed(seed)
    done, history = _restore(task, optimizer, generator, saves, len(rates)) if saves else (0, {})
    images.join(task.module, optimizer)
    steps = images.steps(batch_size)
    with Progress((len(rates) - done) * steps, "step", is_silent=not verbose) as progress:
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
            # One number to be read, for which the host waits once
            are_finite = bool(torch.stack([parameter.isfinite().all() for parameter in learned]).all())
            if not (math.isfinite(metrics["loss_train"]) and are_finite):
                saved = f"epoch {epoch} is saved" if saves and epoch else "nothing was saved"
                raise UserError(f"training diverged in epoch {epoch + 1} ({saved}); try a smaller learning rate")
            if val_freq and ((epoch + 1) % val_freq == 0 or epoch + 1 == len(rates)):
                metrics |= task.validate(images, batch_size, precision)
            for name in {**history, **metrics}:
                history.setdefault(name, [math.nan] * epoch).append(metrics.get(name, math.nan))
            if saves:
                state = {"epoch": epoch + 1, **task.checkpoint(), "optimizer_state": optimizer.state_dict()}
                state |= {"random_states": {"draws": generator.get_state()}, "history": history}
                saves.save(epoch + 1, state)
            progress.line(f"epoch {epoch + 1}/{len(rates)}  " + in_words(metrics))
    if saves:
        saves.close(history)
    return history


def _epoch(
    task: NetworkTask,
    optimizer: torch.optim.Optimizer,
    images: Images,
    generator: torch.Generator,
    batch_size: int,
    precision: str,
    progress: Progress,
    epoch: int,
) -> Metrics:
    """A step for each batch of augmented images; returns the training loss and metrics over all processes."""
    task.module.train()
    criterion, tally = Criterion(task.loss, task.network, images), Tally(images.device)
    for step, batch in enumerate(images.augmented(batch_size, generator), start=1):
        optimizer.zero_grad()  # before a compiled network runs: a CUDA graph writes where the last gradients are
        with autocast(images.device, precision):
            output, penalty = task.forward(*split(task.network, batch), images, generator)
            outcome = criterion(output, batch)  # of this process' part of the batch
            count = max(images.whole(outcome.count), 1)
            loss = outcome.objective(count) + penalty * (outcome.count / count)
        loss.backward()
        optimizer.step()
        task.after_step(optimizer.param_groups[0]["lr"])
        tally.add(outcome)
        progress.step()
        if progress.is_shown and step % 20 == 0:  # reading a number makes the host wait for the device
            progress.show(epoch=epoch + 1, **tally.means())
    return {f"{name}_train": value for name, value in tally.means(images).items()}


@torch.no_grad()
def expect_ends(curve: Curve, network_a: nn.Module, network_b: nn.Module, images: Images) -> None:
    """ValueError if the networks at a curve's ends put out something else than these two, with their statistics."""
    for t, network in ((0.0, network_a), (1.0, network_b)):
        x = split(network, images.first(2))[0]
        placed, other = curve.place(t).eval(), copied(network).to(curve.fixed.device).eval()
        curve.place_statistics(placed, t)
        found, expected = (main_output(call(model, x)) for model in (placed, other))
        if (found - expected).abs().max() > 1e-2 * expected.abs().max():
            raise ValueError(
                f"the network {'B' if t else 'A'} does something else than one with its parameters and buffers: what "
                "else differs between A and B, e.g. an attribute, has to be a buffer"
            )


@undisturbed
def fit_curve(
    network_a: nn.Module,
    network_b: nn.Module,
    images: Data,
    *,
    epochs: int,
    lr: float = 0.1,
    loss: Loss = "classification",
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    seed: int = 1,
    optimizer: MakeOptimizer | None = None,
    schedule: Schedule | None = None,
    num_bends: int = 3,
    family: str = "Bezier",
    device: torch.device | str | None = None,
    precision: str = "fp32",
    verbose: bool = True,
) -> Curve:
    """Learn a curve of low loss between two networks in memory (section 2): by default as published.

    The networks, which stay as they are, have one architecture; align B to A first (`align`, `permute`).

    images: tensors (x, labels), a Dataset, a DataLoader, or any batches that can be read again.
    loss: classification, regression, language, segmentation, multilabel, or a function of (output, batch) that gives
        the losses (n,) and, if it likes, a dictionary of metrics.
    weight_decay: of the penalty ½ · weight_decay · ‖θ(t)‖² in the loss.
    lr: of SGD with Nesterov's momentum 0.9, whose rate is halved every 20 epochs, by default.
    optimizer: makes another from the list of what is learned, e.g. lambda p: torch.optim.AdamW(p, 3e-4).
    schedule: a learning rate for each epoch, or a function that makes a scheduler of torch's from the optimizer, to
        be stepped after each epoch. Without it a given optimizer keeps its rate.
    num_bends, family: how many control points, the ends among them, of a "Bezier" curve or a "PolyChain".
    device: where to learn, by default where A is. precision: fp32, or bf16 for autocast.
    verbose: whether progress is shown.

    Raises ValueError if there is no epoch, or the networks do not go together (`Curve.connect`), and UserError if
    learning diverges.
    """
    expect_alike(network_a, network_b)
    curve = Curve.between(network_a, stored(network_a), stored(network_b), num_bends, family)
    images = as_images(images, device or device_of(network_a))
    if device is not None:
        curve.to(device, memory_format=memory_format(device))
    expect_ends(curve, network_a, network_b, images)
    if optimizer is None and schedule is None:
        rates = step_rates(epochs, lr)
    else:
        rates = rates_of(optimizer or partial(torch.optim.SGD, lr=lr), schedule, epochs)
    fit(
        CurveTask(curve, weight_decay, loss=loss),
        images,
        rates=rates,
        batch_size=batch_size,
        optimizer=optimizer or "sgd",
        seed=seed,
        precision=precision,
        verbose=verbose,
    )
    return curve


def _restore(
    task: NetworkTask, optimizer: torch.optim.Optimizer, generator: torch.Generator, saves: Saves, epochs: int
) -> tuple[int, dict[str, list[float]]]:
    """Put what was saved in place; returns the epochs done, and their history."""
    state = saves.open()
    if state is None:
        return 0, {}
    try:
        if state["epoch"]:
            task.load_checkpoint(state)
        if state["epoch"] < epochs:
            _load_optimizer(optimizer, state["optimizer_state"])
        if "random_states" in state:
            generator.set_state(state["random_states"]["draws"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(saves.path, f"does not hold this run ({error})", "remake") from error
    return state["epoch"], {name: list(values) for name, values in state.get("history", {}).items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
    """Put the moments of a saved optimizer in place; its settings are this run's own, whoever saved it."""
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    stored = [index for group in state["param_groups"] for index in group["params"]]
    shapes = [(index, getattr(one, "shape", ())) for index, entry in state["state"].items() for one in entry.values()]
    if stored != list(parameters) or any(shape not in (parameters[index].shape, ()) for index, shape in shapes):
        raise ValueError("its optimizer has other parameters")
    own = optimizer.state_dict()["param_groups"]
    if any(("betas" in one) != ("betas" in other) for one, other in zip(own, state["param_groups"], strict=False)):
        raise ValueError("its optimizer is of another kind")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
