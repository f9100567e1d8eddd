"""Truncated and damaged files, given to the stages that read them."""

import collections
import random
import shutil
from functools import partial
from pathlib import Path

from benchmarks.torture.advice import follow, told
from benchmarks.torture.judging import (
    Failure,
    clone,
    differences,
    expect_good_end,
    expect_refusal,
    inodes,
    is_there,
)
from benchmarks.torture.readers import READERS, Reader
from benchmarks.torture.running import Outcome, run
from benchmarks.torture.trials import Torture


def damage(path: Path, generator: random.Random) -> str:
    """Truncate a file or change a byte of it, anywhere or where formats have their headers; returns what was done."""
    content = bytearray(path.read_bytes())
    size = len(content)
    path.unlink()  # the content has other names
    if generator.random() < 0.4:
        length = generator.choice([0, generator.randrange(size), size - generator.randint(1, min(size, 600))])
        path.write_bytes(content[:length])
        return f"truncated from {size} to {length} bytes"
    end = generator.choice([size, min(size, 300), -min(size, 600)])
    offset = generator.randrange(end) if end > 0 else size - generator.randint(1, -end)
    old = content[offset]
    content[offset] ^= generator.randint(1, 255)
    path.write_bytes(content)
    return f"byte {offset} of {size} changed from {old:#04x} to {content[offset]:#04x}"


def set_up(t: Torture, reader: Reader) -> tuple[Path, list[object]]:
    """The folder in which the reader's file is, and the flags of the reader."""
    t.fresh(reader.workspace)
    if not reader.is_of_images:
        return t.trial, t.flags(t.trial, reader.script, *reader.flags)
    images = clone(t.images, t.trial / "images", shutil.copyfile)
    decoded = run("data/prepare.py", t.flags(t.trial, "data/prepare.py", images=images))  # of files of these times
    assert decoded.code == 0, decoded
    return images, t.flags(t.trial, reader.script, *reader.flags, images=images)


def files_for(reader: Reader, folder: Path) -> list[Path]:
    """The files in `folder` that the reader reads, in order."""
    paths = sorted(folder.glob(reader.pattern))
    assert paths, f"{reader.pattern} is not in the workspace {reader.workspace}"
    return paths


def undamaged(t: Torture, reader: Reader) -> tuple[Path, Outcome]:
    """What a reader makes of sound files; made once, in the trial folder."""
    key = str((reader.workspace, reader.script, *reader.flags, reader.is_of_images))
    if key not in t.undisturbed:
        _, flags = set_up(t, reader)
        outcome = run(reader.script, flags)
        assert outcome.code == 0, outcome
        t.undisturbed[key] = clone(t.trial, t.folder / "undamaged" / str(len(t.undisturbed))), outcome
    return t.undisturbed[key]


def judge(t: Torture, reader: Reader, path: Path, outcome: Outcome, before: dict[str, int]) -> str:
    """How a try ended in which a reader met the damaged file at `path`. before: all files by name, their inodes."""
    expected, sound = undamaged(t, reader)
    name = str(path.relative_to(t.trial))
    if outcome.code != 0:
        expect_refusal(outcome)
        if lost := [name for name, inode in before.items() if not is_there(t.trial / name, inode)]:
            raise Failure(f"it was refused, but changed {', '.join(lost)}", outcome)
    if outcome.code != 0 or any(str(path) in line for line in told(outcome)):
        return follow(t, reader, path, outcome, expected)
    expect_good_end(outcome, "a traceback")
    if reader.is_unsealed:
        return "other picture"
    skip = [name] if is_there(path, before[name]) else []  # it was read, or not even that
    different = differences(expected, t.trial, skip)
    if reader.workspace == "evaluated" and outcome.out != sound.out:
        different.append("what it printed differs")
    if different:
        raise Failure("; ".join(different), outcome)
    return "harmless"


def damages(t: Torture, count: int) -> None:
    by_kind = collections.defaultdict(list)
    for reader in READERS:
        by_kind[reader.kind].append(reader)
    for index in range(count):
        generator = random.Random(f"{t.seed} damage {index}")
        kind = list(by_kind)[index % len(by_kind)]
        reader = generator.choice(by_kind[kind])
        undamaged(t, reader)
        folder, flags = set_up(t, reader)
        path = generator.choice(files_for(reader, folder))
        words = f"damage {index}, {path.relative_to(folder)} {damage(path, generator)}"
        t.attempt(f"damage: {kind}", words, partial(_read, t, reader, flags, path))


def _read(t: Torture, reader: Reader, flags: list[object], path: Path) -> str:
    before = inodes(t.trial)
    return judge(t, reader, path, run(reader.script, flags), before)
