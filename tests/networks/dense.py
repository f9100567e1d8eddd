"""Multilayer perceptrons, and norms."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from .kinds import IMAGES, VECTORS, around, built, chain, conv, network, tokens, weight


@built(VECTORS, 1)
def mlp():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))


@built(VECTORS, 1)
def mlp_norms():
    return nn.Sequential(
        nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Linear(10, 6),
        nn.RMSNorm(6), nn.PReLU(6), nn.Linear(6, 3),
    )  # fmt: skip


@built(VECTORS, 1)
def gated_units():
    return nn.Sequential(nn.Linear(8, 12), nn.GLU(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


@network(VECTORS, 1, inner=(8, 12), outer=(6, 3))
def swiglu(self, x):
    a, b = self.inner(x).chunk(2, -1)
    return self.outer(F.silu(a) * b)


@network(VECTORS, 1, a=(8, 6), b=(6, 9), c=(9, 6), d=(6, 3))
def residual(self, x):
    x = self.a(x)
    x = x + self.c(torch.relu(self.b(x)))
    return self.d(F.relu(x))


@built(IMAGES, 1)
def norms_2d():
    """With one group of all channels, and one for each."""
    return around(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.GroupNorm(1, 8), nn.GroupNorm(8, 8))


@built(IMAGES, 1, blocks=True)
def group_norm():
    return around(conv(8, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 8))


@built(IMAGES, 0.8)
def local_response_norm():
    return around(nn.LocalResponseNorm(3), conv(8, 10), nn.ReLU(), conv(10, 8))


@tokens(0.3, norm=lambda: nn.BatchNorm1d(6))
def batch_norm_over_tokens(self, x):
    return self.norm(x)


@tokens(0.3, up=(4, 8))
def pooling_over_tokens(self, x):
    return self.up(F.max_pool1d(x, 2))


@built(VECTORS, 1)
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 12)), nn.ReLU(), nn.utils.weight_norm(nn.Linear(12, 10)),
        nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@built(VECTORS, 1)
def spectral_norm():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(8, 12)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(12, 10)),
        nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@built(VECTORS, 1)
def own_parametrization():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight / weight.norm()

    model = chain(8, 12, 3)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Double())
    return model


@network(VECTORS, 0, a=(8, 8), w=lambda: weight(8, 8), b=(8, 3))
def symmetric_weight(self, x):
    """A transposed sum: rows move with columns."""
    x = self.a(x)
    return self.b(torch.relu(x @ (self.w + self.w.T)))


@built(VECTORS, 0)
def orthogonal():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 3))
