from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utils import distributed
from utils.batches import Augmentation, AugmentationDraw, Images, Loader, as_images, pack, split
from utils.measuring import evaluate, reestimate_batch_norm

CIFAR = Augmentation()
TINY_IMAGENET = Augmentation(30.0, (0.8, 1.2), 8, affine_last=True, jitter=0.25)
MOMENTS = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


def random_images(count, height, width, augmentation, channels=3):
    array = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    mean, std = (torch.tensor(values[:channels]).view(1, channels, 1, 1) for values in MOMENTS)
    images = Images(pack(array), torch.arange(count), (height, width), augmentation, mean, std)
    return images, torch.from_numpy(array).permute(0, 3, 1, 2)


def affine(image, p):
    return TF.affine(image, p.angle, [0, 0], p.scale, [0.0, 0.0], InterpolationMode.NEAREST, fill=0)


def crop(image, p, padding):
    return TF.crop(TF.pad(image, [padding] * 4), p.top, p.left, *image.shape[-2:])


def moved(image, p, augmentation):
    """One image under torchvision's flip, crop and affine transform."""
    if augmentation.affine_last:
        return affine(crop(TF.hflip(image) if p.flip else image, p, augmentation.padding), p)
    image = affine(image, p)
    return crop(TF.hflip(image) if p.flip else image, p, augmentation.padding)


def coloured(image, p, augmentation):
    """One image under torchvision's colour jitter, normalized."""
    if augmentation.jitter:
        jitters = [lambda i: TF.adjust_contrast(i, p.contrast), lambda i: TF.adjust_saturation(i, p.saturation)]
        for jitter in jitters if p.contrast_first else reversed(jitters):
            image = jitter(image)
    return TF.normalize(TF.convert_image_dtype(image), *(values[: len(image)] for values in MOMENTS))


