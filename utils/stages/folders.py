"""Datasets that are folders of images: which files are images of which class, and their pixels, decoded once.

A picture is what a viewer would show: turned as its EXIF orientation says, with transparent parts on black, which is
also what augmentation puts outside of an image. Grey of 16 bits is divided by 257, so that white stays white. Numbers
without a known white and several frames, of which Pillow would make something else, are refused. A JPEG of several
times the wanted size is decoded at a fraction of its own, which is said whenever its pixels are used.

What is kept is an .npy file of the packed rows, which is mapped into memory: no pixel is read before it is used.
Behind the rows, where numpy does not look, are a note on them (JSON) and a checksum of all but the pixels. Whether
anybody has written to those since shows in the file's time, which is in the note, too.
"""

import errno
import hashlib
import io
import json
import math
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..batches import pack
from ..errors import FileError, first_line
from ..progress import Progress, duration
from .files import NOTE, SEAL, clear, hold, let_go, write_atomically

VERSION = 2  # of how pixels are made of files: what was decoded by another version is decoded again

# Of the files that are taken for images, in lower case
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # whatever a file's suffix says

REDUCED_FROM = (
    4  # times the wanted size: a JPEG so large is decoded at a half of it, or less, and at two times the wanted
)

MAX_PIXELS = 2**24  # augmentation finds pixels by numbers that are exact up to here

TEST_FOLDERS = ("test", "val", "valid", "validation")

# Of Tiny ImageNet: lines of an image in val/images, its class, and more. Training images are in CLASS/images
ANNOTATIONS = "val_annotations.txt"

# What systems leave in folders by themselves, in lower case; so are names that begin with a dot
LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}

SPLITS = ("train", "test")

