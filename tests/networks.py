"""Small networks of every kind, on which `tests/test_symmetries.py` tries the symmetries."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

IMAGES = (torch.randn(2, 3, 8, 8),)
TOKENS = (torch.randn(2, 6, 8),)
VECTORS = (torch.randn(3, 8),)
WORDS = (torch.randint(0, 11, (2, 5)),)

NETWORKS: dict[str, tuple] = {}  # name: (build, example, least share that moves, whether blocks are found)


def network(example, share, blocks=False):
    def add(build):
        NETWORKS[build.__name__] = (build, example, share, blocks)
        return build

    return add


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


def ends(middle, width=8):
    """Images → convolution → middle → mean → logits."""
    return nn.Sequential(
        conv(3, width), nn.ReLU(), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
    )


def around(forward, i=8, o=8, **modules):
    """Images → convolution → forward(self, x) → mean → logits."""

    def run(self, x):
        return self.head(forward(self, F.relu(self.stem(x))).mean((-2, -1)))

    return Run(run, stem=conv(3, i), head=nn.Linear(o, 4), **modules)


def tokens(forward, width=8, **modules):
    """Tokens → linear → forward(self, x) → mean over tokens → logits."""

    def run(self, x):
        return self.head(forward(self, self.embed(x)).mean(1))

    return Run(run, embed=nn.Linear(8, width), head=nn.Linear(width, 4), **modules)


# --- multilayer perceptrons and norms ---------------------------------------------------------------


@network(VECTORS, 1)
def mlp():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))


@network(VECTORS, 1)
def mlp_norms():
    return nn.Sequential(
        nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Linear(10, 6),
        nn.RMSNorm(6), nn.PReLU(6), nn.Linear(6, 3),
    )  # fmt: skip


@network(VECTORS, 1)
def gated_units():
    return nn.Sequential(nn.Linear(8, 12), nn.GLU(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


@network(VECTORS, 1)
def swiglu():
    def run(self, x):
        a, b = self.inner(x).chunk(2, -1)
        return self.outer(F.silu(a) * b)

    return Run(run, inner=nn.Linear(8, 12), outer=nn.Linear(6, 3))


@network(VECTORS, 1)
def residual():
    def run(self, x):
        x = self.a(x)
        x = x + self.c(torch.relu(self.b(x)))
        return self.d(F.relu(x))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 9), c=nn.Linear(9, 6), d=nn.Linear(6, 3))


@network(IMAGES, 1)
def norms_2d():
    return nn.Sequential(
        ends(nn.Sequential(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.GroupNorm(1, 8)))
    )


@network(IMAGES, 1, True)
def group_norm():
    return ends(nn.Sequential(conv(8, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 8)))


@network(IMAGES, 0.8)
def local_response_norm():
    return ends(nn.Sequential(nn.LocalResponseNorm(3), conv(8, 10), nn.ReLU(), conv(10, 8)))


@network(TOKENS, 0.3)
def batch_norm_over_tokens():
    return tokens(lambda self, x: self.norm(x), norm=nn.BatchNorm1d(6))


@network(TOKENS, 0.3)
def pooling_over_tokens():
    return tokens(lambda self, x: self.up(F.max_pool1d(x, 2)), up=nn.Linear(4, 8))


@network(VECTORS, 1)
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 12)), nn.ReLU(), nn.utils.weight_norm(nn.Linear(12, 10)), nn.ReLU(),
        nn.Linear(10, 3),
    )  # fmt: skip


@network(VECTORS, 1)
def spectral_norm():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(8, 12)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(12, 10)),
        nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@network(VECTORS, 1)
def own_parametrization():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight / weight.norm()

    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Double())
    return model


@network(VECTORS, 0)
def symmetric_weight():
    """A transposed sum: rows move with columns."""

    def run(self, x):
        x = self.a(x)
        return self.b(torch.relu(x @ (self.w + self.w.T)))

    return Run(run, a=nn.Linear(8, 8), w=nn.Parameter(torch.randn(8, 8)), b=nn.Linear(8, 3))


@network(VECTORS, 0)
def orthogonal():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 3))


# --- convolutions --------------------------------------------------------------------------------------


@network(IMAGES, 1)
def plain_cnn():
    return ends(nn.Sequential(nn.BatchNorm2d(8), nn.MaxPool2d(2), conv(8, 8), nn.ELU(), nn.AvgPool2d(2)))


@network(IMAGES, 1, True)
def grouped():
    return ends(nn.Sequential(conv(8, 12, groups=4), nn.ReLU(), conv(12, 8)))


@network(IMAGES, 1, True)
def grouped_twice():
    return ends(nn.Sequential(conv(8, 12, groups=4), nn.ReLU(), conv(12, 8, groups=4), nn.ReLU(), conv(8, 8)))


@network(IMAGES, 1)
def grouped_unlike():
    return ends(nn.Sequential(conv(8, 12, groups=2), nn.ReLU(), conv(12, 8, groups=4), nn.ReLU(), conv(8, 8)))


@network(IMAGES, 1)
def depthwise():
    return ends(nn.Sequential(conv(8, 8, groups=8), nn.ReLU(), conv(8, 8)))


@network(IMAGES, 1, True)
def depthwise_multiplier():
    return ends(nn.Sequential(conv(8, 16, groups=8), nn.ReLU(), conv(16, 8)))


@network(IMAGES, 1)
def depthwise_on_inputs():
    return nn.Sequential(conv(3, 12, groups=3), nn.ReLU(), conv(12, 8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))


@network(IMAGES, 1)
def deformable():
    def run(self, x):
        return F.relu(self.deformed(x, self.shifts(x)))

    return around(run, 8, 6, shifts=conv(8, 18), deformed=DeformConv2d(8, 6, 3, padding=1))


@network(IMAGES, 1, True)
def transposed():
    return ends(
        nn.Sequential(
            nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(6, 12, 3, groups=3), nn.ReLU(),
            conv(12, 8),
        )
    )  # fmt: skip


@network((torch.randn(2, 3, 12),), 1)
def one_dimension():
    return nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@network((torch.randn(2, 3, 6, 6, 6),), 1)
def three_dimensions():
    return nn.Sequential(
        nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@network(IMAGES, 1)
def flattened():
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)
    )


@network(IMAGES, 1)
def squeeze_excitation():
    def run(self, x):
        gate = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))
        return x * gate

    return around(run, a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(4, 8, 1))


@network(IMAGES, 1)
def squeeze_excitation_expanded():
    def run(self, x):
        gate = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
        return x * gate.view(2, 8, 1, 1).expand_as(x)

    return around(run, a=nn.Linear(8, 4), b=nn.Linear(4, 8))


@network(IMAGES, 0.9)
def spatial_attention():
    """Mean and largest over channels make a map."""

    def run(self, x):
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.map(pooled))

    return around(run, map=conv(2, 1))


@network(IMAGES, 1)
def dense_connections():
    def run(self, x):
        y = F.relu(self.a(x))
        z = F.relu(self.b(torch.cat([x, y], 1)))
        return torch.cat([x, y, z], 1)

    return around(run, o=18, a=conv(8, 6), b=conv(14, 4))


@network(IMAGES, 1)
def depthwise_on_a_concatenation():
    def run(self, x):
        return self.mix(F.relu(self.depthwise(torch.cat([x, self.a(x)], 1))))

    return around(run, a=conv(8, 92), depthwise=conv(100, 100, groups=100), mix=conv(100, 8))


@network(IMAGES, 1)
def many_groups_on_a_concatenation():
    def run(self, x):
        return self.mix(F.relu(self.grouped(torch.cat([x, self.a(x)], 1))))

    return around(run, a=conv(8, 152), grouped=conv(160, 160, groups=80), mix=conv(160, 8))


@network(IMAGES, 1)
def split_channels():
    def run(self, x):
        a, b, c = torch.split(x, [2, 3, 3], 1)
        return torch.cat([a, F.relu(self.conv(b)), c], 1)

    return around(run, conv=conv(3, 3))


@network(IMAGES, 1)
def sliced_channels():
    return around(lambda self, x: torch.cat([x[:, 4:], F.relu(self.conv(x[:, :4]))], 1), conv=conv(4, 4))


@network(IMAGES, 1)
def shuffled():
    """ShuffleNet's unit, twice."""

    def unit(convolution, x):
        a, b = x.chunk(2, 1)
        x = torch.cat([a, F.relu(convolution(b))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    return around(lambda self, x: unit(self.b, unit(self.a, x)), a=conv(4, 4), b=conv(4, 4))


@network(IMAGES, 1)
def shuffled_by_module():
    return ends(nn.Sequential(conv(8, 12, groups=2), nn.ReLU(), nn.ChannelShuffle(2), conv(12, 8)))


@network(IMAGES, 1)
def pixel_shuffle():
    return ends(
        nn.Sequential(conv(8, 16), nn.ReLU(), nn.PixelShuffle(2), conv(4, 6), nn.PixelUnshuffle(2), conv(24, 8))
    )


@network(IMAGES, 1)
def u_net():
    def run(self, x):
        y = F.relu(self.down(F.max_pool2d(x, 2)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        return F.relu(self.up(torch.cat([x, y], 1)))

    return around(run, down=conv(8, 10), up=conv(18, 8))


@network(IMAGES, 1)
def padded():
    return ends(
        nn.Sequential(
            nn.ReflectionPad2d(1), conv(8, 8), nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.ReLU(), conv(8, 8),
            nn.Upsample(scale_factor=2),
        )
    )  # fmt: skip


@network(IMAGES, 1)
def padded_channels():
    """A shortcut without parameters: new channels are zero."""
    return around(lambda self, x: F.relu(self.conv(x)) + F.pad(x, (0, 0, 0, 0, 2, 2)), o=12, conv=conv(8, 12))


@network(IMAGES, 1)
def rolled_windows():
    def run(self, x):
        x = torch.roll(x.permute(0, 2, 3, 1), (1, 1), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = self.mlp(self.norm(x))
        return x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)

    return around(run, norm=nn.LayerNorm(8), mlp=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)))


@network(IMAGES, 1)
def layer_scale():
    def run(self, x):
        return x + self.gamma[:, None, None] * F.gelu(self.conv(x))

    return around(run, conv=conv(8, 8), gamma=nn.Parameter(1e-6 * torch.ones(8)))


@network(IMAGES, 1)
def written_in_place():
    def run(self, x):
        y = torch.zeros_like(x)
        y[:, :4] = self.a(x)
        y[:, 4:].add_(self.b(x)).relu_()
        return y

    return around(run, a=conv(8, 4), b=conv(8, 4))


@network(IMAGES, 1)
def unfolded():
    def run(self, x):
        return self.weight(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2).view(2, 8, 4, 4)

    return around(run, weight=nn.Linear(32, 8))


@network(IMAGES, 1)
def folded():
    def run(self, x):
        return F.fold(self.mix(F.unfold(x, 3, padding=1)), (8, 8), 3, padding=1)

    return around(run, mix=nn.Conv1d(72, 72, 1))


@network(IMAGES, 1)
def unpooled():
    def run(self, x):
        x, places = F.max_pool2d(x, 2, return_indices=True)
        x = F.max_unpool2d(self.conv(x), places, 2)
        return F.fractional_max_pool2d(x, 2, output_size=3)

    return around(run, conv=conv(8, 8, groups=8))


@network(IMAGES, 1)
def every_second_channel():
    """Neighbours are compared: pairs move."""

    def run(self, x):
        y = torch.empty(2, 8, 8, 8)
        y[:, ::2], y[:, 1::2] = self.a(x[:, ::2]), self.b(x[:, 1::2])
        return y

    return around(run, a=conv(4, 4), b=conv(4, 4))


@network(IMAGES, 1)
def sampled():
    def run(self, x):
        theta = torch.eye(2, 3).expand(2, 2, 3)
        return self.conv(
            F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        )

    return around(run, conv=conv(8, 8))


@network(IMAGES, 1)
def fourier_mixing():
    def run(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.filter), s=x.shape[-2:])

    return around(run, filter=nn.Parameter(torch.randn(8, 8, 5, 2)))


@network(IMAGES, 1)
def stochastic_parts():
    def run(self, x):
        x = F.dropout2d(F.rrelu(self.conv(x), training=self.training), training=self.training)
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return F.dropout(x, training=self.training)

    return around(run, conv=conv(8, 8))


@network(IMAGES, 1)
def maxout():
    return around(lambda self, x: self.conv(x).view(2, 8, 2, 8, 8).max(2)[0], conv=conv(8, 16))


@network(IMAGES, 1)
def channels_last():
    """The pool sets the strides of its result anew."""
    return around(lambda self, x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1))


