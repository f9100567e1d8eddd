"""Datasets by name: what is known of each, where their images come from, and how an experiment divides them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import distributed
from ..batches import Augmentation, Batch, Images, Loader, Source, mapped, tensors_of, unpack
from ..devices import free_memory
from ..errors import FileError, UserError, first_line
from ..losses import Loss
from .files import hold, let_go
from .folders import ANNOTATIONS, SPLITS, Decoded, image_folder, in_memory, squared
from .layout import NETWORKS, RESIZING

REPOSITORY_DATA = Path(__file__).resolve().parent.parent.parent / "data"

# How images are varied and normalized. Those named after networks are published; `standard` does what the first does;
# `none` leaves images as they are, pixels in [0, 1]. Adversarial ones do not normalize.
TRANSFORMS = (*NETWORKS, "standard", "none", *dict.fromkeys(one.robust_transform for one in NETWORKS.values()))

# {train,test}_images: uint8 (n, H, W, 3) or, grey ones, (n, 28, 28); {train,test}_labels: integers (n,)
Arrays = dict[str, np.ndarray]

# Mean and standard deviation of the channels of pixels in [0, 1]
Normalization = Sequence[Sequence[float]]

ALIGNMENT_IMAGES = 10_000
HELD_OUT_IMAGES = 5_000


# --- what is known of each ---------------------------------------------------------------------------------


NO_AUGMENTATION = Augmentation(degrees=0.0, padding=0, flip=False)


def is_normalizing(transform: str) -> bool:
    """Whether a transform normalizes images by the moments of their dataset."""
    return transform != "none" and not transform.startswith("Adversarial")


def _as_for_cifar(size: tuple[int, int]) -> Augmentation:
    return Augmentation(padding=min(size) // 8)


def _as_for_tiny_imagenet(size: tuple[int, int]) -> Augmentation:
    return Augmentation(30.0, (0.8, 1.2), min(size) // 8, affine_last=True, jitter=0.25)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset; its defaults are for a folder of images of which nothing is known.

    moments: mean and standard deviation of the channels in [0, 1]; if None, they are those of the training images.
    augmentation: how training images are varied, by their size (height, width).
    attack_radius: the published radius of the attack (Madry et al., 2018), in units of pixels in [0, 1].
    resized: the height and width to which transforms that resize (`layout.RESIZING`) bring the images, if any.
    arrays: makes the images from (name, data folder), if there is no folder of images of this name; None if it has
        made that.
    """

    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    augmentation: Callable[[tuple[int, int]], Augmentation] = _as_for_cifar
    attack_radius: float = 8 / 255
    resized: int | None = None
    arrays: Callable[[str, Path], Arrays | None] | None = None

    def resized_by(self, transform: str) -> int | None:
        """The height and width to which a transform resizes the images, or None if they keep theirs."""
        return self.resized if transform in RESIZING else None


# --- those that are downloaded, or part of the repository --------------------------------------------------

TINY_IMAGENET = "TINY-IMAGENET-200"
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _embedded(name: str, folder: Path) -> Arrays:
    """What comes with the repository."""
    path = REPOSITORY_DATA / f"{name}.npz"
    try:
        with np.load(path) as stored:
            return dict(stored)
    except Exception as error:  # what a parser raises on a damaged file can be anything
        raise FileError(path, f"is damaged ({first_line(error)}); restore it with: git checkout {path}") from error


def _from_torchvision(name: str, folder: Path) -> Arrays:
    """What torchvision finds in the folder, or in the original's in it, or downloads to the folder and verifies."""
    from torchvision import datasets  # slow to import, and most runs do without

    arrays, kind = {}, getattr(datasets, name)
    of_original = [folder / name.lower() / getattr(kind, part, name) for part in ("base_folder", "filename")]
    folder = folder / name.lower() if any(path.exists() for path in of_original) else folder
    for split in ("train", "test"):
        try:
            part = kind(str(folder), train=split == "train", download=True)
        except Exception as error:  # what a parser raises on a damaged file can be anything
            raise UserError(
                f"{name} is not in {folder}, or damaged, and could not be downloaded ({first_line(error)}); "
                "connect to a network, move it away if it is there, or try FashionMNIST10k, which comes with the code"
            ) from error
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.asarray(part.data), np.asarray(part.targets)
    return arrays


