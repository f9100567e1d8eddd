import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn
from torch.nn import functional as F

from models import TinyTen
from utils import evaluation
from utils.checkpoint import Results
from utils.curves import Curve
from utils.data import load_data
from utils.errors import UserError
from utils.plane import plane_basis


@pytest.fixture(scope="module")
def data(namespace):
    return load_data(namespace())


def test_evaluate_is_the_mean_over_images(data):
    model = randomize(TinyTen(4)).eval()
    x = torch.cat([x for x, _ in data.test.batches(100)])
    with torch.no_grad():
        logits = model(x)
    loss, accuracy = evaluation.evaluate(model, data.test, batch_size=7)
    assert loss == pytest.approx(F.cross_entropy(logits, data.test.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx(100 * (logits.argmax(1) == data.test.labels).double().mean().item())


def test_batch_norm_of_the_first_layer_is_the_average_over_batches(data):
    model = randomize(TinyTen(4))
    evaluation.reestimate_batch_norm(model, data.train, batch_size=64)
    layer = model.layers[0]
    generator = torch.Generator().manual_seed(evaluation.EVALUATION_SEED)
    batches = [x for x, _ in data.train.augmented(64, generator)]
    with torch.no_grad():
        outputs = [layer.conv(x).transpose(0, 1).flatten(1) for x in batches]
    weights = torch.tensor([len(x) / len(data.train) for x in batches])
    mean = (torch.stack([o.mean(1) for o in outputs]) * weights[:, None]).sum(0)
    variance = (torch.stack([o.var(1) for o in outputs]) * weights[:, None]).sum(0)
    torch.testing.assert_close(layer.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bn.running_var, variance, rtol=1e-4, atol=1e-5)


def test_reestimation_repeats_and_disturbs_nothing(data):
    model = randomize(TinyTen(4))
    parameters = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    evaluation.reestimate_batch_norm(model, data.train, 64)
    first = {name: buffer.clone() for name, buffer in model.named_buffers()}
    evaluation.reestimate_batch_norm(model, data.train, 64)
    assert all(torch.equal(first[name], buffer) for name, buffer in model.named_buffers())
    assert all(torch.equal(p, q) for p, q in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_reestimation_does_not_change_what_batch_statistics_would_give(data):
    """On one batch of the whole set, re-estimated statistics are that batch's own."""
    model = randomize(TinyTen(4))
    size = len(data.train)
    evaluation.reestimate_batch_norm(model, data.train, size)
    x, _ = next(data.train.augmented(size, torch.Generator().manual_seed(evaluation.EVALUATION_SEED)))
    with torch.no_grad():
        by_running = model.eval()(x)
        by_batch = model.train()(x)
    torch.testing.assert_close(by_running, by_batch, rtol=1e-2, atol=1e-2)  # running variances are unbiased


def test_bf16_is_within_half_a_point_of_fp32(namespace):
    """On the embedded dataset, for a network that has learned something, with statistics of its own precision."""
    data = load_data(namespace(dataset="FashionMNIST10k"))
    torch.manual_seed(0)
    model = TinyTen(data.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for x, labels in data.train.subset(torch.arange(5_000)).augmented(128, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    accuracies = []
    for precision in ("fp32", "bf16"):
        evaluation.reestimate_batch_norm(model, data.train.subset(torch.arange(2_000)), 500, precision)
        accuracies.append(evaluation.evaluate(model, data.test, 500, precision)[1])
    assert accuracies[0] > 40
    assert abs(accuracies[0] - accuracies[1]) <= 0.5


def curve_through(*seeds):
    curve = Curve(TinyTen(4))
    for index, seed in enumerate(seeds):
        curve.set_point(index, randomize(TinyTen(4), seed).state_dict())
    return curve


def test_a_plane_is_made_of_the_networks_at_its_points(data, namespace, tmp_path):
    """Loss at a grid point is that of the network with those weights; the corners are the three networks."""
    curve, args = (
        curve_through(1, 2, 3),
        namespace(num_points=3, batch_size=64, precision="fp32", attack=None, bn_images=None),
    )
    results = Results(tmp_path / "plane.npz", {}, "x")
    evaluation.evaluate_plane(args, data, curve, ((0, 1), (0, 1)), results)
    plane = dict(np.load(tmp_path / "plane.npz"))
    a, b, middle = (curve.row(i).double() for i in (0, 2, 1))
    u, v = plane_basis(a, b, middle)
    gram = torch.stack([u, v]) @ torch.stack([u, v]).T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)

    def point(x, y):
        return a + x * u + y * v

    for (x, y), corner in zip(plane["corners"], (a, b, middle), strict=True):
        torch.testing.assert_close(point(x, y), corner, atol=1e-6, rtol=0)
    for row in range(3):
        for column in range(3):
            theta = point(plane["x"][row, column], plane["y"][row, column]).float()
            model = TinyTen(4)
            model.load_state_dict(curve.flat.views(theta), strict=False)
            evaluation.reestimate_batch_norm(model, data.train, 64)
            loss, accuracy = evaluation.evaluate(model, data.test, 64)
            assert plane["loss"][row, column] == pytest.approx(loss, rel=1e-5)
            assert plane["accuracy"][row, column] == accuracy


def test_points_on_a_line_span_no_plane(data, namespace, tmp_path):
    curve = curve_through(1, 1, 2)
    curve.init_linear()
    args = namespace(num_points=3, batch_size=64, precision="fp32", attack=None, bn_images=None)
    with pytest.raises(UserError, match="on a straight line"):
        evaluation.evaluate_plane(args, data, curve, ((0, 1), (0, 1)), Results(tmp_path / "plane.npz", {}, "x"))
