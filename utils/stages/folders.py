"""Datasets that are folders of images: which files are images of which class, and their pixels, decoded once.

A picture is what a viewer would show: turned as its EXIF orientation says, with transparent parts on black, which is
also what augmentation puts outside of an image. Grey of 16 bits is divided by 257, so that white stays white. Numbers
without a known white and several frames, of which Pillow would make something else, are refused.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import FileError, first_line
from ..progress import track
from .files import write_atomically

# {train,test}_images: uint8 (n, H, W, 3), {train,test}_labels: integers (n,)
Arrays = dict[str, np.ndarray]
ARRAYS = {"train_images", "train_labels", "test_images", "test_labels"}

VERSION = 2  # of how pixels are made of files: what was decoded by another version is decoded again

# Of the files that are taken for images, in lower case
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # whatever a file's suffix says

MAX_PIXELS = 2**24  # augmentation finds pixels by numbers that are exact up to here

TEST_FOLDERS = ("test", "val", "valid", "validation")

# Of Tiny ImageNet: lines of an image in val/images, its class, and more. Training images are in CLASS/images
ANNOTATIONS = "val_annotations.txt"

# What systems leave in folders by themselves, in lower case; so are names that begin with a dot
LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}


def image_folder(folder: Path, threads: int, size: int | None = None) -> Arrays:
    """The images of folder/{train,test}/CLASS/, decoded once and kept in the folder.

    size: if it is given, images become size × size.

    Raises FileError if the folder has another form, or an image cannot be used.
    """
    files = list_images(folder)
    cache, key = folder / f"decoded{'' if size is None else f'_{size}'}.npz", _key(folder, files, size)
    arrays = _load_cache(cache, key)
    if arrays is not None:
        return arrays
    arrays = {}
    for split, classes in files.items():
        arrays[f"{split}_images"] = _decode_all([path for paths in classes.values() for path in paths], threads, size)
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        raise FileError(folder, "has training and test images that are not of one size", "resize")
    try:
        write_atomically(cache, lambda stream: np.savez(stream, key=np.array(key), **arrays))
    except OSError as error:
        print(f"The decoded images could not be kept in {cache} ({error.strerror}); they are decoded at every start")
    return arrays


# --- which files -------------------------------------------------------------------------------------------

Files = dict[str, dict[str, list[Path]]]  # of each class of each split; classes and files are sorted by name


def list_images(folder: Path) -> Files:
    """The image files of train, and of the first of TEST_FOLDERS that has classes of train.

    Raises FileError where it is not clear what the folder holds.
    """
    train = _by_class(folder / "train")
    if not train:
        raise FileError(folder / "train", f"holds no class folders with images ({', '.join(SUFFIXES)})")
    others = {name: _by_class(folder / name) for name in TEST_FOLDERS if (folder / name).is_dir()}
    labelled = [name for name, classes in others.items() if classes.keys() & train.keys()]
    if not labelled:
        reason = f"has images to train on, and in none of {', '.join(TEST_FOLDERS)} a folder of one of their classes"
        raise FileError(folder, reason)
    name = labelled[0]
    for other in list(others)[: list(others).index(name)]:
        print(f"{folder / other} is passed over: it has none of the classes of train")
    test = others[name]
    if train.keys() != test.keys():
        odd = min(train.keys() ^ test.keys())
        raise FileError(folder, f"has different classes in train and {name}; only one of them has {odd!r}")
    if len(train) == 1:
        raise FileError(folder, f"has one class only, {min(train)!r}; a network needs at least two classes")
    for split, images in (("train", train), (name, test)):
        if empty := [one for one in images if not images[one]]:
            raise FileError(folder / split / empty[0], f"holds no images ({', '.join(SUFFIXES)})")
    return {"train": dict(sorted(train.items())), "test": dict(sorted(test.items()))}


def _by_class(split: Path) -> dict[str, list[Path]]:
    """The image files of each class: those in its folder, or those that a file of annotations gives it."""
    annotations = split / ANNOTATIONS
    classes = {path.name: _images_in(path) for path in _entries(split) if path.is_dir()}
    if not annotations.is_file():
        return classes
    images = classes.pop("images", [])
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
        class_of = dict(line.split("\t")[:2] for line in lines if line.strip())
    except ValueError as error:
        raise FileError(annotations, "does not have an image and its class in every line") from error
    for path in images:
        if path.name not in class_of:
            raise FileError(path, f"has no class in {annotations}")
        classes.setdefault(class_of[path.name], []).append(path)
    return classes


def _images_in(folder: Path) -> list[Path]:
    """The image files in a folder by name, or else those in its folder `images`, as Tiny ImageNet has them."""
    entries = _entries(folder)
    images = [path for path in entries if path.suffix.lower() in SUFFIXES]
    return images or (_images_in(folder / "images") if folder / "images" in entries else [])


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name, except for what systems leave in it."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise FileError(folder, f"cannot be read: {error.strerror}") from error
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in LEFT_BY_SYSTEMS]


# --- decoded once ------------------------------------------------------------------------------------------


def _key(folder: Path, files: Files, size: int | None) -> str:
    """A digest that changes when a file is added, removed, moved or written anew, and with the way of decoding."""
    listing = [
        (split, name, str(path.relative_to(folder)), *_identity(path))
        for split, classes in files.items()
        for name, paths in classes.items()
        for path in paths
    ]
    return hashlib.sha256(json.dumps([VERSION, size, listing]).encode()).hexdigest()


def _identity(path: Path) -> tuple[int, int, int, int]:
    """What shows that a file has changed: size, times of its content and of its entry, number of its entry."""
    try:
        about = path.stat()
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}", "exchange") from error
    if not S_ISREG(about.st_mode):  # reading from a pipe would never end
        raise FileError(path, "is not a file", "exchange")
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _load_cache(cache: Path, key: str) -> Arrays | None:
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


def _decode_all(paths: list[Path], threads: int, size: int | None) -> np.ndarray:
    """The images at the paths, uint8 (n, H, W, 3). FileError for one that cannot be used or has another size."""
    first = decode(paths[0], size)
    height, width, _ = first.shape
    if height * width > MAX_PIXELS:
        raise FileError(paths[0], f"is {width}×{height}, larger than augmentation can handle", "resize")
    try:
        images = np.empty((len(paths), *first.shape), np.uint8)
    except MemoryError as error:
        reason = f"is one of {len(paths)} images of {width}×{height}, which do not fit into memory"
        raise FileError(paths[0], reason, "resize") from error

    def decode_one(number: int) -> None:
        image = decode(paths[number], size)
        if image.shape != first.shape:
            here = f"is {image.shape[1]}×{image.shape[0]}, not {width}×{height} as {paths[0]}"
            raise FileError(paths[number], here, "resize")
        images[number] = image

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for _ in track(pool.map(decode_one, range(len(paths))), len(paths), "image", "decoding images"):
            pass
    return images


# --- one picture -------------------------------------------------------------------------------------------


def decode(path: Path, size: int | None = None) -> np.ndarray:
    """The picture in an image file, uint8 (H, W, 3); cropped to (size, size, 3), if a size is given.

    Raises FileError if it cannot be used.
    """
    try:
        # As a stream: Pillow maps what it opens by path into memory, and scrambles some TIFF images that it turns
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            picture = _in_rgb(image)
        return np.asarray(picture if size is None else fitted(picture, size))
    except UnidentifiedImageError as error:
        reason = f"is not an image of a format that is read ({', '.join(FORMATS)})"
        raise FileError(path, reason, "exchange") from error
    except Exception as error:  # what decoders raise can be anything
        why = getattr(error, "strerror", None) or first_line(error)
        raise FileError(path, f"is not an image that can be read: {why}", "exchange") from error


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """The middle (size × size) of a picture whose shorter side was resized to `size`, antialiased.

    As torchvision's Resize(size) and CenterCrop(size).
    """
    width, height = picture.size
    shorter = min(width, height)
    if shorter != size:
        width, height = (int(size * side / shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _in_rgb(image: Image.Image) -> Image.Image:
    """An opened image with 8 bits a channel. ValueError if Pillow would make something else of it than it shows."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a photograph, then previews of itself
        raise ValueError(f"it has {image.n_frames} frames")
    is_deep_grey = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if is_deep_grey and image.format == "TIFF":  # of 12 bits, or with 0 for white, Pillow makes the same
        is_deep_grey = (image.tag_v2.get(258), image.tag_v2.get(262)) == ((16,), 1)
    if image.mode[0] in "IF" and not is_deep_grey:
        raise ValueError("its numbers have no known white; save it with 8 bits a channel")
    image.load()
    image = ImageOps.exif_transpose(image)
    if is_deep_grey:
        values = np.asarray(image).astype(np.int64)
        grey = (values + 128) // 257
        grey[values == image.info.get("transparency", -1)] = 0
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")
