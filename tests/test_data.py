import functools
import hashlib
import http.server
import pickle
import shutil
import threading
import zipfile

import numpy as np
import pytest
import torch
from conftest import SIZE, write_image_folder, write_tiny_imagenet
from PIL import Image
from torchvision import datasets

from utils.batches import Augmentation
from utils.errors import FileError, UserError
from utils.stages import data
from utils.stages.data import REPOSITORY_DATA, data_folder, dataset_info, load_data, prepare, why_no_name
from utils.stages.folders import SPLITS, in_memory


def load(name, folder=REPOSITORY_DATA, transform="TinyTen", **changes):
    return load_data(name, folder=folder, transform=transform, threads=2, **changes)


def test_embedded_dataset():
    data = load("FashionMNIST10k")
    assert (len(data.train), len(data.test), data.num_classes, data.train.size) == (10_000, 2_000, 10, (32, 32))
    assert data.train.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    x = torch.cat([x for x, _ in data.train.batches(1000)])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert (REPOSITORY_DATA / "FashionMNIST10k.npz").stat().st_size < 6e6


def test_image_folder(data_path):
    data = load("bars", data_path)
    assert (len(data.train), len(data.test), data.num_classes, data.train.size) == (160, 48, 4, (SIZE, SIZE))
    first = np.asarray(Image.open(data_path / "bars" / "train" / "class0" / "000.png"))
    x, _ = next(data.train.batches(1))
    pixels = x[0].mul(data.train.std[0]).add(data.train.mean[0]).mul(255).permute(1, 2, 0)
    np.testing.assert_allclose(pixels.numpy(), first, atol=0.01)


def test_a_damaged_cache_is_made_anew(tmp_path, capsys):
    write_image_folder(tmp_path / "bars", 3, 2)
    load("bars", tmp_path)
    cache = tmp_path / "bars" / "decoded.npy"
    whole, digest = cache.read_bytes(), load("bars", tmp_path).digest
    for damaged in (whole[:500], whole[:-1], whole + b"x", whole[:9000] + b"x" + whole[9001:], b""):
        capsys.readouterr()
        cache.write_bytes(damaged)
        assert load("bars", tmp_path).digest == digest
        assert "decoding the images again" in capsys.readouterr().out
        load("bars", tmp_path)
        assert capsys.readouterr().out == ""


def test_adversarial_transform_leaves_pixels_in_the_unit_interval(data_path):
    x, _ = next(load("bars", data_path, transform="Adversarial").train.batches(160))
    assert 0 <= x.min() < 0.01
    assert 0.9 < x.max() <= 1


def test_held_out_images_are_not_trained_on(data_path):
    data = load("bars", data_path, use_test=False)
    assert (len(data.train), len(data.test)) == (144, 16)
    assert data.test.labels.unique().tolist() == [0, 1, 2, 3]  # this set is sorted by class
    whole, *parts = (
        {row.numpy().tobytes() for row in images.packed(slice(None))}
        for images in (load("bars", data_path).train, data.train, data.test)
    )
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]


def test_unknown_dataset_names_the_valid_ones(data_path):
    with pytest.raises(UserError, match="CIFAR10, CIFAR100, TINY-IMAGENET-200, FashionMNIST, .*bars") as caught:
        load("CIFAR11", data_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "FashionMNIST", "TINY-IMAGENET-200"])
def test_no_network(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(UserError, match="could not be downloaded"):
        load(name, tmp_path)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive in Tiny ImageNet's form, at which its URL points, with hostile entries; its md5 is the right one."""
    write_tiny_imagenet(tmp_path / "site/tiny-imagenet-200")
    path = tmp_path / "site/tiny-imagenet-200.zip"
    shutil.make_archive(path.with_suffix(""), "zip", path.parent, "tiny-imagenet-200")
    with zipfile.ZipFile(path, "a") as entries:
        for name in ("../../outside.PNG", f"{tmp_path}/outside.PNG", "tiny-imagenet-200/train/../../../outside.PNG"):
            entries.writestr(name, b"hostile")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "TINY_IMAGENET_URL", f"http://127.0.0.1:{server.server_port}/{path.name}")
    monkeypatch.setattr(data, "TINY_IMAGENET_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    yield path
    server.shutdown()
    server.server_close()


def test_tiny_imagenet_is_downloaded_and_unpacked_once(archive, tmp_path):
    folder = tmp_path / "deep/er/data"
    folder.mkdir(parents=True)
    (folder / archive.name).write_bytes(archive.read_bytes()[:100])  # half a download
    loaded = load("TINY-IMAGENET-200", folder)
    archive.unlink()
    assert load("TINY-IMAGENET-200", folder).digest == loaded.digest
    write_image_folder(tmp_path / "bars", 3, 2)
    assert load("bars", tmp_path).digest == loaded.digest
    assert {path.name for path in folder.iterdir()} == {archive.name, "TINY-IMAGENET-200"}
    assert [path for path in tmp_path.rglob("outside*") if folder not in path.parents] == []


@pytest.mark.parametrize("is_there", [False, True])
def test_an_archive_that_is_damaged_is_not_unpacked(archive, tmp_path, is_there):
    content = archive.read_bytes()[:-1] + b"x"
    archive.write_bytes(content)
    if is_there:
        (tmp_path / archive.name).write_bytes(content)
    with pytest.raises(UserError, match="could not be downloaded .*run the same command again, or put the file"):
        load("TINY-IMAGENET-200", tmp_path)
    assert not (tmp_path / "TINY-IMAGENET-200").exists()


def test_a_downloaded_dataset_that_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("is there already"))
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = tmp_path / f"FashionMNIST/raw/{name}-ubyte"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"cut off")
    with pytest.raises(UserError, match="FashionMNIST is not in .*, or damaged"):
        load("FashionMNIST", tmp_path)


