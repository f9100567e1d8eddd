"""Loss and accuracy of networks, of points of curves with batch-norm statistics of their own, and of ensembles."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from . import distributed
from .attack import Attack
from .batches import NO_SAMPLES, Batch, Data, Source, as_images, call, rows, split, taken
from .curves import Curve, batch_norm_layers, modes_kept
from .devices import autocast, device_of, random_state_kept
from .errors import UserError
from .geometry import POINT_ROUNDING, Path, drawing_on, plane_basis, plane_coordinates
from .losses import Criterion, Loss, Metrics, Tally
from .progress import Progress, in_words

EVALUATION_SEED = 0  # the same random draws for every point of a curve, whenever it is evaluated

Parameters, Result = ParamSpec("Parameters"), TypeVar("Result")


def evaluate(
    model: nn.Module,
    images: Data,
    *,
    loss: Loss = "classification",
    batch_size: int = 512,
    precision: str = "fp32",
    attack: Attack | None = None,
) -> tuple[float, ...]:
    """The mean loss of a network and its metrics, by default (cross-entropy, accuracy in percent), in eval mode.

    images: tensors (x, labels), a Dataset, a DataLoader, or any batches that can be read again. loss: classification,
    regression, language, segmentation, multilabel, or a function of (output, batch) that returns the losses (n,).
    precision: fp32 or bf16. attack: changes the images first. UserError if the loss is no finite number.
    """
    means = evaluate_all(model, images, loss, batch_size=batch_size, precision=precision, attack=attack)
    return tuple(means.values())


def undisturbed(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function after which, however it ends, the network that is its first argument is in the modes that it was in.

    So are torch's global generators of random numbers.
    """

    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **named: Parameters.kwargs) -> Result:
        network = args[0] if args else named[first]
        with modes_kept(network), random_state_kept(device_of(network)):
            return function(*args, **named)

    return wrapped


@undisturbed
@torch.no_grad()
def evaluate_all(
    model: nn.Module,
    images: Data,
    loss: Loss = "classification",
    *,
    batch_size: int = 512,
    precision: str = "fp32",
    attack: Attack | None = None,
) -> Metrics:
    """`loss`, and the metrics that come with it, under the test transform; of attacked images with an attack.

    images: any data (`utils.batches.as_images`). loss: a built-in one or a function (`utils.losses.Loss`); by default
    the metric is accuracy in percent. The model, which runs in eval mode, stays as it is.

    Raises UserError if there are no images, outputs or targets are none of this loss, or it is no finite number.
    """
    images = as_images(images, device_of(model))
    criterion, tally = Criterion(loss, model, images), Tally(images.device)
    for output, batch in outputs(model, images, batch_size=batch_size, precision=precision, attack=attack):
        tally.add(criterion(output, batch))
    means = tally.means(images)
    if not np.isfinite(means["loss"]):
        raise UserError(f"the loss of {type(model).__name__} is no finite number, but {means['loss']}")
    return means


def outputs(
    model: nn.Module, images: Source, *, batch_size: int, precision: str, attack: Attack | None = None
) -> Iterator[tuple[object, Batch]]:
    """What a network puts out in eval mode for each batch under the test transform, attacked if so; and the batch."""
    model.eval()
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    for batch in images.batches(batch_size):
        x, target = split(model, batch)
        with autocast(images.device, precision):
            if attack is not None:
                x = attack(model, x, target, images, generator)
            output = call(model, x)
        yield output, batch


# --- batch-norm statistics ---------------------------------------------------------------------------------


