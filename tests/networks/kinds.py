"""How the small networks are made: by decorators of their forward functions, or of functions that build them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

IMAGES = (torch.randn(2, 3, 8, 8),)
TOKENS = (torch.randn(2, 6, 8),)
VECTORS = (torch.randn(3, 8),)
WORDS = (torch.randint(0, 11, (2, 5)),)


class Network(NamedTuple):
    """share: the least part of the units that moves. has_blocks: whether permutations within blocks are found."""

    build: Callable[[], nn.Module]
    example: tuple
    share: float
    has_blocks: bool


NETWORKS: dict[str, Network] = {}


class Run(nn.Module):
    """Modules by name, and a function of them and the inputs."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, *inputs, **keywords):
        return self.run(self, *inputs, **keywords)


def conv(i, o, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


def chain(*widths):
    """A multilayer perceptron."""
    layers = [layer for i, o in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def around(*middle):
    """Images → convolution → middle → mean → logits."""
    middle = nn.Sequential(*middle)
    return nn.Sequential(conv(3, 8), nn.ReLU(), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def built(example, share, blocks=False):
    """The decorated function builds a network."""

    def register(build):
        NETWORKS[build.__name__] = Network(build, example, share, blocks)
        return build

    return register


def network(example, share, blocks=False, layer=nn.Linear, **parts):
    """The decorated function is a network's forward; parts: two widths of a layer, or a function that makes one."""

    def register(forward):
        def build():
            return Run(forward, **{name: part() if callable(part) else layer(*part) for name, part in parts.items()})

        NETWORKS[forward.__name__] = Network(build, example, share, blocks)
        return forward

    return register


def images(share, blocks=False, i=8, o=8, **parts):
    """The same of convolutions: images → convolution to i channels → forward(self, x), o channels → mean → logits."""

    def register(forward):
        @functools.wraps(forward)
        def run(self, x):
            return self.head(forward(self, F.relu(self.stem(x))).mean((-2, -1)))

        ends = {"stem": lambda: conv(3, i), "head": lambda: nn.Linear(o, 4)}
        return network(IMAGES, share, blocks, conv, **parts, **ends)(run)

    return register


def tokens(share, blocks=False, **parts):
    """The same: tokens → linear → forward(self, x) → mean over tokens → logits."""

    def register(forward):
        @functools.wraps(forward)
        def run(self, x):
            return self.head(forward(self, self.embed(x)).mean(1))

        return network(TOKENS, share, blocks, **parts, embed=(8, 8), head=(8, 4))(run)

    return register


def weight(*size):
    return nn.Parameter(torch.randn(*size))
