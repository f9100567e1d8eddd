"""Archives in Tiny ImageNet's form that name places of their own, or are broken."""

import contextlib
import io
import os
import random
import shutil
import stat
import zipfile
from functools import partial

from benchmarks.torture.judging import Failure
from benchmarks.torture.trials import Torture
from utils.errors import UserError
from utils.stages.downloads import unpack_tiny_imagenet

TOP = "tiny-imagenet-200"


def archive(
    *entries: tuple[str | zipfile.ZipInfo, str], annotations: str | bytes | None = "val_0.JPEG\tn01\t0\t0\t9\t9\n"
) -> bytes:
    """An archive of two images and further entries (name, content)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        if annotations is not None:
            made.writestr(f"{TOP}/val/val_annotations.txt", annotations)
        made.writestr(f"{TOP}/train/n01/images/n01_0.JPEG", "an image")
        made.writestr(f"{TOP}/val/images/val_0.JPEG", "an image")
        for entry in entries:
            made.writestr(*entry)
    return stream.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return link


def hostile(outside: str) -> dict[str, bytes]:
    """Archives that name places of their own, as `outside`, an absolute path."""
    names = [
        f"{TOP}/train/../images/up.JPEG",
        f"{TOP}/train/n01/images/..",
        f"{TOP}/train/n01/images/../../../../up.JPEG",
        "../../../up.JPEG",
        f"../{TOP}/train/n01/images/up.JPEG",
        f"{outside}/up.JPEG",
        f"/{TOP}/train/n01/images/up.JPEG",
        f"/{TOP}/train//images/{outside}.JPEG",
        f"{TOP}/train/n01\\..\\../images/up.JPEG",
        f"{TOP}/train/n01/images/..\\..\\up.JPEG",
        f"{TOP}/train/.hidden/images/up.JPEG",
        f"{TOP}/train/C:/images/up.JPEG",
        f"{TOP}/train/n01/images/\x01up.JPEG",
    ]
    through_link = (_link(f"{TOP}/train/n01"), outside), (f"{TOP}/train/n01/images/x.JPEG", "up")
    return {f"name {name!r}": archive((name, "up")) for name in names} | {
        "a link for a class": archive(*through_link),
        "a link for an image": archive((_link(f"{TOP}/train/n01/images/link.JPEG"), outside)),
        "annotations with a path": archive(annotations="val_0.JPEG\t../../../up\t0\n"),
        "annotations with an absolute path": archive(annotations=f"val_0.JPEG\t{outside}\t0\n"),
    }


def broken(generator: random.Random) -> dict[str, bytes]:
    """Archives that lack something, or are damaged at random."""
    made = {
        "annotations in another form": archive(annotations="val_0.JPEG\n"),
        "annotations that are no text": archive(annotations=b"\xff\xfe\xff"),
        "no annotations": archive(annotations=None),
        "no archive": b"something else",
        "an empty file": b"",
    }
    sound = archive()
    for _ in range(10):
        length = generator.randrange(1, len(sound))
        made[f"truncated to {length} of {len(sound)} bytes"] = sound[:length]
    for _ in range(20):
        offset, changed = generator.randrange(len(sound)), bytearray(sound)
        changed[offset] ^= generator.randint(1, 255)
        made[f"byte {offset} of {len(sound)} changed to {changed[offset]:#04x}"] = bytes(changed)
    return made


def archives(t: Torture) -> None:
    contents = hostile(str(t.folder / "outside")) | broken(random.Random(f"{t.seed} archives"))
    for words, content in contents.items():
        t.attempt("hostile archive", words, partial(_unpack, t, content))


def _unpack(t: Torture, content: bytes) -> str:
    shutil.rmtree(t.trial, ignore_errors=True)
    target = t.trial / "a" / "b" / "c"
    target.mkdir(parents=True)
    path = t.trial / "archive.zip"
    path.write_bytes(content)
    end = "harmless"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            unpack_tiny_imagenet(path, target)
    except UserError as error:
        if len(str(error).splitlines()) != 1:
            raise Failure(f"not one line: {error}") from error
        end = "refused"
    except Exception as error:
        raise Failure(f"not a UserError: {error!r}") from error
    here = [file for file in t.trial.rglob("*") if not file.is_dir() or file.is_symlink()]
    strayed = [file for file in here if file != path and (target not in file.parents or file.is_symlink())]
    if strayed or os.path.lexists(t.folder / "outside") or any(t.folder.glob("*.JPEG")):
        raise Failure(f"it wrote outside the target: {strayed}")
    return end