@undisturbed
@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, images: Data, *, batch_size: int = 512, precision: str = "fp32", attack: Attack | None = None
) -> None:
    """Set running means and variances to their average over the augmented (and attacked) training images.

    images: tensors (x, labels), a Dataset, a DataLoader, or any batches that can be read again.

    A point on a curve has weights but no statistics of its own; without this its loss means nothing. Each batch
    counts by its size, and each run of a layer that runs several times equally. Only the batch-norm layers run in
    training mode, and what they stand in if some run then alone, as in GoogLeNet's auxiliary classifiers. All else of
    the model stays as it is; after an error its statistics too.
    """
    images = as_images(images, device_of(model))
    if not (layers := batch_norm_layers(model)):
        return
    images.join(model)
    use_batch_statistics(model)
    running = [statistic for layer in layers for statistic in (layer.running_mean, layer.running_var)]
    average, seen = [torch.zeros_like(statistic) for statistic in running], 0
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    with _put_back(layers):
        for layer in layers:
            layer.reset_running_stats()
            # The running statistics are then the last batch's alone, and not what an attack saw on its way. The
            # average is taken outside the layers: a compiled model is compiled anew for every momentum.
            layer.momentum = 1.0
        for batch in images.augmented(batch_size, generator):
            x, target = split(model, batch)
            if not seen:
                repeated = _prepare(model, layers, split(model, taken(batch, slice(2)))[0])
            count = images.whole(rows(batch))
            seen += count
            with autocast(images.device, precision):
                if attack is not None:
                    x = attack(model, x, target, images, generator)
                for layer in repeated:
                    layer.num_batches_tracked.zero_()
                call(model, x)
            torch._foreach_lerp_(average, running, count / seen)
        if not seen:
            raise UserError(NO_SAMPLES)
        if not bool(torch.stack([value.isfinite().all() for value in average]).all()):
            raise UserError(f"the batch-norm statistics of {type(model).__name__} are no finite numbers")
        for statistic, value in zip(running, average, strict=True):
            statistic.copy_(value)


