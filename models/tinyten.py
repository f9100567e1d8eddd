"""TinyTen: eight convolutions and one linear layer, about 0.09 million parameters."""

import torch
from torch import nn

# (output channels, kernel, stride, padding) of each convolution
LAYERS = (
    (16, 3, 1, 1),
    (16, 3, 1, 1),
    (32, 3, 2, 1),
    (32, 3, 1, 1),
    (32, 3, 1, 1),
    (64, 3, 2, 1),
    (64, 3, 1, 0),
    (64, 1, 1, 0),
)


class ConvBlock(nn.Module):
    """Convolution with bias, batch normalization, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class TinyTen(nn.Module):
    """Maps images (N, in_channels, H, W), H and W at least 9, to logits (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        widths = (in_channels, *(out for out, *_ in LAYERS))
        self.layers = nn.Sequential(*(ConvBlock(width, *layer) for width, layer in zip(widths, LAYERS, strict=False)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.pool(self.layers(x)).flatten(1))
