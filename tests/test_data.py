import gzip
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, write_image_folder
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utils import data as data_module
from utils.data import MOMENTS, Augmentation, Images, Parameters, _pack, load_data, unpack_tiny_imagenet
from utils.errors import UserError

CIFAR = Augmentation()
TINY_IMAGENET = Augmentation(30.0, (0.8, 1.2), 8, affine_last=True, jitter=0.25)


@pytest.fixture
def load(namespace):
    return lambda dataset, data_path=None, **changes: load_data(
        namespace(dataset=dataset, data_path=data_path, **changes)
    )


def random_images(count, height, width, augmentation):
    array = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in MOMENTS["CIFAR10"])
    images = Images(_pack(array), torch.arange(count), (height, width), augmentation, mean, std)
    return images, torch.from_numpy(array).permute(0, 3, 1, 2)


def affine(image, p):
    return TF.affine(image, p.angle, [0, 0], p.scale, [0.0, 0.0], InterpolationMode.NEAREST, fill=0)


def crop(image, p, padding):
    return TF.crop(TF.pad(image, [padding] * 4), p.top, p.left, *image.shape[-2:])


def with_torchvision(image, p, augmentation):
    """The same transforms, one image at a time, by torchvision."""
    if augmentation.affine_last:
        image = affine(crop(TF.hflip(image) if p.flip else image, p, augmentation.padding), p)
    else:
        image = affine(image, p)
        image = crop(TF.hflip(image) if p.flip else image, p, augmentation.padding)
    if augmentation.jitter:
        jitters = [lambda i: TF.adjust_contrast(i, p.contrast), lambda i: TF.adjust_saturation(i, p.saturation)]
        for jitter in jitters if p.contrast_first else reversed(jitters):
            image = jitter(image)
    return TF.normalize(TF.convert_image_dtype(image), *MOMENTS["CIFAR10"])


@pytest.mark.parametrize("augmentation", [CIFAR, TINY_IMAGENET], ids=["cifar", "tiny-imagenet"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (28, 28), (24, 40)], ids=str)
def test_augmentation_equals_torchvision(augmentation, size):
    images, originals = random_images(200, *size, augmentation)
    parameters = augmentation.draw(len(images), torch.Generator().manual_seed(1))
    ours = images.augment(torch.arange(len(images)), parameters)
    for i, image in enumerate(originals):
        one = Parameters(*(values[i].item() for values in parameters))
        assert torch.equal(ours[i], with_torchvision(image, one, augmentation)), f"image {i}: {one}"


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
    expected = TF.normalize(TF.convert_image_dtype(originals), *MOMENTS["CIFAR10"])
    assert torch.equal(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_has_every_image_once():
    images, _ = random_images(50, 8, 8, Augmentation(padding=1))
    labels = torch.cat([labels for _, labels in images.augmented(16, torch.Generator().manual_seed(0))])
    assert not torch.equal(labels, torch.arange(50))
    assert torch.equal(labels.sort().values, torch.arange(50))


def test_epochs_repeat_with_the_generator_and_differ_without():
    images, _ = random_images(30, 8, 8, Augmentation(padding=1))

    def epoch(generator):
        return torch.cat([x for x, _ in images.augmented(16, generator)])

    first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    assert torch.equal(epoch(first), epoch(second))
    assert not torch.equal(epoch(first), epoch(torch.Generator().manual_seed(6)))


def test_embedded_dataset(load):
    data = load("FashionMNIST10k")
    assert (len(data.train), len(data.test), data.num_classes, data.train.size) == (10_000, 2_000, 10, (32, 32))
    assert data.train.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    x = torch.cat([x for x, _ in data.train.batches(1000)])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert Path(data_module.REPOSITORY_DATA / "FashionMNIST10k.npz").stat().st_size < 6e6


def test_image_folder(data_path, load):
    data = load("bars", data_path)
    assert (len(data.train), len(data.test), data.num_classes, data.train.size) == (160, 48, 4, (SIZE, SIZE))
    first = np.asarray(Image.open(data_path / "bars" / "train" / "class0" / "000.png"))
    x, _ = next(data.train.batches(1))
    pixels = x[0].mul(data.train.std[0]).add(data.train.mean[0]).mul(255).permute(1, 2, 0)
    np.testing.assert_allclose(pixels.numpy(), first, atol=0.01)


def test_image_folder_is_decoded_once_and_again_when_it_changes(tmp_path, monkeypatch, load):
    write_image_folder(tmp_path / "bars", 3, 2)
    load("bars", tmp_path)
    monkeypatch.setattr(data_module, "_decoded", lambda *_: pytest.fail("decoded again"))
    assert len(load("bars", tmp_path).train) == 12
    monkeypatch.undo()
    (tmp_path / "bars" / "train" / "class0" / "000.png").unlink()
    assert len(load("bars", tmp_path).train) == 11


def test_a_damaged_cache_is_made_anew(tmp_path, capsys, load):
    write_image_folder(tmp_path / "bars", 3, 2)
    load("bars", tmp_path)
    cache = tmp_path / "bars" / "decoded.npz"
    cache.write_bytes(cache.read_bytes()[:500])
    assert len(load("bars", tmp_path).train) == 12
    assert "decoding the images again" in capsys.readouterr().out


def test_adversarial_transform_leaves_pixels_in_the_unit_interval(data_path, load):
    x, _ = next(load("bars", data_path, transform="Adversarial").train.batches(160))
    assert 0 <= x.min() < 0.01
    assert 0.9 < x.max() <= 1


def test_held_out_images_are_not_trained_on(data_path, load):
    data = load("bars", data_path, use_test=False)
    assert (len(data.train), len(data.test)) == (144, 16)
    assert data.test.labels.unique().tolist() == [0, 1, 2, 3]  # this set is sorted by class
    whole = {row.numpy().tobytes() for row in load("bars", data_path).train.pixels}
    parts = [{row.numpy().tobytes() for row in images.pixels} for images in (data.train, data.test)]
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]