@network((VECTORS[0][0],), 1)
def single_vector():
    return Run(
        lambda self, x: self.c(F.relu(torch.addmv(self.b.bias, self.b.weight, F.relu(self.a(x))))),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 7),
        c=nn.Linear(7, 3),
    )


@network(VECTORS, 1)
def diagonals():
    def run(self, x):
        return self.b(F.relu(self.a(x)) @ torch.diag(self.d) * torch.diagonal(self.w))

    d, w = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 6))
    return Run(run, a=nn.Linear(8, 6), d=d, w=w, b=nn.Linear(6, 3))


@network(VECTORS, 1)
def unit_matrix():
    def run(self, x):
        return self.b(F.relu(self.a(x)) @ (self.w + torch.eye(6)))

    return Run(run, a=nn.Linear(8, 6), w=nn.Parameter(torch.randn(6, 6)), b=nn.Linear(6, 3))


@network(VECTORS, 1)
def distances_to_centers():
    def run(self, x):
        return self.b(torch.exp(-torch.cdist(self.a(x), self.centers)))

    return Run(run, a=nn.Linear(8, 5), centers=nn.Parameter(torch.randn(7, 5)), b=nn.Linear(7, 3))


@network(VECTORS, 1)
def losses_as_outputs():
    def run(self, x):
        x, y = torch.sigmoid(self.a(x)), torch.sigmoid(self.b(x))
        return self.c(x), F.mse_loss(y, x), F.binary_cross_entropy(y, x), torch.isfinite(x).all()

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(8, 6), c=nn.Linear(6, 3))


