import doctest
import json
import math
from dataclasses import replace

import networks
import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn
from torch.nn import functional as F

from models import MODELS
from utils import permutations
from utils.permutations import PermutationSpec, compose, groups_in, permute
from utils.stages.matches import permutations_from_rows, rows_from_permutations
from utils.symmetries.spec import permutation_spec


def test_the_worked_example():
    assert doctest.testmod(permutations).attempted >= 6
    assert doctest.testmod(permutations).failed == 0


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_spec_goes_through_json(name):
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    again = PermutationSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    again.expect(model.state_dict())


def test_a_spec_of_another_network_is_refused():
    spec = permutation_spec(MODELS["TinyTen"](5))
    with pytest.raises(ValueError, match="no entry layers.0.conv.weight of this shape"):
        spec.expect(MODELS["ResNet32"](5).state_dict())
    with pytest.raises(ValueError, match="groups of units are not those of its weights"):
        replace(spec, groups=spec.groups[:-1]).expect(MODELS["TinyTen"](5).state_dict())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "no entry layers.0.conv.weight"),
        (lambda state: {f"_orig_mod.{name}": value for name, value in state.items()}, "nor layers.0.conv.bias"),
        (lambda state: dict(list(state.items())[: len(state) // 2]), "no entry layers.4"),
        (lambda state: {name: value for name, value in state.items() if "bn.running" not in name}, "running_mean"),
        (lambda state: {name: value[None] for name, value in state.items()}, "of this shape"),
        (lambda state: state | {"head.weight": torch.ones(4, 4)}, "without an entry head.weight"),
    ],
)
def test_a_state_of_another_network_is_not_permuted(damage, words):
    model = MODELS["TinyTen"](5)
    spec = permutation_spec(model, proof=False)
    with pytest.raises(ValueError, match=words):
        permute(damage(model.state_dict()), spec, spec.random(1))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda orders: orders[1:], "there are 7 permutations of 8 groups"),
        (lambda orders: [orders[0] * 0, *orders[1:]], r"group 0: not every number from 0 to \d+ is there once"),
        (lambda orders: [*orders[:3], orders[3] + 1, *orders[4:]], "group 3: not every"),
        (lambda orders: [orders[0].astype(float), *orders[1:]], "group 0: not every"),
        (lambda orders: [orders[0] - len(orders[0]), *orders[1:]], "group 0: not every"),
        (lambda orders: [orders[0][:-1], *orders[1:]], "group 0: an array"),
    ],
)
def test_what_is_no_permutation_is_refused(damage, words):
    model = MODELS["TinyTen"](5)
    spec = permutation_spec(model, proof=False)
    with pytest.raises(ValueError, match=words):
        permute(model.state_dict(), spec, damage(spec.random(1)))
    as_lists = permute(model.state_dict(), spec, [order.tolist() for order in spec.random(1)])
    assert all(map(torch.equal, as_lists.values(), permute(model.state_dict(), spec, spec.random(1)).values()))


def test_a_spec_is_shown_in_five_lines():
    """With the number of its permutations: of two streams of 8, of heads, and in each of two kinds of 4 channels."""
    spec = permutation_spec(*(lambda net, example: (net, *example))(*networks.build("attention_packed")))
    lines = repr(spec).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 160
    orders = math.factorial(8) ** 2 * 2 * math.factorial(4) ** 4
    assert spec.log10_orders == pytest.approx(math.log10(orders))
    assert "10^15.0 permutations" in lines[0]


class Unseen(nn.Module):
    """Branches, a concatenation, a residual sum, a depthwise convolution, flatten before linear, a shared layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(9)
        self.merge = nn.Conv2d(9, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.hidden = nn.Linear(6 * 16, 7)
        self.shared = nn.Linear(7, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = F.relu(self.bn(torch.cat([self.left(x), self.right(x)], 1)))
        x = F.relu(self.merge(y) + x)
        x = F.max_pool2d(F.relu(self.depthwise(x)), 2)
        x = torch.tanh(self.hidden(torch.flatten(x, 1)))
        x = torch.tanh(self.shared(x))
        return self.out(torch.tanh(self.shared(x)))


def model_and_images(name):
    if name == "Unseen":
        return randomize(Unseen()), torch.randn(3, 3, 8, 8)
    return randomize(MODELS[name](5)), torch.randn(3, 3, 32, 32)


ALL = [*MODELS, "Unseen"]


@pytest.mark.parametrize("name", ALL)
def test_every_hidden_channel_is_permuted(name):
    """All entries move, but for those of the output and of the input's axis."""
    model, x = model_and_images(name)
    spec = permutation_spec(model, x)
    permuted = permute(model.state_dict(), spec, [np.roll(np.arange(group.size), 1) for group in spec.groups])
    unmoved = {k for k, v in model.state_dict().items() if torch.equal(v, permuted[k])}
    output = {"dense.bias", "fc.bias", "aux1.fc2.bias", "aux2.fc2.bias", "out.bias"}
    assert {k for k in unmoved if not k.endswith("num_batches_tracked")} <= output


