"""Small networks of every kind: what they compute is kept, and as much moves as should."""

import functools
import threading
from collections import UserDict, deque
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from networks import NETWORKS, build
from networks.kinds import IMAGES, VECTORS, Run, conv, weight
from torch import nn
from torch.nn import functional as F

from alignment.show_permutations import moved_share
from utils.activations import TIE
from utils.assignment import assign_groups
from utils.batches import Inputs
from utils.errors import UserError
from utils.permutations import axis_index, compose, groups_in, permute, places_of, soft_permute
from utils.symmetries import rules
from utils.symmetries.proof import derangements, examine, prove
from utils.symmetries.recording import record
from utils.symmetries.running import tree_map_tensors
from utils.symmetries.spec import permutation_spec


def recorded(model, spec, *inputs, before=False):
    return [rows.flatten(0, -2) for rows in record(model, spec, Inputs(inputs, {}), before=before)[0]]


def correlation(x, y):
    """Cross-correlation (C_a, C_b) of channels, from samples (n, C_a) and (n, C_b); 0 for one that never varies."""
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    x, y = (
        torch.where((norm := values.norm(dim=0)) > 1e-12, values / norm.clamp(min=1e-300), 0) for values in (x, y)
    )
    return (x.T @ y).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_function_is_kept_and_what_should_move_moves(name):
    model, example = build(name)
    _, _, share, blocks = NETWORKS[name]
    spec = permutation_spec(model, *example, proof=False)
    assert prove(model, spec, *example) <= 1e-5
    assert moved_share(model.state_dict(), spec) >= share - 1e-9, spec
    assert any(group.depends_on for group in spec.groups) >= blocks, spec


# --- the rules ----------------------------------------------------------------------------------------------

FUNCTIONS = sorted({rule.__name__ for rule in rules.RULES.values()} - {"alike"})  # alike: breaking frees no more


@functools.cache
def networks_by_rule() -> dict[str, list[str]]:
    """The names of the networks in whose runs each rule is called."""
    found: dict[str, list[str]] = {}
    current = []

    def spy(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            names = found.setdefault(function.__name__, [])
            if current[0] not in names:
                names.append(current[0])
            return function(*args, **kwargs)

        return wrapper

    with mock.patch.dict(rules.RULES, {name: spy(rule) for name, rule in rules.RULES.items()}):
        for name in NETWORKS:
            current[:] = [name]
            model, example = build(name)
            permutation_spec(model, *example, proof=False)
    return found


def broken(n, out):
    """No demands, and outputs of which anything may move."""
    axes = [[n.free(size) for size in tensor.shape] for tensor in (out if isinstance(out, (tuple, list)) else [out])]
    return tuple(axes) if isinstance(out, (tuple, list)) else axes[0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_broken_rule_is_refused(function):
    broken_rules = {name: broken for name, rule in rules.RULES.items() if rule.__name__ == function}
    refused = []
    for name in networks_by_rule().get(function, []):
        model, example = build(name)
        with mock.patch.dict(rules.RULES, broken_rules):
            try:
                permutation_spec(model, *example)
            except ValueError as error:
                assert type(model).__name__ in str(error)
                refused.append(name)
                break
    assert refused, networks_by_rule().get(function)


@pytest.mark.parametrize(("name", "sizes"), [("lstm", [6, 6]), ("lstm_both_ways", [4, 4, 4, 4])])
def test_each_layer_and_direction_has_units_of_its_own(name, sizes):
    model, example = build(name)
    assert [group.size for group in permutation_spec(model, *example, proof=False).groups] == sizes


# --- applying and finding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["group_norm", "grouped_twice", "attention_packed", "shuffled", "depthwise_multiplier"]
)
def test_soft_permutations_of_permutation_matrices_permute(name):
    model, example = build(name)
    spec = permutation_spec(model, *example)
    permutations = spec.random(1)
    matrices = [torch.eye(p.shape[-1])[torch.as_tensor(p)] for p in permutations]
    state = dict(model.named_parameters())
    hard, soft = permute(state, spec, permutations), soft_permute(state, spec, matrices)
    assert all(torch.allclose(hard[key], soft[key]) for key in state)
    assert all(torch.equal(state[key], soft_permute(state, spec, [None] * len(matrices))[key]) for key in state)


ON_SOME_INPUTS = {"skips_a_layer_on_some_inputs", "one_expert_each"}  # where some activations do not run


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ON_SOME_INPUTS])
def test_planted_permutations_are_found(name):
    """From what rows and what goes into them show, wherever channels vary and differ."""
    model, example = build(name)
    model.eval()
    spec = permutation_spec(model, *example, proof=False)
    planted = build(name)[0].eval()
    planted.load_state_dict(permute(model.state_dict(), spec, spec.random(3)))
    torch.manual_seed(1)

    def draw(tensor):
        return torch.randn_like(tensor) if tensor.is_floating_point() else torch.randint_like(tensor, 0, 11)

    batches = [tree_map_tensors(draw, example) for _ in range(8)]

    def rows_of(network, before=False):
        parts = [recorded(network, spec, *batch, before=before) for batch in batches]
        return [torch.cat(row) for row in zip(*parts, strict=True)]

    pairs = [
        [correlation(x, y) for x, y in zip(rows_of(model, before), rows_of(planted, before), strict=True)]
        for before in (False, True)
    ]
    scores = [matrix + TIE * tie for matrix, tie in zip(*pairs, strict=True)]
    found = assign_groups(spec, scores)
    again = [correlation(x, x) for x in rows_of(model)]
    clear = [c.any() and np.count_nonzero(c > 1 - 1e-6, axis=0).max(initial=1) == 1 for c in again]
    shown = set().union(*(row.votes for row, ok in zip(spec.rows, clear, strict=True) if ok))
    moved = permute(planted.state_dict(), spec, found)
    for key, axes in spec.axes.items():
        if all(groups_in(axis) <= shown for axis in axes):
            assert torch.equal(moved[key], model.state_dict()[key]), key


