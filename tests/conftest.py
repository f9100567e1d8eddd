"""A small dataset and workspace that the tests share."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CLASSES, SIZE = 4, 16


def write_image_folder(folder, train=40, test=12, size=SIZE):
    """Images of class c are noise around a bright bar at a place that depends on c: easy, but not trivial."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for c in range(CLASSES):
            (folder / split / f"class{c}").mkdir(parents=True)
            for i in range(count):
                image = generator.integers(0, 120, (size, size, 3), dtype=np.uint8)
                start = c * size // CLASSES
                image[:, start : start + size // CLASSES, c % 3] += 120
                Image.fromarray(image).save(folder / split / f"class{c}" / f"{i:03d}.png")


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    """A folder that holds the image-folder dataset `bars`: 160 training and 48 test images of 16×16 pixels."""
    path = tmp_path_factory.mktemp("data")
    write_image_folder(path / "bars")
    return path


@pytest.fixture(scope="session")
def namespace(data_path):
    """Makes the arguments that loading the small dataset wants; keywords replace them."""

    def make(**changes):
        arguments = {
            "dataset": "bars",
            "data_path": data_path,
            "transform": "TinyTen",
            "use_test": True,
            "num_workers": 2,
            "root": Path("nowhere"),
            "device": torch.device("cpu"),
        }
        return Namespace(**arguments | changes)

    return make


@pytest.fixture
def flags(data_path, tmp_path):
    """Flags that make a stage use the small dataset and write under tmp_path."""
    return ["--dataset", "bars", "--data_path", str(data_path), "--root", str(tmp_path), "--batch_size", "32"]


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter and buffer a value of its own, so that no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            fan_in = value[0].numel() if value.dim() > 1 else 10
            value.copy_(noise * (2 / fan_in) ** 0.5 + (1 if name.endswith(("bn.weight", "bn1.weight")) else 0))
    return model
