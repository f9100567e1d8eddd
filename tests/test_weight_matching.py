"""Weight matching: shuffled copies are found exactly, and nothing that is begun with gets worse."""

import itertools

import emulated
import networks
import numpy as np
import pytest
import torch
from conftest import randomize
from stages import fails, run
from torch import nn

from models import MODELS
from utils import assignment, weights
from utils.assignment import assign, last
from utils.matching import align
from utils.permutations import compose, counted, inverse, pairs_of, permute
from utils.stages.layout import Layout
from utils.stages.matches import load_match, permutations_from_rows
from utils.symmetries.spec import permutation_spec
from utils.weights import match_weights, weight_similarity


def random_state(model, seed=5):
    """Random numbers under the names of a state dict."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def spec_and_states(name):
    """Of a network of tests/networks.py or models: what may be permuted, and two sets of random weights."""
    if name in MODELS:
        model = MODELS[name](5)
        return permutation_spec(model), *(randomize(MODELS[name](5), seed).state_dict() for seed in (1, 2))
    model, example = networks.build(name)
    return permutation_spec(model, *example, proof=False), random_state(model), random_state(model, 6)


def searched(spec, a, b, start, seed=0):
    """One search from a start, by its permutations."""
    pairs = pairs_of(a, b, spec)
    return last(weights._search(pairs, spec, start, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_planted_permutations_are_found(name, monkeypatch):
    """In every network, blocks included: B is a shuffled copy of A, and aligned B is A again."""
    monkeypatch.setattr(weights, "ORDERS", 1)  # that of the invariants finds it
    spec, state, _ = spec_and_states(name)
    shuffled = permute(state, spec, spec.random(3))
    back = permute(shuffled, spec, match_weights(state, shuffled, spec))
    assert all(
        torch.equal(back[key], state[key]) for key in state if not key.endswith(("running_mean", "running_var"))
    )


@pytest.mark.parametrize("name", MODELS)
def test_planted_permutations_of_the_published_networks(name, monkeypatch):
    monkeypatch.setattr(weights, "ORDERS", 1)
    spec, state, _ = spec_and_states(name)
    planted = spec.random(3)
    found = match_weights(state, permute(state, spec, planted), spec)
    for expected, permutation in zip(inverse(spec, planted), found, strict=True):
        np.testing.assert_array_equal(expected, permutation)


@pytest.mark.parametrize(
    "name", ["grouped_twice", "grouped_unlike", "attention_packed", "shuffled", "depthwise_multiplier", "group_norm"]
)
def test_the_inverse_undoes(name):
    spec, state, _ = spec_and_states(name)
    permutations = spec.random(1)
    for both in ((permutations, inverse(spec, permutations)), (inverse(spec, permutations), permutations)):
        for permutation, same in zip(compose(spec, *both), spec.identity(), strict=True):
            np.testing.assert_array_equal(permutation, same)
    there = permute(state, spec, permutations)
    back = permute(there, spec, inverse(spec, permutations))
    assert all(torch.equal(back[key], state[key]) for key in state)


SOME = ["TinyTen", "ResNet32", "grouped_twice", "grouped_unlike", "attention_packed", "layer_scale", "lstm"]
SOME += ["shuffled"]


@pytest.mark.parametrize("name", SOME)
def test_parts_make_up_the_weights(name):
    """The objective over the parts of permuted B is that of permuted weights."""
    spec, a, b = spec_and_states(name)
    permutations = spec.random(1)
    pairs = weights.permuted(pairs_of(a, b, spec), permutations)
    total = sum((pair.a.values * pair.b.values).sum().item() for pair in pairs)
    permuted = permute(b, spec, permutations)
    expected = sum((a[key] * permuted[key]).sum().item() for key in counted(a, spec))
    assert total == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert weight_similarity(a, b, spec, permutations) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", SOME)
def test_no_turn_makes_it_worse(name, monkeypatch):
    """The objective grows with every turn that is taken, whatever a search begins with."""
    spec, a, b = spec_and_states(name)
    gains, is_better = [], weights.is_better

    def watched(changes):
        if better := is_better(changes):
            gains.append(sum((a.values.double() * b.values.double()).sum().item() for a, b, *_ in changes))
        return better

    monkeypatch.setattr(weights, "is_better", watched)
    start = spec.random(4)
    found = searched(spec, a, b, start)
    assert gains and min(gains) > 0
    before, after = (weight_similarity(a, b, spec, permutations) for permutations in (start, found))
    assert after > before
    again = searched(spec, a, b, found)
    assert weight_similarity(a, b, spec, again) == pytest.approx(after, rel=1e-6)  # a fixed point


@pytest.mark.parametrize("name", ["TinyTen", "attention_packed", "shuffled", "lstm", "many heads"])
def test_scores_are_kept_up_to_date(name, monkeypatch):
    """Whatever was permuted, known scores are those of the weights as they stand."""
    if name == "many heads":
        layer = nn.TransformerEncoderLayer(32, 8, 24, batch_first=True)
        model = nn.Sequential(nn.Linear(6, 32), layer, nn.Linear(32, 4))
        spec = permutation_spec(model, torch.randn(2, 5, 6), proof=False)
        a = random_state(model)
        for key, dim in (("in_proj_weight", 0), ("in_proj_bias", 0), ("out_proj.weight", 1)):
            alike = a[f"1.self_attn.{key}"].unflatten(dim, (-1, 8, 4))  # so that heads are matched before their units
            alike.lerp_(alike.narrow(dim + 1, 0, 1).clone(), 0.9)
    else:
        spec, a, _ = spec_and_states(name)
    swapped = spec.identity()  # but for two units of each group, or two blocks
    for order in swapped:
        order[:2] = order[[1, 0]] if order.ndim == 1 else order[:2]
    b = permute(a, spec, swapped)
    scores, kept = weights._State.scores, []

    def watched(self, group):
        found, anew = scores(self, group), weights.scores_of(self.moved_by((group,)).values(), group)
        scale = float(anew.abs().max())
        torch.testing.assert_close(found / scale, anew / scale, rtol=0, atol=1e-5)
        kept.append(not torch.equal(found, anew))
        return found

    monkeypatch.setattr(weights._State, "scores", watched)
    for seed in range(4):
        searched(spec, a, b, spec.identity(), seed)
        searched(spec, a, b, spec.random(seed), seed)
    assert len(kept) > len(spec.groups)
    assert any(kept) or max(group.size for group in spec.groups) <= 4  # of few units, more than half move


def plain_matching(spec, a, b, seed):
    """The published algorithm for groups without blocks that no weight has twice, written from its definition."""
    order, permutations, moved = np.random.default_rng(seed), spec.identity(), True
    axes = {
        key: [axis[0][0].groups[0] if len(axis[0]) == 1 else None for axis in spec.axes[key]] for key in spec.axes
    }
    while moved:
        moved = False
        for group in order.permutation(len(spec.groups)):
            others = [p if g != group else np.arange(len(p)) for g, p in enumerate(permutations)]
            score, permuted = 0.0, permute(b, spec, others)
            for key in counted(a, spec):
                for dimension in (d for d, g in enumerate(axes[key]) if g == group):
                    x, y = (
                        value.movedim(dimension, 0).reshape(value.shape[dimension], -1)
                        for value in (a[key], permuted[key])
                    )
                    score = score + (x @ y.T).double().numpy()
            best, places = assign(score), np.arange(len(score))
            old, new = (score[places, p].sum() for p in (permutations[group], best))
            if new > old + 1e-6:
                permutations[group], moved = best, True
    return permutations


@pytest.mark.parametrize("name", ["TinyTen", "ResNet32", "mlp"])
def test_no_worse_than_the_plain_algorithm(name):
    spec, a, b = spec_and_states(name)
    ours = weight_similarity(a, b, spec, match_weights(a, b, spec))
    for seed in range(3):
        assert ours >= weight_similarity(a, b, spec, plain_matching(spec, a, b, seed)) * (1 - 1e-6)


def test_a_match_to_begin_with_gets_no_worse():
    spec, a, b = spec_and_states("TinyTen")
    start = match_weights(a, b, spec)
    found = match_weights(a, b, spec, start=start, seed=7)
    assert weight_similarity(a, b, spec, found) >= weight_similarity(a, b, spec, start) * (1 - 1e-6)
    again = match_weights(a, b, spec)
    assert all(map(np.array_equal, start, again))  # the same seed, the same match


@pytest.mark.parametrize("bound", ["MULTIPLICATIONS", "VERY_LARGE"])
def test_a_large_network_is_searched_less(monkeypatch, bound):
    """And is found still: its shuffled copy, as such, and what was trained on from it, shuffled or not."""
    spec, a, noise = spec_and_states("TinyTen")
    monkeypatch.setattr(weights, bound, 1)
    near = {key: a[key] + 0.1 * noise[key] if a[key].is_floating_point() else a[key] for key in a}
    for state, planted in itertools.product((a, near), (spec.random(3), spec.identity())):
        found = match_weights(a, permute(state, spec, planted), spec)
        assert all(map(np.array_equal, found, inverse(spec, planted)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("rotations", [False, True])
def test_weights_that_are_not_finite_are_refused(value, rotations):
    networks = [nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2)]
    spec = permutation_spec(networks[0], torch.randn(4, 3), rotations=rotations)
    with torch.no_grad():
        networks[1][2].weight[0, 1] = value
    with pytest.raises(ValueError, match="^2.weight of B has numbers that are not finite"):
        align(*networks, spec, method="weight", rotations=rotations)


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_several_precisions(seed):
    """Scores that a float64 weight shares are kept up to date by float32 ones too."""
    spec, a, b = spec_and_states("TinyTen")
    wide = [{key: value.double() for key, value in state.items()} for state in (a, b)]
    some = [
        {key: state[key].double() if number % 2 else state[key] for number, key in enumerate(state)}
        for state in (a, b)
    ]
    found, exact = (searched(spec, *states, spec.random(seed)) for states in (some, wide))
    assert weight_similarity(*wide, spec, found) == pytest.approx(weight_similarity(*wide, spec, exact), rel=1e-3)


@pytest.mark.skipif(emulated.MISSING is not None, reason=str(emulated.MISSING))
def test_a_device_is_asked_for_small_weights_once():
    """One copy of each weight, and the match of the CPU; of large ones each decision waits."""
    spec, a, b = spec_and_states("TinyTen")
    expected = match_weights(a, b, spec)
    with emulated.rules(emulated.MPS) as emulation:
        there = [{name: value.to(emulated.NAME) for name, value in state.items()} for state in (a, b)]
        emulation.waits.clear()
        found = match_weights(*there, spec)
        assert emulation.waits.total() == 2 * len(counted(a, spec))
    assert all(map(np.array_equal, expected, found))


def test_many_units_are_paired_with_their_copies(monkeypatch):
    """As exactly as by an assignment, if each has one; and whatever is left is assigned."""
    monkeypatch.setattr(assignment, "EXACTLY", assignment.PARTS)
    generator = np.random.default_rng(1)
    x, order = generator.normal(size=(120, 3)), generator.permutation(120)
    for noise in (0, 0.3, 3):
        y = x[order] + noise * generator.normal(size=x.shape)
        score = -np.square(x[:, None] - y).sum(-1)
        found = assignment.assign_alike(score)
        assert sorted(found) == list(range(120))
        if noise == 0:
            assert (order[found] == np.arange(120)).all() and (found == assign(score)).all()


@pytest.mark.parametrize("size", [32, 300])
def test_likely_columns_are_enough(size):
    """Of shuffled copies exactly; of random numbers but for little; and whatever ties there are, all are assigned."""
    generator = np.random.default_rng(2)
    order = generator.permutation(size)
    scores = generator.normal(size=(size, size)).astype(np.float32)
    copies = scores * 0.1 + 10.0 * (order[:, None] == np.arange(size))
    dead = np.where(np.arange(size)[:, None] % 3 == 0, np.float32(0), scores)
    for matrix in (scores, copies, dead, scores * 0, scores * 1e-30, scores + 1000):
        total = {solve: matrix[np.arange(size), solve(matrix)].sum() for solve in (assign, assignment.assign_shifted)}
        assert total[assign] == pytest.approx(total[assignment.assign_shifted], rel=1e-6)
        found = assignment.assign_likely(matrix)
        assert sorted(found) == list(range(size))
        assert matrix[np.arange(size), found].sum() >= np.trace(matrix) - 1e-6 * np.abs(matrix).sum()
    assert (assignment.assign_likely(copies) == order).all()
    exact, likely = (scores[np.arange(size), solve(scores)].sum() for solve in (assign, assignment.assign_likely))
    assert likely >= exact - 0.01 * abs(exact)


def test_of_large_groups_none_can_be_bettered(monkeypatch):
    """Matched nearly at their best first, they end where the best of no group is better."""
    spec, a, b = spec_and_states("TinyTen")
    monkeypatch.setattr(weights, "EXACTLY", assignment.PARTS)
    found = searched(spec, a, b, spec.random(4))
    monkeypatch.undo()
    assert all(map(np.array_equal, found, searched(spec, a, b, found)))


@pytest.mark.skipif(emulated.MISSING is not None, reason=str(emulated.MISSING))
def test_a_turn_of_large_weights_waits_for_a_device_twice(monkeypatch):
    """For the scores, and for whether it betters anything."""
    spec, a, b = spec_and_states("TinyTen")
    monkeypatch.setattr(weights, "LARGE", 0)
    turns, scores = [], weights._State.scores
    monkeypatch.setattr(weights._State, "scores", lambda *of: turns.append(of) or scores(*of))
    with emulated.rules(emulated.MPS) as emulation:
        there = [{name: value.to(emulated.NAME) for name, value in state.items()} for state in (a, b)]
        emulation.waits.clear()
        searched(spec, *there, spec.identity())
        assert len(turns) > len(spec.groups)
        assert emulation.waits.total() == 2 * len(turns)


def test_running_statistics_do_not_count():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    spec, a = permutation_spec(model, torch.randn(3, 4)), random_state(model)
    b = permute(a, spec, spec.random(1))
    odd = {key: value * 0 + 1e6 * torch.arange(6.0) if "running" in key else value for key, value in b.items()}
    found = [match_weights(a, other, spec)[0] for other in (b, odd)]
    np.testing.assert_array_equal(*found)


# --- as a method of alignment ------------------------------------------------------------------------------


def test_methods_without_images():
    a, b = (randomize(MODELS["TinyTen"](5), seed) for seed in (1, 2))
    spec = permutation_spec(a)
    found = align(a, b, spec, method="weight", seed=3)
    expected = match_weights(dict(a.named_parameters()), dict(b.named_parameters()), spec, seed=3)
    assert all(map(np.array_equal, found, expected))
    assert all(map(np.array_equal, align(a, b, spec, None, method="identity"), spec.identity()))
    assert all(map(np.array_equal, align(a, b, spec, method="random", seed=2), spec.random(2)))
    for method in ("corr", "w2_pre"):
        with pytest.raises(ValueError, match="no samples"):
            align(a, b, spec, method=method)
        with pytest.raises(ValueError, match="does not begin with a match"):
            align(a, b, spec, [torch.randn(4, 3, 12, 12)], method=method, start=spec.identity())


def test_stages(small, workspace, capsys):
    """A match by each method, named after it; what begins with one that is not there is told how to make it."""
    layout, flags = Layout(workspace, "TinyTen", "bars"), [*small, "--epochs", 3]
    code, line = fails(capsys, "alignment/align_models.py", *flags, "--method", "weight", "--init", "weight2")
    assert code == 1
    assert "there is corr: --init corr" in line
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, "--epochs_model", 3, "--alignment", "weight")
    assert code == 1
    assert "alignment/align_models.py" in line and "--method weight" in line
    code, line = fails(capsys, "alignment/align_models.py", *flags, "--init", "corr")
    assert code == 2
    assert "--init corr is for --method weight; corr does not begin with a match" in line
    for method in ("weight", "identity", "random"):
        run("alignment/align_models.py", *flags, "--method", method)
        assert layout.correlation(method, "aligned", 1, 2).exists()
    run("alignment/align_models.py", *flags, "--method", "weight", "--init", "corr", "--align_name", "mine")
    spec = permutation_spec(MODELS["TinyTen"](4))
    states = [torch.load(layout.endpoint(seed, 3), weights_only=True)["model_state"] for seed in (1, 2)]

    def similarity(name):
        return weight_similarity(
            *states, spec, permutations_from_rows(spec, load_match(layout.match(name, 1, 2)).rows)
        )

    assert similarity("mine") > similarity("corr")
    assert similarity("weight") > similarity("identity") != similarity("random")
    run("evaluation/eval_curve.py", *small, "--epochs_model", 3, "--epochs_curve", 0, "--alignment", "weight")
    code, line = fails(capsys, "alignment/align_models.py", *flags, "--method", "weight", "--align_name", "corr")
    assert code == 2
    assert "--align_name corr is the name of a match of another kind than weight" in line