@pytest.mark.parametrize("name", ["grouped_twice", "attention_packed", "shuffled"])
def test_blocks_are_matched_by_the_best_order_of_their_members(name):
    """However alike the members of other blocks are, in the order that they happen to have or in any other."""
    model, example = build(name)
    spec = permutation_spec(model, *example, proof=False)
    planted, scores = spec.random(1), []
    for row in spec.rows:
        order, block = axis_index(row.axis, spec, planted), np.zeros(row.channels, int)
        for group in (g for g in groups_in(row.axis) if not spec.groups[g].depends_on):
            block[places_of(group, row.axis, spec)] = np.arange(spec.groups[group].size)[:, None]
        scores.append(np.where(block[:, None] == block[order], 0, 0.9))
        scores[-1][order, np.arange(len(order))] = 1
    found = compose(spec, planted, assign_groups(spec, scores))
    shown = set().union(*(row.votes for row in spec.rows))
    assert all(np.array_equal(found[number], spec.identity()[number]) for number in shown)


@pytest.mark.parametrize("name", ["stochastic_parts", "double_precision", "own_batch_norm", "changes_its_input"])
def test_the_model_and_the_example_are_left_as_they_were(name):
    model, example = build(name)
    model.train()
    next(model.children()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = [tensor.clone() for tensor in example]
    modes_before, hooks = [m.training for m in model.modules()], len(nn.modules.module._global_forward_hooks)
    random = torch.get_rng_state()
    spec = permutation_spec(model, *example)
    recorded(model, spec, *example)
    assert [m.training for m in model.modules()] == modes_before
    assert torch.equal(random, torch.get_rng_state())
    assert len(nn.modules.module._global_forward_hooks) == hooks
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(map(torch.equal, example, given))


def test_a_model_without_values_has_the_same_symmetries():
    empty = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).to("meta")
    spec = permutation_spec(empty, VECTORS[0].to("meta"))
    assert [group.size for group in spec.groups] == [6]


def test_the_proof_moves_every_group():
    """A group of two stays as it is in every second random permutation, which would prove nothing."""
    model = nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(2, 2), nn.ReLU())), nn.Linear(2, 2))
    spec = permutation_spec(model, torch.randn(3, 2), proof=False)
    assert all(list(p) == [1, 0] for seed in range(5) for p in derangements(spec, seed))


def test_an_activation_that_does_not_run_is_named():
    def run(self, x):
        return self.b(torch.sigmoid(self.a(x)) if x.sum() > 0 else self.a(x))

    model, example = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), torch.ones(3, 8)
    spec = permutation_spec(model, example, proof=False)
    with pytest.raises(UserError, match="does not show sigmoid when it runs on data"):
        recorded(model, spec, -example)


def test_rows_are_calls():
    model, example = build("module_used_twice")
    spec = permutation_spec(model, *example)
    assert [row.label for row in spec.rows] == ["relu", "relu:2", "relu:3"]
    model = nn.Sequential(nn.Linear(8, 6), relu := nn.ReLU(), nn.Linear(6, 6), relu, nn.Linear(6, 2))
    spec = permutation_spec(model, *VECTORS)
    assert [row.label for row in spec.rows] == ["1", "1:2"]
    first, second = recorded(model, spec, *VECTORS)
    assert torch.equal(first, F.relu(model[0](*VECTORS))) and torch.equal(second, F.relu(model[2](first)))
    before = recorded(model, spec, *VECTORS, before=True)
    assert torch.equal(before[1], model[2](first))