@pytest.mark.parametrize("name", ALL)
def test_rows_and_permutations_convert(name):
    spec = permutation_spec(*model_and_images(name))
    permutations = spec.random(0)
    found = permutations_from_rows(spec, rows_from_permutations(spec, permutations))
    assert all(map(np.array_equal, permutations, found))


def test_published_rows():
    labels = {name: [row.label for row in permutation_spec(MODELS[name](10)).rows] for name in MODELS}
    assert labels["TinyTen"] == [f"layers.{i}.relu" for i in range(8)]
    blocks = [f"layers.{s}.{b}.relu{r}" for s in (1, 2, 3) for b in range(5) for r in (1, 2)]
    assert labels["ResNet32"] == ["layers.0.2", *blocks]
    branches = ["branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4"]

    def inception(*names):
        return [f"inception{name}.{branch}.relu" for name in names for branch in branches]

    assert labels["GoogLeNet"] == [
        *(f"conv{i}.relu" for i in (1, 2, 3)),
        *inception("3a", "3b", "4a"),
        *("aux1.conv.relu", "aux1.relu"),
        *inception("4b", "4c", "4d"),
        *("aux2.conv.relu", "aux2.relu"),
        *inception("4e", "5a", "5b"),
    ]


def test_residual_streams_share_a_permutation():
    spec = permutation_spec(MODELS["ResNet32"](10))
    stream = [groups_in(row.axis) for row in spec.rows if row.label == "layers.0.2" or "relu2" in row.label]
    assert len(spec.groups) == 3 + 15
    assert [stream.count(groups) for groups in (stream[0], stream[6], stream[11])] == [6, 5, 5]


def test_published_voters():
    """The stem alone decides its stream; the five block outputs decide those of stages 2 and 3."""
    resnet = permutation_spec(MODELS["ResNet32"](10)).rows
    silent = [row.label for row in resnet if not row.votes]
    assert silent == [f"layers.1.{b}.relu2" for b in range(5)]
    conv3 = permutation_spec(MODELS["GoogLeNet"](10)).rows[2]
    assert (conv3.label, conv3.tap.path) == ("conv3.relu", "maxpool2")


def test_concatenation_and_flatten_are_segments():
    spec = permutation_spec(Unseen(), torch.zeros(2, 3, 8, 8))
    sizes = {name: [[factor.size for factor in segment] for segment in axes[-1]] for name, axes in spec.axes.items()}
    assert sizes["bn.weight"] == [[4], [5]]
    assert sizes["hidden.weight"] == [[6, 4, 4]]


def test_a_group_without_activation_is_measured_where_it_is_made():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    assert [row.label for row in permutation_spec(model, torch.zeros(2, 4)).rows] == ["0"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda rows: rows[:-1], "7 rows"),
        (lambda rows: [rows[0][:-1], *rows[1:]], "of 15, 16"),
        (lambda rows: [rows[0] * 0, *rows[1:]], r"row 0 \(layers.0.relu\) is not a permutation"),
    ],
)
def test_rows_that_are_no_match_are_refused(damage, message):
    spec = permutation_spec(MODELS["TinyTen"](10))
    with pytest.raises(ValueError, match=message):
        permutations_from_rows(spec, damage(rows_from_permutations(spec, spec.random(0))))


def test_the_row_that_votes_decides_a_stream():
    """The original code's match has, in ResNet32's stage 1, what the block outputs by themselves would have had."""
    spec = permutation_spec(MODELS["ResNet32"](10))
    permutations = spec.random(0)
    rows = rows_from_permutations(spec, permutations)
    generator = np.random.default_rng(1)
    for row in (2, 4, 6, 8, 10):
        rows[row] = generator.permutation(16)
    assert all(map(np.array_equal, permutations, permutations_from_rows(spec, rows)))
    rows[2] = np.zeros(16, int)
    with pytest.raises(ValueError, match=r"row 2 \(layers.1.0.relu2\) is not a permutation"):
        permutations_from_rows(spec, rows)


def test_voting_rows_that_disagree_are_refused():
    spec = permutation_spec(MODELS["ResNet32"](10))
    rows = rows_from_permutations(spec, spec.random(0))
    rows[14] = np.roll(rows[14], 1)
    with pytest.raises(ValueError, match=r"row 14 \(layers.2.1.relu2\) disagrees"):
        permutations_from_rows(spec, rows)


def test_blocks_keep_an_order_of_their_own():
    """Channels of grouped convolutions are reordered in each group in a way of their own."""
    layers = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 2, 1)]
    model, x = randomize(nn.Sequential(*layers)).double(), torch.randn(3, 3, 8, 8).double()
    spec = permutation_spec(model, x)
    assert sorted((group.size, len(group.depends_on)) for group in spec.groups) == [(3, 0), (4, 1), (4, 1)]
    first, second = spec.random(1), spec.random(2)
    expected, state = model(x), {name: value.clone() for name, value in model.state_dict().items()}
    once = permute(state, spec, first)
    model.load_state_dict(once)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-12)
    twice, at_once = permute(once, spec, second), permute(state, spec, compose(spec, first, second))
    assert all(torch.equal(twice[name], at_once[name]) for name in state)
    again = permutations_from_rows(spec, rows_from_permutations(spec, first))
    for found in (again, compose(spec, spec.identity(), first)):
        assert all(map(np.array_equal, first, found))