@network(VECTORS, 1)
def drawn_around_means():
    """What is drawn belongs to the units whose means and deviations it has."""

    def run(self, x):
        return self.c(torch.normal(self.a(x), self.b(x).exp()) + torch.bernoulli(torch.sigmoid(self.a(x))))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(8, 6), c=nn.Linear(6, 3))


@network(VECTORS, 0.9)
def triangular_weight():
    """Rows and columns of a triangle keep their order; what is around it moves."""

    def run(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(F.linear(x, self.w.tril()))))

    return Run(run, a=nn.Linear(8, 6), w=nn.Parameter(torch.randn(6, 6)), b=nn.Linear(6, 99), c=nn.Linear(99, 3))


# --- traps ---------------------------------------------------------------------------------------------


@network(IMAGES, 0.4)
def sort_over_channels():
    return around(lambda self, x: torch.sort(x, dim=1)[0], i=12, o=12)


@network(IMAGES, 0)
def sorting_places_used():
    def run(self, x):
        return x + torch.sort(x, dim=1)[1].to(x.dtype) + x.argmax(1, keepdim=True).to(x.dtype)

    return around(run)


@network(IMAGES, 0)
def constant_per_channel():
    return around(lambda self, x: x * torch.arange(1.0, 9).view(8, 1, 1))


