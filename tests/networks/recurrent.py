"""Words, and recurrent networks."""

import torch
from torch import nn
from torch.nn import functional as F

from .kinds import TOKENS, WORDS, built, network


@network(WORDS, 1, table=lambda: nn.Embedding(11, 8), a=(8, 6), b=(6, 3))
def embedded_words(self, i):
    return self.b(F.relu(self.a(self.table(i))))


@network(
    WORDS, 1, bags=lambda: nn.EmbeddingBag(11, 8), a=(8, 6), b=(6, 3),
    table=lambda: nn.Embedding(11, 5, max_norm=100), c=(5, 3),
)  # fmt: skip
def bags_of_words(self, i):
    return self.b(F.relu(self.a(self.bags(i)))) + self.c(self.table(i)).mean(1)


@built(WORDS, 1)
def tied_embedding():
    """The output reads with the transposed table: words stay, features move."""
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 11, bias=False))
    model[3].weight = model[0].weight
    return model


@network(TOKENS, 1, cell=lambda: nn.LSTM(8, 6, 2, batch_first=True), head=(6, 3))
def lstm(self, x):
    return self.head(self.cell(x)[0][:, -1])


@network(TOKENS, 1, cell=lambda: nn.GRU(8, 6, bidirectional=True, batch_first=True), head=(12, 3))
def gru_both_ways(self, x):
    return self.head(self.cell(x)[0].mean(1))


@network(TOKENS, 1, embed=(8, 5), cell=lambda: nn.GRU(5, 6, batch_first=True), head=(6, 3))
def packed_sequences(self, x):
    x = nn.utils.rnn.pack_padded_sequence(F.relu(self.embed(x)), torch.tensor([6, 4]), batch_first=True)
    return self.head(nn.utils.rnn.pad_packed_sequence(self.cell(x)[0], batch_first=True)[0].mean(1))


@network(TOKENS, 1, cell=lambda: nn.LSTM(8, 6, batch_first=True, proj_size=4), head=(4, 3))
def lstm_with_projections(self, x):
    return self.head(self.cell(x)[0][:, -1])


@network(TOKENS, 1, a=lambda: nn.LSTMCell(8, 6), b=lambda: nn.GRUCell(6, 5), head=(5, 3))
def cells(self, x):
    h, c, g = x.new_zeros(2, 6), x.new_zeros(2, 6), x.new_zeros(2, 5)
    for step in x.unbind(1):
        h, c = self.a(step, (h, c))
        g = self.b(h, g)
    return self.head(g)


@network((torch.randn(3, 8), torch.randn(3, 5)), 1, a=(8, 6), b=(5, 7), both=lambda: nn.Bilinear(6, 7, 9), c=(9, 3))
def bilinear(self, x, y):
    return self.c(F.relu(self.both(F.relu(self.a(x)), F.relu(self.b(y)))))


@network(TOKENS, 1, cell=lambda: nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True), head=(8, 3))
def lstm_both_ways(self, x):
    return self.head(torch.cat(tuple(self.cell(x)[1][0][-2:]), -1))
