"""Count the floating-point operations of a stage: of each kind of step that it takes, times how often it takes it.

Each kind of step is run by the stages' own code under torch's flop counter, on fake tensors, which have shapes and no
numbers (`fake_network`, `fake_curve`). Counted are convolutions and matrix products, a multiply-add as two
operations. Not counted is what works elementwise (batch norm, activations, pooling, augmentation, the update of the
weights, the mixing of control points, PAM's projection).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from models import build
from utils import activations, matching, measuring, pam
from utils.attack import Attack
from utils.curves import Curve
from utils.stages import data
from utils.symmetries.spec import permutation_spec
from utils.training import CurveTask, NetworkTask, Task

# Tensors that claim to be on the CPU. They meet some of the stages' that are real: random draws, PAM's matrices.
FAKE = FakeTensorMode(allow_non_fake_inputs=True)

Step = Callable[[torch.Tensor, torch.Tensor], object]  # of images (b, 3, H, W) and labels (b,)


class Dataset(NamedTuple):
    train: int  # images
    test: int
    size: tuple[int, int]  # height and width
    classes: int


# --- steps -------------------------------------------------------------------------------------------------


def fake_network(name: str, classes: int) -> nn.Module:
    with torch.device("meta"):  # initialization that looks at numbers works here, and not on fake tensors
        model = build(name, classes)
    with FAKE:
        return model.to_empty(device="cpu")


def fake_curve(name: str, classes: int, *, num_bends: int, curve: str, fix_start: bool, fix_end: bool) -> Curve:
    base = fake_network(name, classes)
    with FAKE:
        return Curve(base, num_bends, curve, fix_start, fix_end)


def flops(step: Step, dataset: Dataset, images: int) -> int:
    """FLOPs of a step on so many images."""
    with FAKE:
        x, labels = torch.empty(images, 3, *dataset.size), torch.zeros(images, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        step(x, labels)
    return counter.get_total_flops()


def passes(step: Step, dataset: Dataset, mixes: bool = False) -> Callable[[int, int], int]:
    """A function (images, batch size) → FLOPs of taking the step on all of the images, batch by batch.

    mixes: whether the step multiplies weights first, which costs the same for any number of images.
    """
    two = flops(step, dataset, 2)
    an_image = flops(step, dataset, 3) - two if mixes else two // 2
    mixing = two - 2 * an_image
    return lambda images, batch_size: an_image * images + mixing * math.ceil(images / batch_size)


def backward(output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
    """The gradient of a loss of all logits; which loss is elementwise, and does not count."""
    sum(logits.sum() for logits in (output if isinstance(output, tuple) else (output,))).backward()


class Normalization:
    """In place of the images that tell an attack how they are normalized."""

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        return (
            pixels * 1
        )  # The counter's hooks want a network's input computed from what the attack differentiates by


def training_step(task: Task) -> Step:
    """What training does with a batch."""

    def step(x, labels):
        task.module.train()
        backward(task.forward(x, labels, Normalization(), torch.Generator())[0])

    return step


def forward_step(model: nn.Module, mode: Callable[[nn.Module], object], attack: Attack | None = None) -> Step:
    """What evaluation does with a batch; `mode` sets the model's mode, which decides what it computes (GoogLeNet)."""

    @torch.no_grad()
    def step(x, labels):
        mode(model)
        model(x if attack is None else attack(model, x, labels, Normalization(), torch.Generator()))

    return step


def validations(epochs: int, frequency: int | None) -> int:
    """How often `fit` validates: every so many epochs, and after the last."""
    return math.ceil(epochs / frequency) if frequency else 0


def curve_validation(base: nn.Module, images: Dataset, batch_size: int) -> int:
    """FLOPs of `measuring.validate_curve`."""
    statistics = passes(forward_step(base, measuring.use_batch_statistics), images)
    test = passes(forward_step(base, nn.Module.eval), images)
    point = statistics(images.train, batch_size) + test(images.test, batch_size)
    return len(measuring.VALIDATION_POINTS) * point


# --- stages ------------------------------------------------------------------------------------------------


def network_flops(
    network: nn.Module,
    images: Dataset,
    *,
    epochs: int,
    batch_size: int,
    val_freq: int | None,
    attack: Attack | None = None,
) -> int:
    epoch = passes(training_step(NetworkTask(network, attack=attack)), images)(images.train, batch_size)
    test = passes(forward_step(network, nn.Module.eval), images)(images.test, batch_size)
    return epochs * epoch + validations(epochs, val_freq) * test


def match_flops(network: nn.Module, images: Dataset, *, batch_size: int, attack: Attack | None = None) -> int:
    """Two networks, for which one stands, and the products of their activations: a match by correlation.

    It sees the alignment images, of them the first ones once more (ties), and the test images. With an attack, the
    alignment images are attacked on each network.
    """
    aligned, measured = comparison(network, images, batch_size)
    flops_of = aligned + measured(images.test, batch_size)
    if attack is not None:

        def attacked(x, labels):
            attack(network.eval(), x, labels, Normalization(), torch.Generator())

        flops_of += 2 * passes(attacked, images)(min(data.ALIGNMENT_IMAGES, images.train), batch_size)
    return flops_of


