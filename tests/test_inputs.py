"""Networks and images that do not go together are told before the work begins."""

import numpy as np
import pytest
import torch
from conftest import randomize, same
from torch import nn

from models import MODELS
from utils.batches import Augmentation, Images, pack
from utils.errors import UserError
from utils.stages.inputs import check_input


def images(count, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Images(pack(pixels), torch.arange(count) % 2, (height, width), Augmentation(padding=1))


class Flattening(nn.Module):
    """A network for images of 20×20 only."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.norm = nn.BatchNorm1d(4 * 16 * 16)
        self.classifier = nn.Linear(4 * 16 * 16, 2)

    def forward(self, x):
        return self.classifier(self.norm(self.features(x)))


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (1, 1)])
def test_images_that_are_too_small(shape):
    height, width = shape
    message = f"^TinyTen cannot take images of {width}×{height}; the smallest image size that it takes is 9×9$"
    with pytest.raises(UserError, match=message):
        check_input(MODELS["TinyTen"](2), images(4, *shape))


@pytest.mark.parametrize("side", [8, 19, 32])
def test_images_that_are_too_small_or_too_large(side):
    with pytest.raises(UserError, match=f"Flattening cannot take images of {side}×{side}; .* 20×20"):
        check_input(Flattening(), images(4, side, side))


@pytest.mark.parametrize("name", MODELS)
def test_a_check_changes_nothing(name):
    model = randomize(MODELS[name](2))
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_input(model, images(9, 16, 16), 8)
    assert same(model.state_dict(), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "count, batch_size, better",
    [(9, 8, 7), (9, 4, 3), (9, 2, 3), (9, 1, 3), (7, 3, 4), (3, 2, 3), (9, 3, None), (9, 100, None), (9, 7, None)],
)
def test_a_last_batch_of_one_image(count, batch_size, better):
    """At 9×9 the last maps of TinyTen have one place, so that batch norm needs two images."""
    few = images(count, 9, 9)
    check_input(MODELS["TinyTen"](2), few)
    check_input(MODELS["TinyTen"](2), images(count, 16, 16), batch_size)  # their maps have several places
    if better is None:
        check_input(MODELS["TinyTen"](2), few, batch_size)
        return
    message = f"with a batch size of {batch_size}, the last of {count} .* a batch size of {better} leaves none alone"
    with pytest.raises(UserError, match=message):
        check_input(MODELS["TinyTen"](2), few, batch_size)
    check_input(MODELS["TinyTen"](2), few, better)


def test_a_single_image_for_batch_norm():
    with pytest.raises(UserError, match="the last of 1 images is alone in its batch, .* use more images"):
        check_input(MODELS["TinyTen"](2), images(1, 9, 9), 512)


def test_what_a_network_itself_lacks_is_not_put_on_the_images():
    broken = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(5))
    with pytest.raises(RuntimeError):
        check_input(broken, images(4, 16, 16))