@contextlib.contextmanager
def _put_back(layers: Sequence[nn.Module]) -> Iterator[None]:
    """After this block the momentum of layers is what it was; after an error so are their statistics."""
    before = [(layer.momentum, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]
    try:
        yield
    except BaseException:
        for layer, (_, statistics) in zip(layers, before, strict=True):
            layer.load_state_dict(statistics, strict=False)
        raise
    finally:
        for layer, (momentum, _) in zip(layers, before, strict=True):
            layer.momentum = momentum


def _prepare(model: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor) -> list[nn.Module]:
    """See on a few images which layers run, and let those that need it be reached; returns those that run repeatedly.

    These are to average over their runs since they last counted from 0.
    """

    def count_runs() -> dict[nn.Module, int]:
        runs = dict.fromkeys(layers, 0)
        with watched(model, layers, lambda layer, _: runs.update({layer: runs[layer] + 1})):
            for layer in layers:
                layer.training = False  # their statistics stay
            call(model.forward, x)
        return runs

    runs = count_runs()
    if 0 in runs.values():
        torch.manual_seed(EVALUATION_SEED)  # of what is random in that mode
        for module in model.modules():
            if set(layers).intersection(module.modules()):
                module.training = True
        if count_runs() == runs:  # nor do they then
            use_batch_statistics(model)
    repeated = [layer for layer, count in runs.items() if count > 1]
    for layer in repeated:
        layer.momentum = None
    return repeated


@contextlib.contextmanager
def watched(
    model: nn.Module, layers: Iterable[nn.Module], see: Callable[[nn.Module, object], None]
) -> Iterator[None]:
    """In this block `see` is called with each of these layers that runs, and its output; modes are kept.

    Run the model by `forward`: called itself, a compiled one would be compiled anew.
    """
    hooks = [layer.register_forward_hook(lambda layer, _, output: see(layer, output)) for layer in layers]
    try:
        with modes_kept(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def use_batch_statistics(model: nn.Module) -> None:
    """Put a model in eval mode but for its layers with running statistics, which use the batch's."""
    model.eval()
    for layer in batch_norm_layers(model):
        layer.train()


def measure(
    model: nn.Module,
    splits: Mapping[str, Source],
    *,
    for_batch_norm: Source | None = None,
    batch_size: int,
    precision: str,
    attack: Attack | None = None,
    way: str = "",
    loss: Loss = "classification",
) -> Metrics:
    """Loss and accuracy of a model, after re-estimating its batch-norm statistics if there is something to do it on.

    splits: on what, by the suffix that each has in the names of the metrics; `way` stands before it. With an attack,
    batch norm is re-estimated on attacked images, and clean metrics are followed by those with the suffix _robust.
    """
    if for_batch_norm is not None:
        reestimate_batch_norm(model, for_batch_norm, batch_size=batch_size, precision=precision, attack=attack)
    metrics = {}
    for suffix, images in splits.items():
        for kind, met in {"": None, "_robust": attack}.items() if attack else [("", None)]:
            means = evaluate_all(model, images, loss, batch_size=batch_size, precision=precision, attack=met)
            metrics |= {f"{name}{kind}{way}{suffix}": value for name, value in means.items()}
    return metrics


# --- along curves and on planes ----------------------------------------------------------------------------


def evaluate_path(
    curve: Curve,
    ts: np.ndarray,
    measure: Callable[[nn.Module, float], Metrics],
    *,
    done: int = 0,
    length: float = 0.0,
) -> Iterator[dict[str, float | np.ndarray]]:
    """What there is to know of each point t of a curve, in order: a row a point, from number `done` on.

    measure: metrics of the network at θ(t), given the network and t.

    A row has t, the metrics, coordinates (2,) in the plane through the ends and the middle control point, and the
    length of the path up to there, which was `length` at the last point that is done.
    """
    start, end = curve.vector(0), curve.vector(curve.num_bends - 1)
    u, v = plane_basis(start, end, curve.vector(curve.num_bends // 2))
    network = curve.network()
    with Progress(len(ts), "point", "along the curve", done=done) as progress:
        points = range(done, len(ts))
        measured = distributed.spread_out(lambda i: measure(curve.place(ts[i], network), ts[i]), points)
        for i, metrics in zip(points, measured, strict=True):
            theta = curve.point(ts[i]).detach()
            step = (theta - curve.point(ts[max(i - 1, 0)])).norm().item()
            # Where all points are one, as between a network and its own copy, rounding is no way to go.
            length = (step if step > POINT_ROUNDING * theta.norm().item() else 0.0) + (length if i else 0.0)
            yield {"t": ts[i], "coordinates": plane_coordinates(theta, start, u, v), "length": length, **metrics}
            progress.step()
            progress.show(**metrics)
            progress.line(f"t = {ts[i]:.3f}  {in_words(metrics)}")


def evaluate_curve(
    curve: Curve,
    train: Data,
    test: Data,
    ts: Sequence[float] | None = None,
    *,
    points: int = 9,
    loss: Loss = "classification",
    batch_size: int = 512,
    precision: str = "fp32",
) -> Path:
    """Loss and accuracy (%) on `test` at points of a curve, with batch norm re-estimated on `train` at each of them.

    ts: where, each in [0, 1] (n,); without them, at so many equally spaced `points`, both ends among them.
    train, test: tensors (x, labels), a Dataset, a DataLoader, or any batches that can be read again.
    loss: classification, regression, language, segmentation, multilabel, or a function of (output, batch) that gives
        the losses (n,) and, if it likes, a dictionary of metrics, which stand in accuracy's place.

    Returns a `Path`: arrays t, loss, accuracy, length (of the path up to there), each (n,), and coordinates (n, 2).
    Raises TypeError if this is no curve, ValueError if there are no such points or data.
    """
    train, test = (as_images(images, curve.fixed.device) for images in (train, test))

    def measured(model: nn.Module, _: float) -> Metrics:
        return measure(model, {"": test}, for_batch_norm=train, batch_size=batch_size, precision=precision, loss=loss)

    found = list(evaluate_path(curve, _in_order(np.linspace(0, 1, points) if ts is None else ts), measured))
    return Path({name: np.array([row[name] for row in found]) for name in found[0]})


def _in_order(ts: Sequence[float]) -> np.ndarray:
    ts = np.atleast_1d(np.asarray(ts, np.float64))
    if ts.ndim > 1 or not len(ts) or not ((ts >= 0) & (ts <= 1)).all() or (np.diff(ts) < 0).any():
        raise ValueError(f"points t are in order in [0, 1], at least one, and not {ts}")
    return ts


def plane_of(curve: Curve) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """The plane through a curve's ends and its middle control point.

    Returns the coordinates (3, 2) of the first, last and middle control point in it, and its orthonormal basis, two
    vectors (P,). Raises UserError if the three points lie on a line, or two of them on one spot.
    """
    start, end, middle = rows = [curve.vector(i) for i in (0, curve.num_bends - 1, curve.num_bends // 2)]
    u, v = plane_basis(start, end, middle)
    corners = np.stack([plane_coordinates(row, start, u, v) for row in rows])
    if not u.any():
        raise UserError("the networks A and B have the same weights: no plane goes through them and a third point")
    if not v.any():
        raise UserError("the three points lie on a straight line, which spans no plane")
    return corners, u, v


def midpoint_height(curve: Curve) -> float:
    """How high above the line through its ends a curve is at t = ½, in its plane (`plane_of`).

    Of a Bézier curve of three points that is half the height of the turning point. Raises UserError if the curve is
    not on the side of its middle control point there, which only a curve of more than three points can be.
    """
    _, u, v = plane_of(curve)
    _, height = plane_coordinates(curve.point(0.5), curve.vector(0), u, v)
    if not height > 0:
        raise UserError(
            "at t = 1/2 the curve does not rise from the line through A and B to its middle control point"
        )
    return height


def evaluate_plane(
    curve: Curve,
    grid: tuple[tuple[float, float], tuple[float, float]],
    num_points: int,
    measure: Callable[[nn.Module, float, float], Metrics],
    *,
    height: float | None = None,
    done: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """What there is to know of the plane through a curve's ends and middle control point, a row of a grid at a time.

    grid: the ranges ((x0, x1), (y0, y1)) of `num_points` points each: x as a fraction of the way from the first to
        the last control point, y as a fraction of `height` above it (None: the middle control point's).
    measure: metrics of the network at a point, given it and the fractions x and y.
    done: how many rows of the grid are left out.

    A row has arrays (num_points,): coordinates x and y (Euclidean, from the first control point), and the metrics.
    Raises UserError if the three points lie on a line.
    """
    corners, u, v = plane_of(curve)
    start, network = curve.vector(0), curve.network()
    origin = start.detach().cpu().double()
    height = corners[2, 1] if height is None else height
    xs, ys = (np.linspace(*ends, num_points) for ends in grid)
    with Progress(num_points**2, "point", "on the plane", done=done * num_points) as progress:
        for number, y in enumerate(ys[done:], start=done + 1):

            def measure_at(x: float, y: float = y) -> Metrics:
                theta = origin + x * corners[1, 0] * u + y * height * v
                metrics = measure(curve.place_vector(theta.to(start.dtype).to(start.device), network), x, y)
                progress.step()
                return metrics

            measured = list(distributed.spread_out(measure_at, xs))
            row = {name: np.array([metrics[name] for metrics in measured]) for name in measured[0]}
            yield {"x": xs * corners[1, 0], "y": np.full(len(xs), y * height), **row}
            progress.reach(number * num_points)
            progress.line(f"row {number}/{num_points}")


def plot_plane(
    curve: Curve,
    train: Data,
    test: Data,
    quantity: str = "loss",
    *,
    points: int = 9,
    loss: Loss = "classification",
    axes: object = None,
) -> object:
    """Draw a curve on the plane through its ends A and B and its middle control point; matplotlib's axes.

    Filled contours show the loss on `test` at points × points networks, each with batch norm re-estimated on `train`
    (tensors (x, labels), a Dataset, a DataLoader). Axes are in units of parameter space (Euclidean), their origin A.

    quantity: loss, accuracy, or a metric of `loss`. axes: where to draw, or None for new ones, which a matplotlibrc
    does not change; they are returned.
    ValueError for a straight line, which spans no plane.
    """
    if points < 2:
        raise ValueError("a plane is drawn with at least 2 × 2 points")
    corners, u, v = plane_of(curve)
    train, test = (as_images(images, curve.fixed.device) for images in (train, test))

    def measured(model: nn.Module, *_: float) -> Metrics:
        return measure(model, {"": test}, for_batch_norm=train, batch_size=512, precision="fp32", loss=loss)

    rows = []
    with drawing_on(axes) as axes:
        for row in evaluate_plane(curve, ((-0.2, 1.2), (-0.2, 1.2)), points, measured):
            if quantity not in row:
                raise ValueError(f"there is no {quantity!r} on this plane, but {', '.join(row)}")
            rows.append(row)
        drawn = axes.contourf(*(np.stack([row[name] for row in rows]) for name in ("x", "y", quantity)), levels=20)
        axes.figure.colorbar(drawn, ax=axes, label=quantity)
        path = [plane_coordinates(curve.point(t), curve.vector(0), u, v) for t in np.linspace(0, 1, 33)]
        axes.plot(*np.transpose(path), color="white")
        axes.plot(*corners[:2].T, "o", color="white")
        for name, place in zip("AB", corners, strict=False):
            axes.annotate(name, place, color="white", xytext=(4, 4), textcoords="offset points")
    return axes


# --- ensembles ---------------------------------------------------------------------------------------------

# The mean of the probabilities that networks along a curve give is better than those of one of them (Garipov et al.,
# 2018, section 5), and a curve has more of them than the two at its ends.


@undisturbed
@torch.no_grad()
def probabilities(
    model: nn.Module,
    images: Data,
    *,
    loss: str = "classification",
    batch_size: int = 512,
    precision: str = "fp32",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes' probabilities (n, classes), in float32 on the CPU, of images under the test transform; and labels.

    loss: classification, language (then n are the tokens that count) or segmentation (pixels).
    To be called by one process alone. The model stays as it is.
    """
    images = as_images(images, device_of(model))
    parts, labels = [], []
    criterion = Criterion(loss, model, images)
    for output, batch in outputs(model, images, batch_size=batch_size, precision=precision):
        logits, of_batch = criterion.classified(output, batch)
        parts.append(logits.float().softmax(1).cpu())
        labels.append(of_batch.cpu())
    if not parts:
        raise UserError(NO_SAMPLES)
    predicted = torch.cat(parts)
    if not bool(predicted.isfinite().all()):
        raise UserError(f"the probabilities of {type(model).__name__} are no finite numbers")
    return predicted, torch.cat(labels)


def calibration_error(predicted: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """The expected calibration error in percent, Σ_b n_b/n · |accuracy_b − confidence_b| (Guo et al., 2017, eq. 3).

    predicted: probabilities (n, classes), put into bins of equal width by the greatest of each. labels (n,).
    """
    confidence, guess = predicted.double().max(1)
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins (0, 1/m], (1/m, 2/m], …
    excess = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, (guess == labels).double() - confidence)
    return 100 * excess.abs().sum().item() / len(labels)


def scores(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Of probabilities (n, classes): the mean negative log-likelihood, accuracy and calibration error (both in %)."""
    likelihood = predicted.double().gather(1, labels[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
    return {
        "loss": -likelihood.log().mean().item(),
        "accuracy": 100 * (predicted.argmax(1) == labels).double().mean().item(),
        "calibration_error": calibration_error(predicted, labels),
    }


def evaluate_ensemble(
    curve: Curve,
    ts: Sequence[float],
    renormalize: Callable[[nn.Module, float], None],
    test: Data,
    held_out: Data,
    *,
    loss: str = "classification",
    batch_size: int = 512,
    precision: str = "fp32",
) -> dict[str, np.ndarray]:
    """Points of a path each by itself, and the ensembles of its ends and of all: the mean of their probabilities.

    ts: the points (k,), first and last the path's ends.
    renormalize: makes the network at a point ready to be evaluated (`utils.repairing.renormalizer`).
    held_out: images, not among `test`, on which the best single point, that of the lowest loss, is chosen.
    loss: classification, language or segmentation. The probabilities of every image, token or pixel are in memory.

    Returns arrays (k + 3,), a row for each point and then for `best point`, `ends` and `ensemble`, as the array
    `what` says: t (NaN for an ensemble), loss_held_out, and `scores` on `test`.
    """
    network, ts = curve.network(), _in_order(ts)
    test, held_out = (as_images(images, curve.fixed.device) for images in (test, held_out))
    with Progress(len(ts), "point", "of the ensemble") as progress:

        def at(t: float) -> tuple[torch.Tensor, torch.Tensor, float]:
            model = curve.place(t, network)
            renormalize(model, t)
            metrics = evaluate_all(model, held_out, loss, batch_size=batch_size, precision=precision)
            progress.step()
            progress.line(f"t = {t:.3f}  held out: {in_words(metrics)}")
            predicted = probabilities(model, test, loss=loss, batch_size=batch_size, precision=precision)
            return *predicted, metrics["loss"]

        predicted, (labels, *_), losses = zip(*distributed.spread_out(at, ts), strict=True)
    best = int(np.argmin(losses))
    rows = [
        {"what": "point", "t": t, "loss_held_out": held_out_loss, **scores(one, labels)}
        for t, held_out_loss, one in zip(ts, losses, predicted, strict=True)
    ]
    rows.append(rows[best] | {"what": "best point"})
    for what, members in (("ends", (predicted[0], predicted[-1])), ("ensemble", predicted)):
        mean = sum(one.double() for one in members) / len(members)
        rows.append({"what": what, "t": np.nan, "loss_held_out": np.nan, **scores(mean, labels)})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
