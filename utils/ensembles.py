"""Ensembles of the networks at several points of a path, how well they are calibrated, and the best point by itself.

The mean of the probabilities that networks along a curve give is better than those of one of them (Garipov et al.,
2018, section 5), and a curve has more of them than the two at its ends.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from . import distributed
from .batches import NO_SAMPLES, Data, as_images, call, split
from .curves import Curve
from .devices import autocast, device_of
from .errors import UserError
from .losses import Criterion, class_heads, class_labels
from .measuring import evaluate, undisturbed
from .progress import Progress, in_words


@undisturbed
@torch.no_grad()
def probabilities(
    model: nn.Module, images: Data, *, batch_size: int = 512, precision: str = "fp32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes' probabilities (n, classes), in float32 on the CPU, of images under the test transform; and labels.

    To be called by one process alone. The model stays as it is.
    """
    images = as_images(images, device_of(model))
    model.eval()
    parts, labels = [], []
    criterion = Criterion("classification", model, images)
    for batch in images.batches(batch_size):
        x, truth = split(model, batch)
        with autocast(images.device, precision):
            logits = class_heads(call(model, x), criterion)[0]
        parts.append(logits.float().softmax(1).cpu())
        labels.append(class_labels(truth, logits).cpu())
    if not parts:
        raise UserError(NO_SAMPLES)
    predicted = torch.cat(parts)
    if not bool(predicted.isfinite().all()):
        raise UserError(f"the probabilities of {type(model).__name__} are no finite numbers")
    return predicted, torch.cat(labels)


BINS = 15


def calibration_error(predicted: torch.Tensor, labels: torch.Tensor, bins: int = BINS) -> float:
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
    batch_size: int = 512,
    precision: str = "fp32",
) -> dict[str, np.ndarray]:
    """Points of a path each by itself, and the ensembles of its ends and of all: the mean of their probabilities.

    ts: the points (k,), first and last the path's ends.
    renormalize: makes the network at a point ready to be evaluated (`utils.repairing.renormalizer`).
    held_out: images, not among `test`, on which the best single point, that of the lowest loss, is chosen.

    Returns arrays (k + 3,), a row for each point and then for `best point`, `ends` and `ensemble`, as the array
    `what` says: t (NaN for an ensemble), loss_held_out, and `scores` on `test`.
    """
    network = curve.network()
    test, held_out = (as_images(images, curve.fixed.device) for images in (test, held_out))
    with Progress(len(ts), "point", "of the ensemble") as progress:

        def at(t: float) -> tuple[torch.Tensor, torch.Tensor, float]:
            model = curve.place(t, network)
            renormalize(model, t)
            loss, accuracy = evaluate(model, held_out, batch_size=batch_size, precision=precision)
            progress.step()
            progress.line(f"t = {t:.3f}  held out: {in_words({'loss': loss, 'accuracy': accuracy})}")
            predicted = probabilities(model, test, batch_size=batch_size, precision=precision)
            return *predicted, loss

        predicted, (labels, *_), losses = zip(*distributed.spread_out(at, ts), strict=True)
    best = int(np.argmin(losses))
    rows = [
        {"what": "point", "t": t, "loss_held_out": loss, **scores(one, labels)}
        for t, loss, one in zip(ts, losses, predicted, strict=True)
    ]
    rows.append(rows[best] | {"what": "best point"})
    for what, members in (("ends", (predicted[0], predicted[-1])), ("ensemble", predicted)):
        mean = sum(one.double() for one in members) / len(members)
        rows.append({"what": what, "t": np.nan, "loss_held_out": np.nan, **scores(mean, labels)})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
