"""The datasets: what is known of each, where their images come from, and how an experiment divides them."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils import distributed
from utils.errors import FileError, UserError, first_line
from utils.images import SUFFIXES, Augmentation, Images, pack
from utils.progress import track
from utils.storage.files import write_atomically

REPOSITORY_DATA = Path(__file__).resolve().parent.parent / "data"

TRANSFORMS = ("TinyTen", "ResNet32", "GoogLeNet", "Adversarial", "Adversarial_GoogLeNet")

ALIGNMENT_IMAGES = 10_000
HELD_OUT_IMAGES = 5_000

# {train,test}_images: uint8 (n, H, W, 3), {train,test}_labels: integers (n,)
Arrays = dict[str, np.ndarray]
ARRAYS = {"train_images", "train_labels", "test_images", "test_labels"}


# --- what is known of each ---------------------------------------------------------------------------------


def _as_for_cifar(size: tuple[int, int]) -> Augmentation:
    return Augmentation(padding=min(size) // 8)


def _as_for_tiny_imagenet(size: tuple[int, int]) -> Augmentation:
    return Augmentation(30.0, (0.8, 1.2), min(size) // 8, affine_last=True, jitter=0.25)


def _embedded(name: str, folder: Path, threads: int) -> Arrays:
    """What comes with the repository."""
    path = REPOSITORY_DATA / f"{name}.npz"
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
    except Exception as error:  # what a parser raises on a damaged file can be anything
        raise FileError(path, f"is damaged ({first_line(error)}); restore it with: git checkout {path}") from error
    return _in_colour(arrays)


def _from_torchvision(name: str, folder: Path, threads: int) -> Arrays:
    from utils import downloads

    return _in_colour(downloads.torchvision_dataset(name, folder))


def _tiny_imagenet(name: str, folder: Path, threads: int) -> Arrays:
    from utils import downloads

    downloads.tiny_imagenet(folder)
    return _image_folder(folder / name, threads)


@dataclass(frozen=True)
class Known:
    """What is known of a dataset; as it stands, of a folder of images of which nothing is known.

    moments: mean and standard deviation of the channels in [0, 1]; if None, they are those of the training images.
    augmentation: how training images are varied, by their size (height, width).
    attack_radius: the published radius of the attack (Madry et al., 2018), in units of pixels in [0, 1].
    googlenet_size: the height and width to which GoogLeNet's transforms resize the images, if they do.
    arrays: makes the images of (name, data folder, threads), if there is no folder of images of this name.
    """

    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    augmentation: Callable[[tuple[int, int]], Augmentation] = _as_for_cifar
    attack_radius: float = 8 / 255
    googlenet_size: int | None = None
    arrays: Callable[[str, Path, int], Arrays] | None = None

    def resized_by(self, transform: str) -> int | None:
        """The height and width to which a transform resizes the images, or None if they keep theirs."""
        return self.googlenet_size if transform.endswith("GoogLeNet") else None


CIFAR_MOMENTS = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))

DATASETS = {
    "CIFAR10": Known(CIFAR_MOMENTS, arrays=_from_torchvision),
    "CIFAR100": Known(CIFAR_MOMENTS, arrays=_from_torchvision),
    "TINY-IMAGENET-200": Known(
        moments=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        augmentation=_as_for_tiny_imagenet,
        attack_radius=4 / 255,
        googlenet_size=32,
        arrays=_tiny_imagenet,
    ),
    "FashionMNIST": Known(arrays=_from_torchvision),
    "FashionMNIST10k": Known(arrays=_embedded),
}


def known(name: str) -> Known:
    """What is known of a dataset: what is published, or what holds for any folder of images."""
    return DATASETS.get(name, Known())


# --- the images of one experiment --------------------------------------------------------------------------


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


def load_data(
    name: str,
    *,
    folder: Path,
    transform: str,
    use_test: bool = True,
    threads: int = 4,
    device: torch.device | str = "cpu",
) -> Data:
    """The dataset `name` on the device: folder/NAME/{train,test}/CLASS/, or one that is known (see DATASETS).

    folder: holds the datasets; those that are downloaded come here.
    transform: one of TRANSFORMS. Only Adversarial ones leave the pixels in [0, 1]; the others normalize them.
    use_test: whether `test` is the test set, or else training images held out for it.
    threads: how many decode images.

    Raises UserError if there is no such dataset, or if it is damaged, empty or cannot be downloaded.
    """
    with distributed.main_first():
        arrays = _load_arrays(name, folder, threads)
    about = known(name)
    if (resized := about.resized_by(transform)) is not None:
        for split in ("train_images", "test_images"):
            arrays[split] = _resized(arrays[split], resized)
    size = arrays["train_images"].shape[1:3]
    augmentation = about.augmentation(size)
    mean = std = None
    if not transform.startswith("Adversarial"):
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in about.moments or _moments(arrays["train_images"])
        )

    def images(split: str) -> Images:
        labels = torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)).to(device)
        return Images(pack(arrays[f"{split}_images"]).to(device), labels, size, augmentation, mean, std)

    train, test = images("train"), images("test")
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if not use_test:
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


def prepare(name: str, *, folder: Path, threads: int) -> dict[str, int]:
    """Download or decode a dataset now, and count the images of each split. Raises UserError as `load_data` does."""
    arrays = _load_arrays(name, folder, threads)
    return {split: len(arrays[f"{split}_labels"]) for split in ("train", "test")}


def data_folder(name: str, *, data_path: Path | None, root: Path) -> Path:
    """The folder that holds a dataset: `data_path`, else root/data if it is there, else the repository's."""
    if data_path is not None:
        return data_path
    at_root = root / "data"
    return at_root if (at_root / name).is_dir() else REPOSITORY_DATA


