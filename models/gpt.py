"""GPT: a small transformer that predicts the next token, about 0.19 million parameters for bytes."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

NORMS = {"rms": partial(nn.RMSNorm, eps=1e-5), "layer": nn.LayerNorm}


class Block(nn.Module):
    """Attention, then a perceptron of one hidden layer; each adds to its input what it makes of its norm.

    causal: whether a position sees only those before it, and itself.
    """

    def __init__(self, width: int, heads: int, norm: str, *, causal: bool = True):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_mlp = NORMS[norm](width), NORMS[norm](width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before_attention(x)
        parts = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(*parts, is_causal=self.causal).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class GPT(nn.Module):
    """Maps tokens (N, T), int64, T at most `context`, to logits (N, T, num_classes) of the token after each.

    norm: rms (with a gain, without a bias) or layer. tied: the embedding is the last layer's weight, too. width: a
    multiple of heads.
    """

    def __init__(
        self,
        num_classes: int = 256,
        context: int = 64,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        *,
        tied: bool = False,
        norm: str = "rms",
    ):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(num_classes, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, norm) for _ in range(depth)))
        self.norm, self.head = NORMS[norm](width), nn.Linear(width, num_classes, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))
