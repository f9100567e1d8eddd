import numpy as np
import pytest
import torch
from conftest import randomize
from test_permutations import ALL, model_and_images, random_permutations

from models import MODELS, TinyTen
from utils import pam, training
from utils.curves import Curve, FlatParameters
from utils.data import load_data
from utils.permutations import identity, permutation_spec, permute, soft_permute


def hard(permutation):
    """The matrix of a permutation: P[i, p[i]] = 1."""
    return torch.eye(len(permutation))[torch.as_tensor(permutation)]


@pytest.mark.parametrize("size", [2, 16, 64])
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_projected_matrices_are_doubly_stochastic(size, spread):
    generator = torch.Generator().manual_seed(size)
    start = torch.eye(size) + spread * torch.randn(3, size, size, generator=generator)
    projected = pam.project(start)
    assert projected.min() >= -1e-6
    for axis in (-1, -2):
        torch.testing.assert_close(projected.sum(axis), torch.ones(3, size), atol=1e-5, rtol=0)


def test_a_permutation_is_a_fixed_point():
    permutations = torch.stack([hard(np.random.default_rng(i).permutation(32)) for i in range(4)])
    assert torch.equal(pam.project(permutations), permutations)


def test_a_stack_is_projected_as_its_matrices_are():
    stack = torch.eye(16) + 0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    separately = torch.stack([pam.project(matrix) for matrix in stack])
    torch.testing.assert_close(pam.project(stack), separately, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [3, 16, 40])
def test_decomposition_rebuilds_the_matrix(size):
    start = torch.rand(size, size, generator=torch.Generator().manual_seed(size))
    matrix = pam.project(start.double()).numpy()
    weights, permutations = pam.birkhoff(matrix)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    assert all(sorted(permutation) == list(range(size)) for permutation in permutations)
    rebuilt = sum(w * hard(p).numpy() for w, p in zip(weights, permutations, strict=True))
    np.testing.assert_allclose(rebuilt, matrix, atol=1e-3)


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


