"""Datasets that are downloaded and verified: those of torchvision, and Tiny ImageNet, whose archive is unpacked here.

Imported only where a dataset is of this kind.
"""

import gzip
import hashlib
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..batches import SUFFIXES
from ..errors import FileError, UserError, first_line
from ..progress import track
from .files import hold, let_go

# --- torchvision's datasets --------------------------------------------------------------------------------


def torchvision_dataset(name: str, folder: Path) -> dict[str, np.ndarray]:
    """{train,test}_images: uint8 (n, H, W, 3), or (n, H, W) of grey ones, and {train,test}_labels: integers (n,)."""
    import torchvision  # slow to import, and most runs do without

    dataset = getattr(torchvision.datasets, name)
    arrays = {}
    for split in ("train", "test"):
        try:
            part = dataset(str(folder), train=split == "train", download=True)  # verifies what is there first
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{name} is not in {folder} and could not be downloaded ({error}); "
                "connect to a network, or try the dataset FashionMNIST10k, which is part of the repository"
            ) from error
        if name == "FashionMNIST":
            _verify_unpacked(folder / name / "raw", dataset.resources)
        arrays[f"{split}_images"] = np.asarray(part.data)
        arrays[f"{split}_labels"] = np.asarray(part.targets)
    return arrays


def _verify_unpacked(folder: Path, resources: list[tuple[str, str]]) -> None:
    """UserError unless the files torchvision has unpacked are those of the archives, which it verified once only."""
    for name, md5 in resources:
        archive = folder / name
        if archive.exists() and (
            _md5(archive) != md5 or gzip.decompress(archive.read_bytes()) != archive.with_suffix("").read_bytes()
        ):
            raise FileError(archive, f"or {archive.stem} is damaged; move {folder} away to download it again")


# --- Tiny ImageNet -----------------------------------------------------------------------------------------

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def tiny_imagenet(folder: Path) -> None:
    """Download the archive, if it is not there, and unpack it to folder/TINY-IMAGENET-200/{train,val}/CLASS/."""
    archive, target = folder / "tiny-imagenet-200.zip", folder / "TINY-IMAGENET-200"
    hold(target)
    if (target / "train").is_dir():  # another process has just done it
        let_go(target)
        return
    if target.is_dir() and any(target.iterdir()):
        raise FileError(target, "holds no train folder; move it away to download the images, or put them there")
    if not archive.exists():
        download(TINY_IMAGENET_URL, archive, TINY_IMAGENET_MD5)
    elif _md5(archive) != TINY_IMAGENET_MD5:
        raise FileError(archive, f"is damaged (md5 is not {TINY_IMAGENET_MD5}); move it away to download it again")
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
        raise FileError(archive, f"is not Tiny ImageNet's archive, or it is damaged ({first_line(error)})") from error


def _unpack_images(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as entries:
        annotations = entries.read("tiny-imagenet-200/val/val_annotations.txt").decode()
        val_class = dict(line.split("\t")[:2] for line in annotations.splitlines() if line)
        listed = entries.infolist()
        for entry in track(listed, len(listed), "file", "unpacking"):
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
                raise FileError(archive, f"holds an entry with an unsafe name: {entry.filename!r}")
            path = target / split / label / name
            if not (path.exists() and path.stat().st_size == entry.file_size):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(entries.read(entry))


def _is_plain(name: str) -> bool:
    return all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")


# --- files -------------------------------------------------------------------------------------------------


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
