"""Datasets that are folders of images: which files are images of which class, and their pixels, decoded once."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..batches import SUFFIXES
from ..errors import FileError, first_line
from ..progress import track
from . import decoding
from .files import write_atomically

# {train,test}_images: uint8 (n, H, W, 3), {train,test}_labels: integers (n,)
Arrays = dict[str, np.ndarray]
ARRAYS = {"train_images", "train_labels", "test_images", "test_labels"}

TEST_FOLDERS = ("test", "val", "valid", "validation")

# Of Tiny ImageNet: lines of an image in val/images, its class, and more. Training images are in CLASS/images
ANNOTATIONS = "val_annotations.txt"

# What systems leave in folders by themselves, in lower case; as are names that begin with a dot
LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}


def image_folder(folder: Path, threads: int, size: int | None = None) -> Arrays:
    """The images of folder/{train,test}/CLASS/, decoded once and kept in the folder.

    size: if it is given, images become size × size.
    """
    files, notes = listed(folder)
    for note in notes:
        print(note)
    cache, key = folder / f"decoded{'' if size is None else f'_{size}'}.npz", _key(folder, files, size)
    arrays = _kept(cache, key)
    if arrays is not None:
        return arrays
    arrays = {}
    for split, classes in files.items():
        paths = [path for class_paths in classes.values() for path in class_paths]
        arrays[f"{split}_images"] = _decoded(paths, threads, size)
        counts = [len(class_paths) for class_paths in classes.values()]
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(counts)), counts)
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        raise FileError(folder, "has training and test images that are not of one size", "resize")
    try:
        write_atomically(cache, lambda stream: np.savez(stream, key=np.array(key), **arrays))
    except OSError as error:
        print(f"The decoded images could not be kept in {cache} ({error.strerror}); they are decoded at every start")
    return arrays


# --- which files -------------------------------------------------------------------------------------------

Files = dict[str, dict[str, list[Path]]]  # of each class of each split


class Listing(NamedTuple):
    """What a dataset's folder holds: the image files of `train` and `test`, and sentences on what is passed over."""

    files: Files
    notes: list[str]


def listed(folder: Path) -> Listing:
    """The image files of train, and of what is called test, val, valid or validation on the disk, as `test`.

    Raises FileError where it is not clear what the folder holds.
    """
    train, passed_over = folder / "train", []
    test, notes = _test_folder(folder)
    files = {"train": _class_files(train, passed_over), "test": _class_files(test, passed_over)}
    _check_classes(folder, files, test.name)
    if passed_over:
        example = passed_over[0].relative_to(folder)
        notes.append(
            f"{folder}: {len(passed_over)} {'entry' if len(passed_over) == 1 else 'entries'} among the images "
            f"passed over, as {_printable(example)} (images are {', '.join(SUFFIXES)})"
        )
    return Listing(files, notes)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for what systems leave in it."""
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise FileError(folder, f"cannot be read: {error.strerror}") from error
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in LEFT_BY_SYSTEMS]


def _images(entries: Iterable[Path]) -> list[Path]:
    return [path for path in entries if path.suffix.lower() in SUFFIXES]


def _test_folder(folder: Path) -> tuple[Path, list[str]]:
    """The folder of test images, and sentences on one without classes that comes before it."""
    there = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    if not there:
        raise FileError(
            folder, f"has images to train on but neither a test nor a val folder ({', '.join(TEST_FOLDERS)})"
        )
    unlabelled = [split for split in there if _has_no_classes(split, folder / "train")]
    labelled = [split for split in there if split not in unlabelled]
    if not labelled:
        raise FileError(there[0], "holds images without classes; a class is a folder of images")
    before = there[: there.index(labelled[0])]
    return labelled[0], [f"{split} is passed over: it has images, but no classes" for split in before]


def _has_no_classes(split: Path, train: Path) -> bool:
    """Whether a folder holds images, or a folder `images`, and no folders of classes."""
    entries = _entries(split)
    if split / ANNOTATIONS in entries:
        return False
    folders = [path.name for path in entries if path.is_dir()]
    if folders == ["images"]:
        return not (train / "images").is_dir() and bool(_images(_entries(split / "images")))
    return not folders and bool(_images(entries))


def _class_files(split: Path, passed_over: list[Path]) -> dict[str, list[Path]]:
    """The image files of each class in a split; what is neither a class nor an image comes to `passed_over`."""
    unsorted, annotations = split / "images", split / ANNOTATIONS
    if annotations.is_file() and unsorted.is_dir() and _images(_entries(unsorted)):
        return _annotated(unsorted, annotations, passed_over)
    classes = {}
    for entry in _entries(split):
        if entry.is_dir() and not (entry == unsorted and annotations.is_file()):
            classes[entry.name] = _files_of_class(entry, passed_over)
        elif entry not in (annotations, unsorted):
            passed_over.append(entry)
    if not classes:
        raise FileError(split, f"holds no class folders with images ({', '.join(SUFFIXES)})")
    return classes


def _files_of_class(folder: Path, passed_over: list[Path]) -> list[Path]:
    """The images in a class folder, or else in its folder `images`, as Tiny ImageNet has them."""
    entries = _entries(folder)
    if not _images(entries) and (folder / "images").is_dir():
        beside = {folder / "images", folder / f"{folder.name}_boxes.txt"}
        passed_over += [path for path in entries if path not in beside]
        folder = folder / "images"
        entries = _entries(folder)
    images = set(_images(entries))
    others = [path for path in entries if path not in images]
    if not images and any(path.is_dir() for path in others):
        raise FileError(folder, "holds folders and no images; a class is a folder of images")
    if not images:
        raise FileError(folder, f"holds no images ({', '.join(SUFFIXES)})")
    passed_over += others
    return sorted(images, key=lambda path: path.name)


def _annotated(folder: Path, annotations: Path, passed_over: list[Path]) -> dict[str, list[Path]]:
    """The images in a folder by the classes that a file of annotations gives them."""
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
        class_of = dict(line.split("\t")[:2] for line in lines if line.strip())
    except ValueError as error:
        raise FileError(annotations, "does not have an image and its class in every line") from error
    classes = {}
    for path in _entries(folder):
        if not _images([path]):
            passed_over.append(path)
        elif path.name not in class_of:
            raise FileError(path, f"has no class in {annotations}")
        else:
            classes.setdefault(class_of[path.name], []).append(path)
    return dict(sorted(classes.items()))


def _check_classes(folder: Path, files: Files, test: str) -> None:
    """FileError unless the classes of both splits are the same, at least two, and told apart on every system.

    test: the name of the folder of test images.
    """
    for split, classes in zip(("train", test), files.values(), strict=True):
        alike = {}
        for name in classes:
            other = alike.setdefault(_folded(name), name)
            if other != name:
                raise FileError(folder / split, f"has classes that only case tells apart: {other!r} and {name!r}")
    train, tested = files["train"].keys(), files["test"].keys()
    if train != tested:
        odd = min(train ^ tested)
        reason = f"has different classes in train and {test}; only one of them has {odd!r}"
        if {_folded(name) for name in train} == {_folded(name) for name in tested}:
            reason += " (they differ in case, or in how accents are encoded)"
        raise FileError(folder, reason)
    if len(train) == 1:
        raise FileError(folder, f"has one class only, {min(train)!r}; a network needs at least two classes")


def _folded(name: str) -> str:
    """What a name is where case, and the encoding of accents, do not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def _printable(path: Path) -> str:
    return str(path).encode(errors="backslashreplace").decode()