def test_a_batch_of_one_is_doubled_where_batch_statistics_need_it():
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    spec = permutation_spec(model, IMAGES[0][:1])
    assert [group.size for group in spec.groups] == [8] and set(spec.modes) == {"eval", "train"}


def test_batch_norm_over_two_values_is_no_reason_to_refuse():
    """Deep in such a network two orders of summation differ visibly; over a larger batch they do not."""
    torch.manual_seed(0)
    layers = [part for _ in range(30) for part in (nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU())]
    model, example = nn.Sequential(*layers, nn.Linear(256, 3)), torch.randn(2, 256)
    spec = permutation_spec(model, example)
    assert len(spec.groups) == 30
    wrong = replace(spec, axes={name: axes for name, axes in spec.axes.items() if name != "0.bias"})
    with pytest.raises(ValueError, match="could not be followed"):
        prove(model, wrong, example)


def test_a_network_that_needs_targets_to_train_is_seen_in_evaluation():
    def run(self, x):
        if self.training:
            raise ValueError("targets should not be none")
        return self.b(F.relu(self.a(x)))

    spec = permutation_spec(Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), *VECTORS)
    assert len(spec.groups) == 1 and spec.modes == ("eval",)


def with_a_lock():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    model.lock = threading.Lock()
    return model


def through_numpy(self, x):
    return self.b(torch.from_numpy(F.relu(self.a(x)).numpy()))


def numpy_put_out(self, x):
    x = F.relu(self.a(x))
    return self.b(x), x.numpy()


def nested(self, x):
    return self.b(torch.nested.nested_tensor([x[:1], x[1:]])).to_padded_tensor(0.0)


# --- what the example does not show -----------------------------------------------------------------------------


def keeps(model, spec, *others):
    """Whether the permuted model computes the same on other inputs, to rounding."""
    model = model.double().eval()
    expected = [model(*other) for other in others]
    model.load_state_dict(permute(model.state_dict(), spec, derangements(spec, 3)))
    return all(torch.allclose(model(*other), before) for other, before in zip(others, expected, strict=True))


def table_of(length):
    return {"table": lambda: weight(length, 8), "a": lambda: nn.Linear(8, 6), "b": lambda: nn.Linear(6, 3)}


def scaled_table(self, x):
    return self.b(F.relu(self.a(x + (self.table * 2)[: x.shape[1]])))


SHORTER = {
    "sliced": lambda self, x: self.b(F.relu(self.a(x + self.table[: x.shape[1]]))),
    "narrowed": lambda self, x: self.b(F.relu(self.a(x + self.table.narrow(0, 0, x.shape[1])))),
    "split": lambda self, x: self.b(F.relu(self.a(x + self.table.split([x.shape[1], 9 - x.shape[1]])[0]))),
    "summed": lambda self, x: self.b(F.relu(self.a(x + self.table[: x.shape[1]].sum(0)))),
    "scaled": scaled_table,
    "centred": lambda self, x: self.b(F.relu(self.a(x + (self.table - self.table.mean(0))[: x.shape[1]]))),
    "beside_its_mean": lambda self, x: self.b(F.relu(self.a(x + self.table[: x.shape[1]] - self.table.mean(0)))),
    "normed": lambda self, x: self.b(F.relu(self.a(x + (self.table / self.table.norm(dim=0))[: x.shape[1]]))),
    "selected": lambda self, x: self.b(F.relu(self.a(x + self.table[x.shape[1] - 1]))),
    "one_by_one": lambda self, x: self.b(F.relu(self.a(x + torch.stack([*self.table][: x.shape[1]])))),
}


@pytest.mark.parametrize("kind", SHORTER)
def test_positions_beyond_the_example_stay(kind):
    torch.manual_seed(0)
    model = Run(SHORTER[kind], **{name: make() for name, make in table_of(9).items()})
    spec = permutation_spec(model, torch.randn(2, 5, 8))
    assert any(group.size == 6 for group in spec.groups)
    assert keeps(model, spec, *[(torch.randn(2, length, 8).double(),) for length in (5, 7, 9)])