@pytest.mark.parametrize("name", ALL)
def test_hard_matrices_permute(name):
    model, _ = model_and_images(name)
    spec, state = permutation_spec(model), model.state_dict()
    permutations = random_permutations(spec)
    soft = soft_permute(state, spec, [hard(p) for p in permutations])
    for key, value in permute(state, spec, permutations).items():
        torch.testing.assert_close(soft[key], value, atol=0, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_soft_curve_with_hard_matrices_is_the_curve_of_the_permuted_network(name):
    a, b = (randomize(MODELS[name](4), seed) for seed in (1, 2))
    spec = permutation_spec(b)
    permutations = random_permutations(spec)
    soft = pam.SoftPermutation(spec)
    with torch.no_grad():
        for groups, stack in zip(soft.groups, soft.stacks, strict=True):
            stack.copy_(torch.stack([hard(permutations[group]) for group in groups]))
    flat = FlatParameters(b)
    phi = 0.01 * torch.randn(len(flat), generator=torch.Generator().manual_seed(0))

    curve = Curve(MODELS[name](4))
    curve.set_point(0, a.state_dict())
    curve.set_point(2, permute(b.state_dict(), spec, permutations))
    curve.init_linear()
    with torch.no_grad():
        curve.row(1).add_(phi)
    pb = soft(dict(b.named_parameters()), flat)
    for t in (0.0, 0.3, 0.5, 1.0):
        ours = pam.point(t, flat.flatten(a.state_dict()), pb, phi)
        torch.testing.assert_close(ours, curve.point(t), atol=1e-5, rtol=1e-5)


def test_matrices_get_gradients_and_fixed_groups_have_none():
    model = randomize(MODELS["ResNet32"](4))
    spec = permutation_spec(model)
    fixed = pam.fixed_groups(spec, model)
    assert len(fixed) == 1
    soft = pam.SoftPermutation(spec, fixed)
    assert [m is None for m in soft.matrices()] == [group in fixed for group in range(len(spec.sizes))]
    flat = FlatParameters(model)
    vector = soft(dict(model.named_parameters()), flat)
    torch.testing.assert_close(vector, flat.flatten(model.state_dict()))
    vector.square().sum().backward()
    assert all(stack.grad.abs().sum() > 0 for stack in soft.stacks)


def test_proximal_step_is_the_minimizer():
    value, old, rate = torch.tensor([2.0]), torch.tensor([-1.0]), 400.0
    x = pam.proximal(value, old, rate).requires_grad_()
    (0.5 * (x - value).square() + rate / (2 * pam.NU) * (x - old).square()).sum().backward()
    assert x.grad.abs() < 1e-6


def test_roundings():
    sizes = (5, 4)
    generator = torch.Generator().manual_seed(0)
    matrix = pam.project(torch.eye(5).flip(0) + 0.2 * torch.rand(5, 5, generator=generator)).double().numpy()
    candidates = list(pam.roundings([matrix, None], [pam.largest_terms(matrix), None], sizes, seed=0))
    assert len(candidates) == 2 + pam.DRAWS
    assert [p.tolist() for p in candidates[0]] == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    assert candidates[1][0].tolist() == [4, 3, 2, 1, 0]
    assert all(candidate[1].tolist() == [0, 1, 2, 3] for candidate in candidates)
    assert len(pam.unique(iter(candidates))) > 2


@pytest.mark.parametrize("estimates, expected", [((3, 2, 1), 2), ((3, 1, 5), 0), ((1, 2, 3), 0)])
def test_the_best_rounding_is_never_worse_than_the_old(estimates, expected):
    """The second candidate looks better at times, and never is."""
    candidates = [[np.roll(np.arange(3), shift)] for shift in range(3)]
    best, new, old = pam.best_rounding(
        candidates,
        terms=[None],
        screen=lambda candidate: estimates[candidate[0].argmin()],
        loss=lambda candidate: (10.0, 11.0, 9.0)[candidate[0].argmin()],
    )
    assert best[0].argmin() == expected
    assert new <= old == 10.0


def test_roundings_are_refined_group_by_group():
    target = [np.array([1, 0, 2]), np.array([0, 2, 1])]

    def misplaced(candidate):
        return float(sum((p != q).sum() for p, q in zip(candidate, target, strict=True)))

    terms = [np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]]), np.array([[0, 1, 2], [0, 2, 1]])]
    best, new, old = pam.best_rounding([[np.arange(3), np.arange(3)]], terms, misplaced, misplaced)
    assert [p.tolist() for p in best] == [p.tolist() for p in target]
    assert (new, old) == (0, 4)


def test_a_wrong_tenth_is_mended(namespace, tmp_path):
    """B is a copy of A in which a tenth of the channels are swapped: PAM lowers the loss of the straight path."""
    args = namespace(
        adversarial=False, attack=None, lr=0.5, wd=0.0, lr_drop=20, lr_decay=1.0, seed=1, batch_size=32,
        precision="fp32", resume=False, overwrite=False, val_freq=[None],
    )  # fmt: skip
    data = load_data(args)
    torch.manual_seed(0)
    network = TinyTen(4)
    run = training.Run(tmp_path / "network", {}, 12, 200, tmp_path / "network.npz")
    training.fit(
        run, args, data.train, network,
        forward=lambda x, labels, generator: (network(x), 0.0),
        pack=lambda: {"model_state": network.state_dict()},
        unpack=lambda state: None,
        validate=dict,
        val_freq=None,
        schedule=lambda epoch: 0.05,
    )  # fmt: skip
    spec = permutation_spec(network)
    wrong = identity(spec)
    generator = np.random.default_rng(0)
    for order in wrong:
        swapped = generator.choice(len(order), max(2, len(order) // 10), replace=False)
        order[swapped] = np.roll(swapped, 1)
    b = permute(network.state_dict(), spec, wrong)

    curve = Curve(TinyTen(4))
    curve.set_point(0, network.state_dict())
    phi = torch.zeros_like(curve.row(0))
    run = training.Run(tmp_path / "perm", {}, 10, 200, tmp_path / "perm.npz")
    found = pam.permutation_phase(run, args, data, curve, b, spec, phi)

    def loss(permutations):
        end = curve.flat.flatten(permute(b, spec, permutations))
        return pam.path_loss(curve, lambda t: pam.point(t, curve.row(0), end, phi), args, data.train)

    before, after, best = loss(identity(spec)), loss(found), loss([np.argsort(order) for order in wrong])
    assert best < before
    assert after < before
