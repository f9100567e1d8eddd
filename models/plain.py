"""A network without batch norm, to show what repair does (utils.repairing): --model models/plain.py:vgg11_quarter"""

from torch import nn

WIDTHS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")  # of VGG-11


def vgg11_quarter(num_classes: int) -> nn.Sequential:
    """VGG-11 (Simonyan and Zisserman, 2015) of a quarter of its width for images (b, 3, H, W), without batch norm.

    One linear layer follows the convolutions, as is usual for images of 32×32.
    """
    layers, inputs = [], 3
    for width in WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(inputs, inputs := width // 4, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
