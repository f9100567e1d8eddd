"""Many networks: cycles compose to the identity, two are a pair, and shuffled copies of one network come together."""

import itertools

import networks
import numpy as np
import pytest
import torch
from conftest import randomize
from stages import fails, run

from models import MODELS
from utils import weights
from utils.activations import correlation_scores
from utils.assignment import assign_blocks, assign_groups, assigned_score, group_scores
from utils.matching import align, align_many, mean_state, pairwise
from utils.permutations import compose, permute
from utils.stages import hints
from utils.stages.layout import Layout
from utils.stages.loading import load_alignment
from utils.symmetries.spec import permutation_spec
from utils.weights import match_weights, weight_similarity


def several(count=3):
    """TinyTens with random weights, what may be permuted in them, and images, anew whenever they are asked for."""
    found = [randomize(MODELS["TinyTen"](5), seed).eval() for seed in range(count)]
    x = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return found, permutation_spec(found[0]), lambda: iter([x])


def equal(one, other):
    return all(map(np.array_equal, one, other))


def of_weights(network):
    return dict(network.named_parameters())


@pytest.mark.parametrize("to", ["reference", "universe"])
@pytest.mark.parametrize("method", ["corr", "weight"])
def test_planted_copies_come_together(method, to):
    (model, *_), spec, batches = several(1)
    copies = [model]
    for seed in (1, 2, 3):
        copies.append(MODELS["TinyTen"](5).eval())
        copies[-1].load_state_dict(permute(model.state_dict(), spec, spec.random(seed)))
    found = align_many(copies, spec, batches, method=method, to=to)
    states = [permute(copy.state_dict(), spec, one) for copy, one in zip(copies, found, strict=True)]
    for state in (*states, mean_state(states)):
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
    matched = permute(copies[2].state_dict(), spec, pairwise(spec, found[1], found[2]))
    assert all(torch.equal(matched[name], value) for name, value in copies[1].state_dict().items())


@pytest.mark.parametrize("to", ["reference", "universe"])
@pytest.mark.parametrize("method", ["corr", "weight"])
def test_two_networks_are_a_pair(method, to):
    pair, spec, batches = several(2)
    found = align_many(pair, spec, batches, method=method, to=to, seed=3)
    assert equal(pairwise(spec, *found), align(*pair, spec, batches(), method=method, seed=3))


@pytest.mark.parametrize("method", ["corr", "weight"])
def test_all_pairs_together_are_better_in_a_universe(method, monkeypatch):
    """The sum over all pairs of what is maximized; and no network alone can be bettered."""
    monkeypatch.setattr(weights, "ORDERS", 2)
    all_, spec, batches = several()
    pairs = list(itertools.combinations(range(3), 2))
    scores = {(i, j): correlation_scores(all_[i], all_[j], spec, batches()) for i, j in pairs}

    def objective(found):
        if method == "weight":
            matches = {(i, j): pairwise(spec, found[i], found[j]) for i, j in pairs}
            return sum(
                weight_similarity(of_weights(all_[i]), of_weights(all_[j]), spec, match)
                for (i, j), match in matches.items()
            )
        return sum(
            assigned_score(spec, matrices, pairwise(spec, found[i], found[j])) for (i, j), matrices in scores.items()
        )

    reference = align_many(all_, spec, batches, method=method, to="reference")
    universe = align_many(all_, spec, batches, method=method, to="universe")
    best = objective(universe)
    assert best > objective(reference)
    for i, group in itertools.product(range(3), range(len(spec.groups))):
        swapped = [list(one) for one in universe]
        swapped[i][group] = swapped[i][group][[1, 0, *range(2, len(swapped[i][group]))]]
        assert objective(swapped) <= best + 1e-5 * abs(best)


@pytest.mark.parametrize("name", ["grouped_unlike", "attention_packed"])
def test_cycles_compose_to_the_identity(name):
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    a, b, c = (spec.random(seed) for seed in (1, 2, 3))
    to_a, to_b, to_c = pairwise(spec, a, b), pairwise(spec, b, c), pairwise(spec, c, a)
    # A's neurons as C has them, C's as B has them, B's as A has them: A as it was
    assert equal(compose(spec, compose(spec, to_c, to_b), to_a), spec.identity())


@pytest.mark.parametrize(("name", "method"), [("grouped_unlike", "weight"), ("learned_query", "corr")])
def test_blocks_in_a_universe(name, method):
    """Shuffled copies of a network with groups within groups; and of one some of whose units no activation shows."""
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    copies = [networks.build(name)[0].eval() for _ in range(3)]
    for seed, copy in enumerate(copies):
        copy.load_state_dict(permute(model.state_dict(), spec, spec.random(seed)))
    x = [torch.randn(64, 6, 8)] if method == "corr" else ()
    found = align_many(copies, spec, x, method=method)
    states = [permute(copy.state_dict(), spec, one) for copy, one in zip(copies, found, strict=True)]
    assert all(torch.equal(state[name], value) for state in states for name, value in states[0].items())


@pytest.mark.parametrize("name", ["grouped_unlike", "attention_by_hand", "mlp"])
def test_the_score_of_the_best_assignment_is_the_highest(name):
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    generator = np.random.default_rng(0)
    scores = [generator.standard_normal((row.channels, row.channels)) for row in spec.rows]
    totals = group_scores(spec, scores)
    best = assign_groups(spec, scores)
    assert equal(best, assign_blocks(spec, totals))
    highest = assigned_score(spec, scores, best)
    assert all(assigned_score(spec, scores, spec.random(seed)) < highest for seed in range(5))
    traces = sum(total[b, b].trace() for total in totals.values() for b in range(len(total)))
    assert assigned_score(spec, scores, spec.identity()) == pytest.approx(traces)


