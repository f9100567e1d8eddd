"""The training loop of models and curves, and its files."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils import checkpoint as ckpt
from utils import distributed
from utils.cli import Progress
from utils.curves import Curve
from utils.data import Data, Images
from utils.errors import UserError
from utils.evaluation import autocast, in_words, validate_curve

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (GoogLeNet)


def main_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def objective(output: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor, count: int) -> torch.Tensor:
    """Cross-entropy of the logits (b, classes), plus that of the auxiliary classifiers if there are any.

    count: images in the batch of which these are this process' part; the parts' losses add up to the batch's mean.
    """
    if not isinstance(output, tuple):
        return F.cross_entropy(output, labels, reduction="sum") / count
    main, *auxiliary = (F.cross_entropy(logits, labels, reduction="sum") / count for logits in output)
    return main + AUXILIARY_WEIGHT * sum(auxiliary)


# --- training ----------------------------------------------------------------------------------------------


def learning_rate(epoch: int, lr: float, lr_drop: int, lr_decay: float) -> float:
    """The published schedule: halved every `lr_drop` epochs, and a slow exponential decay."""
    return lr * 0.5 ** (epoch // lr_drop) * lr_decay**epoch


def robust_learning_rate(epoch: int, lr: float, epochs: int) -> float:
    """The published schedule of robust training: constant to half the epochs, linear to 1 % at 90 %, then 1 %."""
    return lr * float(np.interp(epoch / epochs, (0.5, 0.9), (1.0, 0.01)))


def schedule_of(args) -> Callable[[int], float]:
    """The learning rate of each epoch, as a function of the epoch."""
    if args.adversarial:
        return lambda epoch: robust_learning_rate(epoch, args.lr, args.epochs)
    return lambda epoch: learning_rate(epoch, args.lr, args.lr_drop, args.lr_decay)


def settings_of(args, *names: str) -> dict[str, object]:
    """The flags that decide a run's outcome, which a resumed run must share."""
    shared = ("dataset", "transform", "model", "batch_size", "use_test", "precision")
    sgd = ("lr", "wd", "lr_decay", "lr_drop", "seed")
    robust = ("momentum", "epsilon", "attack_step", "attack_steps", "epochs") if args.adversarial else ()
    return {name: getattr(args, name) for name in (*shared, *sgd, *robust, *names)}


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
        ckpt.hold(self.stem)
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

    @property
    def is_finished(self) -> bool:
        return ckpt.kept(self.stem, self.epochs).exists()

    def save(self, epoch: int, state: Mapping[str, object]) -> None:
        # In this order a run that is killed in between repeats the epoch, and lacks no file that it should have.
        if epoch == self.epochs:
            self.save_history(state["history"])
        if epoch == self.epochs or epoch % self.save_freq == 0:
            ckpt.save_checkpoint(ckpt.kept(self.stem, epoch), state)
        if epoch < self.epochs:
            ckpt.save_checkpoint(ckpt.rolling(self.stem), state)

    def history_files(self, history: Mapping[str, object]) -> list[Path]:
        if isinstance(self.history, Path):
            return [self.history] if history else []
        return [self.history[name] for name in history]

    def save_history(self, history: Mapping[str, list[float]]) -> None:
        arrays = {name: np.array(values) for name, values in history.items()}
        if isinstance(self.history, Path):
            ckpt.save_arrays(self.history, **arrays)
        else:
            for name, values in arrays.items():
                ckpt.save_array(self.history[name], values)

    def close(self, history: Mapping[str, list[float]]) -> list[Path]:
        """Remove the checkpoint of the run under way, mend a lost history, and return the files of the result."""
        files = self.history_files(history)
        if not all(path.exists() for path in files):
            self.save_history(history)
        rolling = ckpt.rolling(self.stem)
        # One at a later epoch is of a longer run, which is not finished.
        if rolling.exists() and ckpt.load_checkpoint(rolling, "--overwrite").get("epoch", 0) <= self.epochs:
            rolling.unlink()
        ckpt.let_go(self.stem)
        return [ckpt.kept(self.stem, self.epochs), *files]


# images (b, 3, H, W), labels (b,), random draws → output, penalty
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor | float]]


def draw_t(generator: torch.Generator) -> float:
    """A position on the curve, uniform in [0, 1), for one batch."""
    return torch.rand((), dtype=torch.float64, generator=generator).item()


def curve_forward(curve: Curve, args, images: Images) -> Forward:
    """A training step of a curve: a random point θ(t), and ½ wd ‖θ(t)‖² for weight decay.

    With an attack, images are attacked at the same θ(t) first.
    """

    def forward(x, labels, generator):
        theta = curve.point(draw_t(generator))
        if args.attack is not None:
            fixed = theta.detach()
            x = args.attack(lambda attacked: curve(attacked, fixed), x, labels, images, generator)
        return curve(x, theta), 0.5 * args.wd * theta.square().sum()

    return forward


