"""Datasets as one tensor on the device, and augmentation as tensor arithmetic on whole batches.

An image is a row of packed pixels: the bytes R, G, B, 0 of a pixel are one int32, and one more pixel, black, stands
at the end of the row. Crop, flip and affine transform only say *which* source pixel each output pixel shows (the
black one outside the image), so they are composed on coordinates and carried out by a single gather.
Random parameters are drawn for an epoch at once, on the CPU: the same images on every device.
"""

import gzip
import hashlib
import json
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from utils import distributed
from utils.checkpoint import hold, let_go, write_atomically
from utils.errors import UserError, first_line

REPOSITORY_DATA = Path(__file__).resolve().parent.parent / "data"

TRANSFORMS = ("TinyTen", "ResNet32", "GoogLeNet", "Adversarial", "Adversarial_GoogLeNet")

# mean and standard deviation of the channels; those of other datasets are computed from their training images
MOMENTS = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "CIFAR100": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "TINY-IMAGENET-200": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

ALIGNMENT_IMAGES = 10_000
HELD_OUT_IMAGES = 5_000


# --- augmentation ------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """Random parameters of n images, each a tensor (n,).

    Real numbers are float64 and stay on the CPU, where their cosines are those torchvision computes.
    """

    angle: torch.Tensor  # degrees
    scale: torch.Tensor
    flip: torch.Tensor  # bool
    top: torch.Tensor  # of the crop, in the padded image
    left: torch.Tensor
    contrast: torch.Tensor  # factors
    saturation: torch.Tensor
    contrast_first: torch.Tensor  # bool

    def take(self, index: slice) -> "Parameters":
        return Parameters(*(values[index] for values in self))

    def to(self, device: torch.device) -> "Parameters":
        return Parameters(*(values if values.is_floating_point() else values.to(device) for values in self))


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied (protocol of the paper; padding in pixels, black outside the image).

    CIFAR: affine, flip, crop. With `affine_last`, as for Tiny ImageNet: flip, crop, affine, colour jitter.
    """

    degrees: float = 15.0
    scale: tuple[float, float] | None = None
    padding: int = 4
    affine_last: bool = False
    jitter: float = 0.0  # contrast and saturation factors in 1 ± jitter

    def draw(self, count: int, generator: torch.Generator) -> Parameters:
        def uniform(low: float, high: float) -> torch.Tensor:
            return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=generator)

        def integers(end: int) -> torch.Tensor:
            return torch.randint(end, (count,), generator=generator)

        return Parameters(
            angle=uniform(-self.degrees, self.degrees),
            scale=uniform(*self.scale) if self.scale else torch.ones(count, dtype=torch.float64),
            flip=integers(2).bool(),
            top=integers(2 * self.padding + 1),
            left=integers(2 * self.padding + 1),
            contrast=uniform(1 - self.jitter, 1 + self.jitter),
            saturation=uniform(1 - self.jitter, 1 + self.jitter),
            contrast_first=integers(2).bool(),
        )

    def source_pixels(self, parameters: Parameters, height: int, width: int) -> torch.Tensor:
        """For each output pixel the index of the source pixel it shows; height × width means black.

        Returns int64 (n, height × width). Transforms are applied last to first, since each maps an output
        coordinate to an input coordinate.
        """
        device = parameters.flip.device
        shape = (len(parameters.flip), height, width)
        y = torch.arange(height, device=device).view(1, -1, 1)
        x = torch.arange(width, device=device).view(1, 1, -1)
        inside = torch.ones((), dtype=torch.bool, device=device)
        steps = [self._affine, self._flip, self._crop]
        if self.affine_last:
            steps = [self._flip, self._crop, self._affine]
        for step in reversed(steps):
            y, x = step(parameters, y, x, height, width)
            # Rows and columns first: before an affine transform they are few numbers
            inside = inside & ((y >= 0) & (y < height)) & ((x >= 0) & (x < width))
        index = (y * width + x).expand(shape)  # of whole numbers, exact also as float32
        return torch.where(inside, index, height * width).long().flatten(1)

    def _crop(self, parameters: Parameters, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        top, left = parameters.top.view(-1, 1, 1), parameters.left.view(-1, 1, 1)
        return y + (top - self.padding), x + (left - self.padding)

    def _flip(self, parameters: Parameters, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        return y, torch.where(parameters.flip.view(-1, 1, 1), width - 1 - x, x)

    def _affine(self, parameters: Parameters, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        # The arithmetic of torchvision's affine_grid and of grid_sample, in their order, so that nearest
        # neighbours are the same to the last pixel: a normalized grid in [-1, 1], then rounding half to even.
        radians = torch.deg2rad(parameters.angle)
        cos, sin = (
            (f(radians) / parameters.scale).float().view(-1, 1, 1).to(x.device) for f in (torch.cos, torch.sin)
        )
        u, v = x - (width / 2 - 0.5), y - (height / 2 - 0.5)
        grid_x = cos / (width / 2) * u + sin / (width / 2) * v
        grid_y = -sin / (height / 2) * u + cos / (height / 2) * v
        # In place: these are the largest arrays of the augmentation.
        source_x = grid_x.add_(1).mul_(width).sub_(1).div_(2).round_()
        source_y = grid_y.add_(1).mul_(height).sub_(1).div_(2).round_()
        return source_y, source_x  # whole numbers

    def colour(self, images: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Contrast and saturation of uint8 images (n, 3, H, W), in the order each image drew."""
        if not self.jitter:
            return images
        first = parameters.contrast_first.view(-1, 1, 1, 1)
        contrast, saturation = parameters.contrast, parameters.saturation
        images = torch.where(first, _adjust_contrast(images, contrast), _adjust_saturation(images, saturation))
        return torch.where(first, _adjust_saturation(images, saturation), _adjust_contrast(images, contrast))


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8).unsqueeze(1)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    factor = factor.view(-1, 1, 1, 1)
    mixed = factor.float().to(images.device) * images + (1 - factor).float().to(images.device) * other
    return mixed.clamp(0, 255).to(torch.uint8)


def _adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images).float().mean((1, 2, 3), keepdim=True), factor)


def _adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images), factor)


# --- images on the device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """A set of images on the device.

    pixels: int32 (n, height × width + 1), the last pixel of each row black. labels: int64 (n,).
    mean, std: float32 (1, 3, 1, 1), or None for models that see [0, 1].
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    size: tuple[int, int]
    augmentation: Augmentation
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def subset(self, index: torch.Tensor) -> "Images":
        index = index.to(self.device)
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    @property
    def is_sorted(self) -> bool:
        """Whether the images are sorted by class, so that the first ones do not show every class."""
        return bool((self.labels.diff() >= 0).all())

    def spread(self, count: int, from_end: bool = False) -> torch.Tensor:
        """Indices of `count` images: the first or the last, or evenly spaced ones if images are sorted by class."""
        count = min(count, len(self))
        if self.is_sorted:
            return torch.arange(count) * len(self) // count
        return torch.arange(count) + (len(self) - count if from_end else 0)

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, in order, under the test transform: float32 (b, 3, H, W) and labels (b,).

        Of several processes, each gets its part of every batch.
        """
        height, width = self.size
        for pixels, labels in zip(self.pixels.split(batch_size), self.labels.split(batch_size), strict=True):
            part = distributed.part(len(labels))
            yield self._normalized(_unpack(pixels[part, : height * width], height, width)), labels[part]

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, shuffled, under the training transform: float32 (b, 3, H, W) and labels (b,).

        Of several processes, each gets its part of every batch. `generator` is a CPU generator, the same in all.
        """
        order = torch.randperm(len(self), generator=generator).to(self.device)
        parameters = self.augmentation.draw(len(self), generator).to(self.device)
        for start in range(0, len(self), batch_size):
            part = distributed.part(min(batch_size, len(self) - start))
            batch = slice(start + part.start, start + part.stop)
            yield self.augment(order[batch], parameters.take(batch)), self.labels[order[batch]]

    def augment(self, index: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Images `index` (b,) varied by the given parameters: float32 (b, 3, H, W)."""
        height, width = self.size
        source = self.augmentation.source_pixels(parameters, height, width)
        source += index.view(-1, 1) * (height * width + 1)
        pixels = self.pixels.view(-1).index_select(0, source.view(-1)).view(source.shape)
        images = _unpack(pixels, height, width)
        return self._normalized(self.augmentation.colour(images, parameters))

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the networks see of pixels in [0, 1]."""
        return pixels if self.mean is None else (pixels - self.mean) / self.std

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """The pixels in [0, 1] of what the networks see."""
        return x if self.mean is None else x * self.std + self.mean

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (b, 3, H, W) as the networks see it."""
        result = torch.empty(
            images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last
        )
        result.copy_(images).div_(255)
        return result if self.mean is None else result.sub_(self.mean).div_(self.std)


def _unpack(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Packed pixels (b, H·W) as uint8 (b, 3, H, W), a view."""
    channels = pixels.contiguous().view(torch.uint8).view(len(pixels), height, width, 4)
    return channels[..., :3].permute(0, 3, 1, 2)


def _pack(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) as packed pixels (n, H·W + 1)."""
    n, height, width, _ = images.shape
    packed = np.zeros((n, height * width + 1, 4), np.uint8)
    packed[:, :-1, :3] = images.reshape(n, -1, 3)
    return torch.from_numpy(packed.view(np.int32).reshape(n, -1))


@dataclass(frozen=True)
class Data:
    """The images of one experiment: `test` is the test set, or the held-out images without `use_test`."""

    train: Images
    test: Images
    num_classes: int

    @property
    def alignment(self) -> Images:
        """The training images on which activations are compared, to be used under the test transform."""
        return self.train.subset(self.train.spread(ALIGNMENT_IMAGES))

    def for_batch_norm(self, count: int | None) -> Images:
        """The training images on which batch norm is re-estimated: all, or `count` of them."""
        return self.train if count is None else self.train.subset(self.train.spread(count))


def load_data(args, device: torch.device | None = None) -> Data:
    """The dataset that the flags --dataset, --transform, --data_path, --use_test and --root ask for.

    Raises UserError if there is no such dataset, or if it is damaged, empty or cannot be downloaded.
    """
    device = device or args.device
    folder = data_folder(args)
    with distributed.main_first():
        arrays = _load_arrays(args.dataset, folder, args.num_workers)
    tiny_imagenet = args.dataset == "TINY-IMAGENET-200"
    if tiny_imagenet and args.transform.endswith("GoogLeNet"):
        for split in ("train_images", "test_images"):
            arrays[split] = _resized(arrays[split], 32)
    size = arrays["train_images"].shape[1:3]
    augmentation = Augmentation(padding=min(size) // 8)
    if tiny_imagenet:
        augmentation = Augmentation(30.0, (0.8, 1.2), min(size) // 8, affine_last=True, jitter=0.25)
    mean = std = None
    if not args.transform.startswith("Adversarial"):
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in MOMENTS.get(args.dataset) or _moments(arrays["train_images"])
        )

    def images(split: str) -> Images:
        labels = torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)).to(device)
        return Images(_pack(arrays[f"{split}_images"]).to(device), labels, size, augmentation, mean, std)

    train, test = images("train"), images("test")
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if not args.use_test:
        train, test = _hold_out(train)
    return Data(train, test, num_classes)


def _hold_out(train: Images) -> tuple[Images, Images]:
    """Training images split into those to train on and the last 5,000 (a tenth of a small set) for testing."""
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[train.spread(min(HELD_OUT_IMAGES, len(train) // 10), from_end=True)] = True
    return train.subset((~held_out).nonzero().flatten()), train.subset(held_out.nonzero().flatten())


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of uint8 (n, H, W, 3), in units of [0, 1]."""
    levels = np.arange(256) / 255
    counts = [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)]
    mean = np.array([np.average(levels, weights=count) for count in counts])
    variance = [np.average((levels - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)]
    return mean, np.maximum(np.sqrt(variance), 1 / 255)  # an empty channel is divided by one grey level


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    from torchvision.transforms.v2 import functional as TF  # slow to import, and most runs do without

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    parts = [TF.resize(part, [size, size], antialias=True) for part in tensor.split(1000)]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()


# --- where images come from --------------------------------------------------------------------------------


def prepare(args) -> dict[str, int]:
    """Download or decode a dataset now, and count the images of each split. Raises UserError as `load_data` does."""
    arrays = _load_arrays(args.dataset, data_folder(args), args.num_workers)
    return {split: len(arrays[f"{split}_labels"]) for split in ("train", "test")}


def data_folder(args) -> Path:
    """--data_path, or ROOT/data if the dataset is there, or the repository's data folder."""
    if args.data_path is not None:
        return args.data_path
    at_root = args.root / "data"
    return at_root if (at_root / args.dataset).is_dir() else REPOSITORY_DATA


def _load_arrays(name: str, folder: Path, threads: int) -> dict[str, np.ndarray]:
    """{train,test}_images: uint8 (n, H, W, 3), {train,test}_labels: integers (n,)."""
    if (folder / name / "train").is_dir():
        return _image_folder(folder / name, threads)
    if name == "FashionMNIST10k":
        embedded = REPOSITORY_DATA / "FashionMNIST10k.npz"
        try:
            with np.load(embedded) as arrays:
                arrays = dict(arrays)
        except Exception as error:  # what a parser raises on a damaged file can be anything
            raise UserError(
                f"{embedded} is damaged ({first_line(error)}); restore it with: git checkout {embedded}"
            ) from error
        return {key: _padded(value) if value.ndim == 3 else value for key, value in arrays.items()}
    if name in ("CIFAR10", "CIFAR100", "FashionMNIST"):
        return _torchvision_dataset(name, folder)
    if name == "TINY-IMAGENET-200":
        _prepare_tiny_imagenet(folder)
        return _image_folder(folder / name, threads)
    known = ["CIFAR10", "CIFAR100", "TINY-IMAGENET-200", "FashionMNIST", "FashionMNIST10k"]
    here = sorted(path.parent.name for path in folder.glob("*/train") if path.is_dir())
    raise UserError(
        f"there is no dataset {name!r}: use one of {', '.join(dict.fromkeys(known + here))}, "
        f"or put images in {folder / name}/{{train,test}}/CLASS/",
        exit_code=2,
    )


def _padded(images: np.ndarray) -> np.ndarray:
    """Grey 28×28 images as 32×32 with three equal channels."""
    return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=-1)


def _torchvision_dataset(name: str, folder: Path) -> dict[str, np.ndarray]:
    import torchvision  # slow to import, and most runs do without

    dataset = getattr(torchvision.datasets, name)
    arrays = {}
    for split in ("train", "test"):
        try:
            part = dataset(str(folder), train=split == "train", download=True)  # verifies what is there first
        except (urllib.error.URLError, RuntimeError, OSError) as error:
            raise UserError(
                f"{name} is not in {folder} and could not be downloaded ({error}); "
                f"connect to a network, or try --dataset FashionMNIST10k, which is part of the repository"
            ) from error
        if name == "FashionMNIST":
            _verify_unpacked(folder / name / "raw", dataset.resources)
        images = np.asarray(part.data)
        arrays[f"{split}_images"] = _padded(images) if images.ndim == 3 else images
        arrays[f"{split}_labels"] = np.asarray(part.targets)
    return arrays


def _verify_unpacked(folder: Path, resources: list[tuple[str, str]]) -> None:
    """UserError unless the files torchvision has unpacked are those of the archives, which it verified once only."""
    for name, md5 in resources:
        archive = folder / name
        if archive.exists() and (
            _md5(archive) != md5 or gzip.decompress(archive.read_bytes()) != archive.with_suffix("").read_bytes()
        ):
            raise UserError(f"{archive} or {archive.stem} is damaged; delete {folder} to download it again")


ARRAYS = {"train_images", "train_labels", "test_images", "test_labels"}  # of a dataset

SUFFIXES = (".png", ".jpg", ".jpeg")


def _image_folder(folder: Path, threads: int) -> dict[str, np.ndarray]:
    """Images of folder/{train, test or val}/CLASS/, decoded once and kept in folder/decoded.npz."""
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None:
        raise UserError(f"{folder} has images to train on but neither a test nor a val folder")
    files = {"train": _class_files(folder / "train"), "test": _class_files(test)}
    if files["train"].keys() != files["test"].keys():
        odd = sorted(files["train"].keys() ^ files["test"].keys())
        raise UserError(f"{folder}: train and {test.name} have different classes; only one of them has {odd[0]!r}")
    listing = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for split in files.values()
        for paths in split.values()
        for path in paths
    ]
    key = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    cache = folder / "decoded.npz"
    if cache.exists():
        try:
            with np.load(cache) as stored:
                arrays = dict(stored)
            if str(arrays.pop("key", "")) == key and arrays.keys() == ARRAYS:
                return arrays
        except Exception as error:
            print(f"{cache} cannot be read ({first_line(error)}); decoding the images again")
    arrays = {}
    for split, classes in files.items():
        paths = [path for class_paths in classes.values() for path in class_paths]
        arrays[f"{split}_images"] = _decoded(paths, threads)
        counts = [len(class_paths) for class_paths in classes.values()]
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(counts)), counts)
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        raise UserError(f"{folder}: training and test images are not of one size")
    try:
        write_atomically(cache, lambda stream: np.savez(stream, key=np.array(key), **arrays))
    except OSError as error:
        print(f"The decoded images could not be kept in {cache} ({error.strerror}); they are decoded at every start")
    return arrays


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in class_folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise UserError(f"{class_folder} holds no images ({', '.join(SUFFIXES)})")
        classes[class_folder.name] = paths
    if not classes:
        raise UserError(f"{folder} holds no class folders with images ({', '.join(SUFFIXES)})")
    return classes


def _decoded(paths: list[Path], threads: int) -> np.ndarray:
    def decode(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:
            raise UserError(f"{path} is not an image that can be read: {first_line(error)}") from error

    first = decode(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        decoded = tqdm(pool.map(decode, paths), "decoding images", len(paths), disable=None, leave=False)
        for i, image in enumerate(decoded):
            if image.shape != first.shape:
                raise UserError(f"{paths[i]} is {image.shape[1]}×{image.shape[0]}, not as large as {paths[0]}")
            images[i] = image
    return images


# --- Tiny ImageNet -----------------------------------------------------------------------------------------

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _prepare_tiny_imagenet(folder: Path) -> None:
    """Download the archive, if it is not there, and unpack it to folder/TINY-IMAGENET-200/{train,val}/CLASS/."""
    archive, target = folder / "tiny-imagenet-200.zip", folder / "TINY-IMAGENET-200"
    hold(target)
    if (target / "train").is_dir():  # another process has just done it
        let_go(target)
        return
    if not archive.exists():
        download(TINY_IMAGENET_URL, archive, TINY_IMAGENET_MD5)
    elif _md5(archive) != TINY_IMAGENET_MD5:
        raise UserError(f"{archive} is damaged (md5 is not {TINY_IMAGENET_MD5}); delete it to download it again")
    partial = folder / "TINY-IMAGENET-200.partial"
    unpack_tiny_imagenet(archive, partial)
    partial.rename(target)
    let_go(target)


def unpack_tiny_imagenet(archive: Path, target: Path) -> None:
    """Unpack an archive in Tiny ImageNet's form, sorting val/ by its annotations; goes on where it stopped.

    Only its image files are taken, each to a place made from its class and file name, so that no entry of a
    hostile archive can name a place of its own.
    """
    try:
        _unpack_images(archive, target)
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, ValueError, EOFError) as error:
        raise UserError(
            f"{archive} is not Tiny ImageNet's archive, or it is damaged ({first_line(error)})"
        ) from error


def _unpack_images(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as entries:
        annotations = entries.read("tiny-imagenet-200/val/val_annotations.txt").decode()
        val_class = dict(line.split("\t")[:2] for line in annotations.splitlines() if line)
        for entry in tqdm(entries.infolist(), "unpacking", disable=None, leave=False):
            parts = entry.filename.split("/")
            name = parts[-1]
            if entry.is_dir() or Path(name).suffix.lower() not in SUFFIXES:
                continue
            if len(parts) == 5 and parts[1] == "train" and parts[3] == "images":
                split, label = "train", parts[2]
            elif len(parts) == 4 and parts[1] == "val" and name in val_class:
                split, label = "val", val_class[name]
            else:
                continue
            if not (_is_plain(label) and _is_plain(name)):
                raise UserError(f"{archive} holds an entry with an unsafe name: {entry.filename!r}")
            path = target / split / label / name
            if not (path.exists() and path.stat().st_size == entry.file_size):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(entries.read(entry))


def _is_plain(name: str) -> bool:
    return all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")


def download(url: str, path: Path, md5: str) -> None:
    """Fetch `url`, going on with a part that an earlier try left, and give it its name once its md5 is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
            with (
                partial.open("ab" if resumed else "wb") as stream,
                tqdm(total=total, initial=have if resumed else 0, unit="B", unit_scale=True, disable=None) as bar,
            ):
                while chunk := response.read(1 << 20):
                    stream.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part that is here is already the whole file
            raise UserError(f"{url} could not be downloaded: {error}") from error
    except OSError as error:
        raise UserError(
            f"{url} could not be downloaded ({error}); run the same command again to go on, or put the file at {path}"
        ) from error
    if _md5(partial) != md5:
        partial.unlink()
        raise UserError(f"{url} arrived damaged (md5 is not {md5}) and was deleted; run the same command again")
    shutil.move(partial, path)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