def test_masks_of_two_dimensions_stay_beyond_the_example():
    def run(self, x):
        length = x.shape[1]
        scores = x @ x.transpose(1, 2) * self.mask[:length, :length]
        return self.b(F.relu(self.a(scores @ x)))

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3), mask=nn.Buffer(torch.rand(9, 9)))
    spec = permutation_spec(model, torch.randn(2, 5, 8))
    assert keeps(model, spec, (torch.randn(2, 9, 8).double(),)) and "mask" not in spec.axes


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


def mlp(finish):
    return Run(lambda self, x: finish(self, self.b(F.relu(self.a(x)))), a=nn.Linear(8, 6), b=nn.Linear(6, 3))


@pytest.mark.parametrize("pack", [Slots, lambda y: deque([y]), lambda y: map(torch.clone, [y]), lambda y: {"a": [y]}])
def test_outputs_are_seen_wherever_they_are(pack):
    spec = permutation_spec(mlp(lambda self, y: pack(y)), *VECTORS)
    assert [group.size for group in spec.groups] == [6]


@pytest.mark.parametrize(
    "finish",
    [
        lambda self, y: y.tolist(),
        lambda self, y: y.argmax(1).tolist(),
        lambda self, y: [f"class {c.item():.0f}" for c in y.argmax(1)],
        lambda self, y: setattr(self, "logits", y),
        lambda self, y: y[y > 1e6],
        lambda self, y: y[:0] if not self.training else y,
        lambda self, y: torch.zeros(3, 3),
    ],
)
def test_what_cannot_be_seen_is_not_proved(finish):
    """Numbers, texts and attributes that leave the run, empty tensors and constants."""
    with pytest.raises(ValueError, match="no number that it puts out|could not be followed"):
        spec = permutation_spec(mlp(finish), *VECTORS)
        assert [group.size for group in spec.groups] == [6], spec  # or all classes stay where they are
        raise ValueError("no number that it puts out has moved")


@pytest.mark.parametrize("offset", [0.0, -1e9])
def test_a_wrong_order_is_measured_by_how_far_the_output_moves(offset):
    """Whatever constants stand beside it: masked logits."""

    def run(self, x):
        x = F.relu(self.a(x))
        other = torch.from_numpy(x.detach().numpy()).flip(1)
        return torch.cat([self.b(x) + self.c(other), torch.full((len(x), 1), offset)], 1)

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3), c=nn.Linear(6, 3))
    with pytest.raises(ValueError, match="could not be followed"):
        permutation_spec(model, *VECTORS)


def test_what_a_deep_network_hides_is_not_proved():
    """The first layer's order is seen in the last digits alone; a wrong one no better than a right one."""
    model = nn.Sequential(*(part for _ in range(17) for part in (nn.Linear(6, 6), nn.Sigmoid())), nn.Linear(6, 3))
    example = (torch.randn(3, 6),)
    spec = permutation_spec(model, *example)
    assert len(spec.groups) == 17
    wrong = replace(spec, axes={name: axes for name, axes in spec.axes.items() if name != "0.bias"})
    difference, unseen = examine(model, wrong, example, {}, wanted=None)
    assert difference < 1e-7
    assert 0 in unseen and 16 not in unseen


def test_a_group_of_which_no_wrong_order_shows_stays():
    """One is multiplied by 0, the other is a branch that puts out nothing."""

    def run(self, x):
        self.d(F.relu(self.c(x)))
        return self.b(F.relu(self.a(x))) + 0 * self.d(F.relu(self.c(x)))

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3), c=nn.Linear(8, 7), d=nn.Linear(7, 3))
    spec = permutation_spec(model, *VECTORS)
    assert [group.size for group in spec.groups] == [6]
    assert "not proved" in next(fixed.reason for fixed in spec.fixed if fixed.entry == "c.bias")


def projected(draw):
    return Run(lambda self, x: self.b(F.relu(F.relu(self.a(x)) @ draw())), a=nn.Linear(8, 6), b=nn.Linear(5, 3))


def reseeded():
    torch.manual_seed(0)
    return torch.randn(6, 5)


def in_a_fork():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return torch.rand(6, 5)


KEPT_GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    "draw",
    [
        reseeded,
        in_a_fork,
        lambda: torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
        lambda: torch.empty(6, 5).normal_(generator=KEPT_GENERATOR.manual_seed(3)),
    ],
)
def test_seeded_chance_is_a_constant(draw):
    model = projected(draw)
    spec = permutation_spec(model, *VECTORS)
    assert not spec.groups and any("a seed of its own" in fixed.reason for fixed in spec.fixed)