def _tiny_imagenet(name: str, folder: Path) -> None:
    """Unpack Stanford's archive, which is downloaded if it is not there, and verified."""
    from torchvision.datasets.utils import download_and_extract_archive

    target, partial = folder / name, folder / f"{name}.partial"
    hold(target)
    if not (target / "train").is_dir():  # else another process has just done it
        if target.is_dir() and any(target.iterdir()):
            raise FileError(target, "holds no train folder; move it away to download the images, or put them there")
        try:
            download_and_extract_archive(TINY_IMAGENET_URL, str(folder), str(partial), md5=TINY_IMAGENET_MD5)
        except (OSError, RuntimeError) as error:
            archive = folder / Path(TINY_IMAGENET_URL).name
            raise UserError(
                f"{TINY_IMAGENET_URL} could not be downloaded ({first_line(error)}); run the same command again, "
                f"or put the file, whose md5 is {TINY_IMAGENET_MD5}, at {archive}"
            ) from error
        unpacked = partial / "tiny-imagenet-200"
        shutil.rmtree(unpacked / "test")  # its images have no labels
        unpacked.rename(target)
        shutil.rmtree(partial)
    let_go(target)


# --- all of them -------------------------------------------------------------------------------------------

CIFAR_MOMENTS = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))

DATASETS = {
    "CIFAR10": DatasetInfo(CIFAR_MOMENTS, arrays=_from_torchvision),
    "CIFAR100": DatasetInfo(CIFAR_MOMENTS, arrays=_from_torchvision),
    TINY_IMAGENET: DatasetInfo(
        moments=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        augmentation=_as_for_tiny_imagenet,
        attack_radius=4 / 255,
        resized=32,
        arrays=_tiny_imagenet,
    ),
    "FashionMNIST": DatasetInfo(arrays=_from_torchvision),
    "FashionMNIST10k": DatasetInfo(arrays=_embedded),
}


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a dataset: what is published, or what holds for any folder of images."""
    return DATASETS.get(name, DatasetInfo())


# --- the images of one experiment --------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """The samples of one experiment: `test` is the test set, or the held-out samples without `use_test`.

    num_classes: None where targets are no classes.
    transform, moments: as `load_data` was told.
    digest: tells datasets apart, whatever their names are: sha256 (hex) of the pixels that the networks see, before
        augmentation and normalization, of their sizes, and of the labels, of the whole training and test set (also
        if images are held out of it). It is taken once, when the images are loaded.
    task: the loss that is learned and measured on them.
    """

    train: Source
    test: Source
    num_classes: int | None
    digest: str = ""
    transform: str = "standard"
    moments: Normalization | None = None
    task: Loss = "classification"

    @property
    def example(self) -> Batch:
        """The first one or two samples as a network sees them, a batch on the CPU."""
        return mapped(torch.Tensor.cpu, self.test.first(2))

    @property
    def channels(self) -> int | None:
        """How many channels the inputs have, if they are images (n, C, H, W)."""
        x = tensors_of(self.example)[0]
        return x.shape[1] if x.dim() == 4 else None

    @property
    def alignment(self) -> Source:
        """The training samples on which activations are compared, to be used under the test transform."""
        return self.train.some(ALIGNMENT_IMAGES)

    @property
    def held_out(self) -> Source:
        """A part of the training samples on which something is chosen that is then measured on `test`.

        With `use_test` it is what networks that were trained without it have never seen.
        """
        return self.train.subset(_last(self.train))

    def for_batch_norm(self, count: int | None) -> Source:
        """The training samples on which batch norm is re-estimated: all, or `count` of them."""
        return self.train if count is None else self.train.some(count)


def load_data(
    name: str,
    *,
    folder: Path,
    transform: str,
    moments: Normalization | None = None,
    use_test: bool = True,
    image_size: int | None = None,
    channels: int = 3,
    threads: int = 4,
    device: torch.device | str = "cpu",
    task: Loss = "classification",
) -> Data:
    """The dataset `name` on the device: folder/NAME/{train,test}/CLASS/, or one that is known (see DATASETS).

    folder: holds the datasets; those that are downloaded come here.
    transform: one of TRANSFORMS. Adversarial ones and `none` leave the pixels in [0, 1]; the others normalize them.
    moments: mean and standard deviation by which to normalize, whatever the transform; None: as it does.
    use_test: whether `test` is the test set, or else training images held out for it.
    image_size: makes images square: shorter side to this size, then the middle; and not to what `transform` resizes.
    channels: 3, or 1 for grey images.
    threads: how many decode images. task: the loss that is learned and measured.

    Images of a folder are a file that is mapped into memory. Those that would take more than half of what a GPU has
    free stay there, and a GPU gets them as they are used.

    Raises UserError if there is no such dataset, or if it is damaged, empty or cannot be downloaded.
    """
    if distributed.launched():  # process 0 downloads or decodes them, and the others find what it has kept
        distributed.from_main(
            lambda: prepare(name, folder=folder, image_size=image_size, channels=channels, threads=threads)
        )
    about, device = dataset_info(name), torch.device(device)
    decoded = _load(name, folder, threads, image_size, channels)
    if image_size is None and (resized := about.resized_by(transform)) is not None:
        decoded = _resized(decoded, resized)
    augmentation = NO_AUGMENTATION if transform == "none" else about.augmentation(decoded.size)
    mean = std = None
    if moments is not None or is_normalizing(transform):
        published = about.moments if channels == 3 else None
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, channels, 1, 1).to(device)
            for values in moments or published or decoded.moments
        )
    fits = decoded.rows.nbytes <= free_memory(device) / 2

    def images(split: str) -> Images:
        pixels = torch.from_numpy(decoded.part(split)).to(device if fits else "cpu")
        labels = torch.from_numpy(decoded.labels[split].astype(np.int64)).to(device)
        return Images(pixels, labels, decoded.size, augmentation, mean, std, unmap=decoded.unmap)

    if about.arrays is None and decoded.shared:
        print(f"{decoded.shared} of the {len(decoded.labels['test'])} test images of {name} are training images, too")
    if decoded.reduced:
        print(f"{decoded.reduced} images of {name} were decoded at a fraction of their size, as fits --image_size")
    train, test = images("train"), images("test")
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if not use_test:
        train, test = hold_out(name, train)
    return Data(train, test, num_classes, decoded.digest, transform, moments, task)


def hold_out(name: str, train: Source) -> tuple[Source, Source]:
    """Training samples split into those to train on and the last 5,000 (a tenth of a small set) for testing."""
    if isinstance(train, Loader):
        raise UserError(f"{name} gives batches, of which none can be held out for testing; let it give a Dataset")
    if len(train) < 10:
        kind = "images" if isinstance(train, Images) else "samples"
        raise UserError(f"{name} has {len(train)} training {kind}: a tenth, to be held out for testing, is none")
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[_last(train)] = True
    return train.subset((~held_out).nonzero().flatten()), train.subset(held_out.nonzero().flatten())


def _last(train: Source) -> torch.Tensor:
    """Indices of the training samples that are held out, where some are."""
    return train.spread(min(HELD_OUT_IMAGES, max(len(train) // 10, 1)), from_end=True)


def _resized(decoded: Decoded, size: int) -> Decoded:
    """Images as transforms make them that resize (`layout.RESIZING`)."""
    from torchvision.transforms.v2 import functional as TF  # slow to import, and most runs do without

    def images(split: str) -> Iterator[np.ndarray]:
        for rows in torch.from_numpy(decoded.part(split)).split(1000):
            resized = TF.resize(unpack(rows[:, :-1], *decoded.size), [size, size], antialias=True)
            if decoded.unmap is not None:
                decoded.unmap()
            yield resized.permute(0, 2, 3, 1).numpy()

    return in_memory(decoded.labels, {split: images(split) for split in SPLITS})


def _formed(images: np.ndarray, channels: int, size: int | None) -> np.ndarray:
    """`Arrays` of images as (n, H, W, channels), as `image_size` makes them; grey ones get a border, to be 32×32."""
    if images.ndim == 3:
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    if size is not None or images.shape[3:] > (channels,):
        pictures = (Image.fromarray(image).convert("L" if channels == 1 else None) for image in images)
        images = np.stack([np.asarray(picture if size is None else squared(picture, size)) for picture in pictures])
    return np.repeat(images[..., None], channels, axis=-1) if images.ndim == 3 else images


# --- where images come from --------------------------------------------------------------------------------


def prepare(
    name: str, *, folder: Path, image_size: int | None = None, channels: int = 3, threads: int = 4
) -> dict[str, int]:
    """Download or decode a dataset now, and count the images of each split. Raises UserError as `load_data` does."""
    decoded = _load(name, folder, threads, image_size, channels)
    return {split: len(labels) for split, labels in decoded.labels.items()}


def why_no_name(name: str) -> str:
    """Why a dataset cannot have this name, which is part of the paths of all results; '' if it can."""
    if not name:
        return "it is empty"
    if name in (".", "..") or Path(name).name != name or "\\" in name:
        return "it is a path"
    if not name.isprintable() or name != name.strip():
        return "it has characters that are not seen"
    if name[0] in ".-":
        return f"it begins with {name[0]!r}"
    return "it is too long" if len(name.encode()) > 100 else ""


def data_folder(name: str, *, data_path: Path | None, root: Path) -> Path:
    """The folder that holds a dataset: `data_path`, else root/data if it is there, else the repository's."""
    if data_path is not None:
        return data_path
    at_root = root / "data"
    return at_root if any((at_root / one).is_dir() for one in (name, name.lower())) else REPOSITORY_DATA