def fit(
    run: Run,
    args,
    images: Images,
    module: nn.Module,
    forward: Forward,
    pack: Callable[[], dict[str, object]],
    unpack: Callable[[dict], None],
    validate: Callable[[], Mapping[str, float]],
    val_freq: int | None,
    schedule: Callable[[int], float],
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    after_step: Callable[[float], None] = lambda rate: None,
) -> list[Path]:
    """Train `module` with SGD until `run.epochs`, saving after every epoch; return the files that hold the result.

    Of several processes, each works on its part of every batch, and the gradients are summed: they stay alike.

    forward: images (b, 3, H, W), labels (b,) and the generator of this run's random draws → (output, penalty
        added to the loss).
    pack, unpack: the module as checkpoint entries, and back. Together with the optimizer, the generator and
        the history they are all that a resumed run needs, so it ends as one that never stopped.
    validate: figures under the test transform, taken every `val_freq` epochs. It must not disturb training.
    schedule: the learning rate of each epoch. after_step: what is done after each step, given that rate.

    The history has one entry an epoch: loss_train and accuracy_train (on augmented images, while the weights
    move), and what `validate` returns; NaN in epochs without validation.

    Raises UserError if the loss or a weight stops being a finite number; the last good epoch stays saved.
    """
    device = images.device
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        learned, schedule(0), momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay
    )
    distributed.batch_norm(module)
    generator = torch.Generator().manual_seed(args.seed)
    history: dict[str, list[float]] = {}
    first_epoch = 0

    state = distributed.from_main(lambda: run.open(args.resume, args.overwrite))
    if state is not None:
        try:
            unpack(state)
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{run.stem}-*.pt does not hold this run ({error}); use --overwrite") from error
        first_epoch = state["epoch"]
        history = {name: list(values) for name, values in state.get("history", {}).items()}
        if first_epoch < run.epochs:
            optimizer.load_state_dict(state["optimizer_state"])
            generator.set_state(state["random_states"]["draws"])
            print(f"Going on after epoch {first_epoch}.")
        else:
            print(f"This run is finished: {ckpt.kept(run.stem, run.epochs)}")

    distributed.equal_main(module)
    steps = math.ceil(len(images) / args.batch_size)
    with Progress((run.epochs - first_epoch) * steps, "step") as progress:
        for epoch in range(first_epoch, run.epochs):
            rate = schedule(epoch)
            if not rate < 1e37:  # it has to be a float32
                raise UserError(f"the learning rate of epoch {epoch + 1} would be {rate:g}; use a smaller --lr")
            for group in optimizer.param_groups:
                group["lr"] = rate
            module.train()
            # For dropout. Anew for every epoch, so that no device's random state has to be saved
            torch.manual_seed((args.seed * 1_000_003 + epoch) * distributed.size() % 2**62 + distributed.rank())
            loss_sum = torch.zeros((), device=device)
            correct = torch.zeros((), device=device, dtype=torch.int64)
            seen = 0
            for step, (x, labels) in enumerate(images.augmented(args.batch_size, generator), start=1):
                count = min(args.batch_size, len(images) - (step - 1) * args.batch_size)
                with autocast(device, args.precision):
                    output, penalty = forward(x, labels, generator)
                    loss = objective(output, labels, count) + penalty / distributed.size()
                optimizer.zero_grad()
                loss.backward()
                distributed.sum_gradients(learned)
                optimizer.step()
                after_step(rate)
                logits = main_output(output).detach()
                loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
                progress.step()
                seen += len(labels)
                if progress.is_shown and step % 20 == 0:  # reading a figure makes the host wait for the device
                    accuracy = 100 * correct.item() / max(seen, 1)
                    progress.show(epoch=epoch + 1, loss=loss_sum.item() / max(seen, 1), accuracy=accuracy)

            loss_sum, correct = distributed.sum_over_all(torch.stack([loss_sum, correct.to(loss_sum.dtype)])).tolist()
            figures = {"loss_train": loss_sum / len(images), "accuracy_train": 100 * correct / len(images)}
            if not (math.isfinite(figures["loss_train"]) and all(p.isfinite().all() for p in learned)):
                saved = f"epoch {epoch} is saved" if epoch else "nothing was saved"
                raise UserError(f"training diverged in epoch {epoch + 1} ({saved}); try a smaller --lr")
            if val_freq and ((epoch + 1) % val_freq == 0 or epoch + 1 == run.epochs):
                figures |= validate()
            _record(history, epoch, figures)
            if distributed.is_main():
                run.save(
                    epoch + 1,
                    {
                        "epoch": epoch + 1,
                        **pack(),
                        "optimizer_state": optimizer.state_dict(),
                        "random_states": {"draws": generator.get_state()},
                        "settings": dict(run.settings),
                        "history": history,
                    },
                )
            progress.line(f"epoch {epoch + 1}/{run.epochs}  " + in_words(figures))
    return distributed.from_main(lambda: run.close(history))


def fit_curve(
    run: Run,
    args,
    data: Data,
    curve: Curve,
    val_freq: int | None,
    after_step: Callable[[float], None] = lambda rate: None,
) -> list[Path]:
    """`fit` for the learned control points of a curve; returns the files that hold the result."""
    return fit(
        run,
        args,
        data.train,
        curve,
        curve_forward(curve, args, data.train),
        pack=curve.checkpoint,
        unpack=curve.load_checkpoint,
        validate=lambda: validate_curve(curve.place, args, data.train, data.test),
        val_freq=val_freq,
        schedule=schedule_of(args),
        momentum=args.momentum,
        after_step=after_step,
    )


def _record(history: dict[str, list[float]], epoch: int, figures: Mapping[str, float]) -> None:
    for name in {**history, **figures}:
        series = history.setdefault(name, [math.nan] * epoch)
        series.append(figures.get(name, math.nan))
