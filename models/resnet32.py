"""ResNet32: three stages of five basic blocks, about 0.47 million parameters."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and the residual sum; the shortcut is a strided 1×1 convolution where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class ResNet32(nn.Module):
    """Maps images (N, in_channels, H, W) to logits (N, num_classes)."""

    # The stream of the stem and stage 1 is aligned by the stem's activation alone, as published;
    # without this line every block output on the stream would have a vote.
    aligned_by = {"layers.0.2": "layers.0.2"}

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        stages = []
        width = 16
        for out_channels, stride in ((16, 1), (32, 2), (64, 2)):
            blocks = [BasicBlock(width, out_channels, stride)]
            blocks += [BasicBlock(out_channels, out_channels, 1) for _ in range(4)]
            stages.append(nn.Sequential(*blocks))
            width = out_channels
        self.layers = nn.Sequential(stem, *stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.layers(x)).flatten(1))
