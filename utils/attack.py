"""Projected gradient descent (Madry et al., 2018) within an L∞ ball around images, in pixel space."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .batches import Source
from .devices import send
from .losses import cross_entropy


class Attack(NamedTuple):
    """epsilon: radius of the ball; step: length of a step, both in units of pixels in [0, 1]; steps: their number."""

    epsilon: float
    step: float
    steps: int

    def __call__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor | tuple[torch.Tensor, ...]],
        x: torch.Tensor,
        labels: torch.Tensor,
        images: Source,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Images near x (b, 3, H, W) that raise the network's loss, normalized as x is.

        The network runs in the mode it is in, and its parameters get no gradients. The loss is the one that it is
        trained on: cross-entropy, with that of auxiliary classifiers as far as they give logits in this mode.
        Begins at a random point of the ball, drawn for all processes' parts of the batch; no pixel leaves [0, 1].
        `images` tells how x is normalized; `generator` is a CPU generator.
        """
        if self.epsilon == 0:
            return x
        pixels = images.to_pixels(x)
        count = len(x) if images.share is None else images.share.whole(len(x))
        noise = torch.empty(count, *x.shape[1:]).uniform_(-self.epsilon, self.epsilon, generator=generator)
        noise = noise if images.share is None else noise[images.share.part(count)]
        attacked = (pixels + send(noise, x.device)).clamp(0, 1)
        for _ in range(self.steps):
            attacked.requires_grad_()
            with torch.enable_grad():
                output = network(images.normalize(attacked))
                (gradient,) = torch.autograd.grad(cross_entropy(output, labels, 1), attacked)
            with torch.no_grad():
                attacked = attacked + self.step * gradient.sign()
                attacked = torch.minimum(torch.maximum(attacked, pixels - self.epsilon), pixels + self.epsilon)
                attacked = attacked.clamp(0, 1)
        return images.normalize(attacked).detach()
