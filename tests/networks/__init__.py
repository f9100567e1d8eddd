"""Small networks of every kind, on which the symmetries are tried."""

import torch

from . import attention, convolution, dense, recurrent, traps, unusual
from .kinds import NETWORKS

__all__ = ["NETWORKS", "attention", "build", "convolution", "dense", "recurrent", "traps", "unusual"]


def build(name):
    """A network and its example."""
    torch.manual_seed(0)
    return NETWORKS[name].build(), NETWORKS[name].example
