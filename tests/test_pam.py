import itertools

import numpy as np
import pytest
import torch
from conftest import randomize
from test_permutations import ALL, model_and_images

from models import TinyTen
from utils import pam
from utils.curves import Curve
from utils.permutations import permute, soft_permute
from utils.symmetries.spec import permutation_spec
from utils.training import NetworkTask, fit, step_rates


def hard(permutation):
    """The matrix of a permutation: P[i, p[i]] = 1."""
    return torch.eye(len(permutation))[torch.as_tensor(permutation)]


@pytest.mark.parametrize("size", [2, 16, 64])
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_projected_matrices_are_doubly_stochastic(size, spread):
    generator = torch.Generator().manual_seed(size)
    start = torch.eye(size) + spread * torch.randn(3, size, size, generator=generator)
    projected = pam.doubly_stochastic(start)
    assert projected.min() >= -1e-6
    for axis in (-1, -2):
        torch.testing.assert_close(projected.sum(axis), torch.ones(3, size), atol=1e-5, rtol=0)


def test_a_permutation_is_a_fixed_point():
    permutations = torch.stack([hard(np.random.default_rng(i).permutation(32)) for i in range(4)])
    assert torch.equal(pam.project(permutations), permutations)
    assert torch.equal(pam.doubly_stochastic(permutations), permutations)


@pytest.mark.parametrize("size", [3, 16, 40])
def test_decomposition_rebuilds_the_matrix(size):
    start = torch.rand(size, size, generator=torch.Generator().manual_seed(size))
    matrix = pam.doubly_stochastic(start.double()).numpy()
    weights, permutations = pam.birkhoff(matrix)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    assert all(sorted(permutation) == list(range(size)) for permutation in permutations)
    rebuilt = sum(w * hard(p).numpy() for w, p in zip(weights, permutations, strict=True))
    np.testing.assert_allclose(rebuilt, matrix, atol=3 * pam.CUT)  # what is cut off is missing


def test_decomposition_finds_a_planted_mixture():
    generator = np.random.default_rng(0)
    planted = [generator.permutation(20) for _ in range(3)]
    matrix = sum(w * hard(p).numpy() for w, p in zip((0.6, 0.3, 0.1), planted, strict=True))
    weights, permutations = pam.birkhoff(matrix)
    best = np.argmax(weights)
    np.testing.assert_array_equal(permutations[best], planted[0])
    assert weights[best] >= 0.6 - 1e-4
    single, (only,) = pam.birkhoff(hard(planted[0]).numpy())
    assert single.tolist() == [1.0]
    np.testing.assert_array_equal(only, planted[0])


def test_terms_are_the_published_ones():
    """Again and again the largest sum on what is left, and not the largest product; entries below the cut are not."""
    matrix = np.array([[0.9, 0.6, 0.0], [0.0, 0.9, 0.6], [0.6, 0.0, 0.05]])
    weights, permutations = pam.birkhoff(matrix)
    rest, expected = matrix.copy(), []
    for _ in permutations:
        orders = [np.array(order) for order in itertools.permutations(range(3))]
        orders = [order for order in orders if rest[np.arange(3), order].min() >= pam.CUT]
        best = max(orders, key=lambda order: rest[np.arange(3), order].sum())
        expected.append((rest[np.arange(3), best].min(), best.tolist()))
        rest[np.arange(3), best] -= expected[-1][0]
    assert [order.tolist() for order in permutations] == [order for _, order in expected]
    found = np.array([weight for weight, _ in expected])
    np.testing.assert_allclose(weights, found / found.sum())
    assert permutations[0].tolist() == [0, 1, 2]  # of sum 1.85 and product 0.04; [1, 2, 0] has 1.8 and 0.216
    nearly = np.full((4, 4), 4e-4) + np.eye(4) * (1 - 16e-4)
    assert pam.birkhoff(nearly)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("name", ALL)
def test_hard_matrices_permute(name):
    model, x = model_and_images(name)
    spec, state = permutation_spec(model, x), model.state_dict()
    permutations = spec.random(0)
    soft = soft_permute(state, spec, [hard(p) for p in permutations])
    for key, value in permute(state, spec, permutations).items():
        torch.testing.assert_close(soft[key], value, atol=0, rtol=0)


