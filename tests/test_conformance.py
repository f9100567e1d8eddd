"""Steps of curves, of PAM and of an attack against the published formulas, written out here without the library.

In float64, on the same batches and positions t. `Reference` knows θ by name and the two architectures, and no more.
"""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from models import ResNet32, TinyTen
from utils.attack import Attack
from utils.batches import as_images
from utils.curves import Curve
from utils.pam import PermutationTask, TurningPointTask
from utils.symmetries.spec import permutation_spec
from utils.training import CurveTask, fit

LR, DECAY, NU, SIZE, SEED = 0.3, 1e-2, 1000.0, 8, 5
PIXELS = 0.2 + 0.6 * torch.rand(2 * SIZE, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(2 * SIZE) % 4


def moved_by(name):
    """The groups of a parameter's first two dimensions: of the channels that come out, and of those that go in."""
    parts = name.split(".")
    if name == "dense.weight" or name == "fc.weight":
        return None, "layers.7" if name == "dense.weight" else "stage 3"
    if name in ("dense.bias", "fc.bias"):
        return (None,)
    if "conv" in parts or "bn" in parts:  # TinyTen
        before = f"layers.{int(parts[1]) - 1}" if parts[1] != "0" else None
        return (f"layers.{parts[1]}", before)
    if parts[1] == "0":
        return ("stage 1", None)
    stage, block = int(parts[1]), parts[2]
    stream = f"stage {max(stage - 1, 1)}" if block == "0" else f"stage {stage}"
    if parts[3] in ("conv1", "bn1"):
        return (f"{stage}.{block}", stream)
    return (f"stage {stage}", stream if parts[3] == "downsample" else f"{stage}.{block}")


def permuted(parameters, matrices):
    found = {}
    for name, value in parameters.items():
        for dimension, group in enumerate(moved_by(name)[: value.dim()]):
            if group is not None:
                value = torch.tensordot(matrices[group], value.movedim(dimension, 0), 1).movedim(0, dimension)
        found[name] = value
    return found


def projected(matrix):
    n, one = len(matrix), torch.ones(len(matrix), 1, dtype=torch.float64)
    for _ in range(20):
        x = matrix.clamp(min=0)
        matrix = x - (x @ one - 1) @ one.T / n - one @ (one.T @ x - one.T) / n + (one.T @ x @ one - n) / n**2
    return matrix


def proximal(value, old):
    return (value + LR / NU * old) / (1 + LR / NU)


def draws():
    """Two batches and positions: as `fit` draws them."""
    generator = torch.Generator().manual_seed(SEED)
    batches = torch.randperm(2 * SIZE, generator=generator).split(SIZE)
    return [(batch, torch.rand((), dtype=torch.float64, generator=generator)) for batch in batches]


class Reference:
    def __init__(self, network, a, b):
        self.network, self.a, self.b = network.train(), a, b

    def theta(self, t, middle, b):
        return {n: (1 - t) ** 2 * self.a[n] + 2 * t * (1 - t) * middle[n] + t**2 * b[n] for n in b}

    def loss(self, theta, batch):
        return F.cross_entropy(functional_call(self.network, theta, (PIXELS[batch],)), LABELS[batch])

    def curve(self, phi, held):
        """½A + ½B + φ by SGD, Nesterov's momentum, on cross-entropy and the L2 term; held: the proximal step too."""
        start, speed = dict(phi), dict.fromkeys(phi, 0.0)
        for batch, t in draws():
            phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
            theta = self.theta(t, {n: 0.5 * self.a[n] + 0.5 * self.b[n] + phi[n] for n in phi}, self.b)
            loss = self.loss(theta, batch) + 0.5 * DECAY * sum(value.square().sum() for value in theta.values())
            for (name, value), slope in zip(phi.items(), torch.autograd.grad(loss, [*phi.values()]), strict=True):
                speed[name] = 0.9 * speed[name] + slope
                phi[name] = value.detach() - LR * (slope + 0.9 * speed[name])
                phi[name] = proximal(phi[name], start[name]) if held else phi[name]
        return {name: 0.5 * self.a[name] + 0.5 * self.b[name] + phi[name] for name in phi}

    def permutations(self, phi):
        """P of each group by plain SGD on cross-entropy alone, the proximal step, and the projection."""
        sizes = {moved_by(name)[0]: len(value) for name, value in self.b.items() if moved_by(name)[0]}
        matrices = {group: torch.eye(size, dtype=torch.float64) for group, size in sizes.items()}
        for batch, t in draws():
            matrices = {group: matrix.requires_grad_() for group, matrix in matrices.items()}
            b = permuted(self.b, matrices)
            loss = self.loss(self.theta(t, {n: 0.5 * self.a[n] + 0.5 * b[n] + phi[n] for n in b}, b), batch)
            slopes = torch.autograd.grad(loss, [*matrices.values()])
            for (group, matrix), slope in zip(matrices.items(), slopes, strict=True):
                stepped = matrix.detach() - LR * slope
                matrices[group] = projected(proximal(stepped, torch.eye(len(matrix), dtype=torch.float64)))
        return matrices

    def attacked(self, x, labels, epsilon, step, steps):
        noise = torch.empty(x.shape).uniform_(-epsilon, epsilon, generator=torch.Generator().manual_seed(SEED))
        adversary = x + noise
        for _ in range(steps):
            adversary = adversary.detach().requires_grad_()
            loss = F.cross_entropy(self.network(adversary), labels)
            (slope,) = torch.autograd.grad(loss, adversary)
            adversary = adversary + step * slope.sign()
            adversary = torch.clamp(x + torch.clamp(adversary - x, -epsilon, epsilon), 0, 1)
        return adversary.detach()


@pytest.fixture(scope="module", params=[TinyTen, ResNet32])
def case(request):
    """Two networks and a φ, the same in both hands."""
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(request.param(4).double())
    a, b = ({name: value.detach() for name, value in network.named_parameters()} for network in networks)
    phi = {name: 0.01 * torch.randn_like(value) for name, value in a.items()}
    curve = Curve.between(networks[0], *(network.state_dict() for network in networks))
    reference = Reference(request.param(4).double(), a, b)
    return networks, curve, reference, phi


def learned(task, **how):
    fit(task, as_images((PIXELS, LABELS), "cpu"), rates=[LR], batch_size=SIZE, seed=SEED, **how)


def close(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")


def test_curve(case):
    _, curve, reference, phi = case
    curve.init_linear()
    learned(CurveTask(curve, DECAY))
    close(
        curve.flat.views(curve.row(1)), reference.curve({n: torch.zeros_like(v) for n, v in phi.items()}, held=False)
    )


def test_curve_phase_of_pam(case):
    _, curve, reference, phi = case
    learned(TurningPointTask(curve, curve.flat.flatten(phi), DECAY))
    close(curve.flat.views(curve.row(1)), reference.curve(phi, held=True))


def test_permutation_phase_of_pam(case):
    """Every group moves, that of the stem's stream too."""
    networks, curve, reference, phi = case
    spec = permutation_spec(type(networks[1])(4), PIXELS[:2].float())
    task = PermutationTask(curve, spec, networks[1].state_dict(), curve.flat.flatten(phi))
    task.soft.double()
    learned(task, momentum=0.0)
    expected = reference.permutations(phi)
    numbers = {
        moved_by(name)[0]: axes[0][0][0].groups[0] for name, axes in spec.axes.items() if name in curve.flat.shapes
    }
    assert len(spec.groups) == len(expected)
    matrices = dict(enumerate(task.soft.matrices()))
    for group, matrix in expected.items():
        assert (matrix - torch.eye(len(matrix))).abs().max() > 1e-5
        close({group: matrices[numbers[group]]}, {group: matrix})


def test_attack(case):
    networks, _, reference, _ = case
    x, labels = PIXELS[:SIZE], LABELS[:SIZE]
    reference.network.load_state_dict(networks[0].state_dict())
    attack = Attack(8 / 255, 2 / 255, 5)
    images = as_images((PIXELS, LABELS), "cpu")
    found = attack(networks[0].train(), x, labels, images, torch.Generator().manual_seed(SEED))
    np.testing.assert_allclose(found, reference.attacked(x, labels, 8 / 255, 2 / 255, 5), rtol=0, atol=1e-12)
