"""ViT: a small transformer that classifies images, about 0.16 million parameters for 10 classes."""

import torch
from torch import nn

from models.gpt import NORMS, Block


class ViT(nn.Module):
    """Maps images (N, in_channels, 32, 32) to logits (N, num_classes).

    Patches of `patch` × `patch` pixels become vectors of `width`, a multiple of heads; the mean of what the blocks
    make of them is classified. norm: rms (with a gain, without a bias) or layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        patch: int = 4,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        *,
        norm: str = "rms",
    ):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.05 * torch.randn((32 // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, norm, causal=False) for _ in range(depth)))
        self.norm, self.head = NORMS[norm](width), nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))