def test_stage(small, workspace, capsys):
    """Matches of every two that other stages read; of two networks, that of align_models.py."""
    layout, flags = Layout(workspace, "TinyTen", "bars"), [*small, "--epochs", 3]
    code, line = fails(capsys, "alignment/align_many.py", *flags, "--seeds", 1, 2, 2)
    assert code == 2 and "one twice" in line
    code, line = fails(capsys, "alignment/align_many.py", *flags, "--seeds", 1, 2, 3)
    assert code == 1 and "train_model.py" in line and "--seed 3" in line
    code, line = fails(
        capsys, "evaluation/eval_curve.py", *small, "--epochs_model", 3, "--alignment", "universe_corr"
    )
    assert "align_many.py" in line and "--to universe" in line and "--seeds 1 2" in line
    run("alignment/align_many.py", *flags, "--to", "reference")
    assert layout.match("reference_corr", 1, 2).exists()
    np.testing.assert_array_equal(*(np.load(layout.match(name, 1, 2)) for name in ("corr", "reference_corr")))

    state = torch.load(layout.endpoint(1, 3), weights_only=True)["model_state"]
    spec = permutation_spec(MODELS["TinyTen"](4))
    torch.save({"epoch": 3, "model_state": permute(state, spec, spec.random(1))}, layout.endpoint(3, 3))
    capsys.readouterr()
    run("alignment/align_many.py", *flags, "--seeds", 2, 1, 3, "--method", "weight")
    out = capsys.readouterr().out
    assert all(words in out for words in ("1 and 2", "1 and 3", "network 3", "mean, unaligned", "mean, aligned"))
    loaded = {}
    for seed in (1, 2, 3):
        loaded[seed] = MODELS["TinyTen"](4)
        loaded[seed].load_state_dict(torch.load(layout.endpoint(seed, 3), weights_only=True)["model_state"])
    matches = {
        (a, b): load_alignment(layout.match("universe_weight", a, b), (loaded[a], loaded[b]), spec=spec)[1]
        for a, b in ((1, 2), (2, 3), (1, 3))
    }
    assert equal(compose(spec, matches[2, 3], matches[1, 2]), matches[1, 3])
    back = permute(loaded[3].state_dict(), spec, matches[1, 3])
    assert all(torch.equal(back[name], value) for name, value in state.items())
    planes_of_three(small, layout, spec, loaded, matches, capsys)
    code, line = fails(capsys, "alignment/align_many.py", *flags, "--align_name", "universe_weight")
    assert code == 2 and "a match of another kind than universe_corr" in line
    code, line = fails(capsys, "alignment/align_models.py", *flags, "--align_name", "universe_corr")
    assert code == 2 and "a match of another kind than corr" in line


def planes_of_three(small, layout, spec, networks, matches, capsys):
    """Corners are A, and B and C permuted to match it; 3 matches 1, so that it spans no plane with it and 2."""
    plane = [*small, "--epochs_model", 3, "--num_points", 2]
    of_three = [*plane, "--seed_c", 3, "--alignment", "universe_weight"]
    code, line = fails(capsys, "evaluation/eval_plane_with_alignment.py", *of_three)
    assert code == 1 and "spans no plane" in line
    of_three = [*plane, "--seed_a", 2, "--seed_b", 3, "--seed_c", 1]
    code, line = fails(capsys, "evaluation/eval_plane_with_alignment.py", *of_three, "--alignment", "universe_weight")
    assert code == 1 and "seeds_02_01.npy does not exist" in line
    run("evaluation/eval_plane_with_alignment.py", *plane, "--seed_c", 3, "--alignment", "")
    states = [networks[seed].state_dict() for seed in (1, 2, 3)]
    flat = [torch.cat([state[name].flatten() for name in of_weights(networks[1])]).double() for state in states]
    corners = np.load(layout.plane_with_alignment("", 1, 2, 3))["corners"]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert np.linalg.norm(corners[i] - corners[j]) == pytest.approx((flat[i] - flat[j]).norm().item(), rel=1e-5)
    draw = ["--dataset", "bars", "--root", layout.root, "--seed_a", 1, "--seed_b", 2, "--alignment", ""]
    run("visualization/viz_plane.py", *draw, "--seed_c", 3)
    assert (layout.root / "figures/plane_of_three_accuracy_bars_TinyTen.png").is_file()
    run("evaluation/make_report.py", "--root", layout.root)
    page = (layout.root / "figures/report.html").read_text()
    assert "Shown: A, B and C, unaligned." in page and "--seed_c 3" in page
    evaluated = layout.plane_with_alignment("", 1, 2, 3)
    learned = evaluated.rename(layout.plane_with_alignment("pam_corr", 1, 2, 3))  # as if PAM had found the matches
    scripts = [step.script for step in hints.steps(layout, learned)]
    assert scripts[:2] == ["training/train_model.py"] * 2
    assert scripts[2:] == ["alignment/align_models.py", "evaluation/eval_plane_with_alignment.py"]
    code, line = fails(capsys, "visualization/viz_plane.py", *draw, "--seed_c", 3, 4)
    assert code == 2 and "2 networks for 1 pairs" in line
    code, line = fails(capsys, "evaluation/eval_plane_with_alignment.py", *plane, "--seed_c", 2)
    assert code == 2 and "a plane needs three networks" in line


def test_one_match_for_several_starts():
    """Matching to the sum of two equal networks is matching to one."""
    (a, b), spec, _ = several(2)
    twice = {name: 2 * value for name, value in of_weights(a).items()}
    assert equal(match_weights(twice, of_weights(b), spec), match_weights(of_weights(a), of_weights(b), spec))
