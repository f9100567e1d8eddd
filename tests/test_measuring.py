import copy

import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn
from torch.nn import functional as F

from models import GoogLeNet, TinyTen
from utils import measuring
from utils.attack import Attack
from utils.curves import Curve, batch_norm_layers
from utils.errors import UserError
from utils.geometry import plane_basis, plane_coordinates
from utils.measuring import (
    evaluate,
    evaluate_path,
    evaluate_plane,
    measure,
    midpoint_height,
    plane_of,
    reestimate_batch_norm,
)
from utils.training import CurveTask


def test_evaluate_is_the_mean_over_images(data):
    model = randomize(TinyTen(4)).eval()
    x = torch.cat([x for x, _ in data.test.batches(100)])
    with torch.no_grad():
        logits = model(x)
    loss, accuracy = evaluate(model, data.test, batch_size=7)
    assert loss == pytest.approx(F.cross_entropy(logits, data.test.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx(100 * (logits.argmax(1) == data.test.labels).double().mean().item())


def test_batch_norm_of_the_first_layer_is_the_average_over_batches(data):
    model = randomize(TinyTen(4))
    reestimate_batch_norm(model, data.train, batch_size=64)
    layer = model.layers[0]
    generator = torch.Generator().manual_seed(measuring.EVALUATION_SEED)
    batches = [x for x, _ in data.train.augmented(64, generator)]
    with torch.no_grad():
        outputs = [layer.conv(x).transpose(0, 1).flatten(1) for x in batches]
    weights = torch.tensor([len(x) / len(data.train) for x in batches])
    mean = (torch.stack([o.mean(1) for o in outputs]) * weights[:, None]).sum(0)
    variance = (torch.stack([o.var(1) for o in outputs]) * weights[:, None]).sum(0)
    torch.testing.assert_close(layer.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bn.running_var, variance, rtol=1e-4, atol=1e-5)


def test_auxiliary_classifiers_have_statistics():
    """As if the whole network were in training mode; the others' are what they are without them."""
    x = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = GoogLeNet(4)
    before = torch.get_rng_state()
    reestimate_batch_norm(model, (x, torch.arange(12) % 4), batch_size=12)
    assert torch.equal(before, torch.get_rng_state())
    published = copy.deepcopy(model).train()
    for layer in batch_norm_layers(published):
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        published(x[torch.randperm(12, generator=torch.Generator().manual_seed(measuring.EVALUATION_SEED))])
    for one, other in zip(batch_norm_layers(model), batch_norm_layers(published), strict=True):
        assert one.running_var.std() > 0
        torch.testing.assert_close(one.running_mean, other.running_mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.running_var, other.running_var, rtol=1e-4, atol=1e-6)


def test_reestimation_repeats_and_disturbs_nothing(data):
    model = randomize(TinyTen(4))
    parameters = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    reestimate_batch_norm(model, data.train, batch_size=64)
    first = {name: buffer.clone() for name, buffer in model.named_buffers()}
    reestimate_batch_norm(model, data.train, batch_size=64)
    assert all(torch.equal(first[name], buffer) for name, buffer in model.named_buffers())
    assert all(torch.equal(p, q) for p, q in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.long
def test_bf16_is_within_half_a_point_of_fp32(load_bars):
    """On the embedded dataset, for a network that has learned something, with statistics of its own precision."""
    data = load_bars(name="FashionMNIST10k")
    torch.manual_seed(0)
    model = TinyTen(data.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for x, labels in data.train.subset(torch.arange(5_000)).augmented(128, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    accuracies = []
    for precision in ("fp32", "bf16"):
        how = {"batch_size": 500, "precision": precision}
        reestimate_batch_norm(model, data.train.subset(torch.arange(2_000)), **how)
        accuracies.append(evaluate(model, data.test, **how)[1])
    assert accuracies[0] > 40
    assert abs(accuracies[0] - accuracies[1]) <= 0.5


def curve_through(*seeds, **options):
    curve = Curve(TinyTen(4), **options)
    for index, seed in enumerate(seeds):
        curve.set_point(index, randomize(TinyTen(4), seed).state_dict())
    return curve


def measured(data):
    return lambda model, *_: measure(
        model, {"": data.test}, for_batch_norm=data.train, batch_size=64, precision="fp32"
    )


def test_a_plane_is_made_of_the_networks_at_its_points(data):
    """Loss at a grid point is that of the network with those weights; the corners are the three networks."""
    curve = curve_through(1, 2, 3)
    rows = list(evaluate_plane(curve, ((0, 1), (0, 1)), 3, measured(data)))
    plane = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    a, b, middle = (curve.row(i).double() for i in (0, 2, 1))
    u, v = plane_basis(a, b, middle)
    gram = torch.stack([u, v]) @ torch.stack([u, v]).T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)

    def point(x, y):
        return a + x * u + y * v

    corners, *basis = plane_of(curve)
    assert all(torch.equal(one, other) for one, other in zip(basis, (u, v), strict=True))
    for (x, y), corner in zip(corners, (a, b, middle), strict=True):
        torch.testing.assert_close(point(x, y), corner, atol=1e-6, rtol=0)
    for row in range(3):
        for column in range(3):
            theta = point(plane["x"][row, column], plane["y"][row, column]).float()
            model = TinyTen(4)
            model.load_state_dict(curve.flat.views(theta), strict=False)
            reestimate_batch_norm(model, data.train, batch_size=64)
            loss, accuracy = evaluate(model, data.test, batch_size=64)
            assert plane["loss"][row, column] == pytest.approx(loss, rel=1e-5)
            assert plane["accuracy"][row, column] == accuracy


def test_points_of_a_path_are_where_they_are_said_to_be():
    curve = curve_through(1, 2, 3)
    ts = np.linspace(0, 1, 5)
    rows = list(evaluate_path(curve, ts, lambda model, t: {}))
    points = [curve.point(t).detach() for t in ts]
    steps = [(q - p).norm().item() for p, q in zip(points, points[1:], strict=False)]
    np.testing.assert_allclose([row["length"] for row in rows], np.cumsum([0, *steps]), rtol=1e-6)
    assert [row["t"] for row in rows] == ts.tolist()
    a, b, middle = (curve.row(i) for i in (0, 2, 1))
    u, v = plane_basis(a, b, middle)
    for row, theta in zip(rows, points, strict=True):
        np.testing.assert_array_equal(row["coordinates"], plane_coordinates(theta, a, u, v))


@pytest.mark.parametrize("attack", [None, Attack(8 / 255, 2 / 255, 2)], ids=["plain", "attacked"])
def test_what_is_measured_of_a_network(data, attack):
    """By split, and with an attack clean and robust, after batch norm was re-estimated on attacked images."""
    how = {"batch_size": 64, "precision": "fp32"}
    splits = {"": data.test, "_train": data.train}
    metrics = measure(randomize(TinyTen(4)), splits, for_batch_norm=data.train, attack=attack, **how)
    model = randomize(TinyTen(4))
    reestimate_batch_norm(model, data.train, attack=attack, **how)
    kinds = {"": None, "_robust": attack} if attack else {"": None}
    expected = {}
    for split, images in splits.items():
        for kind, met in kinds.items():
            loss, accuracy = evaluate(model, images, attack=met, **how)
            expected |= {f"loss{kind}{split}": loss, f"accuracy{kind}{split}": accuracy}
    assert list(metrics.items()) == list(expected.items())  # the order of the columns too


@pytest.mark.parametrize("kind, part", [("Bezier", 0.5), ("PolyChain", 1.0)])
def test_the_middle_of_a_curve_is_below_its_turning_point(kind, part):
    """θ(½) of a Bézier curve of three points is half as high as the turning point; a chain goes through it."""
    curve = curve_through(1, 2, 3, curve=kind)
    corners, u, v = plane_of(curve)
    height = midpoint_height(curve)
    assert height == pytest.approx(part * corners[2, 1], rel=1e-5)
    rows = list(evaluate_plane(curve, ((0, 1), (-0.1, 1.5)), 17, lambda *_: {}, height=height))
    assert [row["y"][0] for row in rows] == pytest.approx(np.linspace(-0.1, 1.5, 17) * height)
    # Ten sixteenths up the grid, at height 0.9 · that of θ(½), and the middle of it, are where they should be.
    theta = curve.point(0.5).detach()
    assert plane_coordinates(theta, curve.row(0), u, v)[1] == pytest.approx(height)


def test_a_curve_that_does_not_rise_has_no_height():
    """Of five points the outer ones can pull θ(½) down to the line, and below."""
    curve = Curve(TinyTen(4), num_bends=5)
    states = [randomize(TinyTen(4), seed).state_dict() for seed in (1, 2, 3)]
    curve.set_point(0, states[0])
    curve.set_point(4, states[1])
    curve.init_linear()
    with torch.no_grad():
        away = curve.flat.flatten(states[2]) - curve.row(2)
        curve.row(2).add_(away)
        assert midpoint_height(curve) > 0
        for outer in (1, 3):
            curve.row(outer).sub_(away)
    with pytest.raises(UserError, match="does not rise"):
        midpoint_height(curve)


def test_a_path_between_a_network_and_itself_has_no_length():
    """To the last bit, whatever rounding does to a mean of equal numbers; and it lies in no plane."""
    curve = curve_through(1, 1, 1)
    rows = list(evaluate_path(curve, np.linspace(0, 1, 7), lambda model, t: {}))
    assert [row["length"] for row in rows] == [0] * 7
    np.testing.assert_array_equal([row["coordinates"] for row in rows], np.zeros((7, 2)))
    with pytest.raises(UserError, match="the same weights"):
        plane_of(curve)
    loop = curve_through(1, 2, 1)
    rows = list(evaluate_path(loop, np.linspace(0, 1, 7), lambda model, t: {}))
    assert rows[-1]["length"] > 0
    assert rows[3]["coordinates"][0] == rows[6]["coordinates"][0] == 0 < rows[3]["coordinates"][1]
    with pytest.raises(UserError, match="the same weights"):
        list(evaluate_plane(loop, ((0, 1), (0, 1)), 3, lambda *_: pytest.fail("it was computed")))


def test_validation_of_a_curve_leaves_the_buffers(data):
    curve = curve_through(1, 2, 3)
    randomize(curve.base, 5)
    before = {name: buffer.clone() for name, buffer in curve.base.named_buffers()}
    metrics = CurveTask(curve, test=data.test).validate(data.train, 64, "fp32")
    assert all(torch.equal(before[name], buffer) for name, buffer in curve.base.named_buffers())
    expected = {}
    for t in (0.25, 0.5, 0.75):
        at = measured(data)(curve.place(t))
        expected |= {f"loss_test_at_{t}": at["loss"], f"accuracy_test_at_{t}": at["accuracy"]}
    assert metrics == expected
