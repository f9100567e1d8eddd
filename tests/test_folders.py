"""Which files of a folder are images of which class, and what is said of the others."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import write_image_folder, write_tiny_imagenet
from filelock import FileLock
from PIL import Image

from utils.errors import FileError
from utils.stages import folders
from utils.stages.data import load_data
from utils.stages.folders import decode, image_folder, list_images


@pytest.fixture
def bars(tmp_path):
    write_image_folder(tmp_path / "bars", 3, 2)
    return tmp_path / "bars"


def same(a, b):
    return (a.digest, a.moments, a.shared) == (b.digest, b.moments, b.shared) and np.array_equal(a.rows, b.rows)


@pytest.mark.parametrize("where", ["", "train", "test", "train/class1"])
def test_what_systems_leave_is_passed_over_silently(bars, capsys, where):
    expected = image_folder(bars, 1)
    picture = bars / "train/class0/000.png"
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (bars / where / name).mkdir()
        shutil.copy(picture, bars / where / name / "000-checkpoint.png")
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini"):
        shutil.copy(picture, bars / where / name)
    assert same(image_folder(bars, 1), expected)
    assert capsys.readouterr().out == ""


def test_other_files_among_images_are_passed_over(bars):
    expected = image_folder(bars, 1)
    (bars / "train/class0/000.heic").write_bytes(b"a picture")
    (bars / "train/class0/more").mkdir()
    shutil.copy(bars / "train/class1/000.png", bars / "train/class0/more")
    (bars / "test/labels.csv").write_text("words")
    os.symlink("nowhere", bars / "test/class1/link")
    assert same(image_folder(bars, 1), expected)


def test_images_of_all_formats_are_found(tmp_path):
    write_image_folder(tmp_path / "bars", 6, 2)
    expected = image_folder(tmp_path / "bars", 1)
    paths = sorted((tmp_path / "bars/train/class0").iterdir())
    for path, suffix in zip(paths, ["BMP", "webp", "ppm", "TIF", "tiff", "PNG"], strict=True):
        image = Image.open(path)
        image.load()
        path.unlink()
        image.save(path.with_suffix(f".{suffix}"), **({"lossless": True} if suffix == "webp" else {}))
    assert same(image_folder(tmp_path / "bars", 1), expected)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_names_of_the_test_split(bars, name):
    expected = image_folder(bars, 1)
    (bars / "test").rename(bars / name)
    assert same(image_folder(bars, 1), expected)


def test_a_test_folder_without_classes_gives_way_and_is_named(bars, capsys):
    expected = image_folder(bars, 1)
    (bars / "test").rename(bars / "valid")
    (bars / "test/images").mkdir(parents=True)
    shutil.copy(bars / "train/class0/000.png", bars / "test/images")
    assert same(image_folder(bars, 1), expected)
    assert capsys.readouterr().out == f"{bars / 'test'} is passed over: it has none of the classes of train\n"
    (bars / "test/images").rename(bars / "unsorted")
    shutil.copy(bars / "train/class0/000.png", bars / "test")
    assert same(image_folder(bars, 1), expected)
    shutil.rmtree(bars / "valid")
    with pytest.raises(FileError, match="in none of test, val, .* a folder"):
        list_images(bars)


def test_tiny_imagenet_under_another_name_is_told_what_it_lacks(tmp_path, capsys):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    (tmp_path / "TINY-IMAGENET-200").symlink_to("tiny-imagenet-200")
    loaded = {}
    for name, said in (("tiny-imagenet-200", True), ("TINY-IMAGENET-200", False)):
        loaded[name] = load_data(name, folder=tmp_path, transform="TinyTen", threads=1)
        assert ("only a folder TINY-IMAGENET-200 is augmented as published" in capsys.readouterr().out) == said
    assert len({data.digest for data in loaded.values()}) == 1


def test_tiny_imagenet_whose_validation_images_were_sorted_by_hand(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny")
    expected = image_folder(tmp_path / "tiny", 1)
    for line in (tmp_path / "tiny/val/val_annotations.txt").read_text().splitlines():
        name, label, *_ = line.split("\t")
        (tmp_path / f"tiny/val/{label}/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiny/val/images" / name).rename(tmp_path / f"tiny/val/{label}/images/{name}")
    assert same(image_folder(tmp_path / "tiny", 1), expected)


def test_annotations_that_do_not_fit(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny")
    annotations = tmp_path / "tiny/val/val_annotations.txt"
    lines = annotations.read_text().splitlines(keepends=True)
    for content, message in (
        ("".join(lines[1:]), "PNG has no class in .*val_annotations.txt"),
        ("words\n", "does not"),
    ):
        annotations.write_text(content)
        with pytest.raises(FileError, match=message):
            list_images(tmp_path / "tiny")
    annotations.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="does not have an image and its class in every line"):
        list_images(tmp_path / "tiny")


def nest(folder):
    for path in (folder / "train").iterdir():
        (path / "birds").mkdir()
        for image in path.glob("*.png"):
            image.rename(path / "birds" / image.name)


def only_one_class(folder):
    for path in folder.glob("*/class[123]"):
        shutil.rmtree(path)


def accented(folder):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        (folder / split / "class0").rename(folder / split / unicodedata.normalize(form, "é"))


@pytest.mark.parametrize(
    "damage, message",
    [
        (nest, "class0 holds no images"),
        (only_one_class, "has one class only, 'class0'; a network needs at least two classes"),
        (lambda f: shutil.rmtree(f / "train") or (f / "train").mkdir(), "train holds no class folders with images"),
        (lambda f: (f / "test").rename(f / "other"), "in none of test, val, .* a folder"),
        (lambda f: (f / "test/class3").rename(f / "test/class9"), "different classes.*'class3'"),
        (accented, "different classes in train and test"),
        (lambda f: (f / "test/class0").rename(f / "test/Class0"), "only one of them has 'Class0'"),
        (lambda f: shutil.copytree(f / "train/class0", f / "train/CLASS0"), "only one of them has 'CLASS0'"),
        (lambda f: (f / "train/class0/000.png").write_bytes(b""), "000.png is not an image"),
        (lambda f: (f / "train/class0/x.png").mkdir(), "x.png is not a file"),
        (lambda f: (f / "train/class0/x.png").symlink_to("nowhere"), "x.png cannot be read: No such file"),
        (lambda f: os.mkfifo(f / "train/class0/x.png"), "x.png is not a file"),
        (
            lambda f: shutil.rmtree(f / "test") or (f / "test").mkdir(),
            "in none of test, val, valid, validation a folder",
        ),
    ],
)
def test_what_cannot_be_a_dataset(bars, damage, message):
    damage(bars)
    with pytest.raises(FileError, match=message):
        image_folder(bars, 1)


def test_what_may_not_be_read(bars, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    picture = bars / "train/class0/000.png"
    for owner, method, use, path in (
        (os, "listdir", lambda: list_images(bars), bars / "train"),
        (os, "stat", lambda: folders._identity(str(picture)), picture),
        (Path, "open", lambda: decode(picture), picture),
    ):
        with monkeypatch.context() as patched, pytest.raises(FileError, match="can.* be read: Perm") as caught:
            patched.setattr(owner, method, refuse)
            use()
        assert caught.value.path == path


def test_images_of_several_sizes(bars):
    odd = bars / "train/class1/001.png"
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(odd)
    with pytest.raises(FileError, match="001.png is 20×30, not 16×16 as .*class0/000.png") as caught:
        image_folder(bars, 1)
    assert (caught.value.path, caught.value.mend) == (odd, "resize")
    decoded = image_folder(bars, 1, 12)
    assert (len(decoded.part("train")), len(decoded.part("test")), decoded.size) == (12, 8, (12, 12))
    for path in (bars / "test").rglob("*.png"):
        Image.open(path).resize((20, 20)).save(path)
    odd.unlink()
    with pytest.raises(FileError, match="training and test images that are not of one size") as caught:
        image_folder(bars, 1)
    assert caught.value.mend == "resize"


def test_images_that_are_too_large(bars, monkeypatch):
    monkeypatch.setattr(folders, "MAX_PIXELS", 16 * 16 - 1)
    with pytest.raises(FileError, match="000.png is 16×16, larger than augmentation can handle") as caught:
        image_folder(bars, 1)
    assert caught.value.mend == "resize"
    monkeypatch.undo()
    # They do not fit on the disk, which is said before any but the first is decoded
    space, few = shutil.disk_usage(bars), 20 * 4 * 257 - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: space._replace(free=few))
    (bars / "train/class3/002.png").write_bytes(b"no image")
    says = "bars cannot be decoded: 20 images of 16×16 take 0.00 GB, and 0.00 are free in .*; make room, or"
    with pytest.raises(FileError, match=says):
        image_folder(bars, 1)


def test_a_folder_that_cannot_be_written_to(bars, monkeypatch, capsys):
    """Images are decoded at every start, into a file without a name."""
    expected = image_folder(bars, 1)
    (bars / "decoded.npy").unlink()
    (bars / "decoded.npy").mkdir()
    monkeypatch.setattr(folders, "_load", lambda *_: None)
    assert same(image_folder(bars, 1), expected)
    assert "could not be kept in" in capsys.readouterr().out


def test_what_was_kept_before_gives_way(bars):
    (bars / "decoded.npz").write_bytes(b"arrays")
    image_folder(bars, 1)
    assert {path.name for path in bars.iterdir()} == {"decoded.npy", "test", "train"}


def test_the_lock_of_a_killed_process_goes_and_that_of_another_stays(bars):
    """One is killed when it has just written what was decoded; another is at work."""
    expected, lock = image_folder(bars, 1), bars / ".decoded.npy.lock"
    lock.touch()
    assert same(image_folder(bars, 1), expected)
    assert not lock.exists()
    other = FileLock(lock)
    with other:
        assert same(image_folder(bars, 1), expected)
        assert lock.exists()


def test_long_decoding_is_announced(bars, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(folders.time, "monotonic", lambda: next(clock))
    image_folder(bars, 1)
    assert "Decoding 20 images takes about" in capsys.readouterr().out


def test_a_start_reads_no_pixels(bars, monkeypatch):
    """Once they are decoded, it looks at files' names and times, and maps the rows."""
    expected = image_folder(bars, 1)
    for owner, name in ((folders, "decode"), (folders, "write_rows"), (folders, "pack")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("reads pixels"))
    decoded = image_folder(bars, 1)
    assert decoded.unmap is not None
    decoded.unmap()
    assert same(decoded, expected)