def test_alignment_images():
    labels = torch.arange(50_000) // 250  # sorted by class, as an image folder is
    images = Images(torch.zeros(50_000, 2, dtype=torch.int32), labels, (1, 1), CIFAR)
    assert labels[images.spread(10_000)].bincount().tolist() == [50] * 200
    shuffled = Images(images.pixels, labels.flip(0), (1, 1), CIFAR)
    assert torch.equal(shuffled.spread(10_000), torch.arange(10_000))
    assert torch.equal(shuffled.spread(10, from_end=True), torch.arange(49_990, 50_000))


def remove(path):
    for child in path.iterdir():
        child.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: remove(f / "train" / "class1"), "class1 holds no images"),
        (lambda f: (f / "test").rename(f / "other"), "neither a test nor a val folder"),
        (lambda f: (f / "test" / "class3").rename(f / "test" / "class9"), "different classes.*'class3'"),
        (lambda f: (f / "train" / "class0" / "000.png").write_bytes(b"no image"), "000.png is not an image"),
        (lambda f: Image.new("RGB", (9, 9)).save(f / "train" / "class2" / "001.png"), r"001.png is 9×9"),
    ],
)
def test_image_folders_that_cannot_be_used(tmp_path, damage, message, load):
    write_image_folder(tmp_path / "bars", 3, 2)
    damage(tmp_path / "bars")
    with pytest.raises(UserError, match=message):
        load("bars", tmp_path)


def test_an_empty_image_folder(tmp_path, load):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    with pytest.raises(UserError, match="holds no class folders"):
        load("empty", tmp_path)


def test_unknown_dataset_names_the_valid_ones(data_path, load):
    with pytest.raises(UserError, match="CIFAR10, CIFAR100, TINY-IMAGENET-200, FashionMNIST, .*bars") as caught:
        load("CIFAR11", data_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "FashionMNIST", "TINY-IMAGENET-200"])
def test_no_network(tmp_path, monkeypatch, name, load):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(UserError, match="could not be downloaded"):
        load(name, tmp_path)


def tiny_archive(path, *extra):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/train/n01/images/n01_0.JPEG", b"a")
        archive.writestr("tiny-imagenet-200/val/images/val_0.JPEG", b"b")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t62\t57\n")
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", b"unlabelled")
        for name in extra:
            archive.writestr(name, b"hostile")


def test_tiny_imagenet_is_sorted_into_classes(tmp_path):
    tiny_archive(tmp_path / "a.zip")
    unpack_tiny_imagenet(tmp_path / "a.zip", tmp_path / "out")
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == ["train/n01/n01_0.JPEG", "val/n01/val_0.JPEG"]


@pytest.mark.parametrize(
    "entry",
    ["tiny-imagenet-200/train/../images/x.JPEG", "../../x.JPEG", "/x.JPEG", "a/train/b/images/..JPEG"],
)
def test_a_hostile_archive_writes_nowhere_else(tmp_path, entry):
    tiny_archive(tmp_path / "a.zip", entry)
    out = tmp_path / "deep" / "out"
    try:
        unpack_tiny_imagenet(tmp_path / "a.zip", out)
    except UserError as error:
        assert "unsafe name" in str(error)
    assert {p for p in tmp_path.rglob("*") if p.is_file() and out not in p.parents} == {tmp_path / "a.zip"}
    assert not [p for p in out.rglob("*") if p.is_file() and p.read_bytes() == b"hostile"]


def test_unpacked_files_that_are_not_the_archives(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(b"pixels"))
    (tmp_path / "images").write_bytes(b"pixels")
    resources = [("images.gz", hashlib.md5((tmp_path / "images.gz").read_bytes()).hexdigest())]
    data_module._verify_unpacked(tmp_path, resources)
    (tmp_path / "images").write_bytes(b"pixelz")
    with pytest.raises(UserError, match="is damaged; delete"):
        data_module._verify_unpacked(tmp_path, resources)
