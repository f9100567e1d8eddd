"""Attention, mixers and experts."""

import torch
from torch import nn
from torch.nn import functional as F

from .kinds import TOKENS, VECTORS, chain, network, tokens, weight


@tokens(1, blocks=True, norm=lambda: nn.LayerNorm(8), attend=lambda: nn.MultiheadAttention(8, 2, batch_first=True))
def attention_module(self, x):
    return x + self.attend(self.norm(x), self.norm(x), self.norm(x))[0]


@tokens(1, blocks=True, attend=lambda: nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=6))
def attention_other_widths(self, x):
    return self.attend(x, x[..., :6], x[..., 2:])[0]


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@tokens(1, blocks=True, layers=encoder)
def transformer_encoder(self, x):
    return self.layers(x)


def heads(x, count):
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


@tokens(1, blocks=True, qkv=(8, 24), out=(8, 8))
def attention_packed(self, x):
    q, k, v = self.qkv(x).reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    x = F.scaled_dot_product_attention(q, k, v)
    return self.out(x.transpose(1, 2).reshape(2, 6, 8))


@tokens(
    1, blocks=True, qkv=(8, 24), out=(8, 8), scale=lambda: nn.Parameter(torch.ones(2, 1, 1)),
    bias=lambda: weight(2, 6, 6),
)  # fmt: skip
def attention_by_hand(self, x):
    q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
    attention = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale + self.bias).softmax(-1)
    return self.out(torch.einsum("bhij,bhjd->bihd", attention, v).flatten(2))


@tokens(1, blocks=True, q=(8, 16), k=(8, 8), v=(8, 8), out=(16, 8))
def grouped_queries(self, x):
    """Four heads of queries, two of keys and values."""
    q, k, v = (y.unflatten(-1, (-1, 4)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
    k, v = (y.repeat_interleave(2, 1) for y in (k, v))
    return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@network(VECTORS, 1, a=(8, 12), inside=(4, 5), between=(3, 6), b=(30, 3))
def capsules(self, x):
    """Maps within capsules and between them: units of both are shown by products alone."""
    x = F.relu(self.inside(F.relu(self.a(x).view(-1, 3, 4))))
    return self.b(F.relu(self.between(x.transpose(1, 2))).flatten(1))


@network(
    VECTORS, 1, blocks=True, a=(8, 60), columns=lambda: weight(3, 5, 6), rows=lambda: weight(3, 4, 5), b=(90, 3),
)  # fmt: skip
def products_in_blocks(self, x):
    """In each block, units of two kinds in orders of its own, which are shown by products alone."""
    x = torch.einsum("nhab,hbc->nhac", F.relu(self.a(x).view(-1, 3, 4, 5)), self.columns)
    return self.b(F.relu(torch.einsum("nhac,had->nhdc", F.relu(x), self.rows)).flatten(1))


@network(VECTORS, 1, a=(8, 4), b=(8, 5), c=(20, 3))
def outer_product(self, x):
    return self.c((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))


@tokens(1, blocks=True, qkv=(8, 60), map=(5, 6), out=(24, 8))
def heads_share_a_map(self, x):
    q, k, v = (part.unflatten(-1, (4, 5)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
    return self.out(F.relu(self.map(F.scaled_dot_product_attention(q, k, v))).transpose(1, 2).flatten(2))


@network(TOKENS, 1, embed=(8, 10), first=(6, 9), second=(9, 7), a=(10, 5), b=(10, 4), head=(9, 3))
def new_tokens_with_two_kinds_of_channels(self, x):
    x = F.gelu(self.first(self.embed(x).transpose(1, 2)).transpose(1, 2))
    x = F.gelu(torch.cat([self.a(x), self.b(x)], -1))
    return self.head(F.gelu(self.second(x.transpose(1, 2))).mean(2))


@tokens(
    1, one=lambda: nn.Conv1d(4, 4, 3, padding=1, groups=4), two=lambda: nn.Conv1d(8, 8, 5, padding=2, groups=8),
    qkv=(8, 36), out=(12, 8),
)  # fmt: skip
def keys_times_values(self, x):
    """Heads of two kinds, in each of which channels meet themselves in the product of keys and values."""
    for _ in range(2):
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        one, two = v.transpose(-1, -2).flatten(1, 2).split([4, 8], 1)
        places = torch.cat([self.one(one), self.two(two)], 1).unflatten(1, (3, 4)).transpose(-1, -2)
        mixed = q @ (k.softmax(2).transpose(-1, -2) @ v) + q * places
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
    return x


@tokens(1, blocks=True, qkv=(8, 32), out=(16, 8))
def attention_packed_in_heads(self, x):
    """In each head query, key and value stand side by side; the query's channels in two heads of keys' width."""
    q, k, v = self.qkv(x).view(2, 6, 2, 16).transpose(1, 2).split([8, 4, 4], -1)
    q = q.unflatten(-1, (2, 4)).transpose(2, 3).reshape(2, 2, 12, 4)
    x = F.scaled_dot_product_attention(q, k, v).view(2, 2, 6, 2, 4)
    return self.out(x.permute(0, 2, 1, 3, 4).flatten(2))


@tokens(1, blocks=True, inner=(8, 16), outer=(8, 8))
def gates_in_blocks(self, x):
    a, b = self.inner(x).view(2, 6, 2, 8).chunk(2, -1)
    return self.outer((a * torch.sigmoid(b)).flatten(2))


def attended(self, x, turn):
    """Attention with queries and keys that `turn` turns, the same in each head."""
    q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
    return self.out(F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2))


# Rotary embeddings by registered buffers: pairs of channels turn by an angle
ROTARY = {"qkv": (8, 24), "out": (8, 8)} | dict.fromkeys(("cos", "sin"), lambda: nn.Buffer(torch.randn(6, 4)))


@tokens(1, **ROTARY)
def rotary_of_halves(self, x):
    return attended(self, x, lambda y: y * self.cos + torch.cat([-y[..., 2:], y[..., :2]], -1) * self.sin)


@tokens(1, **ROTARY)
def rotary_of_neighbours(self, x):
    return attended(
        self, x, lambda y: y * self.cos + torch.stack([-y[..., 1::2], y[..., ::2]], -1).flatten(-2) * self.sin
    )


def turned_by_constants(x):
    angle = torch.arange(6.0)[:, None] / torch.arange(1.0, 3)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


@tokens(0.8, qkv=(8, 24), out=(8, 8))
def rotary(self, x):
    return attended(self, x, turned_by_constants)


@network(
    TOKENS, 1, embed=(8, 10), token=lambda: weight(1, 1, 10), head=(10, 3), position=lambda: weight(1, 7, 10),
    mlp=lambda: nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 10)),
)  # fmt: skip
def positions_and_class_token(self, x):
    x = self.embed(x)
    x = torch.cat([self.token.expand(2, -1, -1), x], 1) + self.position
    return self.head(self.mlp(x)[:, 0])


@tokens(1, a=(1, 5), b=(5, 8))
def places_as_parts_of_the_last(self, x):
    places = torch.ones(len(x), 6).cumsum(1)
    return x + self.b(F.relu(self.a((places / places[:, -1:])[..., None])))


@network(
    TOKENS, 1, latent=lambda: weight(1, 1, 6), second=(6, 7), q=(7, 5), k=(8, 5), v=(8, 9), head=(9, 3),
)  # fmt: skip
def learned_query(self, x):
    """A query that sees no input: some of its units stand between weights alone."""
    query = self.q(self.second(self.latent)).expand(len(x), -1, -1)
    return self.head(F.scaled_dot_product_attention(query, self.k(x), self.v(x))[:, 0])


@tokens(0.8, inner=(8, 12), norm=lambda: nn.LayerNorm(6), mix=lambda: nn.Conv1d(6, 6, 1), outer=(6, 8))
def gated_mixer(self, x):
    """A convolution of one place over what are channels elsewhere."""
    u, v = F.gelu(self.inner(x)).chunk(2, -1)
    return x + self.outer(u * self.mix(self.norm(v)))


@tokens(
    0.9, mix=lambda: nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)),
    mlp=lambda: nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8)),
)  # fmt: skip
def mixer(self, x):
    x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
    return x + self.mlp(x)