def comparison(network: nn.Module, images: Dataset, batch_size: int) -> tuple[int, Callable[[int, int], int]]:
    """FLOPs of `matching.align`; and a function (images, batch size) → FLOPs of correlating so many images."""
    spec = permutation_spec(network, proof=False)
    after, before = (
        passes(
            lambda x, labels, before=before: activations.cross_moments(network, network, spec, [x], before=before),
            images,
        )
        for before in (False, True)
    )
    compared = min(data.ALIGNMENT_IMAGES, images.train)
    ties = before(min(activations.TIE_IMAGES, compared), batch_size)
    return after(compared, batch_size) + ties, after


def midpoint_flops(network: nn.Module, images: Dataset, *, batch_size: int, bn_images: int | None) -> int:
    """A point and the two ends, with statistics of their own; the point correlated with each end and matched to it.

    Where activations share a stream of channels it is matched a second time, each activation by itself.
    """
    aligned, measured = comparison(network, images, batch_size)
    matches = 1 if matching.each_by_itself(permutation_spec(network, proof=False)) is None else 2
    correlated = measured(min(data.ALIGNMENT_IMAGES, images.train), batch_size)
    statistics = passes(forward_step(network, measuring.use_batch_statistics), images)
    estimated = statistics(min(bn_images or images.train, images.train), batch_size)
    return 3 * estimated + 2 * (correlated + matches * aligned)


def curve_flops(
    curve: Curve,
    images: Dataset,
    *,
    epochs: int,
    batch_size: int,
    val_freq: int | None,
    attack: Attack | None = None,
) -> int:
    if not curve.learned_rows:
        return 0
    step = training_step(CurveTask(curve, attack=attack))
    epoch = passes(step, images)(images.train, batch_size)
    times = validations(epochs, val_freq)
    return epochs * epoch + (times * curve_validation(curve.base, images, batch_size) if times else 0)


def pam_flops(
    curve: Curve,
    images: Dataset,
    *,
    outer_iters: int,
    inner_iters_perm: int,
    inner_iters_phi: int,
    batch_size: int,
    val_freq: Sequence[int | None],
) -> int:
    """Both phases, and between them the rounding, of which the most is counted that it may try; then correlations."""
    phi = torch.zeros_like(curve.row(0))
    task = pam.PermutationTask(curve, permutation_spec(curve.base, proof=False), curve.base.state_dict(), phi)
    soft_epoch = passes(training_step(task), images, mixes=True)(images.train, batch_size)
    turning_point = pam.TurningPointTask(curve, phi, 5e-4)
    curve_epoch = passes(training_step(turning_point), images)(images.train, batch_size)

    loss = passes(forward_step(curve.base, measuring.use_batch_statistics), images)
    candidates = 2 + pam.DRAWS + pam.REFINED * sum(map(len, task.soft.groups))
    screened = loss(min(pam.SCREENED_IMAGES, images.train), batch_size)
    rounding = candidates * screened + 2 * loss(images.train, batch_size)

    phases = ((inner_iters_perm, val_freq[0]), (inner_iters_phi, val_freq[-1]))
    times = sum(validations(epochs, frequency) for epochs, frequency in phases)
    validation = times * curve_validation(curve.base, images, batch_size) if times else 0
    epochs = inner_iters_perm * soft_epoch + inner_iters_phi * curve_epoch
    correlated = comparison(curve.base, images, batch_size)[1](images.test, batch_size)
    return outer_iters * (epochs + rounding + validation) + correlated


def evaluation_flops(
    network: nn.Module,
    images: Dataset,
    *,
    num_points: int,
    batch_size: int,
    bn_images: int | None,
    eval_train: bool,
    attack: Attack | None = None,
) -> int:
    """At each point batch norm is re-estimated, attacked if the networks are robust; then all that is measured.

    On straight lines the test images are evaluated with interpolated statistics too, which is left out here.
    """
    network.requires_grad_(False)
    statistics = passes(forward_step(network, measuring.use_batch_statistics, attack), images)
    point = statistics(min(bn_images or images.train, images.train), batch_size)
    for met in {None, attack}:
        measured = passes(forward_step(network, nn.Module.eval, met), images)
        point += measured(images.test, batch_size)
        point += measured(images.train, batch_size) if eval_train else 0
    return num_points * point


def plane_flops(
    network: nn.Module, images: Dataset, *, num_points: int, batch_size: int, bn_images: int | None
) -> int:
    """A grid of points, each evaluated as a curve's are."""
    how = {"batch_size": batch_size, "bn_images": bn_images, "eval_train": False}
    return evaluation_flops(network, images, num_points=num_points**2, **how)
