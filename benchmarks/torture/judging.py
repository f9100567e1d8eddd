"""What a run did to files, and whether it was refused as it should be."""

import filecmp
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.torture.running import Outcome


class Failure(Exception):
    """A try that did not end as it should: why, and the run that shows it."""

    def __init__(self, why: str, outcome: Outcome | None = None):
        super().__init__(why)
        self.why, self.outcome = why, outcome


def expect_refusal(outcome: Outcome) -> None:
    """Failure unless a run ended with code 1 or 2 and one line, which says what is wrong and proposes no deletion."""
    if "Traceback" in outcome.out + outcome.err:
        raise Failure("a traceback", outcome)
    if outcome.code not in (1, 2):
        raise Failure(f"exit code {outcome.code}", outcome)
    lines = error_lines(outcome)
    if len(lines) != 1:
        raise Failure(f"{len(lines)} lines of error", outcome)
    if re.search(r"\b(delete|remove|rm)\b", lines[0]):
        raise Failure("it proposes to delete something", outcome)


def error_lines(outcome: Outcome) -> list[str]:
    return [line for line in outcome.err.splitlines() if "error:" in line]


def expect_good_end(outcome: Outcome, why: str) -> None:
    """Failure unless a run ended well."""
    if outcome.code != 0 or "Traceback" in outcome.out + outcome.err:
        raise Failure(why, outcome)


# --- files -------------------------------------------------------------------------------------------------


def files_of(root: Path) -> dict[str, Path]:
    """All files under root but hidden ones: locks, and what a killed process was writing."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path for path in paths}


def inodes(root: Path) -> dict[str, int]:
    return {name: path.stat().st_ino for name, path in files_of(root).items()}


def is_there(path: Path, inode: int) -> bool:
    return path.exists() and path.stat().st_ino == inode


def rubbish(root: Path) -> list[str]:
    """Files that were being written when it went wrong, and should have been removed."""
    return [str(path) for path in root.rglob(".*") if path.is_file() and path.suffix != ".lock"]


def differences(expected: Path, root: Path, skip: Sequence[str] = (), more: bool = False) -> list[str]:
    """Where the files under two folders differ; drawn figures count by name only. more: `root` may have more."""
    one, other = files_of(expected), files_of(root)
    found = [f"{name} is missing" for name in one.keys() - other.keys() - set(skip)]
    if not more:
        found += [f"{name} is there" for name in other.keys() - one.keys() - set(skip)]
    for name in sorted((one.keys() & other.keys()) - set(skip)):
        drawn = name.startswith("figures/") and name.endswith((".png", ".pdf"))
        if not drawn and not is_same_file(one[name], other[name]):
            found.append(f"{name} differs")
    return found


def is_same_file(one: Path, other: Path) -> bool:
    if os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False):
        return True
    try:
        if one.suffix == ".pt":
            return _same(torch.load(one, weights_only=True), torch.load(other, weights_only=True))
        return one.name == "decoded.npz" and _same(_images(one), _images(other))
    except Exception:  # a damaged one is not the same
        return False


def _images(path: Path) -> dict[str, list]:
    """The images in decoded.npz, without the key that tells of which files they are: copies have other times."""
    with np.load(path) as stored:
        return {name: stored[name].tolist() for name in stored if name != "key"}


def _same(a: object, b: object) -> bool:
    """Bit-identical, through dictionaries and lists; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b or (a != a and b != b)


def clone(folder: Path, target: Path, copy: Callable = os.link) -> Path:
    """A copy of a folder, of hard links: all writing here is by renaming, so the original stays as it is."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, copy_function=copy, ignore=shutil.ignore_patterns(".*"))
    return target