@tokens(0.9, qkv=(8, 24), out=(8, 8), table=lambda: weight(11, 2))
def relative_position_bias(self, x):
    q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, -1))
    places = (torch.arange(6)[:, None] - torch.arange(6) + 5).flatten()
    bias = self.table[places].view(6, 6, 2).permute(2, 0, 1)
    return self.out(((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))


@tokens(0.9, gate=(8, 3), a=lambda: weight(3, 8, 6), b=lambda: weight(3, 6, 8))
def experts(self, x):
    gate = self.gate(x).softmax(-1)
    hidden = F.relu(torch.einsum("btc,ech->beth", x, self.a))
    return torch.einsum("beth,ehc,bte->btc", hidden, self.b, gate)


@network((torch.randn(8, 8),), 0.5, a=lambda: weight(3, 8, 8), b=lambda: weight(3, 8, 8), c=(8, 4))
def experts_in_one_product(self, x):
    """The first three samples go to one expert, the next two to another; one kernel for float32 alone."""
    ends = torch.tensor([3, 5, 8], dtype=torch.int32)
    x = F.relu(torch._grouped_mm(x, self.a, offs=ends))
    return self.c(torch._grouped_mm(x, self.b, offs=ends))


@tokens(0.9, experts=lambda: nn.ModuleList(chain(8, 12, 8) for _ in range(3)), gate=(8, 3))
def one_expert_each(self, x):
    """Each token goes to the expert with the greatest weight."""
    weight, chosen = self.gate(x).softmax(-1).max(-1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(self.experts):
        mine = chosen == number
        if mine.any():
            out[mine] = expert(x[mine]) * weight[mine][:, None]
    return out


@network((torch.randn(11, 8), torch.randint(0, 11, (2, 20))), 1, a=(8, 6), b=(6, 6), c=(6, 6), d=(6, 3))
def graph(self, x, edges):
    """Along its edges messages are added up."""
    x = F.relu(self.a(x))
    x = x + torch.zeros_like(x).index_add(0, edges[1], F.relu(self.b(x))[edges[0]])
    message = F.relu(self.c(x))[edges[0]]
    return self.d(x.scatter_reduce(0, edges[1][:, None].expand_as(message), message, "mean"))