def source_pixels(p, augmentation, height, width):
    """The source pixel that torchvision shows in each place, (H, W); H·W is the black one.

    It transforms an image whose pixels are their own numbers, from 1 on, in two bytes.
    """
    numbers = torch.arange(1, height * width + 1).view(height, width)
    high, low, _ = moved(torch.stack([numbers // 256, numbers % 256, numbers * 0]).byte(), p, augmentation).long()
    return torch.where(high + low > 0, 256 * high + low - 1, height * width)


def distance_to_an_edge(p, augmentation, height, width):
    """How far, in pixels and computed in float64, each place's source is from an edge between two pixels, (H, W)."""
    y, x = np.mgrid[:height, :width].astype(float)
    if not augmentation.affine_last:  # then the affine transform is the first one, and sees the place in its result
        y, x = y + p.top - augmentation.padding, x + p.left - augmentation.padding
        x = width - 1 - x if p.flip else x
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cos, sin = (f(np.deg2rad(p.angle)) / p.scale for f in (np.cos, np.sin))
    source = np.stack([cos * y - sin * x + (height - 1) / 2, cos * x + sin * y + (width - 1) / 2])
    return torch.from_numpy(np.abs(source - np.floor(source) - 0.5).min(0))


@pytest.mark.parametrize("augmentation", [CIFAR, TINY_IMAGENET], ids=["cifar", "tiny-imagenet"])
@pytest.mark.parametrize("size, channels", [((32, 32), 3), ((64, 64), 3), ((28, 28), 1), ((24, 40), 3)], ids=str)
def test_augmentation_equals_torchvision(augmentation, size, channels):
    """Every place shows the same source pixel, unless its source is on an edge; colours are the same to the bit.

    On an edge between two pixels float32 rounding decides. torchvision's coordinates come from a matrix product,
    whose order of summation differs between processors; they and ours err by a few roundings of numbers up to the
    image's size, each by 64 / 2²⁴ = 4e-6 at most.
    """
    images, originals = random_images(200, *size, augmentation, channels)
    drawn = augmentation.draw(len(images), torch.Generator().manual_seed(1))
    ours = images.augment(torch.arange(len(images)), drawn)
    sources = augmentation.source_pixels(drawn, *size).view(-1, *size)
    differing = 0
    for i, image in enumerate(originals):
        one = AugmentationDraw(*(values[i].item() for values in drawn))
        differs = sources[i] != source_pixels(one, augmentation, *size)
        assert (distance_to_an_edge(one, augmentation, *size)[differs] < 1e-4).all(), f"image {i}: {one}"
        differing += differs.sum().item()
        shown = F.pad(image.flatten(1), (0, 1))[:, sources[i]]
        assert torch.equal(ours[i], coloured(shown, one, augmentation)), f"image {i}: {one}"
    assert differing <= 1e-5 * sources.numel()


def test_parameters_are_distributed_as_published():
    p = TINY_IMAGENET.draw(100_000, torch.Generator().manual_seed(0))
    for values, low, high in (
        (p.angle, -30, 30),
        (p.scale, 0.8, 1.2),
        (p.contrast, 0.75, 1.25),
        (p.saturation, 0.75, 1.25),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.01 * (high - low)
    for values in (p.flip, p.contrast_first):
        assert abs(values.double().mean() - 0.5) < 0.01
    for values in (p.top, p.left):
        assert torch.equal(values.unique(), torch.arange(17))


def test_test_transform_is_normalization():
    images, originals = random_images(20, 32, 32, CIFAR)
    ours = torch.cat([x for x, _ in images.batches(7)])
    expected = TF.normalize(TF.convert_image_dtype(originals), *MOMENTS)
    assert torch.equal(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_has_every_image_once():
    images, _ = random_images(50, 8, 8, Augmentation(padding=1))
    labels = torch.cat([labels for _, labels in images.augmented(16, torch.Generator().manual_seed(0))])
    assert not torch.equal(labels, torch.arange(50))
    assert torch.equal(labels.sort().values, torch.arange(50))


def test_subsets_copy_no_pixels():
    """Neither does a subset of one; it has the images of its numbers, also of a file that is let go of."""
    images, originals = random_images(200, 8, 8, CIFAR)
    mapped = replace(images, unmap=bool)
    first, second = torch.randperm(200, generator=draws()), torch.arange(149, 0, -2)
    for whole in (images, mapped):
        some = whole.subset(first).subset(second)
        assert some.pixels.data_ptr() == images.pixels.data_ptr()
        assert some.labels.tolist() == first[second].tolist()
        x = torch.cat([x for x, _ in some.batches(7)])
        assert torch.equal(x, torch.cat([x for x, _ in images.batches(200)])[first[second]])
        drawn = CIFAR.draw(len(some), draws())
        assert torch.equal(some.augment(torch.arange(75), drawn), images.augment(first[second], drawn))


def test_images_are_spread_over_the_classes():
    labels = torch.arange(50_000) // 250  # sorted by class, as an image folder is
    images = Images(torch.zeros(50_000, 2, dtype=torch.int32), labels, (1, 1), CIFAR)
    assert labels[images.spread(10_000)].bincount().tolist() == [50] * 200
    shuffled = Images(images.pixels, labels.flip(0), (1, 1), CIFAR)
    assert torch.equal(shuffled.spread(10_000), torch.arange(10_000))
    assert torch.equal(shuffled.spread(10, from_end=True), torch.arange(49_990, 50_000))


# --- images of another making ------------------------------------------------------------------------------

X, LABELS = torch.rand(50, 3, 4, 4), torch.arange(50)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(zip(X, LABELS, strict=True))


class Pairs(Dataset):
    """What a project's own dataset gives of one sample: numpy, numbers, and what is no tensor."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return X[index].numpy(), int(LABELS[index]), f"{index}.png"


class Again:
    def __iter__(self):
        return iter(DataLoader(TensorDataset(X, LABELS), 16))


DATA = {
    "tensors": TensorDataset(X, LABELS),
    "pair": (X, LABELS),
    "other whole numbers": [X, LABELS.int()],
    "column of labels": (X, LABELS[:, None]),
    "three": (X, LABELS, X),
    "arrays": (X.numpy(), LABELS.numpy()),
    "dictionary": {"x": X, "label": LABELS},
    "subset": Subset(TensorDataset(X, LABELS), range(50)),
    "dataset": Pairs(),
    "loader": DataLoader(TensorDataset(X, LABELS), 16),
    "loader of datasets": DataLoader(Pairs(), 16),
    "loader of a stream": DataLoader(Endless(), 16),
    "loader without a batch size": DataLoader(TensorDataset(X, LABELS), batch_sampler=[range(30), range(30, 50)]),
    "list of batches": list(zip(X.split(16), LABELS.split(16), strict=True)),
    "list of dictionaries": [{"x": X, "labels": LABELS}],
    "iterable": Again(),
}


@pytest.mark.parametrize("source", DATA.values(), ids=DATA)
def test_any_data_stand_in_for_images(source):
    """A network sees the same x, in order and shuffled, and has the same loss and accuracy."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 50))
    images = as_images(source, "cpu")
    for batches in (images.batches(16), images.augmented(16, draws())):
        seen = [split(network, batch) for batch in batches]
        assert len(seen) == images.steps(16)
        assert sum(len(x) for x, _ in seen) == 50
        for x, labels in seen:
            assert torch.equal(x, X[labels.long().flatten()])
    expected = (
        F.cross_entropy(network(X), LABELS).item(),
        100 * (network(X).argmax(1) == LABELS).double().mean().item(),
    )
    assert evaluate(network, source) == pytest.approx(expected)


def test_samples_are_shuffled_by_the_generator():
    images = as_images((X, LABELS), "cpu")

    def order(seed):
        batches = list(images.augmented(16, draws(seed)))
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(torch.cat([x for x, _ in batches]), X[labels])  # whole, and with their own labels
        return labels

    torch.rand(1)  # draws of others do not matter
    assert torch.equal(order(5), order(5))
    assert not torch.equal(order(5), order(6))
    assert torch.equal(order(5).sort().values, LABELS)


@pytest.mark.parametrize("drop_last, count", [(False, 50), (True, 48)])
def test_a_loader_is_used_as_it_is(drop_last, count):
    loader = DataLoader(TensorDataset(X, LABELS), 8, shuffle=True, generator=draws(3), drop_last=drop_last)
    images = as_images(loader, "cpu")
    served = [list(images.augmented(16, draws(1))), list(images.batches(5))]
    loader.generator.manual_seed(3)
    for batches in served:
        for (x, labels), (x_expected, labels_expected) in zip(batches, loader, strict=True):
            assert torch.equal(x, x_expected)
            assert torch.equal(labels, labels_expected)
        assert len(torch.cat([labels for _, labels in batches]).unique()) == count


@pytest.mark.parametrize("source", [(X, LABELS), DataLoader(TensorDataset(X, LABELS), 8)], ids=["pair", "loader"])
def test_images_go_to_the_device(source):
    images = as_images(source, "meta")
    assert images.device == torch.device("meta")
    batches = [next(images.batches(8)), next(images.augmented(8, draws()))]
    assert all(tensor.device == images.device for batch in batches for tensor in batch)


def test_what_is_images_already_stays():
    loader = Loader(DataLoader(TensorDataset(X, LABELS), 8), torch.device("cpu"))
    for images in (random_images(5, 8, 8, CIFAR)[0], as_images((X, LABELS), "cpu"), loader):
        assert as_images(images, "meta") is images


@pytest.mark.parametrize(
    "source, says",
    [
        ((X, LABELS[:-1]), "data have 49 and 50 samples"),
        ("CIFAR10", "^data are a tensor, .* not a str$"),
        (None, "^data are a tensor, .* not a NoneType$"),
        (nn.Linear(1, 1), "^data are a tensor, .* not a Linear$"),
        (Endless(), "^data are a tensor, .* not a Endless$"),
        ((pair for pair in [(X, LABELS)]), "can be read once"),
        ([1, 2, 3], "^a batch is a tensor .*, not a int$"),
        ([["a", "b"]], "^a batch is a tensor .*, not a tuple of str$"),
        ([(X[:0], LABELS[:0])], "a batch is empty"),
        ((X[:0], LABELS[:0]), "a batch is empty"),
        ([], "there are no samples"),
        (DataLoader(TensorDataset(X, LABELS), 64, drop_last=True), "there are no samples .* drops its only batch"),
    ],
    ids=range(12),
)
def test_what_cannot_be_images(source, says):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(X[0].numel(), 50))
    for act in (evaluate, reestimate_batch_norm):
        with pytest.raises((TypeError, ValueError), match=says):
            act(network, source)


def test_two_processes_share_tensors_and_no_loader(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "size", lambda: 2)
        with pytest.raises(ValueError, match="cannot share a DataLoader"):
            as_images(DataLoader(TensorDataset(X, LABELS), 8), "cpu")
    parts = []
    for rank in (0, 1):
        with monkeypatch.context() as patched:
            patched.setattr(distributed, "size", lambda: 2)
            patched.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(list(as_images((X, LABELS), "cpu").augmented(16, draws())))
    whole = list(as_images((X, LABELS), "cpu").augmented(16, draws()))
    for (_, one), (_, two), (_, labels) in zip(*parts, whole, strict=True):
        assert torch.equal(torch.cat([one, two]), labels)