# --- all images of a dataset -------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """All images of a dataset, those of `train` before those of `test`, and what is to be known of them.

    rows: packed pixels (n, H·W + 1), in memory, or a file that is mapped there; `unmap` then forgets what was read.
    labels: int64 (n,) of each split. size: height and width.
    digest: sha256 (hex) of pixels, sizes and labels, in this order, of each split.
    moments: mean and standard deviation of each channel of the training images, in units of [0, 1].
    shared: how many of the test images are training images, pixel by pixel.
    reduced: how many were decoded at a fraction of their size; none in files of before, which stay as they are.
    """

    rows: np.ndarray
    labels: dict[str, np.ndarray]
    size: tuple[int, int]
    digest: str
    moments: tuple[list[float], list[float]]
    shared: int
    unmap: Callable[[], object] | None = None
    reduced: int = 0

    def part(self, split: str) -> np.ndarray:
        """The rows of a split."""
        count = len(self.labels["train"])
        return self.rows[:count] if split == "train" else self.rows[count:]


def write_rows(
    stream: BinaryIO, labels: Mapping[str, np.ndarray], images: Mapping[str, Iterable[np.ndarray]]
) -> dict[str, object]:
    """Pack images, uint8 (b, H, W, C) at a time, into a stream; what `Decoded` says of them besides labels."""
    digest, counts, seen, shared, shape = hashlib.sha256(), 0, set(), 0, ()
    for split in SPLITS:
        for number, chunk in enumerate(images[split]):
            if number == 0:
                shape = chunk.shape[1:]
                digest.update(str((len(labels[split]), *shape)).encode())
            digest.update(np.ascontiguousarray(chunk))
            hashes = [hash(image.tobytes()) for image in chunk]
            if split == "train":
                seen.update(hashes)
                channels = chunk.reshape(-1, shape[-1]).T
                counts += np.array([np.bincount(channel, minlength=256) for channel in channels])
            else:
                shared += sum(one in seen for one in hashes)
            stream.write(pack(chunk).numpy())
        digest.update(labels[split].astype("<i8").tobytes())
    levels = np.arange(256) / 255
    mean = [float(np.average(levels, weights=count)) for count in counts]
    variance = [np.average((levels - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)]
    std = [max(math.sqrt(one), 1 / 255) for one in variance]  # an empty channel is divided by one grey level
    return {"size": shape[:2], "digest": digest.hexdigest(), "moments": (mean, std), "shared": shared}


def in_memory(labels: Mapping[str, np.ndarray], images: Mapping[str, Iterable[np.ndarray]]) -> Decoded:
    """Images that come in chunks, uint8 (b, H, W, C), and are kept in memory."""
    stream = io.BytesIO()
    about = write_rows(stream, labels, images)
    height, width = about["size"]
    kind = np.int32 if len(about["moments"][0]) == 3 else np.uint8
    rows = np.frombuffer(stream.getbuffer(), kind).reshape(-1, height * width + 1)
    return Decoded(rows, dict(labels), **about)


# --- a folder of images ------------------------------------------------------------------------------------


def image_folder(folder: Path, threads: int, size: int | None = None, channels: int = 3) -> Decoded:
    """The images of folder/{train,test}/CLASS/, decoded once and kept in the folder.

    size: if it is given, images become size × size. channels: 3, or 1 for grey images.

    Raises FileError if the folder has another form, an image cannot be used, or there is no room for all of them.
    """
    files = list_images(folder)
    key = _key(folder, files, size, channels)
    cache = folder / f"decoded{f'_{size}' if size else ''}{'_grey' if channels == 1 else ''}.npy"
    if (decoded := _load(cache, key)) is not None:
        clear(cache)
        return decoded

    def write(stream: BinaryIO) -> None:
        _decode_all(stream, cache.parent, files, key, threads, size, channels)

    hold(cache, timeout=-1)
    try:
        if (decoded := _load(cache, key)) is None:  # else another process has just made it
            write_atomically(cache, write)
            cache.with_suffix(".npz").unlink(missing_ok=True)  # in which they were kept before
            decoded = _load(cache, key)
    except OSError as error:
        print(f"The decoded images could not be kept in {cache} ({error.strerror}); they are decoded at every start")
    finally:
        let_go(cache)
    if decoded is not None:
        return decoded
    try:
        with tempfile.TemporaryFile() as stream:
            _decode_all(stream, Path(tempfile.gettempdir()), files, key, threads, size, channels)
            return _mapped(stream)[0]
    except OSError as error:
        advice = "make room, or make the images smaller with: --image_size N"
        raise FileError(folder, f"cannot be decoded: {error.strerror}; {advice}") from error


# --- which files -------------------------------------------------------------------------------------------

Files = dict[str, dict[str, list[str]]]  # paths of each class of each split; classes and files are sorted by name


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


def _by_class(split: Path) -> dict[str, list[str]]:
    """The image files of each class: those in its folder, or those that a file of annotations gives it."""
    annotations = split / ANNOTATIONS
    classes = {name: _images_in(split / name) for name in _entries(split) if (split / name).is_dir()}
    if not annotations.is_file():
        return classes
    images = classes.pop("images", [])
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
        class_of = dict(line.split("\t")[:2] for line in lines if line.strip())
    except ValueError as error:
        raise FileError(annotations, "does not have an image and its class in every line") from error
    for path in images:
        name = os.path.basename(path)
        if name not in class_of:
            raise FileError(Path(path), f"has no class in {annotations}")
        classes.setdefault(class_of[name], []).append(path)
    return classes


def _images_in(folder: Path) -> list[str]:
    """The image files in a folder by name, or else those in its folder `images`, as Tiny ImageNet has them."""
    entries, prefix = _entries(folder), os.path.join(folder, "")  # there may be millions
    images = [prefix + name for name in entries if name.lower().endswith(SUFFIXES)]
    return images or (_images_in(folder / "images") if "images" in entries else [])


def _entries(folder: Path) -> list[str]:
    """The names of what is in a folder, except for what systems leave in it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise FileError(folder, f"cannot be read: {error.strerror}") from error
    return [name for name in names if not name.startswith(".") and name.lower() not in LEFT_BY_SYSTEMS]


