"""The training loop of models and curves, batch-norm re-estimation, and evaluation."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils import checkpoint as ckpt
from utils.cli import Progress
from utils.data import Images
from utils.errors import UserError

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (GoogLeNet)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def main_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def objective(output: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the logits (b, classes), plus that of the auxiliary classifiers if there are any."""
    if not isinstance(output, tuple):
        return F.cross_entropy(output, labels)
    main, *auxiliary = (F.cross_entropy(logits, labels) for logits in output)
    return main + AUXILIARY_WEIGHT * sum(auxiliary)


# --- evaluation --------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, batch_size: int, precision: str = "fp32") -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent under the test transform. Leaves the model in eval mode."""
    model.eval()
    loss = torch.zeros((), device=images.device)
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    for x, labels in images.batches(batch_size):
        with autocast(images.device, precision):
            logits = model(x)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
    return loss.item() / len(images), 100 * correct.item() / len(images)


REESTIMATION_SEED = 0  # the same augmented images for every point of a curve, whenever it is evaluated


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, images: Images, batch_size: int, precision: str = "fp32") -> None:
    """Set running means and variances to their average over the augmented training images.

    A point on a curve has weights but no statistics of its own; without this its loss means nothing. Each
    batch counts by its size. Only the batch-norm layers run in training mode; the model is left in eval mode.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    generator = torch.Generator().manual_seed(REESTIMATION_SEED)
    for x, _ in images.augmented(batch_size, generator):
        seen += len(x)
        for layer in layers:
            layer.momentum = len(x) / seen
        with autocast(images.device, precision):
            model(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


# --- training ----------------------------------------------------------------------------------------------


def learning_rate(epoch: int, lr: float, lr_drop: int, lr_decay: float) -> float:
    """The published schedule: halved every `lr_drop` epochs, and a slow exponential decay."""
    return lr * 0.5 ** (epoch // lr_drop) * lr_decay**epoch


def settings_of(args, *names: str) -> dict[str, object]:
    """The flags that decide a run's outcome, which a resumed run must share."""
    shared = ("dataset", "transform", "model", "batch_size", "use_test", "precision")
    sgd = ("lr", "wd", "lr_decay", "lr_drop", "seed")
    return {name: getattr(args, name) for name in (*shared, *sgd, *names)}


@dataclass
class Run:
    """A training run and its files: kept checkpoints stem-EPOCH.pt, and stem-resume.pt while it is under way."""

    stem: Path
    settings: Mapping[str, object]
    epochs: int
    save_freq: int
    history: dict[str, Path] | Path  # an .npy a series, or one .npz of all series

    def open(self, resume: bool, overwrite: bool) -> dict | None:
        """The checkpoint to go on from, or None to begin. One at `epochs` says that the run is finished.

        Raises UserError where going on, or beginning anew, would not be what the user meant.
        """
        rolling, epochs = ckpt.rolling(self.stem), [e for e in ckpt.kept_epochs(self.stem) if e > 0]
        paths = [ckpt.kept(self.stem, epoch) for epoch in epochs]
        if overwrite:
            for path in [*paths, rolling]:
                path.unlink(missing_ok=True)
            return None
        finished = ckpt.kept(self.stem, self.epochs)
        if finished in paths:
            newest = finished
        elif rolling.exists():
            newest = rolling  # of the last epoch or the one before, and removed when the run is complete
        elif paths:
            newest = paths[-1]
        else:
            return None
        state = ckpt.load_checkpoint(newest, "the same command with --overwrite")
        self._check(state, newest, resume)
        return state

    def _check(self, state: dict, path: Path, resume: bool) -> None:
        epoch = state.get("epoch")
        before = state.get("settings")
        if before is None:  # written by other code
            if epoch == self.epochs:
                return
            raise UserError(f"{path} does not hold what a resumed run needs; use --overwrite or another folder")
        different = [
            "other networks at its ends" if name == "ends" else f"--{name} {before.get(name)} (now {value})"
            for name, value in self.settings.items()
            if before.get(name) != value
        ]
        if different:
            raise UserError(
                f"{path} was made with {', '.join(different)}; "
                "use the same flags, or --overwrite to begin anew, or another --root"
            )
        if epoch > self.epochs:
            raise UserError(
                f"{path} is at epoch {epoch} already and epoch {self.epochs} was not kept; "
                "use --overwrite to begin anew, or another --root"
            )
        if epoch < self.epochs and not resume:
            raise UserError(f"{path} is a run at epoch {epoch}; add --resume to go on or --overwrite to begin anew")

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        # The kept one first: a run killed in between repeats the epoch, and so lacks no file that it should keep.
        if epoch == self.epochs or epoch % self.save_freq == 0:
            ckpt.save_checkpoint(ckpt.kept(self.stem, epoch), state)
        if epoch < self.epochs:
            ckpt.save_checkpoint(ckpt.rolling(self.stem), state)

    def close(self, history: Mapping[str, list[float]], trained: bool) -> list[Path]:
        """Write the history, remove the checkpoint of the run under way, and return the files of the result."""
        files = [self.history] if isinstance(self.history, Path) else [self.history[name] for name in history]
        if history and (trained or not all(path.exists() for path in files)):
            arrays = {name: np.array(values) for name, values in history.items()}
            if isinstance(self.history, Path):
                ckpt.save_arrays(self.history, **arrays)
            else:
                for name, values in arrays.items():
                    ckpt.save_array(self.history[name], values)
        ckpt.rolling(self.stem).unlink(missing_ok=True)
        return [ckpt.kept(self.stem, self.epochs), *(path for path in files if path.exists())]