def test_grey_images(bars):
    """One channel of one byte: the luma of what the colours are, and their digest and moments."""
    colour, grey = image_folder(bars, 1), image_folder(bars, 1, channels=1)
    pixels = colour.rows.view(np.uint8).reshape(20, 257, 4).astype(int)
    luma = (pixels[..., :3] @ [19595, 38470, 7471] + 32768) >> 16
    np.testing.assert_array_equal(grey.rows, luma)
    assert grey.rows.dtype == np.uint8
    shown = luma[:12, :-1] / 255
    np.testing.assert_allclose(grey.moments, [[shown.mean()], [shown.std()]])
    assert grey.digest != colour.digest


def test_what_was_decoded_whole_stays_and_what_was_not_is_named(bars, monkeypatch, capsys):
    for path in bars.rglob("*.png"):
        Image.open(path).resize((64, 64)).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(folders, "REDUCED_FROM", 1000)  # as before
        before = image_folder(bars, 1, 16)

    def loaded():
        capsys.readouterr()
        digest = load_data(bars.name, folder=bars.parent, transform="none", image_size=16).digest
        return digest, f"20 images of {bars.name} were decoded at a fraction" in capsys.readouterr().out

    assert loaded() == (before.digest, False)
    (bars / "decoded_16.npy").unlink()
    for _ in range(2):
        digest, is_named = loaded()
        assert digest != before.digest and is_named