@network(IMAGES, 0)
def constant_buffer():
    model = around(lambda self, x: self.conv(x * self.scale), conv=conv(8, 8))
    model.register_buffer("scale", torch.linspace(1, 2, 8).view(8, 1, 1), persistent=False)
    return model


@network(IMAGES, 0)
def channels_mixed_with_space():
    def run(self, x):
        return self.conv(x.reshape(2, 4, 16, 8)).reshape(2, 8, 8, 8)

    return around(run, conv=conv(4, 4))


@network(IMAGES, 0)
def cumulative_over_channels():
    return around(lambda self, x: self.conv(x.cumsum(1)), conv=conv(8, 8))


@network(IMAGES, 0)
def flipped_channels():
    return around(lambda self, x: self.conv(x + x.flip(1)), conv=conv(8, 8))


@network(IMAGES, 0)
def every_other_channel():
    return around(lambda self, x: self.conv(x[:, ::2]), conv=conv(4, 8))


@network(IMAGES, 0)
def one_channel_taken():
    return around(lambda self, x: self.conv(x) * x[:, 2:3] + x[:, 5].unsqueeze(1), conv=conv(8, 8))


@network(IMAGES, 0)
def windows_of_channels():
    return around(lambda self, x: self.conv(x.unfold(1, 4, 2).amax(-1)), conv=conv(3, 8))


@network(IMAGES, 0)
def selected_channels():
    return around(lambda self, x: self.conv(x.index_select(1, torch.tensor([3, 1, 0]))), conv=conv(3, 8))


@network(IMAGES, 0)
def gathered_channels():
    def run(self, x):
        return self.conv(x.gather(1, torch.tensor([3, 1, 0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)))

    return around(run, conv=conv(3, 8))


@network(IMAGES, 0)
def channels_by_index():
    return around(lambda self, x: self.conv(x[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])]), conv=conv(8, 8))


@network(IMAGES, 0.5)
def branch_on_training():
    def run(self, x):
        return self.a(x) if self.training else self.b(x).flip(1)

    return around(run, a=conv(8, 8), b=conv(8, 8))


@network(IMAGES, 0.5)
def auxiliary_head():
    def run(self, x):
        x = F.relu(self.a(x))
        y = self.c(F.relu(self.b(x))).mean((2, 3))
        return (y, self.aux(x.flatten(1))) if self.training else y

    return Run(run, a=conv(3, 6), b=conv(6, 8), c=conv(8, 3), aux=nn.Linear(6 * 64, 3))


@network(VECTORS, 1)
def module_used_twice():
    def run(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(F.relu(self.b(x)))))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3))


@network(VECTORS, 0.4)
def weights_in_two_roles():
    """One weight that reads units, and makes others."""

    def run(self, x):
        x = F.relu(self.a(x))
        return self.b(F.relu(F.linear(F.relu(F.linear(x, self.w)), self.w.T)))

    return Run(run, a=nn.Linear(8, 6), w=nn.Parameter(torch.randn(9, 6)), b=nn.Linear(6, 3))


@network(VECTORS, 0)
def autoencoder_of_inputs():
    def run(self, x):
        return F.linear(torch.relu(self.a(x)), self.a.weight.T)

    return Run(run, a=nn.Linear(8, 6))


@network(VECTORS, 1)
def tied_by_two_names():
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    model[4].weight = model[2].weight
    return model


@network(VECTORS, 1)
def tied_by_memory():
    """Two parameters in one memory, one of them transposed."""
    model = nn.Sequential(
        nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    model[4].weight = nn.Parameter(model[2].weight.data.T)
    return model


@network(VECTORS, 0)
def overlapping_memory():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].weight = nn.Parameter(model[0].weight.data[2:6])
    return model


@network(VECTORS, 1)
def data_of_parameter():
    def run(self, x):
        return self.b(F.relu(F.linear(x, self.a.weight.data, self.a.bias.detach())))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@network(VECTORS, 0.4)