def test_dropout_with_a_seed_is_a_constant():
    def run(self, x):
        torch.manual_seed(1)
        return self.b(F.dropout(F.relu(self.a(x)), training=True))

    assert not permutation_spec(Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), *VECTORS).groups


def test_weights_that_no_run_uses_are_named():
    def run(self, x):
        x = F.relu(self.a(x))
        return self.b(x) if len(x) < 100 else self.d(F.relu(self.c(x)))

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3), c=nn.Linear(6, 5), d=nn.Linear(5, 3))
    with pytest.warns(UserWarning, match=r"4 weights of Run were never used on this example \(c.weight, .*larger"):
        spec = permutation_spec(model, *VECTORS)
    assert {fixed.entry for fixed in spec.fixed if fixed.reason == "never used"} == {
        f"{layer}.{kind}" for layer in "cd" for kind in ("weight", "bias")
    }


# --- networks that run in other ways ------------------------------------------------------------------------------


class Forces(nn.Module):
    """An energy, and its slope."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 1)

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.c(F.silu(self.b(torch.tanh(self.a(x))))).sum()
        return energy, torch.autograd.grad(energy, x)[0]


def convolved_on_a_graph(self, x, edges):
    return self.b(torch.sparse.mm(edges, F.relu(self.a(torch.sparse.mm(edges, x)))))


def remembers(self, x):
    """Of the call before this one."""
    self.h = torch.tanh(self.a(x) + (self.u(self.h) if self.h is not None else 0))
    return self.b(self.h)


def recurrent():
    model = Run(remembers, a=nn.Linear(8, 6), u=nn.Linear(6, 6), b=nn.Linear(6, 3))
    model.h = None
    return model


EDGES = (torch.rand(3, 3) > 0.5).float()


@pytest.mark.parametrize(
    ("build", "example", "sizes"),
    [
        (Forces, VECTORS, [6, 5]),
        (lambda: Run(convolved_on_a_graph, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), (*VECTORS, EDGES.to_sparse()), [6]),
        (recurrent, VECTORS, [6]),
        (lambda: mlp(lambda self, y: UserDict(a=y)), VECTORS, [6]),
    ],
)
def test_gradients_in_forward_sparse_graphs_hidden_states_and_mappings(build, example, sizes):
    model = build()
    spec = permutation_spec(model, *example)
    assert [group.size for group in spec.groups] == sizes
    recorded(model, spec, *example)


def test_a_hidden_state_keeps_its_order():
    model, x = recurrent(), torch.randn(4, 3, 8).double()
    spec = permutation_spec(model, *VECTORS)
    other = recurrent()
    other.load_state_dict(permute(model.state_dict(), spec, spec.random(1)))
    for given in x:
        torch.testing.assert_close(other.double()(given), model.double()(given))


def test_outputs_may_be_named_and_caches_do_not_count():
    def run(self, x):
        hidden = F.relu(self.a(x))
        return {"logits": self.b(hidden), "past_key_values": (hidden,), "hidden_states": hidden[:, :]}

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    spec = permutation_spec(model, *VECTORS)
    reasons = {fixed.entry: fixed.reason for fixed in spec.fixed}
    assert not spec.groups and reasons["a.bias"] == "the network's output hidden_states"
    for outputs in ("logits", ["logits", "past_key_values"], lambda output: output["logits"]):
        spec = permutation_spec(model, *VECTORS, outputs=outputs)
        assert len(spec.groups) == (not isinstance(outputs, list))
    with pytest.raises(ValueError, match="does not put out scores"):
        permutation_spec(model, *VECTORS, outputs="scores")


def test_a_part_of_which_the_shape_alone_is_read_moves():
    def run(self, x):
        x = F.relu(self.a(x))
        return self.b(x) * x[:, -1].shape[0]

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    assert [group.size for group in permutation_spec(model, *VECTORS).groups] == [6]


def branches(self, x):
    return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: -self.a(x), (x,))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Run(branches, a=nn.Linear(8, 6)), "cond hides what it runs; write it in plain operations"),
        (
            lambda: nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 3)),
            "0.weight of Sequential has no shape before the first run",
        ),
        (with_a_lock, "Sequential cannot be copied"),
        (lambda: Run(through_numpy, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), "Run"),
        (lambda: Run(numpy_put_out, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), "Run could not be followed"),
        (lambda: Run(nested, b=nn.Linear(8, 3)), "operations of Run cannot be followed"),
    ],
)
def test_networks_that_are_refused(build, message):
    """Without shapes, that cannot be copied, whose units leave torch, or with a kind of tensor that is not known."""
    with pytest.raises(ValueError, match=message):
        permutation_spec(build(), *VECTORS)