# --- decoded once ------------------------------------------------------------------------------------------


def _key(folder: Path, files: Files, size: int | None, channels: int) -> str:
    """A digest that changes when a file is added, removed, moved or written anew, and with the way of decoding."""
    digest, start = hashlib.sha256(repr((VERSION, size, channels)).encode()), len(str(folder))
    for split, classes in files.items():
        for name, paths in classes.items():
            digest.update(repr((split, name, [(path[start:], *_identity(path)) for path in paths])).encode())
    return digest.hexdigest()


def _identity(path: str) -> tuple[int, int, int, int]:
    """What shows that a file has changed: size, times of its content and of its entry, number of its entry."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise FileError(Path(path), f"cannot be read: {error.strerror}", "exchange") from error
    if not S_ISREG(about.st_mode):  # reading from a pipe would never end
        raise FileError(Path(path), "is not a file", "exchange")
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _load(cache: Path, key: str) -> Decoded | None:
    """What was decoded from the files of this key, if it is there and as it was written."""
    if not cache.exists():
        return None
    try:
        with cache.open("rb") as stream:
            decoded, made_of = _mapped(stream)
    except Exception as error:  # what a parser raises on a damaged file can be anything
        print(f"{cache} cannot be read ({first_line(error)}); decoding the images again")
        return None
    return decoded if made_of == key else None


def _mapped(stream: BinaryIO) -> tuple[Decoded, str]:
    """What `_decode_all` wrote, mapped into memory, and its key. ValueError, or another error, if it is damaged."""
    stream.seek(0)
    np.lib.format.read_magic(stream)
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    start, file = stream.tell(), mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    rows = np.frombuffer(file, kind, math.prod(shape), start).reshape(shape)
    content, _, seal = file[start + rows.nbytes :].removeprefix(NOTE).partition(SEAL)
    if hashlib.sha256(file[:start] + content).hexdigest().encode() != seal:
        raise ValueError("its checksum is wrong")
    note = json.loads(content)
    if os.fstat(stream.fileno()).st_mtime != note.pop("written"):
        raise ValueError("it was written to since")
    key, classes = note.pop("key"), note.pop("classes")
    labels = {split: np.repeat(np.arange(len(classes)), counts) for split, counts in note.pop("counts").items()}
    unmap = partial(file.madvise, mmap.MADV_DONTNEED) if hasattr(mmap, "MADV_DONTNEED") else None
    return Decoded(rows, labels, **note | {"size": tuple(note["size"])}, unmap=unmap), key


def _decode_all(
    stream: BinaryIO, room: Path, files: Files, key: str, threads: int, size: int | None, channels: int
) -> None:
    """Fill a file, in the folder `room`, with the packed rows and the note. OSError if it has no room for them.

    FileError for an image that cannot be used or has another size.
    """
    paths = {split: [path for several in classes.values() for path in several] for split, classes in files.items()}
    counts = {split: [len(several) for several in classes.values()] for split, classes in files.items()}
    total, first = sum(map(len, paths.values())), Path(paths["train"][0])
    height, width, _ = shape = decode(first, size, channels).shape
    if height * width > MAX_PIXELS:
        raise FileError(first, f"is {width}×{height}, larger than augmentation can handle", "resize")
    if decode(Path(paths["test"][0]), size, channels).shape != shape:
        raise FileError(first.parents[2], "has training and test images that are not of one size", "resize")
    kind, shape_of_rows = np.dtype(np.int32 if channels == 3 else np.uint8), (total, height * width + 1)
    need, free = math.prod(shape_of_rows) * kind.itemsize, shutil.disk_usage(room).free
    if free < need:
        taken = f"{total} images of {width}×{height} take {need / 1e9:.2f} GB"
        raise OSError(errno.ENOSPC, f"{taken}, and {free / 1e9:.2f} are free in {room}")
    head, together = io.BytesIO(), max(min(512, MAX_PIXELS // (height * width)), 1)
    about = {"descr": kind.str, "fortran_order": False, "shape": shape_of_rows}
    np.lib.format.write_array_header_1_0(head, about)
    stream.write(head.getbuffer())

    reduced = 0

    def decode_one(path: str) -> tuple[np.ndarray, bool]:
        image, is_reduced = _decode(Path(path), size, channels)
        if image.shape != shape:
            here = f"is {image.shape[1]}×{image.shape[0]}, not {width}×{height} as {first}"
            raise FileError(Path(path), here, "resize")
        return image, is_reduced

    def chunks(split: str) -> Iterator[np.ndarray]:
        nonlocal reduced
        for start in range(0, len(paths[split]), together):
            began, chunk = time.monotonic(), []
            for image, is_reduced in pool.map(decode_one, paths[split][start : start + together]):
                chunk.append(image)
                reduced += is_reduced
                progress.step()
            rest = (time.monotonic() - began) / len(chunk) * total
            if progress.done <= together and rest > 60:
                print(f"Decoding {total} images takes about {duration(rest)}; it is done once")
            yield np.stack(chunk)

    labels = {split: np.repeat(np.arange(len(counts[split])), counts[split]) for split in SPLITS}
    with ThreadPoolExecutor(max(threads, 1)) as pool, Progress(total, "image", "decoding images") as progress:
        note = write_rows(stream, labels, {split: chunks(split) for split in SPLITS})
    written = int(time.time()) // 2 * 2  # which any file system can keep
    note |= {"reduced": reduced} if reduced else {}
    note |= {"key": key, "written": written, "classes": list(files["train"]), "counts": counts}
    content = json.dumps(note).encode()
    seal = hashlib.sha256(head.getvalue() + content).hexdigest().encode()
    stream.write(NOTE + content + SEAL + seal)
    stream.flush()
    os.utime(stream.name, (written, written))


# --- one picture -------------------------------------------------------------------------------------------


def decode(path: Path, size: int | None = None, channels: int = 3) -> np.ndarray:
    """The picture in an image file, uint8 (H, W, channels); (size, size, channels), if a size is given.

    channels: 3, or 1 for its luma (ITU-R 601-2), which is what a grey picture has already.

    Raises FileError if it cannot be used.
    """
    return _decode(path, size, channels)[0]


def _decode(path: Path, size: int | None, channels: int) -> tuple[np.ndarray, bool]:
    """What `decode` gives, and whether it was decoded at a fraction of its size."""
    try:
        # As a stream: Pillow maps what it opens by path into memory, and scrambles some TIFF images that it turns
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            is_reduced = size is not None and image.format == "JPEG" and min(image.size) >= REDUCED_FROM * size
            picture = _reduced(image, size) if is_reduced else _in_rgb(image)
            picture = picture if channels == 3 else picture.convert("L")
        picture = picture if size is None else squared(picture, size)
        return np.asarray(picture).reshape(picture.height, picture.width, channels), is_reduced
    except UnidentifiedImageError as error:
        reason = f"is not an image of a format that is read ({', '.join(FORMATS)})"
        raise FileError(path, reason, "exchange") from error
    except Exception as error:  # what decoders raise can be anything
        why = getattr(error, "strerror", None) or first_line(error)
        raise FileError(path, f"is not an image that can be read: {why}", "exchange") from error


def squared(picture: Image.Image, size: int) -> Image.Image:
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


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """A large JPEG's picture with `size` as its shorter side, decoded at an eighth, quarter or half of its own size.

    JPEG's transform gives so many pixels at once, which is three times as fast. There are at least twice as many as
    wanted, in each direction, to be resized as in `squared`: values of photographs differ by a level or two of 255.
    """
    _, box = image.draft(None, (2 * size, 2 * size))  # what of the pixels that come is the picture: not their rest
    sides = tuple(int(size * side / min(box[2:])) for side in box[2:])
    return ImageOps.exif_transpose(image.convert("RGB").resize(sides, Image.Resampling.BILINEAR, box))


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