def looks_at_values():
    def run(self, x):
        x = F.relu(self.a(x))
        return self.b(x if x.sum().item() > -1 else -x)

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@network(VECTORS, 0)
def covariance_head():
    """Products of all pairs of channels, of which the upper triangle is read."""

    def run(self, x):
        x = self.a(x)
        i, j = torch.triu_indices(6, 6)
        return self.b((x[:, :, None] * x[:, None])[:, i, j])

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(21, 3))


@network(VECTORS, 1)
def skips_a_layer_on_some_inputs():
    """What both ways tie moves as one."""

    def run(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(x)) if x.mean() > 0.2 else x)

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3))


@network(VECTORS, 0)
def drawn_around_constants():
    def run(self, x):
        return self.b(torch.normal(torch.arange(6.0).expand(3, 6), 1.0).to(x.dtype) + F.relu(self.a(x)))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@network(VECTORS, 0)
def unknown_operation():
    return Run(
        lambda self, x: self.b(torch.linalg.inv(self.a(x).view(3, 3, 3)).flatten(1)),
        a=nn.Linear(8, 9),
        b=nn.Linear(9, 3),
    )


# --- attention -----------------------------------------------------------------------------------------


@network(TOKENS, 1, True)
def attention_module():
    return tokens(
        lambda self, x: x + self.attend(self.norm(x), self.norm(x), self.norm(x))[0],
        norm=nn.LayerNorm(8),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
    )


@network(TOKENS, 1, True)
def attention_other_widths():
    return tokens(
        lambda self, x: self.attend(x, x[..., :6], x[..., 2:])[0],
        attend=nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=6),
    )


@network(TOKENS, 1, True)
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return tokens(lambda self, x: self.layers(x), layers=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def heads(x, count):
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


@network(TOKENS, 1, True)
def attention_packed():
    def run(self, x):
        q, k, v = self.qkv(x).reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(2, 6, 8))

    return tokens(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))


@network(TOKENS, 1, True)
def attention_by_hand():
    def run(self, x):
        q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
        attention = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale + self.bias).softmax(-1)
        return self.out(torch.einsum("bhij,bhjd->bihd", attention, v).flatten(2))

    return tokens(
        run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), scale=nn.Parameter(torch.ones(2, 1, 1)),
        bias=nn.Parameter(torch.randn(2, 6, 6)),
    )  # fmt: skip


