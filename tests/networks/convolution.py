"""Convolutions, and what else is done to images and vectors."""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from .kinds import IMAGES, VECTORS, around, built, conv, images, network, weight


@built(IMAGES, 1)
def plain_cnn():
    return around(nn.BatchNorm2d(8), nn.MaxPool2d(2), conv(8, 8), nn.ELU(), nn.AvgPool2d(2))


@built(IMAGES, 1, blocks=True)
def grouped():
    return around(conv(8, 12, groups=4), nn.ReLU(), conv(12, 8))


@built(IMAGES, 1, blocks=True)
def grouped_twice():
    return around(conv(8, 12, groups=4), nn.ReLU(), conv(12, 8, groups=4), nn.ReLU(), conv(8, 8))


@built(IMAGES, 1)
def grouped_unlike():
    return around(conv(8, 12, groups=2), nn.ReLU(), conv(12, 8, groups=4), nn.ReLU(), conv(8, 8))


@built(IMAGES, 1)
def depthwise():
    return around(conv(8, 8, groups=8), nn.ReLU(), conv(8, 8))


@built(IMAGES, 1, blocks=True)
def depthwise_multiplier():
    return around(conv(8, 16, groups=8), nn.ReLU(), conv(16, 8))


@built(IMAGES, 1)
def depthwise_on_inputs():
    return nn.Sequential(conv(3, 12, groups=3), nn.ReLU(), conv(12, 8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))


@images(1, o=6, shifts=(8, 18), deformed=lambda: DeformConv2d(8, 6, 3, padding=1))
def deformable(self, x):
    return F.relu(self.deformed(x, self.shifts(x)))


@built(IMAGES, 1, blocks=True)
def transposed():
    return around(
        nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(6, 12, 3, groups=3), nn.ReLU(),
        conv(12, 8),
    )  # fmt: skip


@built((torch.randn(2, 3, 12),), 1)
def one_dimension():
    return nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@built((torch.randn(2, 3, 6, 6, 6),), 1)
def three_dimensions():
    return nn.Sequential(
        nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@built(IMAGES, 1)
def flattened():
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


@images(1, a=lambda: nn.Conv2d(8, 4, 1), b=lambda: nn.Conv2d(4, 8, 1))
def squeeze_excitation(self, x):
    gate = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))
    return x * gate


@images(1, a=lambda: nn.Linear(8, 4), b=lambda: nn.Linear(4, 8))
def squeeze_excitation_expanded(self, x):
    gate = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
    return x * gate.view(2, 8, 1, 1).expand_as(x)


@images(0.9, map=(2, 1))
def spatial_attention(self, x):
    """Mean and largest over channels make a map."""
    pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
    return x * torch.sigmoid(self.map(pooled))


@images(1, o=18, a=(8, 6), b=(14, 4))
def dense_connections(self, x):
    y = F.relu(self.a(x))
    z = F.relu(self.b(torch.cat([x, y], 1)))
    return torch.cat([x, y, z], 1)


@images(1, a=(8, 92), depthwise=lambda: conv(100, 100, groups=100), mix=(100, 8))
def depthwise_on_a_concatenation(self, x):
    return self.mix(F.relu(self.depthwise(torch.cat([x, self.a(x)], 1))))


@images(1, a=(8, 152), grouped=lambda: conv(160, 160, groups=80), mix=(160, 8))
def many_groups_on_a_concatenation(self, x):
    return self.mix(F.relu(self.grouped(torch.cat([x, self.a(x)], 1))))


@images(1, conv=(3, 3))
def split_channels(self, x):
    a, b, c = torch.split(x, [2, 3, 3], 1)
    return torch.cat([a, F.relu(self.conv(b)), c], 1)


@images(1, conv=(4, 4))
def sliced_channels(self, x):
    return torch.cat([x[:, 4:], F.relu(self.conv(x[:, :4]))], 1)


@images(1, a=(4, 4), b=(4, 4))
def shuffled(self, x):
    """ShuffleNet's unit, twice."""
    for convolution in (self.a, self.b):
        a, b = x.chunk(2, 1)
        x = torch.cat([a, F.relu(convolution(b))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return x


@built(IMAGES, 1)
def shuffled_by_module():
    return around(conv(8, 12, groups=2), nn.ReLU(), nn.ChannelShuffle(2), conv(12, 8))


@built(IMAGES, 1)
def pixel_shuffle():
    return around(conv(8, 16), nn.ReLU(), nn.PixelShuffle(2), conv(4, 6), nn.PixelUnshuffle(2), conv(24, 8))


@images(1, down=(8, 10), up=(18, 8))
def u_net(self, x):
    y = F.relu(self.down(F.max_pool2d(x, 2)))
    y = F.interpolate(y, scale_factor=2, mode="bilinear")
    return F.relu(self.up(torch.cat([x, y], 1)))


@built(IMAGES, 1)
def padded():
    return around(
        nn.ReflectionPad2d(1), conv(8, 8), nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.ReLU(), conv(8, 8),
        nn.Upsample(scale_factor=2),
    )  # fmt: skip


@images(1, o=12, conv=(8, 12))
def padded_channels(self, x):
    """A shortcut without parameters: new channels are zero."""
    return F.relu(self.conv(x)) + F.pad(x, (0, 0, 0, 0, 2, 2))


@images(1, norm=lambda: nn.LayerNorm(8), mlp=lambda: nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)))
def rolled_windows(self, x):
    x = torch.roll(x.permute(0, 2, 3, 1), (1, 1), (1, 2))
    n, h, w, c = x.shape
    x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    x = self.mlp(self.norm(x))
    return x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