def test_what_is_kept_is_of_these_files_and_these_rules(bars, monkeypatch):
    def is_kept(size=None):
        with monkeypatch.context() as patched:
            patched.setattr(folders, "_decode_all", lambda *_: pytest.fail("decoded again"))
            try:
                image_folder(bars, 1, size)
            except pytest.fail.Exception:
                return False
        return True

    for size in (None, 8):
        assert not is_kept(size)
        image_folder(bars, 1, size)
        assert is_kept(size)
    assert is_kept()  # each size is kept by itself
    with monkeypatch.context() as patched:
        patched.setattr(folders, "VERSION", folders.VERSION + 1)
        assert not is_kept()
    image_folder(bars, 1)
    (bars / "train/class0/000.png").unlink()
    assert not is_kept()
    # Classes change places, with files of the same names, sizes and times
    paths = sorted(bars.rglob("*.png"))
    for path in paths:
        Image.fromarray(np.full((4, 4, 3), ord(path.parent.name[-1]), np.uint8)).save(path)
        os.utime(path, (1, 1))
    assert len({path.stat().st_size for path in paths}) == 1
    before = image_folder(bars, 1)
    assert is_kept()
    for old, new in (("class0", "other"), ("class1", "class0"), ("other", "class1")):
        (bars / "test" / old).rename(bars / "test" / new)
    assert not is_kept()
    assert not same(image_folder(bars, 1), before)