def _random_states(generator: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    states = {"draws": generator.get_state(), "cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def _restore_random_states(states: Mapping[str, torch.Tensor], generator: torch.Generator, device) -> None:
    generator.set_state(states["draws"])
    torch.set_rng_state(states["cpu"])
    if "device" in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"])


def fit(
    run: Run,
    args,
    images: Images,
    module: nn.Module,
    forward: Callable[[torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor | float]],
    pack: Callable[[], dict[str, object]],
    unpack: Callable[[dict], None],
    validate: Callable[[], Mapping[str, float]],
    weight_decay: float = 0.0,
) -> list[Path]:
    """Train `module` with SGD until `run.epochs`, saving after every epoch; return the files that hold the result.

    forward: images (b, 3, H, W) and the generator of this run's random draws → (output, penalty added to the
        loss).
    pack, unpack: the module as checkpoint entries, and back. Together with the optimizer, the random states and
        the history they are all that a resumed run needs, so it ends as one that never stopped.
    validate: figures under the test transform, taken every `args.val_freq` epochs. It must not disturb training.

    The history has one entry an epoch: loss_train and accuracy_train (on augmented images, while the weights
    move), and what `validate` returns; NaN in epochs without validation.

    Raises UserError if the loss or a weight stops being a finite number; the last good epoch stays saved.
    """
    device = images.device
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, args.lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(args.seed)
    history: dict[str, list[float]] = {}
    first_epoch = 0

    state = run.open(args.resume, args.overwrite)
    if state is not None:
        try:
            unpack(state)
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{run.stem}-*.pt does not hold this run ({error}); use --overwrite") from error
        first_epoch = state["epoch"]
        history = {name: list(values) for name, values in state.get("history", {}).items()}
        if first_epoch < run.epochs:
            optimizer.load_state_dict(state["optimizer_state"])
            _restore_random_states(state["random_states"], generator, device)
            print(f"Going on after epoch {first_epoch}.")
        else:
            print(f"This run is finished: {ckpt.kept(run.stem, run.epochs)}")

    steps = math.ceil(len(images) / args.batch_size)
    with Progress((run.epochs - first_epoch) * steps, "step") as progress:
        for epoch in range(first_epoch, run.epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch, args.lr, args.lr_drop, args.lr_decay)
            module.train()
            loss_sum = torch.zeros((), device=device)
            correct = torch.zeros((), device=device, dtype=torch.int64)
            for step, (x, labels) in enumerate(images.augmented(args.batch_size, generator), start=1):
                with autocast(device, args.precision):
                    output, penalty = forward(x, generator)
                    loss = objective(output, labels) + penalty
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                logits = main_output(output).detach()
                loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
                progress.step()
                if progress.is_shown and step % 20 == 0:  # reading a figure makes the host wait for the device
                    seen = step * args.batch_size
                    accuracy = 100 * correct.item() / seen
                    progress.show(epoch=epoch + 1, loss=loss_sum.item() / seen, accuracy=accuracy)

            figures = {
                "loss_train": loss_sum.item() / len(images),
                "accuracy_train": 100 * correct.item() / len(images),
            }
            if not (math.isfinite(figures["loss_train"]) and all(p.isfinite().all() for p in learned)):
                saved = f"epoch {epoch} is saved" if epoch else "nothing was saved"
                raise UserError(f"training diverged in epoch {epoch + 1} ({saved}); try a smaller --lr")
            if args.val_freq and ((epoch + 1) % args.val_freq == 0 or epoch + 1 == run.epochs):
                figures |= validate()
            _record(history, epoch, figures)
            run.save(
                epoch + 1,
                {
                    "epoch": epoch + 1,
                    **pack(),
                    "optimizer_state": optimizer.state_dict(),
                    "random_states": _random_states(generator, device),
                    "settings": dict(run.settings),
                    "history": history,
                },
            )
            progress.line(f"epoch {epoch + 1}/{run.epochs}  " + _in_words(figures))
    return run.close(history, trained=first_epoch < run.epochs)


def _record(history: dict[str, list[float]], epoch: int, figures: Mapping[str, float]) -> None:
    for name in {**history, **figures}:
        series = history.setdefault(name, [math.nan] * epoch)
        series.append(figures.get(name, math.nan))


def _in_words(figures: Mapping[str, float]) -> str:
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.1f} %"
        if name.startswith("accuracy")
        else f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in figures.items()
    )
