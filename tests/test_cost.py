"""benchmarks/cost.py: what it counts by torch's counter, counted by hand."""

from pathlib import Path

import numpy as np
import pytest
from test_workflow import JOBS
from torch import nn

from benchmarks import cost, counting
from models.tinyten import LAYERS
from utils import measuring, pam
from utils.attack import Attack
from utils.errors import UserError
from utils.stages.data import REPOSITORY_DATA

PRESETS = Path(__file__).resolve().parent.parent / "presets"
IMAGES = counting.Dataset(train=1_000, test=100, size=(32, 32), classes=10)


def by_hand(classes=10, size=32):
    """FLOPs of TinyTen on an image: forward; and what backward adds, which has no gradient of the image."""
    forward = backward = 0
    channels = 3
    for number, (out, kernel, stride, padding) in enumerate(LAYERS):
        size = (size + 2 * padding - kernel) // stride + 1
        layer = 2 * channels * out * kernel**2 * size**2
        forward += layer
        backward += layer * (1 if number == 0 else 2)
        channels = out
    dense = 2 * channels * classes
    return forward + dense, backward + 2 * dense


def preset(name):
    pytest.importorskip("yaml")
    return cost.read_preset(PRESETS / f"{name}.yaml")


@pytest.mark.parametrize("mode", [nn.Module.eval, nn.Module.train, measuring.use_batch_statistics])
def test_forward_by_hand_and_linear_in_images(mode):
    step = counting.forward_step(counting.fake_network("TinyTen", 10), mode)
    assert [counting.flops(step, IMAGES, n) for n in (1, 2, 7)] == [n * by_hand()[0] for n in (1, 2, 7)]


def test_demo_by_hand():
    """Networks: 8 epochs, each validated. Curves: 6 epochs. Evaluation: 9 points."""
    forward, backward = by_hand()
    expected = {
        "network": 8 * (10_000 * (forward + backward) + 2_000 * forward),
        "curve": 6 * 10_000 * (forward + backward),
        "evaluation": 9 * (10_000 + 2_000) * forward,
    }
    counted = {kind: cost.stage_flops(preset("demo"), kind, "TinyTen", "FashionMNIST10k") for kind in expected}
    assert counted == expected


def test_robust_network_by_hand():
    """A step of an attack is a pass forward and one back to the image, without gradients of weights."""
    forward, backward = by_hand()
    counted = counting.network_flops(
        counting.fake_network("TinyTen", 10), IMAGES, epochs=3, batch_size=128, val_freq=2, attack=Attack(0.1, 0.1, 4)
    )
    assert counted == 3 * 1_000 * (4 * 2 * forward + forward + backward) + 2 * 100 * forward


def test_pam_costs_more_than_its_two_curves():
    forward, backward = by_hand()
    candidates = 2 + pam.DRAWS + pam.REFINED * len(LAYERS)  # all 8 convolutions are permuted
    passes = 5 * (forward + backward) + (candidates + 2) * forward
    validations = 2 * 3 * 1_100 * forward
    curve = counting.fake_curve("TinyTen", 10, num_bends=3, curve="Bezier", fix_start=True, fix_end=True)
    iterations = {"outer_iters": 1, "inner_iters_perm": 2, "inner_iters_phi": 3}
    counted = counting.pam_flops(curve, IMAGES, **iterations, batch_size=128, val_freq=[None, 2])
    products = counted - 1_000 * passes - validations
    assert 0 < products < 0.05 * 1_000 * passes


@pytest.mark.parametrize("name", JOBS)
def test_stages_are_snakemakes(name):
    counts = {}
    for (kind, _, _), number in cost.count_stages(preset(name)).items():
        kind = kind.removeprefix("robust ").lower().replace(" ", "_")
        counts[kind] = counts.get(kind, 0) + number
    assert counts == {kind: number for kind, number in JOBS[name].items() if kind != "images"}


def test_images_are_the_loaded_ones(data_path, load_bars):
    for use_test in (True, False):
        data = load_bars(use_test=use_test)
        loaded = (len(data.train), len(data.test), tuple(data.train.size), data.num_classes)
        assert cost.count_images("bars", folder=data_path, transform="TinyTen", use_test=use_test) == loaded
    with np.load(REPOSITORY_DATA / "FashionMNIST10k.npz") as arrays:
        train, test = arrays["train_labels"], arrays["test_labels"]
    known = {"folder": REPOSITORY_DATA, "transform": "Adversarial_GoogLeNet"}
    embedded = cost.count_images("FashionMNIST10k", **known)
    assert embedded == (len(train), len(test), (32, 32), train.max() + 1)
    assert cost.count_images("TINY-IMAGENET-200", **known).size == (32, 32)
    with pytest.raises(UserError):
        cost.count_images("none-such", **known)


def test_the_table(capsys, monkeypatch):
    preset("demo")
    monkeypatch.setattr(cost, "stage_flops", lambda *_: 2 * 10**15)
    cost.main(cost.parse_args([str(PRESETS / "demo.yaml"), "--tflops", "0.5"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "| TinyTen, network | 2 | 2.00 | 4.00 |",
        "| TinyTen, match | 1 | 2.00 | 2.00 |",
        "| TinyTen, curve | 2 | 2.00 | 4.00 |",
        "| TinyTen, evaluation | 4 | 2.00 | 8.00 |",
    ]
    assert lines[-1] == "9 stages: 0.0180 EFLOP, 10.0 hours at a sustained 0.5 TFLOP/s."


def correlated():
    """FLOPs of comparing two TinyTens on an image: both networks, and the products of their activations."""
    size, samples = 32, []
    for out, kernel, stride, padding in LAYERS:
        size = (size + 2 * padding - kernel) // stride + 1
        samples.append(out**2 * size**2)
    return 2 * by_hand()[0] + 2 * sum(samples) + 2 * 10**2  # the logits are correlated, too


@pytest.mark.parametrize("attack", [None, Attack(0.1, 0.1, 4)])
def test_a_match_by_hand(attack):
    """On alignment images, on those of them that break ties, and on test images; attacked on both networks."""
    network = counting.fake_network("TinyTen", 10)
    counted = counting.match_flops(network, IMAGES, batch_size=512, attack=attack)
    attacking = 2 * 1_000 * 4 * 2 * by_hand()[0] if attack else 0
    assert counted == (1_000 + 512 + 100) * correlated() + attacking


def test_a_midpoint_by_hand():
    """Three networks have statistics; the point is correlated with each end and matched to it."""
    counted = counting.midpoint_flops(counting.fake_network("TinyTen", 10), IMAGES, batch_size=512, bn_images=300)
    assert counted == 3 * 300 * by_hand()[0] + 2 * (1_000 + 1_000 + 512) * correlated()


def test_a_plane_by_hand():
    network = counting.fake_network("TinyTen", 10)
    counted = counting.plane_flops(network, IMAGES, num_points=5, batch_size=512, bn_images=None)
    assert counted == 25 * 1_100 * by_hand()[0]


def test_digits():
    assert [cost.digits(value) for value in (12_345, 123.4, 1.234, 0.00012345, 0)] == [
        "12,300",
        "123",
        "1.23",
        "0.000123",
        "0",
    ]


def test_what_is_no_preset_is_a_user_error(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "some.yaml"
    for text in ("pairs: [", "pairs: []", "a word"):
        path.write_text(text)
        with pytest.raises(UserError):
            cost.read_preset(path)