@pytest.mark.parametrize(
    "name, radius, resized, drawn",
    [
        ("CIFAR100", 8 / 255, None, Augmentation(padding=4)),
        ("TINY-IMAGENET-200", 4 / 255, 32, Augmentation(30.0, (0.8, 1.2), 4, affine_last=True, jitter=0.25)),
        ("somebody's images", 8 / 255, None, Augmentation(padding=4)),
    ],
)
def test_what_is_known(name, radius, resized, drawn):
    about = dataset_info(name)
    assert about.attack_radius == radius
    assert [about.resized_by(t) for t in ("GoogLeNet", "Adversarial_GoogLeNet")] == [resized] * 2
    assert about.resized_by("TinyTen") is None
    assert about.augmentation((32, 40)) == drawn


def test_a_folder_of_tiny_imagenets_name_is_treated_like_it(tmp_path):
    write_image_folder(tmp_path / "TINY-IMAGENET-200", 3, 2, size=64)
    data = load("TINY-IMAGENET-200", tmp_path)
    assert data.train.size == (64, 64)
    assert data.train.augmentation.affine_last
    torch.testing.assert_close(data.train.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert load("TINY-IMAGENET-200", tmp_path, "GoogLeNet").test.size == (32, 32)


@pytest.mark.parametrize("name, key", [("CIFAR10", "labels"), ("CIFAR100", "fine_labels")])
def test_cifar_in_the_folder_of_the_original(tmp_path, monkeypatch, name, key):
    """data/cifar10 with torchvision's files in it; nothing is downloaded."""
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("is there already"))
    kind = getattr(datasets, name)
    folder = tmp_path / "data" / name.lower() / kind.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = {}
    for split in ("train_list", "test_list"):
        files = []
        for file, _ in getattr(kind, split):
            rows = generator.integers(0, 256, (3, 3 * 32 * 32), dtype=np.uint8)
            pixels.setdefault(split, []).append(rows)
            content = pickle.dumps({"data": rows, key: [0, 1, 2]})
            (folder / file).write_bytes(content)
            files.append([file, hashlib.md5(content).hexdigest()])
        monkeypatch.setattr(kind, split, files)
    content = pickle.dumps({kind.meta["key"]: ["a", "b", "c"]})
    (folder / kind.meta["filename"]).write_bytes(content)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": hashlib.md5(content).hexdigest()})
    found = load(name, data_folder(name, data_path=None, root=tmp_path), transform="none")
    expected = np.concatenate(pixels["train_list"]).reshape(-1, 3, 32, 32)
    assert torch.equal(next(found.train.batches(99))[0].mul(255).round().byte(), torch.from_numpy(expected))
    assert len(found.test) == 3 and found.num_classes == 3
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name.lower()]


def test_tiny_imagenet_in_the_folder_of_the_original(tmp_path, monkeypatch, capsys):
    """As it is unzipped, and with val sorted into classes as the original does; with its augmentation and moments."""
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("is there already"))
    write_image_folder(tmp_path / "bars", 3, 2)
    for place, is_sorted in (("raw", False), ("sorted", True)):
        folder = tmp_path / place / "data/tiny-imagenet-200"
        write_tiny_imagenet(folder)
        for line in (folder / "val/val_annotations.txt").read_text().splitlines() if is_sorted else ():
            image, label = line.split("\t")[:2]
            (folder / "val" / label).mkdir(exist_ok=True)
            (folder / "val/images" / image).rename(folder / "val" / label / image)
        found = load("TINY-IMAGENET-200", data_folder("TINY-IMAGENET-200", data_path=None, root=tmp_path / place))
        assert (len(found.train), len(found.test), found.num_classes) == (12, 8, 4)
        assert found.train.augmentation.affine_last and found.digest == load("bars", tmp_path).digest
    assert "Tiny ImageNet's form" not in capsys.readouterr().out