@network(TOKENS, 1, True)
def grouped_queries():
    """Four heads of queries, two of keys and values."""

    def run(self, x):
        q, k, v = (y.unflatten(-1, (-1, 4)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        k, v = (y.repeat_interleave(2, 1) for y in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    return tokens(run, q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(16, 8))


@network(VECTORS, 1)
def capsules():
    """Maps within capsules and between them: units of both are shown by products alone."""

    def run(self, x):
        x = F.relu(self.inside(F.relu(self.a(x).view(-1, 3, 4))))
        return self.b(F.relu(self.between(x.transpose(1, 2))).flatten(1))

    return Run(run, a=nn.Linear(8, 12), inside=nn.Linear(4, 5), between=nn.Linear(3, 6), b=nn.Linear(30, 3))


@network(VECTORS, 1, True)
def products_in_blocks():
    """In each block, units of two kinds in orders of its own, which are shown by products alone."""

    def run(self, x):
        x = torch.einsum("nhab,hbc->nhac", F.relu(self.a(x).view(-1, 3, 4, 5)), self.columns)
        return self.b(F.relu(torch.einsum("nhac,had->nhdc", F.relu(x), self.rows)).flatten(1))

    return Run(
        run, a=nn.Linear(8, 60), columns=nn.Parameter(torch.randn(3, 5, 6)), rows=nn.Parameter(torch.randn(3, 4, 5)),
        b=nn.Linear(90, 3),
    )  # fmt: skip


@network(VECTORS, 1)
def outer_product():
    def run(self, x):
        return self.c((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))

    return Run(run, a=nn.Linear(8, 4), b=nn.Linear(8, 5), c=nn.Linear(20, 3))


@network(TOKENS, 1, True)
def heads_share_a_map():
    def run(self, x):
        q, k, v = (part.unflatten(-1, (4, 5)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.relu(self.map(F.scaled_dot_product_attention(q, k, v))).transpose(1, 2).flatten(2))

    return tokens(run, qkv=nn.Linear(8, 60), map=nn.Linear(5, 6), out=nn.Linear(24, 8))


@network(TOKENS, 1)
def new_tokens_with_two_kinds_of_channels():
    def run(self, x):
        x = F.gelu(self.first(self.embed(x).transpose(1, 2)).transpose(1, 2))
        x = F.gelu(torch.cat([self.a(x), self.b(x)], -1))
        return self.head(F.gelu(self.second(x.transpose(1, 2))).mean(2))

    return Run(
        run, embed=nn.Linear(8, 10), first=nn.Linear(6, 9), second=nn.Linear(9, 7), a=nn.Linear(10, 5),
        b=nn.Linear(10, 4), head=nn.Linear(9, 3),
    )  # fmt: skip


@network(TOKENS, 1)
def keys_times_values():
    """Heads of two kinds, in each of which channels meet themselves in the product of keys and values."""

    def run(self, x):
        for _ in range(2):
            q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
            one, two = v.transpose(-1, -2).flatten(1, 2).split([4, 8], 1)
            places = torch.cat([self.one(one), self.two(two)], 1).unflatten(1, (3, 4)).transpose(-1, -2)
            mixed = q @ (k.softmax(2).transpose(-1, -2) @ v) + q * places
            x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x

    one, two = nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.Conv1d(8, 8, 5, padding=2, groups=8)
    return tokens(run, qkv=nn.Linear(8, 36), out=nn.Linear(12, 8), one=one, two=two)


@network(TOKENS, 1, True)
def attention_packed_in_heads():
    """In each head query, key and value stand side by side; the query's channels in two heads of keys' width."""

    def run(self, x):
        q, k, v = self.qkv(x).view(2, 6, 2, 16).transpose(1, 2).split([8, 4, 4], -1)
        q = q.unflatten(-1, (2, 4)).transpose(2, 3).reshape(2, 2, 12, 4)
        x = F.scaled_dot_product_attention(q, k, v).view(2, 2, 6, 2, 4)
        return self.out(x.permute(0, 2, 1, 3, 4).flatten(2))

    return tokens(run, qkv=nn.Linear(8, 32), out=nn.Linear(16, 8))


@network(TOKENS, 1, True)
def gates_in_blocks():
    def run(self, x):
        a, b = self.inner(x).view(2, 6, 2, 8).chunk(2, -1)
        return self.outer((a * torch.sigmoid(b)).flatten(2))

    return tokens(run, inner=nn.Linear(8, 16), outer=nn.Linear(8, 8))


def rotary_with(turned):
    """Rotary embeddings by registered buffers: pairs of channels turn by an angle, the same in each head."""

    def run(self, x):
        q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = (y * self.cos + turned(y) * self.sin for y in (q, k))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = tokens(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))
    model.register_buffer("cos", torch.randn(6, 4))
    model.register_buffer("sin", torch.randn(6, 4))
    return model


@network(TOKENS, 1)
def rotary_of_halves():
    return rotary_with(lambda x: torch.cat([-x[..., 2:], x[..., :2]], -1))


@network(TOKENS, 1)
def rotary_of_neighbours():
    return rotary_with(lambda x: torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2))


@network(TOKENS, 0.8)
def rotary():
    def turn(x):
        angle = torch.arange(6.0)[:, None] / torch.arange(1.0, 3)
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def run(self, x):
        q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2))

    return tokens(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))


@network(TOKENS, 1)
def positions_and_class_token():
    def run(self, x):
        x = self.embed(x)
        x = torch.cat([self.token.expand(2, -1, -1), x], 1) + self.position
        return self.head(self.mlp(x)[:, 0])

    return Run(
        run, embed=nn.Linear(8, 10), token=nn.Parameter(torch.randn(1, 1, 10)), head=nn.Linear(10, 3),
        position=nn.Parameter(torch.randn(1, 7, 10)),
        mlp=nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 10)),
    )  # fmt: skip


@network(TOKENS, 1)
def places_as_parts_of_the_last():
    def run(self, x):
        places = torch.ones(len(x), 6).cumsum(1)
        return x + self.b(F.relu(self.a((places / places[:, -1:])[..., None])))

    return tokens(run, a=nn.Linear(1, 5), b=nn.Linear(5, 8))


@network(TOKENS, 1)
def learned_query():
    """A query that sees no input: some of its units stand between weights alone."""

    def run(self, x):
        query = self.q(self.second(self.latent)).expand(len(x), -1, -1)
        return self.head(F.scaled_dot_product_attention(query, self.k(x), self.v(x))[:, 0])

    return Run(
        run, latent=nn.Parameter(torch.randn(1, 1, 6)), second=nn.Linear(6, 7), q=nn.Linear(7, 5),
        k=nn.Linear(8, 5), v=nn.Linear(8, 9), head=nn.Linear(9, 3),
    )  # fmt: skip


@network(TOKENS, 0.8)
def gated_mixer():
    """A convolution of one place over what are channels elsewhere."""

    def run(self, x):
        u, v = F.gelu(self.inner(x)).chunk(2, -1)
        return x + self.outer(u * self.mix(self.norm(v)))

    return tokens(
        run, inner=nn.Linear(8, 12), norm=nn.LayerNorm(6), mix=nn.Conv1d(6, 6, 1), outer=nn.Linear(6, 8)
    )  # fmt: skip


@network(TOKENS, 0.9)
def mixer():
    def run(self, x):
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(x)

    return tokens(
        run, mix=nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)),
        mlp=nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8)),
    )  # fmt: skip


