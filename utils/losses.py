"""What is learned and measured of what a network puts out for a batch: losses, and metrics beside them.

Libraries give outputs as a tensor, a tuple that begins with the logits, a dictionary or a dataclass with `logits`;
where a network has auxiliary classifiers, theirs follow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .batches import IGNORED, NO_SAMPLES, Batch, Source, split, tensors_of, token_mask
from .errors import UserError

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (GoogLeNet)
# In place of −100, which cross-entropy would leave out without a word where labels are not looked at (not on the CPU)
NO_CLASS = torch.iinfo(torch.int64).min

Metrics = dict[str, float]
TAKEN = ("loss", "t", "x", "y", "length", "coordinates", "corners")  # what else is known of a point

# The name of a built-in loss, or a function of (output, batch) that returns the losses of what counts in the batch,
# one number each, of samples (b,) or, e.g., of tokens; and besides, if it likes, {name of a metric: values (n,)}.
# What is learned, and reported, is their mean. Truth values are reported in percent.
Loss = str | Callable[[object, Batch], torch.Tensor | tuple[torch.Tensor, Mapping[str, torch.Tensor]]]


class Outcome(NamedTuple):
    """A loss on a batch.

    sums: Σ of the losses, and then of those of auxiliary classifiers, which are learned from and not reported.
    count: of how many losses they are. metrics: values (n,) by name.
    """

    sums: list[torch.Tensor]
    count: int
    metrics: Mapping[str, torch.Tensor]

    def objective(self, count: int) -> torch.Tensor:
        """What learning makes small. count: of the whole batch's losses, of which these are this process' part."""
        main, *auxiliary = (total / count for total in self.sums)
        return main + AUXILIARY_WEIGHT * sum(auxiliary) if auxiliary else main


class Criterion:
    """A loss, as it is taken of what a network puts out for batches of a set of samples.

    Raises UserError if there is no such loss, and, when called, if outputs or targets are none of its kind.
    """

    def __init__(self, loss: Loss, network: nn.Module, images: Source):
        if isinstance(loss, str) and loss not in BUILT_IN:
            raise UserError(f"the losses are {', '.join(BUILT_IN)}, or a function of (output, batch), not {loss!r}")
        self.loss, self.network, self.images = loss, network, images

    def __call__(self, output: object, batch: Batch) -> Outcome:
        if isinstance(self.loss, str):
            return BUILT_IN[self.loss](output, split(self.network, batch)[1], batch, self)
        result = self.loss(output, batch)
        losses, metrics = result if isinstance(result, tuple) else (result, {})
        if not isinstance(metrics, Mapping) or not all(isinstance(one, torch.Tensor) for one in metrics.values()):
            raise UserError("the metrics of a loss are a dictionary of tensors (n,)")
        if not isinstance(losses, torch.Tensor) or losses.dim() == 0:
            raise UserError("a loss gives a number for each sample, as with reduction='none', and not their mean")
        if odd := [name for name in metrics if not name.isidentifier() or name in TAKEN]:
            raise UserError(f"a metric cannot be called {odd[0]!r}: a word is wanted, none of {', '.join(TAKEN)}")
        mask = token_mask(batch)
        if mask is not None and losses.dim() == 2 and len(losses) == len(mask):
            kept = mask[:, mask.shape[1] - losses.shape[1] :]  # of next tokens, there are fewer
            losses = losses[kept] if kept.shape == losses.shape else losses
        return _outcome(losses, metrics)

    def classified(self, output: object, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What counts in a batch: logits (n, classes) and labels (n,), of images or, e.g., of tokens.

        Raises UserError unless the loss is one of `CLASSES`.
        """
        if not isinstance(self.loss, str) or self.loss not in CLASSES:
            raise UserError(f"probabilities are those of {', '.join(CLASSES)}, and not of {self.loss}")
        return CLASSES[self.loss](output, split(self.network, batch)[1], batch, self)

    @cached_property
    def classes(self) -> int:
        """The number of classes among the targets of all samples."""
        targets = (split(self.network, batch)[1] for batch in self.images.batches(512))
        return 1 + max(int(target.max()) for target in targets)

    @cached_property
    def is_shifted(self) -> bool:
        """Whether the labels of tokens are the tokens themselves, each to be predicted where the one before it is."""
        batch = self.images.first(512)
        labels = split(self.network, batch)[1]
        if labels is None:
            return True
        return bool(((labels == tokens_of(batch)) | (labels == IGNORED)).all())