# --- their pixels ------------------------------------------------------------------------------------------


def _key(folder: Path, files: Files, size: int | None) -> str:
    """A digest that changes when a file is added, removed, moved or written anew, and with the way of decoding."""
    listing = [
        (split, name, str(path.relative_to(folder)), *decoding.check_file(path))
        for split, classes in files.items()
        for name, paths in classes.items()
        for path in paths
    ]
    return hashlib.sha256(json.dumps([decoding.VERSION, size, listing]).encode()).hexdigest()


def _kept(cache: Path, key: str) -> Arrays | None:
    """What was decoded from the files of this key, if it is there and can be read."""
    if not cache.exists():
        return None
    try:
        with np.load(cache) as stored:
            arrays = dict(stored) if str(stored.get("key", "")) == key else {}
    except Exception as error:  # what a parser raises on a damaged file can be anything
        print(f"{cache} cannot be read ({first_line(error)}); decoding the images again")
        return None
    arrays.pop("key", None)
    return arrays if arrays.keys() == ARRAYS else None


def _decoded(paths: list[Path], threads: int, size: int | None) -> np.ndarray:
    """The images at the paths, uint8 (n, H, W, 3). FileError for one that cannot be used or has another size."""
    first = decoding.decode(paths[0], size)
    height, width, _ = first.shape
    if height * width > decoding.MAX_PIXELS:
        raise FileError(paths[0], f"is {width}×{height}, larger than augmentation can handle", "resize")
    try:
        images = np.empty((len(paths), *first.shape), np.uint8)
    except MemoryError as error:
        reason = f"is one of {len(paths)} images of {width}×{height}, which do not fit into memory"
        raise FileError(paths[0], reason, "resize") from error

    def decode(number: int) -> None:
        image = decoding.decode(paths[number], size)
        if image.shape != first.shape:
            here = f"is {image.shape[1]}×{image.shape[0]}, not {width}×{height} as {paths[0]}"
            raise FileError(paths[number], here, "resize")
        images[number] = image

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for _ in track(pool.map(decode, range(len(paths))), len(paths), "image", "decoding images"):
            pass
    return images
