"""benchmarks/cost.py: what it counts by torch's counter, counted by hand."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alignment import align_models
from benchmarks import cost
from models.tinyten import LAYERS
from utils import pam
from utils.attack import Attack
from utils.errors import UserError
from utils.stages.data import REPOSITORY_DATA

PRESETS = Path(__file__).resolve().parent.parent / "presets"
TRAIN, TEST = 10_000, 2_000  # images of the embedded dataset


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


FORWARD, BACKWARD = by_hand()


def correlated():
    """FLOPs of comparing two TinyTens on an image: both networks, and the products of their activations."""
    size, samples = 32, []
    for out, kernel, stride, padding in LAYERS:
        size = (size + 2 * padding - kernel) // stride + 1
        samples.append(out**2 * size**2)
    return 2 * FORWARD + 2 * sum(samples) + 2 * 10**2  # the logits are correlated, too


ALIGNED = (TRAIN + 512) * correlated()  # on all images, and once more on those that break ties

BY_HAND = {
    "training/train_model.py --epochs 8 --val_freq 1": 8 * (TRAIN * (FORWARD + BACKWARD) + TEST * FORWARD),
    # A step of an attack is a pass forward and one back to the image, without gradients of weights
    "training/train_model_adversarial.py --epochs 3 --val_freq 2 --attack_steps 4": (
        3 * TRAIN * (4 * 2 * FORWARD + FORWARD + BACKWARD) + 2 * TEST * FORWARD
    ),
    "training/train_curve.py --epochs_model 8 --epochs 6": 6 * TRAIN * (FORWARD + BACKWARD),
    "training/train_curve.py --epochs_model 8 --epochs 6 --num_bends 2 --fix_start --fix_end": 0,
    "alignment/align_models.py --epochs 8": ALIGNED + TEST * correlated(),
    "alignment/align_models_w2.py --epochs 8": ALIGNED + TEST * correlated(),
    "alignment/align_models.py --epochs 8 --adversarial": ALIGNED + TEST * correlated(),
    # Three networks have statistics; the point is correlated with each end and matched to it
    "alignment/align_along_curve.py --epochs_model 8 --epochs_curve 6 --bn_images 300": (
        3 * 300 * FORWARD + 2 * (TRAIN * correlated() + ALIGNED)
    ),
    "evaluation/eval_curve.py --epochs_model 8 --epochs_curve 6 --num_points 9": 9 * (TRAIN + TEST) * FORWARD,
    "evaluation/eval_plane_with_curve.py --epochs_model 8 --epochs_curve 6 --num_points 5": (
        25 * (TRAIN + TEST) * FORWARD
    ),
}


@pytest.mark.parametrize("command", BY_HAND)
def test_by_hand(command):
    kind, model, dataset, flops = cost.counted(f"{command} --dataset FashionMNIST10k --model TinyTen")
    assert (model, dataset, flops) == ("TinyTen", "FashionMNIST10k", BY_HAND[command])
    assert kind.startswith("robust") == ("adversarial" in command)


def test_a_match_on_attacked_images():
    """They are attacked on both networks."""
    args = align_models.parse_args(["--epochs", "8", "--dataset", "FashionMNIST10k", "--model", "TinyTen"])
    args.attack = Attack(0.1, 0.1, 4)
    assert cost.stage_flops("match", args) == ALIGNED + TEST * correlated() + 2 * TRAIN * 4 * 2 * FORWARD


def test_pam_costs_more_than_its_two_curves():
    candidates = 2 + pam.DRAWS + pam.REFINED * len(LAYERS)  # all 8 convolutions are permuted
    screened = candidates * min(pam.SCREENED_IMAGES, TRAIN) + 2 * TRAIN
    passes = 5 * TRAIN * (FORWARD + BACKWARD) + screened * FORWARD
    command = "training/train_curve_pam.py --epochs_model 8 --inner_iters_perm 2 --inner_iters_phi 3 --alignment ''"
    *_, flops = cost.counted(f"{command} --dataset FashionMNIST10k --model TinyTen")
    products = flops - passes - TEST * correlated()
    assert 0 < products < 0.05 * passes


def test_images_are_the_loaded_ones(data_path, load_bars):
    def counted(name, folder, transform, use_test=True):
        flags = {"dataset": name, "data_path": folder, "root": folder, "transform": transform, "use_test": use_test}
        return cost.count_images(SimpleNamespace(**flags, image_size=None))

    for use_test in (True, False):
        data = load_bars(use_test=use_test)
        loaded = (len(data.train), len(data.test), tuple(data.train.size), data.num_classes)
        assert counted("bars", data_path, "TinyTen", use_test) == loaded
    with np.load(REPOSITORY_DATA / "FashionMNIST10k.npz") as arrays:
        train, test = arrays["train_labels"], arrays["test_labels"]
    embedded = counted("FashionMNIST10k", REPOSITORY_DATA, "Adversarial_GoogLeNet")
    assert embedded == (len(train), len(test), (32, 32), train.max() + 1)
    assert counted("TINY-IMAGENET-200", REPOSITORY_DATA, "Adversarial_GoogLeNet").size == (32, 32)
    with pytest.raises(UserError):
        counted("none-such", REPOSITORY_DATA, "TinyTen")


def test_the_table(capsys, monkeypatch):
    """A line a kind of stage, with as many as Snakemake would run."""
    monkeypatch.setattr(cost, "stage_flops", lambda *_: 2 * 10**15)
    cost.main(cost.parse_args([str(PRESETS / "demo.yaml"), "--tflops", "0.5"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == [
        "| TinyTen, network | 2 | 2.00 | 4.00 |",
        "| TinyTen, match | 1 | 2.00 | 2.00 |",
        "| TinyTen, curve | 2 | 2.00 | 4.00 |",
        "| TinyTen, evaluation | 4 | 2.00 | 8.00 |",
    ]
    assert lines[-1].startswith("9 stages: 0.0180 EFLOP, 10.0 hours at a sustained 0.5 TFLOP/s: a lower bound")


def test_what_is_no_preset_is_a_user_error(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("pairs: [")
    with pytest.raises(UserError, match="some.yaml is not a preset: "):
        cost.commands(path)


def test_without_snakemake(monkeypatch):
    missing = subprocess.CompletedProcess([], 1, stdout="", stderr="python: No module named snakemake")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: missing)
    with pytest.raises(UserError, match="-r requirements-workflow.txt"):
        cost.commands(PRESETS / "demo.yaml")
