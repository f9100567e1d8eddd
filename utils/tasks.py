"""What is learned by `utils.training.fit`: a network, or a curve between two (utils.pam has permutations)."""

from collections.abc import Mapping

import torch
from torch import nn

from .attack import Attack
from .batches import Images
from .curves import Curve
from .measuring import evaluate, validate_curve
from .stages.states import load_points, load_state


class NetworkTask:
    """A network, on images attacked as `attack` says if there is one; validated on `test` as it is."""

    def __init__(self, model: nn.Module, test: Images | None = None, attack: Attack | None = None):
        self.module, self.test, self.attack = model, test, attack

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, images: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, float]:
        if self.attack is not None:
            x = self.attack(self.module, x, labels, images, generator)
        return self.module(x), 0.0

    def after_step(self, rate: float) -> None:
        pass

    def validate(self, images: Images, batch_size: int, precision: str) -> dict[str, float]:
        """Test loss and accuracy."""
        if self.test is None:
            return {}
        loss, accuracy = evaluate(self.module, self.test, batch_size=batch_size, precision=precision)
        return {"loss_test": loss, "accuracy_test": accuracy}

    def checkpoint(self) -> dict[str, object]:
        return {"model_state": self.module.state_dict()}

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        load_state(self.module, checkpoint["model_state"])


class CurveTask:
    """The learned control points of a curve: each step takes a random θ(t), t uniform in [0, 1), for the whole batch.

    The loss has ½ · weight_decay · ‖θ(t)‖² in it, over all parameters. With an attack, images are attacked at the
    same θ(t). Validation is on `test` at a few fixed points.
    """

    def __init__(
        self, curve: Curve, weight_decay: float = 5e-4, test: Images | None = None, attack: Attack | None = None
    ):
        self.module, self.weight_decay, self.test, self.attack = curve, weight_decay, test, attack

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, images: Images, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        curve = self.module
        theta = curve.point(draw_t(generator))
        if self.attack is not None:
            fixed = theta.detach()
            x = self.attack(lambda attacked: curve(attacked, fixed), x, labels, images, generator)
        return curve(x, theta), 0.5 * self.weight_decay * theta.square().sum()

    def after_step(self, rate: float) -> None:
        pass

    def validate(self, images: Images, batch_size: int, precision: str) -> dict[str, float]:
        if self.test is None:
            return {}
        return validate_curve(self.module.place, images, self.test, batch_size=batch_size, precision=precision)

    def checkpoint(self) -> dict[str, object]:
        return self.module.checkpoint()

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        load_points(self.module, checkpoint)


def draw_t(generator: torch.Generator) -> float:
    """A position on the curve, uniform in [0, 1), for one batch."""
    return torch.rand((), dtype=torch.float64, generator=generator).item()