def _load(name: str, folder: Path, threads: int, size: int | None, channels: int) -> Decoded:
    if why := why_no_name(name):
        raise UserError(f"{name!r} is not the name of a dataset: {why}", exit_code=2)
    here, make = folder / name, dataset_info(name).arrays
    if make and not here.is_dir() and (folder / name.lower() / "train").is_dir():  # as the original has it
        here = folder / name.lower()
    if not (here / "train").is_dir():
        if deeper := _datasets_in(here):
            raise FileError(here, f"holds no train folder, but {here / deeper[0]} does: it is one level too deep")
        if make is not None and (arrays := make(name, folder)) is not None:
            parts = {split: torch.from_numpy(arrays[f"{split}_images"]).split(1000) for split in SPLITS}
            images = {split: (_formed(part.numpy(), channels, size) for part in parts[split]) for split in SPLITS}
            return in_memory({split: arrays[f"{split}_labels"] for split in SPLITS}, images)
    if (here / "train").is_dir():
        if (here / "val" / ANNOTATIONS).is_file() and name != TINY_IMAGENET:
            print(f"{here} has Tiny ImageNet's form; only a folder {TINY_IMAGENET} is augmented as published for it")
        return image_folder(here, threads, size, channels)
    if here.is_dir():
        raise FileError(here, "holds no train folder, in which there is a folder of images for each class")
    if (folder / "train").is_dir():
        whole = folder.resolve()
        raise FileError(folder, f"is a dataset itself, {whole.name!r}; what holds it is {whole.parent}", "", 2)
    raise UserError(
        f"there is no dataset {name!r}: use one of {', '.join(dict.fromkeys([*DATASETS, *_datasets_in(folder)]))}, "
        f"or put images in {here}/{{train,test}}/CLASS/",
        exit_code=2,
    )


def _datasets_in(folder: Path) -> list[str]:
    """The names of the datasets that are folders of images in a folder."""
    names = (path.parent.name for path in folder.glob("*/train") if path.is_dir())
    return sorted(name for name in names if not why_no_name(name))
