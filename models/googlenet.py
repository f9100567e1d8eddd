"""GoogLeNet with batch normalization, sized for 32×32 images, about 10 million parameters."""

import torch
from torch import nn

# Output channels of each inception block:
# branch1, branch2 (1×1, 3×3), branch3 (1×1, 3×3), branch4
INCEPTION = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


class BasicConv(nn.Module):
    """Convolution without bias, batch normalization, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches, concatenated along the channels."""

    def __init__(self, in_channels: int, branch1: int, branch2: tuple, branch3: tuple, branch4: int):
        super().__init__()
        self.branch1 = BasicConv(in_channels, branch1, 1)
        self.branch2 = nn.Sequential(BasicConv(in_channels, branch2[0], 1), BasicConv(*branch2, kernel=3, padding=1))
        self.branch3 = nn.Sequential(BasicConv(in_channels, branch3[0], 1), BasicConv(*branch3, kernel=3, padding=1))
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.branch4 = BasicConv(in_channels, branch4, 1)
        self.out_channels = branch1 + branch2[1] + branch3[1] + branch4
        self.register_load_state_dict_pre_hook(self._accept_torchvision_names)

    @staticmethod
    def _accept_torchvision_names(_module, state, prefix, *_) -> None:
        """torchvision has the pool inside branch4, so that the convolution is called `branch4.1` there."""
        for name in [name for name in state if name.startswith(prefix + "branch4.1.")]:
            state[prefix + "branch4." + name.removeprefix(prefix + "branch4.1.")] = state.pop(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(self.pool(x))], dim=1)


class Auxiliary(nn.Module):
    """A classifier on an intermediate activation; it exists for its gradient and is unused in evaluation."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = BasicConv(in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """Maps images (N, in_channels, H, W) to logits (N, num_classes).

    In training mode it returns three logits, (main, aux1, aux2).
    """

    # The third convolution is correlated after the max-pool that follows it, as published.
    aligned_by = {"conv3.relu": "maxpool2"}

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        self.conv1 = BasicConv(in_channels, 64, 7, padding=3)
        self.conv2 = BasicConv(64, 64, 1)
        self.conv3 = BasicConv(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        width = 192
        for name, widths in INCEPTION.items():
            block = Inception(width, *widths)
            self.add_module(f"inception{name}", block)
            width = block.out_channels
        self.aux1 = Auxiliary(self.inception4a.out_channels, num_classes)
        self.aux2 = Auxiliary(self.inception4d.out_channels, num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.maxpool2(self.conv3(self.conv2(self.conv1(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training else None
        x = self.inception5b(self.inception5a(self.inception4e(x)))
        logits = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (logits, aux1, aux2) if self.training else logits
