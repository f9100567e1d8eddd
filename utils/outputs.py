"""What networks put out: logits (b, classes), or a tuple of them where a network has auxiliary classifiers."""

import torch
from torch.nn import functional as F

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (GoogLeNet)


def main_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The logits (b, classes) by which a network classifies: the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def cross_entropy(output: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor, count: int) -> torch.Tensor:
    """Cross-entropy of the logits (b, classes), plus that of the auxiliary classifiers if there are any.

    count: images in the batch of which these are this process' part; the parts' losses add up to the batch's mean.
    """
    if not isinstance(output, tuple):
        return F.cross_entropy(output, labels, reduction="sum") / count
    main, *auxiliary = (F.cross_entropy(logits, labels, reduction="sum") / count for logits in output)
    return main + AUXILIARY_WEIGHT * sum(auxiliary)