def _load_arrays(name: str, folder: Path, threads: int) -> Arrays:
    if (folder / name / "train").is_dir():
        return _image_folder(folder / name, threads)
    make = known(name).arrays
    if make is not None:
        return make(name, folder, threads)
    here = sorted(path.parent.name for path in folder.glob("*/train") if path.is_dir())
    raise UserError(
        f"there is no dataset {name!r}: use one of {', '.join(dict.fromkeys([*DATASETS, *here]))}, "
        f"or put images in {folder / name}/{{train,test}}/CLASS/",
        exit_code=2,
    )


def _in_colour(arrays: Arrays) -> Arrays:
    """Grey images (n, 28, 28), if that is what they are, as 32×32 ones with three equal channels."""
    return {
        key: np.repeat(np.pad(array, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=-1) if array.ndim == 3 else array
        for key, array in arrays.items()
    }


# --- folders of images -------------------------------------------------------------------------------------


def _image_folder(folder: Path, threads: int) -> Arrays:
    """Images of folder/{train, test or val}/CLASS/, decoded once and kept in folder/decoded.npz."""
    files = _listed(folder)
    cache, key = folder / "decoded.npz", _key(folder, files)
    arrays = _kept(cache, key)
    if arrays is not None:
        return arrays
    arrays = {}
    for split, classes in files.items():
        paths = [path for class_paths in classes.values() for path in class_paths]
        arrays[f"{split}_images"] = _decoded(paths, threads)
        counts = [len(class_paths) for class_paths in classes.values()]
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(counts)), counts)
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        raise FileError(folder, "has training and test images that are not of one size")
    try:
        write_atomically(cache, lambda stream: np.savez(stream, key=np.array(key), **arrays))
    except OSError as error:
        print(f"The decoded images could not be kept in {cache} ({error.strerror}); they are decoded at every start")
    return arrays


Files = dict[str, dict[str, list[Path]]]  # of each class of each split


def _listed(folder: Path) -> Files:
    """The image files of `train`, and of what is `test` or `val` on the disk, as `test`."""
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None:
        raise FileError(folder, "has images to train on but neither a test nor a val folder")
    files = {"train": _class_files(folder / "train"), "test": _class_files(test)}
    if files["train"].keys() != files["test"].keys():
        odd = sorted(files["train"].keys() ^ files["test"].keys())
        reason = f"has different classes in train and {test.name}; only one of them has {odd[0]!r}"
        raise FileError(folder, reason)
    return files


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in class_folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileError(class_folder, f"holds no images ({', '.join(SUFFIXES)})")
        classes[class_folder.name] = paths
    if not classes:
        raise FileError(folder, f"holds no class folders with images ({', '.join(SUFFIXES)})")
    return classes


def _key(folder: Path, files: Files) -> str:
    """A digest that changes when a file is added, removed or written anew."""
    listing = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for split in files.values()
        for paths in split.values()
        for path in paths
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _kept(cache: Path, key: str) -> Arrays | None:
    """What was decoded from the files of this key, if it is there and can be read."""
    if not cache.exists():
        return None
    try:
        with np.load(cache) as stored:
            arrays = dict(stored)
    except Exception as error:  # what a parser raises on a damaged file can be anything
        print(f"{cache} cannot be read ({first_line(error)}); decoding the images again")
        return None
    return arrays if str(arrays.pop("key", "")) == key and arrays.keys() == ARRAYS else None


def _decoded(paths: list[Path], threads: int) -> np.ndarray:
    """The images at the paths, uint8 (n, H, W, 3). FileError for one that cannot be read or has another size."""

    def decode(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:
            raise FileError(path, f"is not an image that can be read: {first_line(error)}") from error

    first = decode(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        decoded = track(pool.map(decode, paths), len(paths), "image", "decoding images")
        for i, image in enumerate(decoded):
            if image.shape != first.shape:
                raise FileError(paths[i], f"is {image.shape[1]}×{image.shape[0]}, not as large as {paths[0]}")
            images[i] = image
    return images
