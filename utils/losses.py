"""What networks put out: logits (b, classes), or several where a network has auxiliary classifiers.

Libraries give them as a tensor, a tuple that begins with the logits, a dictionary or a dataclass with `logits`.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (GoogLeNet)


def heads(output: object) -> list[torch.Tensor]:
    """The logits by which a network classifies, and then those of its auxiliary classifiers, as it gave them.

    Raises TypeError if there are none.
    """
    if isinstance(output, torch.Tensor):
        return [output]
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


def cross_entropy(output: object, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Cross-entropy of the logits (b, classes), plus that of the auxiliary classifiers if there are any.

    count: images in the batch of which these are this process' part; the parts' losses add up to the batch's mean.
    """
    main, *auxiliary = (F.cross_entropy(logits, labels, reduction="sum") / count for logits in heads(output))
    return main + AUXILIARY_WEIGHT * sum(auxiliary) if auxiliary else main