def _outcome(losses: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> Outcome:
    return Outcome([losses.sum()], losses.numel(), metrics)


class Tally:
    """The mean losses and metrics of many batches."""

    def __init__(self, device: torch.device):
        self.count, self.total = 0, torch.zeros((), device=device)
        self.metrics: dict[str, tuple[torch.Tensor, int, bool]] = {}

    def add(self, outcome: Outcome) -> None:
        self.count += outcome.count
        self.total += outcome.sums[0].detach()
        for name, values in outcome.metrics.items():
            total, count, _ = self.metrics.get(name, (0, 0, False))
            self.metrics[name] = total + values.sum(), count + values.numel(), values.dtype == torch.bool

    def means(self, images: Source | None = None) -> Metrics:
        """`loss`, and the metrics by their names: of this process' part, or of all processes that share the images.

        Raises UserError if there was nothing that counts.
        """
        counts = [self.count, *(count for _, count, _ in self.metrics.values())]
        sums = torch.stack([self.total, *(total.to(self.total.dtype) for total, _, _ in self.metrics.values())])
        if images is not None:
            counts, sums = list(map(images.whole, counts)), images.total(sums)
            if not counts[0]:
                raise UserError(NO_SAMPLES)
        scales = [1, *(100 if is_share else 1 for _, _, is_share in self.metrics.values())]
        means = zip(("loss", *self.metrics), scales, sums.tolist(), counts, strict=True)
        return {name: scale * total / max(count, 1) for name, scale, total, count in means}


# --- outputs -----------------------------------------------------------------------------------------------


def heads(output: object) -> list[torch.Tensor]:
    """The logits by which a network classifies, and then those of its auxiliary classifiers, as it gave them.

    Raises TypeError if there are none.
    """
    if isinstance(output, torch.Tensor):
        return [output]
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = vars(output)
    if isinstance(output, Mapping):
        names = [name for name in ("logits", "out") if name in output]
        output = [output[names[0]]] if names else list(output.values())
    elif not isinstance(output, (tuple, list)):
        output = [getattr(output, "logits", None)]
    found = [logits for logits in output if isinstance(logits, torch.Tensor)]
    if not found:
        raise TypeError("the network puts out no logits: neither a tensor, nor a tuple or dictionary of tensors")
    return found


def main_output(output: object) -> torch.Tensor:
    """The logits (b, classes) by which a network classifies."""
    return heads(output)[0]


def _only(output: object, fits: Callable[[torch.Tensor], bool], wanted: str) -> torch.Tensor:
    """The one of a network's outputs that fits the targets. Raises UserError if none does, or several do."""
    found = [tensor for tensor in heads(output) if fits(tensor)]
    if len(found) != 1:
        raise UserError(f"the network puts out {_shapes(heads(output))}, where {wanted} is wanted")
    return found[0]


def _shapes(tensors: list[torch.Tensor]) -> str:
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)


def _tensor(target: object, task: str, kind: str) -> torch.Tensor:
    if not isinstance(target, torch.Tensor):
        raise UserError(f"targets of {task} are {kind} in a tensor, and not {type(target).__name__}")
    return target


# --- classification ----------------------------------------------------------------------------------------


def classification(
    output: object, target: object, batch: Batch | None = None, criterion: Criterion | None = None
) -> Outcome:
    """Cross-entropy of logits (b, classes) for labels (b,), and of auxiliary classifiers; accuracy in percent."""
    logits = class_heads(output, criterion)
    labels = class_labels(target, logits[0])
    exact = [one if one.dtype.itemsize > 2 else one.float() for one in logits]
    sums = [F.cross_entropy(one, labels, reduction="sum", ignore_index=NO_CLASS) for one in exact]
    return Outcome(sums, len(labels), {"accuracy": logits[0].detach().argmax(1) == labels})