@images(1, conv=(8, 8), gamma=lambda: nn.Parameter(1e-6 * torch.ones(8)))
def layer_scale(self, x):
    return x + self.gamma[:, None, None] * F.gelu(self.conv(x))


@images(1, a=(8, 4), b=(8, 4))
def written_in_place(self, x):
    y = torch.zeros_like(x)
    y[:, :4] = self.a(x)
    y[:, 4:].add_(self.b(x)).relu_()
    return y


@images(1, weight=lambda: nn.Linear(32, 8))
def unfolded(self, x):
    return self.weight(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2).view(2, 8, 4, 4)


@images(1, mix=lambda: nn.Conv1d(72, 72, 1))
def folded(self, x):
    return F.fold(self.mix(F.unfold(x, 3, padding=1)), (8, 8), 3, padding=1)


@images(1, conv=lambda: conv(8, 8, groups=8))
def unpooled(self, x):
    x, places = F.max_pool2d(x, 2, return_indices=True)
    x = F.max_unpool2d(self.conv(x), places, 2)
    return F.fractional_max_pool2d(x, 2, output_size=3)


@images(1, a=(4, 4), b=(4, 4))
def every_second_channel(self, x):
    """Neighbours are compared: pairs move."""
    y = torch.empty(2, 8, 8, 8)
    y[:, ::2], y[:, 1::2] = self.a(x[:, ::2]), self.b(x[:, 1::2])
    return y


@images(1, conv=(8, 8))
def sampled(self, x):
    theta = torch.eye(2, 3).expand(2, 2, 3)
    return self.conv(F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False))


@images(1, filter=lambda: weight(8, 8, 5, 2))
def fourier_mixing(self, x):
    return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.filter), s=x.shape[-2:])


@images(1, conv=(8, 8))
def stochastic_parts(self, x):
    x = F.dropout2d(F.rrelu(self.conv(x), training=self.training), training=self.training)
    if self.training:
        x = x + 0.1 * torch.randn_like(x)
    return F.dropout(x, training=self.training)


@images(1, conv=(8, 16))
def maxout(self, x):
    return self.conv(x).view(2, 8, 2, 8, 8).max(2)[0]


@images(1)
def channels_last(self, x):
    """The pool sets the strides of its result anew."""
    return F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1)


@network((VECTORS[0][0],), 1, a=(8, 6), b=(6, 7), c=(7, 3))
def single_vector(self, x):
    return self.c(F.relu(torch.addmv(self.b.bias, self.b.weight, F.relu(self.a(x)))))


@network(VECTORS, 1, d=lambda: weight(6), w=lambda: weight(6, 6), a=(8, 6), b=(6, 3))
def diagonals(self, x):
    return self.b(F.relu(self.a(x)) @ torch.diag(self.d) * torch.diagonal(self.w))


@network(VECTORS, 1, a=(8, 6), w=lambda: weight(6, 6), b=(6, 3))
def unit_matrix(self, x):
    return self.b(F.relu(self.a(x)) @ (self.w + torch.eye(6)))


@network(VECTORS, 1, a=(8, 5), centers=lambda: weight(7, 5), b=(7, 3))
def distances_to_centers(self, x):
    return self.b(torch.exp(-torch.cdist(self.a(x), self.centers)))


@network(VECTORS, 1, a=(8, 6), b=(8, 6), c=(6, 3))
def losses_as_outputs(self, x):
    x, y = torch.sigmoid(self.a(x)), torch.sigmoid(self.b(x))
    return self.c(x), F.mse_loss(y, x), F.binary_cross_entropy(y, x), torch.isfinite(x).all()


@network(VECTORS, 1, a=(8, 6), b=(8, 6), c=(6, 3))
def drawn_around_means(self, x):
    """What is drawn belongs to the units whose means and deviations it has."""
    return self.c(torch.normal(self.a(x), self.b(x).exp()) + torch.bernoulli(torch.sigmoid(self.a(x))))


@network(VECTORS, 0.9, a=(8, 6), w=lambda: weight(6, 6), b=(6, 99), c=(99, 3))
def triangular_weight(self, x):
    """Rows and columns of a triangle keep their order; what is around it moves."""
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(F.linear(x, self.w.tril()))))
