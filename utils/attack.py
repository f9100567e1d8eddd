"""Projected gradient descent (Madry et al., 2018) within an L∞ ball around images, in pixel space."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .batches import Images, Source
from .devices import send
from .errors import UserError
from .losses import classification

PIXEL_ROUNDING = 1e-4  # of pixels that were normalized


class Attack(NamedTuple):
    """epsilon: radius of the ball; step: length of a step, both in units of pixels in [0, 1]; steps: their number.

    mean, std: of each channel, by which images other than `Images` are normalized, if they are.
    """

    epsilon: float
    step: float
    steps: int
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

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
        `images` says how x is normalized, or else mean and std do; `generator` is a CPU generator.

        Raises UserError if pixels are not in [0, 1] then.
        """
        if self.epsilon == 0:
            return x
        space = images if isinstance(images, Images) else self
        pixels = space.to_pixels(x)
        count = images.whole(len(x))
        noise = torch.empty(count, *x.shape[1:]).uniform_(-self.epsilon, self.epsilon, generator=generator)
        noise = noise if images.share is None else noise[images.share.part(count)]
        attacked = (pixels + send(noise, x.device)).clamp(0, 1)
        for _ in range(self.steps):
            attacked.requires_grad_()
            with torch.enable_grad():
                loss = classification(network(space.normalize(attacked)), labels).objective(1)
                (gradient,) = torch.autograd.grad(loss, attacked)
            with torch.no_grad():
                attacked = attacked + self.step * gradient.sign()
                attacked = torch.minimum(torch.maximum(attacked, pixels - self.epsilon), pixels + self.epsilon)
                attacked = attacked.clamp(0, 1)
        return space.normalize(attacked).detach()

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] as the networks see them."""
        if self.mean is None:
            return pixels
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize`. Raises UserError if pixels are not in [0, 1]."""
        if self.mean is not None:
            mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
            x = x * std + mean
        low, high = (end.item() for end in x.aminmax()) if x.numel() else (0, 1)
        if not -PIXEL_ROUNDING <= low <= high <= 1 + PIXEL_ROUNDING:
            raise UserError(
                f"an attack is on pixels in [0, 1], and these are in [{low:.3g}, {high:.3g}]; if they are "
                "normalized, give it their mean and std: Attack(epsilon, step, steps, mean, std)"
            )
        return x