@network(TOKENS, 0.9)
def relative_position_bias():
    def run(self, x):
        q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
        places = (torch.arange(6)[:, None] - torch.arange(6) + 5).flatten()
        bias = self.table[places].view(6, 6, 2).permute(2, 0, 1)
        return self.out(((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))

    return tokens(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), table=nn.Parameter(torch.randn(11, 2)))


@network(TOKENS, 0.9)
def experts():
    def run(self, x):
        gate = self.gate(x).softmax(-1)
        hidden = F.relu(torch.einsum("btc,ech->beth", x, self.a))
        return torch.einsum("beth,ehc,bte->btc", hidden, self.b, gate)

    return tokens(
        run, gate=nn.Linear(8, 3), a=nn.Parameter(torch.randn(3, 8, 6)), b=nn.Parameter(torch.randn(3, 6, 8))
    )


@network(TOKENS, 0.9)
def one_expert_each():
    """Each token goes to the expert with the greatest weight."""

    def run(self, x):
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                out[mine] = expert(x[mine]) * weight[mine][:, None]
        return out

    experts = [nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(3)]
    return tokens(run, gate=nn.Linear(8, 3), experts=nn.ModuleList(experts))


@network((torch.randn(11, 8), torch.randint(0, 11, (2, 20))), 1)
def graph():
    """Along its edges messages are added up."""

    def run(self, x, edges):
        x = F.relu(self.a(x))
        x = x + torch.zeros_like(x).index_add(0, edges[1], F.relu(self.b(x))[edges[0]])
        message = F.relu(self.c(x))[edges[0]]
        return self.d(x.scatter_reduce(0, edges[1][:, None].expand_as(message), message, "mean"))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 6), d=nn.Linear(6, 3))


# --- words and recurrence ------------------------------------------------------------------------------


@network(WORDS, 1)
def embedded_words():
    return Run(
        lambda self, i: self.b(F.relu(self.a(self.table(i)))),
        table=nn.Embedding(11, 8),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
    )


@network(WORDS, 1)
def bags_of_words():
    return Run(
        lambda self, i: self.b(F.relu(self.a(self.bags(i)))) + self.c(self.table(i)).mean(1),
        bags=nn.EmbeddingBag(11, 8),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
        table=nn.Embedding(11, 5, max_norm=100),
        c=nn.Linear(5, 3),
    )


@network(WORDS, 1)
def tied_embedding():
    """The output reads with the transposed table: words stay, features move."""
    model = Run(
        lambda self, i: self.out(torch.tanh(self.mid(self.table(i)))),
        table=nn.Embedding(11, 8),
        mid=nn.Linear(8, 8),
        out=nn.Linear(8, 11, bias=False),
    )
    model.out.weight = model.table.weight
    return model


@network(TOKENS, 1)
def lstm():
    return Run(
        lambda self, x: self.head(self.cell(x)[0][:, -1]),
        cell=nn.LSTM(8, 6, 2, batch_first=True),
        head=nn.Linear(6, 3),
    )


@network(TOKENS, 1)
def gru_both_ways():
    return Run(
        lambda self, x: self.head(self.cell(x)[0].mean(1)),
        cell=nn.GRU(8, 6, bidirectional=True, batch_first=True),
        head=nn.Linear(12, 3),
    )


@network(TOKENS, 1)
def packed_sequences():
    def run(self, x):
        x = nn.utils.rnn.pack_padded_sequence(F.relu(self.embed(x)), torch.tensor([6, 4]), batch_first=True)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.cell(x)[0], batch_first=True)[0].mean(1))

    return Run(run, embed=nn.Linear(8, 5), cell=nn.GRU(5, 6, batch_first=True), head=nn.Linear(6, 3))


@network(TOKENS, 1)
def lstm_with_projections():
    return Run(
        lambda self, x: self.head(self.cell(x)[0][:, -1]),
        cell=nn.LSTM(8, 6, batch_first=True, proj_size=4),
        head=nn.Linear(4, 3),
    )


@network(TOKENS, 1)
def cells():
    def run(self, x):
        h, c, g = x.new_zeros(2, 6), x.new_zeros(2, 6), x.new_zeros(2, 5)
        for step in x.unbind(1):
            h, c = self.a(step, (h, c))
            g = self.b(h, g)
        return self.head(g)

    return Run(run, a=nn.LSTMCell(8, 6), b=nn.GRUCell(6, 5), head=nn.Linear(5, 3))


@network((torch.randn(3, 8), torch.randn(3, 5)), 1)
def bilinear():
    return Run(
        lambda self, x, y: self.c(F.relu(self.both(F.relu(self.a(x)), F.relu(self.b(y))))),
        a=nn.Linear(8, 6),
        b=nn.Linear(5, 7),
        both=nn.Bilinear(6, 7, 9),
        c=nn.Linear(9, 3),
    )


@network(TOKENS, 1)
def lstm_both_ways():
    return Run(
        lambda self, x: self.head(torch.cat(tuple(self.cell(x)[1][0][-2:]), -1)),
        cell=nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True),
        head=nn.Linear(8, 3),
    )