def _of_samples(
    output: object, target: object, batch: Batch, criterion: Criterion
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = class_heads(output, criterion)[0]
    return logits, class_labels(target, logits)


def class_heads(output: object, criterion: Criterion | None = None) -> list[torch.Tensor]:
    """`heads`; where these are of several widths, e.g. features and logits, those with a column for each class.

    Raises UserError if there are none, or the classes are not known.
    """
    found = heads(output)
    if len({tensor.shape[1:] for tensor in found}) == 1:
        return found
    classes = None if criterion is None else criterion.classes
    chosen = [tensor for tensor in found if tensor.shape[1:] == (classes,)]
    if not chosen:
        raise UserError(f"the network puts out {_shapes(found)}, of which none has a column for each class")
    return chosen


def class_labels(target: object, logits: torch.Tensor) -> torch.Tensor:
    """Labels, int64 (b,), for logits (b, classes). Raises UserError if the targets are none, or the logits."""
    target = _tensor(target, "classification", "classes")
    labels = target.squeeze(1) if target.dim() == 2 and target.shape[1] == 1 else target
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        kind = f"{target.dtype} {tuple(target.shape)}"
        raise UserError(f"targets of classification are whole numbers (b,), and not {kind}; give another loss")
    if len(labels) != len(logits):
        raise UserError(f"there are {len(labels)} targets for {len(logits)} outputs")
    labels = labels.long()
    if labels.device.type == "cpu" and len(labels):  # elsewhere cross-entropy itself looks, and nobody waits
        low, high = (int(end) for end in labels.aminmax())
        if low < 0:
            raise UserError(f"the target {low} is no class; classes are numbered from 0")
        if logits.dim() != 2 or logits.shape[1] <= high:
            shape, wanted = tuple(logits.shape[1:]), f"a logit for each of {high + 1} classes"
            raise UserError(f"the network puts out {shape} for an image, where {wanted} is wanted")
    if logits.dim() != 2:
        raise UserError(f"the network puts out {tuple(logits.shape)}, where logits (b, classes) are wanted")
    return labels


# --- other tasks -------------------------------------------------------------------------------------------


def regression(output: object, target: object, batch: Batch, criterion: Criterion) -> Outcome:
    """The mean squared error of each sample's numbers, for targets of the output's shape; the mean absolute error."""
    target = _tensor(target, "regression", "numbers")
    shape = _squeezed(target)
    found = _only(output, lambda tensor: _squeezed(tensor) == shape, f"one output of shape {tuple(target.shape)}")
    error = (found.flatten() - target.flatten()).view(len(target), -1)
    return _outcome(error.square().mean(1), {"absolute_error": error.detach().abs().mean(1)})


def _squeezed(tensor: torch.Tensor) -> tuple[int, ...]:
    """A shape, of which (b,) and (b, 1) are one."""
    return tuple(tensor.shape[:1]) + tuple(size for size in tensor.shape[1:] if size != 1)


def multilabel(output: object, target: object, batch: Batch, criterion: Criterion) -> Outcome:
    """Binary cross-entropy of logits (b, labels) for each label, 0 or 1, that is not IGNORED; accuracy in percent."""
    target = _tensor(target, "multilabel", "0 or 1")
    logits = _only(output, lambda tensor: tensor.shape == target.shape, f"one output of shape {tuple(target.shape)}")
    counted = target != IGNORED
    logits, target = logits[counted], target[counted].to(logits.dtype)
    if bool(((target < 0) | (target > 1)).any()):
        raise UserError(f"targets of multilabel are 0 or 1, and not {target.min():g} to {target.max():g}")
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _outcome(losses, {"accuracy": (logits.detach() > 0) == (target > 0.5)})


def language(output: object, target: object, batch: Batch, criterion: Criterion) -> Outcome:
    """Cross-entropy of logits (b, T, tokens) for each token (b, T) that counts, in nats; accuracy in percent.

    Labels that are the network's own tokens, or none, are each predicted where the token before it is; others (the
    next tokens, or masked ones) where they are. Padding and labels IGNORED count nowhere.
    """
    return _each_class(*_of_tokens(output, target, batch, criterion))


def _of_tokens(
    output: object, target: object, batch: Batch, criterion: Criterion
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = _tensor(tokens_of(batch) if target is None else target, "language", "tokens")
    shape = tuple(labels.shape)
    logits = _only(
        output, lambda tensor: tensor.dim() == 3 and tensor.shape[:2] == shape, f"one output {shape} × tokens"
    )
    mask = token_mask(batch)
    if mask is not None and mask.shape == labels.shape:
        labels = labels.masked_fill(~mask, IGNORED)
    if criterion.is_shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return _counted(logits.movedim(2, 1), labels)


def segmentation(output: object, target: object, batch: Batch, criterion: Criterion) -> Outcome:
    """Cross-entropy of logits (b, classes, H, W) for each pixel (b, H, W) that is not IGNORED; accuracy in percent.

    255, if it is no class, counts nowhere either.
    """
    return _each_class(*_of_pixels(output, target, batch, criterion))


def _of_pixels(
    output: object, target: object, batch: Batch, criterion: Criterion
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = _tensor(target, "segmentation", "classes")
    labels = labels.squeeze(1) if labels.dim() > 3 else labels
    shape = tuple(labels.shape)
    fits = f"one output {shape[:1]} × classes × {shape[1:]}"
    logits = _only(output, lambda tensor: (tensor.shape[0], *tensor.shape[2:]) == shape and tensor.dim() > 2, fits)
    if logits.shape[1] <= 255:
        labels = labels.masked_fill(labels == 255, IGNORED)
    return _counted(logits, labels)


def _counted(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of logits (b, classes, …) and labels (b, …) those at the positions that count: (n, classes) and (n,)."""
    if labels.is_floating_point() or labels.is_complex():
        raise UserError(f"targets are whole numbers, and not {labels.dtype}")
    counted = labels != IGNORED
    logits, labels = logits.movedim(1, -1)[counted], labels[counted].long()
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UserError(f"targets are {labels.min()} to {labels.max()}, and outputs for {logits.shape[1]} classes")
    return logits, labels


def _each_class(logits: torch.Tensor, labels: torch.Tensor) -> Outcome:
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return _outcome(losses, {"accuracy": logits.detach().argmax(1) == labels})


def tokens_of(batch: Batch) -> torch.Tensor | None:
    """The tokens (b, T) that a batch begins with, or calls input_ids."""
    if isinstance(batch, Mapping) and "input_ids" in batch:
        return batch["input_ids"]
    return next(
        (tensor for tensor in tensors_of(batch) if tensor.dim() == 2 and not tensor.is_floating_point()), None
    )


BUILT_IN = {
    "classification": classification,
    "regression": regression,
    "language": language,
    "segmentation": segmentation,
    "multilabel": multilabel,
}
CLASSES = {"classification": _of_samples, "language": _of_tokens, "segmentation": _of_pixels}
