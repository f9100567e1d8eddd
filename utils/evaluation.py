"""Loss and accuracy of networks, and of any point in parameter space, with batch-norm statistics of its own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from utils import distributed
from utils.attack import Attack
from utils.checkpoint import Results
from utils.cli import Progress
from utils.curves import Curve
from utils.data import Data, Images
from utils.errors import UserError
from utils.plane import plane_basis, plane_coordinates


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


EVALUATION_SEED = 0  # the same random draws for every point of a curve, whenever it is evaluated


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, batch_size: int, precision: str = "fp32", attack: Attack | None = None
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent under the test transform, of attacked images if there is an attack.

    Leaves the model in eval mode.
    """
    model.eval()
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    loss = torch.zeros((), device=images.device)
    correct = torch.zeros((), device=images.device, dtype=torch.int64)
    for x, labels in images.batches(batch_size):
        with autocast(images.device, precision):
            if attack is not None:
                x = attack(model, x, labels, images, generator)
            logits = model(x)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
    sums = distributed.sum_over_all(torch.stack([loss, correct.to(loss.dtype)]))
    loss, correct = sums.tolist()
    return loss / len(images), 100 * correct / len(images)


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, images: Images, batch_size: int, precision: str = "fp32", attack: Attack | None = None
) -> None:
    """Set running means and variances to their average over the augmented (and attacked) training images.

    A point on a curve has weights but no statistics of its own; without this its loss means nothing. Each
    batch counts by its size. Only the batch-norm layers run in training mode; the model is left in eval mode.
    """
    layers = use_batch_statistics(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        # The running statistics are then the last batch's alone, and not what an attack saw on its way. The average
        # is taken outside the layers: a compiled model is compiled anew for every momentum.
        layer.momentum = 1.0
    running = [statistic for layer in layers for statistic in (layer.running_mean, layer.running_var)]
    average = [torch.zeros_like(statistic) for statistic in running]
    seen = 0
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    for x, labels in images.augmented(batch_size, generator):
        count = min(batch_size, len(images) - seen)
        seen += count
        with autocast(images.device, precision):
            if attack is not None:
                x = attack(model, x, labels, images, generator)
            model(x)
        for value, statistic in zip(average, running, strict=True):
            value.lerp_(statistic, count / seen)
    for statistic, value in zip(running, average, strict=True):
        statistic.copy_(value)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def measure(
    model: nn.Module,
    args,
    for_batch_norm: Images,
    splits: Mapping[str, Images],
    attacks: Mapping[str, Attack | None],
) -> dict[str, float]:
    """Loss and accuracy of a model after re-estimating its batch-norm statistics, attacked as `args` says if it does.

    splits, attacks: on what, by the suffix that each has in the names of the figures.
    """
    reestimate_batch_norm(model, for_batch_norm, args.batch_size, args.precision, args.attack)
    figures = {}
    for split, images in splits.items():
        for kind, attack in attacks.items():
            loss, accuracy = evaluate(model, images, args.batch_size, args.precision, attack)
            figures |= {f"loss{kind}{split}": loss, f"accuracy{kind}{split}": accuracy}
    return figures


def open_results(path: Path, args, curve: Curve, *names: str) -> Results:
    """The table at `path` of what is evaluated for the control points of `curve`; refused if made otherwise.

    names: flags that matter beyond those that every evaluation has.
    """
    shared = ("transform", "batch_size", "use_test", "precision", "epochs_model", "bn_images", "attack")
    settings = {name: getattr(args, name) for name in (*shared, *names)} | {"points": curve.digests()}
    return Results(path, settings, "the same command and --overwrite", args.overwrite)


def evaluate_plane(args, data: Data, curve: Curve, grid: tuple, results: Results) -> None:
    """Add to `results` what is missing of the plane through the ends and the middle control point of a curve.

    grid: the ranges ((x0, x1), (y0, y1)) of `args.num_points` points each: x as a fraction of the way from the first
        to the last row, y as a fraction of the middle row's height above it. A row of the table is a row of the
        grid: arrays (num_points,) of coordinates x and y (Euclidean, from the first row), loss and accuracy; the
        finished table also has `corners` (3, 2), the coordinates of the first, last and middle row.

    Raises UserError if the three points lie on a line.
    """
    start, end, middle = rows = [curve.row(i) for i in (0, curve.num_bends - 1, curve.num_bends // 2)]
    u, v = plane_basis(start, end, middle)
    corners = np.stack([plane_coordinates(row, start, u, v) for row in rows])
    if not corners[2, 1] > 0:
        raise UserError("the three points lie on a straight line, which spans no plane")
    origin = start.detach().to("cpu", torch.float64)
    for_batch_norm = data.for_batch_norm(args.bn_images)
    xs, ys = (np.linspace(*ends, args.num_points) for ends in grid)
    with Progress(len(ys) * len(xs), "point", "on the plane", done=len(results) * len(xs)) as progress:
        for y in ys[len(results) :] * corners[2, 1]:

            def measure_at(x: float, y: float = y) -> dict[str, float]:
                theta = (origin + x * u + y * v).to(start.device, start.dtype)
                figures = measure(curve.place_vector(theta), args, for_batch_norm, {"": data.test}, {"": None})
                progress.step()
                return figures

            figures = distributed.shared_out(measure_at, xs * corners[1, 0])
            row = {name: np.array([figure[name] for figure in figures]) for name in figures[0]}
            results.add(x=xs * corners[1, 0], y=np.full(len(xs), y), **row)
            progress.reach(len(results) * len(xs))
            progress.line(f"row {len(results)}/{len(ys)}")
    results.finish(corners=corners)


def use_batch_statistics(model: nn.Module) -> list[nn.Module]:
    """Put a model in eval mode but for its batch-norm layers, which normalize by the batch; returns these."""
    model.eval()
    distributed.batch_norm(model)
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.train()
    return layers


VALIDATION_POINTS = (0.25, 0.5, 0.75)  # of a curve, while it is learned


def validate_curve(place: Callable[[float], nn.Module], args, train: Images, test: Images) -> dict[str, float]:
    """Test loss and accuracy at a few points, each with batch-norm statistics of its own.

    place: the base model with the weights of point t. Its buffers are left as they were.
    """

    def at(t: float) -> dict[str, float]:
        model = place(t)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        reestimate_batch_norm(model, train, args.batch_size, args.precision)
        loss, accuracy = evaluate(model, test, args.batch_size, args.precision)
        model.load_state_dict(buffers, strict=False)
        return {f"loss_test_at_{t}": loss, f"accuracy_test_at_{t}": accuracy}

    return {
        name: value for figures in distributed.shared_out(at, VALIDATION_POINTS) for name, value in figures.items()
    }


def in_words(figures: Mapping[str, float]) -> str:
    """Losses and accuracies as a user reads them in a log."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.1f} %"
        if name.startswith("accuracy")
        else f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in figures.items()
    )