# --- models that are made or run in special ways -----------------------------------------------------------


def small():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))


@network(VECTORS, 1)
def scripted():
    return torch.jit.script(small())


@network((VECTORS[0].double(),), 1)
def double_precision():
    return small().double()


@network((VECTORS[0].bfloat16(),), 1)
def half_precision():
    return small().bfloat16()


@network(VECTORS, 1)
def casts():
    """To kinds of numbers that are written down."""
    return Run(lambda self, x: self.b(F.relu(self.a(x.float())).half().float()), a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@network(VECTORS, 1)
def complex_numbers():
    def run(self, x):
        x = self.a(x.to(self.a.weight.dtype))
        return self.b(torch.complex(F.relu(x.real), F.relu(x.imag))).abs()

    return Run(run, a=nn.Linear(8, 6, dtype=torch.cfloat), b=nn.Linear(6, 3, dtype=torch.cfloat))


@network(VECTORS, 1)
def function_that_holds_the_network():
    def run(self, x):
        self.a(x)
        return self.f(self.seen["a"])

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    model.seen = {}
    model.a.register_forward_hook(lambda module, inputs, output: model.seen.update(a=output))
    model.f = lambda x: model.b(F.relu(x))
    return model


@network(VECTORS, 1)
def attribute_in_the_memory_of_a_weight():
    model = Run(
        lambda self, x: self.b(F.relu(self.a(x)) + torch.sigmoid(F.linear(x, self.same))),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
    )
    model.same = model.a.weight.data
    return model


@network(VECTORS, 0)
def attribute_in_a_part_of_a_weight():
    model = Run(
        lambda self, x: self.b(F.relu(self.a(x))) + F.linear(x, self.part), a=nn.Linear(8, 6), b=nn.Linear(6, 3)
    )
    model.part = model.a.weight.data[:3]
    return model


@network(VECTORS, 1)
def layers_that_are_no_modules():
    """They are in no state dict; what reads from them stays, and what it makes moves."""
    model = Run(
        lambda self, x: self.b(F.relu(self.a(F.relu(self.hidden[0](x))))), a=nn.Linear(6, 7), b=nn.Linear(7, 3)
    )
    model.hidden = [nn.Linear(8, 6)]
    return model


@network(VECTORS, 1)
def changes_its_input():
    return Run(lambda self, x: self.b(F.relu(self.a(x.mul_(2)))), a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@network(VECTORS, 1)
def mapped_over_samples():
    return Run(
        lambda self, x: torch.func.vmap(lambda v: self.b(torch.tanh(self.a(v))))(x),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
    )


@network(VECTORS, 0.9)
def empty_parameter():
    return Run(
        lambda self, x: self.b(torch.cat([F.relu(self.a(x)), self.none])),
        a=nn.Linear(8, 6),
        none=nn.Parameter(torch.zeros(0, 6)),
        b=nn.Linear(6, 3),
    )


@network(IMAGES, 1)
def own_batch_norm():
    """A variance of more dimensions than one, and a mean that training changes."""

    def run(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3), keepdim=True))
        return self.conv((x - self.mean) / self.variance.sqrt())

    model = around(run, conv=conv(8, 8))
    model.register_buffer("mean", torch.zeros(1, 8, 1, 1))
    model.register_buffer("variance", torch.ones(1, 8, 1, 1))
    return model


# --- inputs and outputs -----------------------------------------------------------------------------------


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor | None = None


@network(({"image": torch.randn(2, 3, 8, 8), "words": torch.randint(0, 11, (2, 5))},), 1)
def dictionaries_and_dataclasses():
    def run(self, inputs):
        image = F.relu(self.conv(inputs["image"])).mean((2, 3))
        words = self.table(inputs["words"]).mean(1)
        return Output(self.head(F.relu(self.mid(torch.cat([image, words], -1)))))

    return Run(run, conv=conv(3, 6), table=nn.Embedding(11, 5), mid=nn.Linear(11, 7), head=nn.Linear(7, 3))


@network(VECTORS, 0.2)
def features_are_outputs():
    def run(self, x):
        x = F.relu(self.a(x))
        return {"features": x, "logits": self.c(F.relu(self.b(x)))}

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 7), c=nn.Linear(7, 3))


@network(VECTORS, 0.2)
def plain_object_as_output():
    def run(self, x):
        x = F.relu(self.a(x))
        return SimpleNamespace(hidden=x, logits=self.c(F.relu(self.b(x))))

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 7), c=nn.Linear(7, 3))


@network(VECTORS, 0.2)
def generator_as_output():
    def run(self, x):
        x = F.relu(self.a(x))
        return (y for y in [self.c(F.relu(self.b(x))), x])

    return Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 7), c=nn.Linear(7, 3))


def build(name):
    """A network and its example."""
    torch.manual_seed(0)
    return NETWORKS[name][0](), NETWORKS[name][1]
