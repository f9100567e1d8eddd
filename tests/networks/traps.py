"""Networks with fewer symmetries than they seem to have, or with others."""

import torch
from torch import nn
from torch.nn import functional as F

from .kinds import IMAGES, VECTORS, built, chain, conv, images, network, weight


@images(0.4, i=12, o=12)
def sort_over_channels(self, x):
    return torch.sort(x, dim=1)[0]


@images(0)
def sorting_places_used(self, x):
    return x + torch.sort(x, dim=1)[1].to(x.dtype) + x.argmax(1, keepdim=True).to(x.dtype)


@images(0)
def constant_per_channel(self, x):
    return x * torch.arange(1.0, 9).view(8, 1, 1)


@images(0, conv=(8, 8), scale=lambda: nn.Buffer(torch.linspace(1, 2, 8).view(8, 1, 1), persistent=False))
def constant_buffer(self, x):
    return self.conv(x * self.scale)


@images(0, conv=(4, 4))
def channels_mixed_with_space(self, x):
    return self.conv(x.reshape(2, 4, 16, 8)).reshape(2, 8, 8, 8)


@images(0, conv=(8, 8))
def cumulative_over_channels(self, x):
    return self.conv(x.cumsum(1))


@images(0, conv=(8, 8))
def flipped_channels(self, x):
    return self.conv(x + x.flip(1))


@images(0, conv=(4, 8))
def every_other_channel(self, x):
    return self.conv(x[:, ::2])


@images(0, conv=(8, 8))
def one_channel_taken(self, x):
    return self.conv(x) * x[:, 2:3] + x[:, 5].unsqueeze(1)


@images(0, conv=(3, 8))
def windows_of_channels(self, x):
    return self.conv(x.unfold(1, 4, 2).amax(-1))


@images(0, conv=(3, 8))
def selected_channels(self, x):
    return self.conv(x.index_select(1, torch.tensor([3, 1, 0])))


@images(0, conv=(3, 8))
def gathered_channels(self, x):
    return self.conv(x.gather(1, torch.tensor([3, 1, 0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)))


@images(0, conv=(8, 8))
def channels_by_index(self, x):
    return self.conv(x[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])])


@images(0.5, a=(8, 8), b=(8, 8))
def branch_on_training(self, x):
    return self.a(x) if self.training else self.b(x).flip(1)


@network(
    IMAGES, 0.5, a=lambda: conv(3, 6), b=lambda: conv(6, 8), c=lambda: conv(8, 3),
    aux=lambda: nn.Linear(6 * 64, 3),
)  # fmt: skip
def auxiliary_head(self, x):
    x = F.relu(self.a(x))
    y = self.c(F.relu(self.b(x))).mean((2, 3))
    return (y, self.aux(x.flatten(1))) if self.training else y


@network(VECTORS, 1, a=(8, 6), b=(6, 6), c=(6, 3))
def module_used_twice(self, x):
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(F.relu(self.b(x)))))


@network(VECTORS, 0.4, a=(8, 6), w=lambda: weight(9, 6), b=(6, 3))
def weights_in_two_roles(self, x):
    """One weight that reads units, and makes others."""
    x = F.relu(self.a(x))
    return self.b(F.relu(F.linear(F.relu(F.linear(x, self.w)), self.w.T)))


@network(VECTORS, 0, a=(8, 6))
def autoencoder_of_inputs(self, x):
    return F.linear(torch.relu(self.a(x)), self.a.weight.T)


@built(VECTORS, 1)
def tied_by_two_names():
    model = chain(8, 8, 8, 8, 3)
    model[4].weight = model[2].weight
    return model


@built(VECTORS, 1)
def tied_by_memory():
    """Two parameters in one memory, one of them transposed."""
    model = chain(8, 6, 9, 6, 3)
    model[4].weight = nn.Parameter(model[2].weight.data.T)
    return model


@built(VECTORS, 0)
def overlapping_memory():
    model = chain(8, 8, 4, 3)
    model[2].weight = nn.Parameter(model[0].weight.data[2:6])
    return model


@network(VECTORS, 1, a=(8, 6), b=(6, 3))
def data_of_parameter(self, x):
    return self.b(F.relu(F.linear(x, self.a.weight.data, self.a.bias.detach())))


@network(VECTORS, 0.4, a=(8, 6), b=(6, 3))
def looks_at_values(self, x):
    x = F.relu(self.a(x))
    return self.b(x if x.sum().item() > -1 else -x)


@network(VECTORS, 0, a=(8, 6), b=(21, 3))
def covariance_head(self, x):
    """Products of all pairs of channels, of which the upper triangle is read."""
    x = self.a(x)
    i, j = torch.triu_indices(6, 6)
    return self.b((x[:, :, None] * x[:, None])[:, i, j])


@network(VECTORS, 1, a=(8, 6), b=(6, 6), c=(6, 3))
def skips_a_layer_on_some_inputs(self, x):
    """What both ways tie moves as one."""
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(x)) if x.mean() > 0.2 else x)


@network(VECTORS, 0, a=(8, 6), b=(6, 3))
def drawn_around_constants(self, x):
    return self.b(torch.normal(torch.arange(6.0).expand(3, 6), 1.0).to(x.dtype) + F.relu(self.a(x)))


@network(VECTORS, 0, a=(8, 9), b=(9, 3))
def unknown_operation(self, x):
    return self.b(torch.linalg.inv(self.a(x).view(3, 3, 3)).flatten(1))