def test_roundings():
    generator = torch.Generator().manual_seed(0)
    start = torch.eye(5).flip(0) + 0.2 * torch.rand(5, 5, generator=generator)
    matrix = pam.doubly_stochastic(start.double()).numpy()
    identity = [np.arange(size) for size in (5, 4)]
    stay = pam.largest_terms(np.eye(4))
    candidates = list(pam.roundings([matrix, np.eye(4)], [[pam.largest_terms(matrix)], [stay]], identity, seed=0))
    assert len(candidates) == 2 + pam.DRAWS
    assert [p.tolist() for p in candidates[0]] == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    assert candidates[1][0].tolist() == [4, 3, 2, 1, 0]
    assert all(candidate[1].tolist() == [0, 1, 2, 3] for candidate in candidates)
    assert len({tuple(candidate[0]) for candidate in candidates}) > 2


@pytest.mark.parametrize("estimates, expected", [((3, 2, 1), 2), ((3, 1, 5), 0), ((1, 2, 3), 0)])
def test_the_best_rounding_is_never_worse_than_the_old(estimates, expected):
    """The second candidate looks better at times, and never is."""
    candidates = [[np.roll(np.arange(3), shift)] for shift in range(3)]
    best, new, old = pam.best_rounding(
        candidates,
        terms=[[]],
        screen=lambda candidate: estimates[candidate[0].argmin()],
        loss=lambda candidate: (10.0, 11.0, 9.0)[candidate[0].argmin()],
    )
    assert best[0].argmin() == expected
    assert new <= old == 10.0


def test_roundings_are_refined_group_by_group():
    target = [np.array([1, 0, 2]), np.array([0, 2, 1])]

    def misplaced(candidate):
        return float(sum((p != q).sum() for p, q in zip(candidate, target, strict=True)))

    terms = [[(None, np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]]))], [(None, np.array([[0, 1, 2], [0, 2, 1]]))]]
    best, new, old = pam.best_rounding([[np.arange(3), np.arange(3)]], terms, misplaced, misplaced)
    assert [p.tolist() for p in best] == [p.tolist() for p in target]
    assert (new, old) == (0, 4)


def test_a_wrong_tenth_is_mended(data, capsys):
    """B is a copy of A in which a tenth of the channels are swapped: PAM lowers the loss of the straight path."""
    torch.manual_seed(0)
    network = TinyTen(4)
    fit(NetworkTask(network), data.train, rates=[0.05] * 12, batch_size=32)
    spec = permutation_spec(network)
    wrong = spec.identity()
    generator = np.random.default_rng(0)
    for order in wrong:
        swapped = generator.choice(len(order), max(2, len(order) // 10), replace=False)
        order[swapped] = np.roll(swapped, 1)
    b = permute(network.state_dict(), spec, wrong)

    curve = Curve(TinyTen(4))
    curve.set_point(0, network.state_dict())
    phi = torch.zeros_like(curve.row(0))
    task = pam.PermutationTask(curve, spec, b, phi)
    rates = step_rates(10, 0.25, pam.PERMUTATION_DROP, 1.0)
    found = pam.learn_permutations(task, data.train, rates=rates, batch_size=32)
    printed = capsys.readouterr().out.splitlines()[-1]

    def loss(permutations):
        return pam.path_loss(task, permutations, data.train, batch_size=32, precision="fp32")

    before, after, best = loss(spec.identity()), loss(found), loss([np.argsort(order) for order in wrong])
    assert best < before
    assert after < before
    moved = sum(int((order != np.arange(len(order))).sum()) for order in found)
    losses = f"training loss along the path {after:.4f}, before {before:.4f}."
    assert printed == f"Rounded: {moved} channels moved; {losses}"


def test_permutations_alone_are_learned_and_stay_doubly_stochastic(data):
    a, b = (randomize(TinyTen(4), seed) for seed in (1, 2))
    curve = Curve(TinyTen(4))
    curve.set_point(0, a.state_dict())
    phi = 0.01 * torch.randn(len(curve.flat), generator=torch.Generator().manual_seed(0))
    task = pam.PermutationTask(curve, permutation_spec(b), b.state_dict(), phi)
    rows = task.curve.fixed.clone(), task.curve.learned.clone()
    few = data.train.subset(torch.arange(0, 160, 8))
    fit(task, few, rates=[0.5], momentum=0.0, batch_size=10)
    for before, now in zip(rows, (task.curve.fixed, task.curve.learned), strict=True):
        assert torch.equal(before, now)
    moved = 0
    for matrix in task.soft.matrices():
        assert matrix.min() >= -0.01  # as near as the published rounds come
        for axis in (-1, -2):
            torch.testing.assert_close(matrix.sum(axis).detach(), torch.ones(len(matrix)), atol=1e-5, rtol=0)
        assert pam.doubly_stochastic(matrix.detach()).min() >= -1e-6
        moved += not torch.equal(matrix, torch.eye(len(matrix)))
    assert moved