def test_where_a_dataset_is(tmp_path):
    assert data_folder("bars", data_path=tmp_path / "images", root=tmp_path) == tmp_path / "images"
    assert data_folder("bars", data_path=None, root=tmp_path) == REPOSITORY_DATA
    (tmp_path / "data" / "bars").mkdir(parents=True)
    assert data_folder("bars", data_path=None, root=tmp_path) == tmp_path / "data"


def test_an_embedded_dataset_that_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "REPOSITORY_DATA", tmp_path)
    (tmp_path / "FashionMNIST10k.npz").write_bytes(b"no archive")
    with pytest.raises(FileError, match="npz is damaged .*; restore it with: git checkout .*npz"):
        load("FashionMNIST10k", tmp_path)


NO_NAMES = [
    "",
    ".",
    "..",
    "/data/flowers",
    "flowers/",
    "../flowers",
    "a\\b",
    ".hidden",
    "-x",
    "a\nb",
    "a\0b",
    " ",
    101 * "a",
]


@pytest.mark.parametrize("name", NO_NAMES, ids=range(len(NO_NAMES)))
def test_what_cannot_be_a_name(tmp_path, name):
    assert why_no_name(name)
    for use in (load, lambda name, folder: prepare(name, folder=folder)):
        with pytest.raises(UserError, match="is not the name of a dataset") as caught:
            use(name, tmp_path)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["CIFAR10", "my flowers", "花", "v1.2", "a-b_c", "100%"])
def test_what_can_be_a_name(name):
    assert why_no_name(name) == ""


def test_datasets_that_are_not_where_they_should_be(tmp_path):
    write_image_folder(tmp_path / "flowers" / "flowers", 3, 2)
    with pytest.raises(FileError, match="flowers holds no train folder, but .*flowers/flowers does: .* too deep"):
        load("flowers", tmp_path)
    with pytest.raises(FileError, match=f"is a dataset itself, 'flowers'; what holds it is {tmp_path / 'flowers'}"):
        load("flowers", tmp_path / "flowers" / "flowers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="empty holds no train folder"):
        load("empty", tmp_path)
    (tmp_path / "TINY-IMAGENET-200" / "images").mkdir(parents=True)
    with pytest.raises(FileError, match="TINY-IMAGENET-200 holds no train folder; move it away"):
        load("TINY-IMAGENET-200", tmp_path)
    write_image_folder(tmp_path / ".hidden", 3, 2)
    with pytest.raises(UserError) as caught:
        load("bars", tmp_path)
    assert "hidden" not in str(caught.value)


def test_a_digest_is_of_pixels_labels_and_sizes(tmp_path):
    write_image_folder(tmp_path / "bars", 3, 2)
    digest = load("bars", tmp_path).digest
    assert len(digest) == 64
    shutil.copytree(tmp_path / "bars", tmp_path / "copy")
    for same in ({"name": "copy"}, {"transform": "Adversarial"}, {"image_size": SIZE}):
        assert load(**{"name": "bars", "folder": tmp_path} | same).digest == digest
    assert load("bars", tmp_path, image_size=8).digest != digest
    held_out = [load("FashionMNIST10k", use_test=use_test).digest for use_test in (True, False)]
    assert held_out[0] == held_out[1]
    for split in ("train", "test"):
        other = tmp_path / split
        shutil.copytree(tmp_path / "bars", other)
        (other / split / "class0").rename(other / split / "class9")
        (other / split / "class1").rename(other / split / "class0")
        (other / split / "class9").rename(other / split / "class1")
        assert load(split, tmp_path).digest != digest
    black = ([np.zeros((2, *size), np.uint8)] for size in ((1, 4, 3), (2, 2, 3), (2, 6, 1)))
    labels = dict.fromkeys(SPLITS, np.array([0, 1]))
    assert len({in_memory(labels, dict.fromkeys(SPLITS, images)).digest for images in black}) == 3


def test_an_image_size_is_that_of_any_dataset(tmp_path):
    data = load("FashionMNIST10k", image_size=16)
    assert (data.train.size, data.test.size) == ((16, 16), (16, 16))
    assert data.train.augmentation == Augmentation(padding=2)
    write_image_folder(tmp_path / "TINY-IMAGENET-200", 3, 2, size=64)
    for transform, size, expected in (("TinyTen", None, 64), ("GoogLeNet", None, 32), ("GoogLeNet", 48, 48)):
        assert load("TINY-IMAGENET-200", tmp_path, transform, image_size=size).train.size == (expected, expected)
    assert prepare("TINY-IMAGENET-200", folder=tmp_path, image_size=20) == {"train": 12, "test": 8}


def test_a_held_out_tenth_of_nothing(tmp_path):
    write_image_folder(tmp_path / "bars", 2, 2)
    with pytest.raises(UserError, match="bars has 8 training images: a tenth, to be held out for testing, is none"):
        load("bars", tmp_path, use_test=False)
    assert len(load("bars", tmp_path).train) == 8
    write_image_folder(tmp_path / "more", 3, 2)
    data = load("more", tmp_path, use_test=False)
    assert (len(data.train), len(data.test)) == (11, 1)
