"""How a try ended: what a run did to files, and whether it was refused as it should be."""

import collections
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.torture.running import Outcome

# How a try can end. Every try is counted in one of these columns.
ENDS = {
    "refused": "one line says what is wrong (of a table or report: what it leaves out), and files are as they were",
    "healed": "refused like that; then what the line says was done word for word, and the stage ended well",
    "identical": "after the kills the same command went on to the same results, bit for bit, and left nothing else",
    "harmless": "the stage ended well, with the results that it has without the damage",
    "other picture": "a damaged image still decodes; formats of images have no checksum",
    "failed": "anything else: a traceback, a wrong result, a lost file, one that is left for ever",
}

# What files record of the work and not of its outcome: seconds, memory, dates
COSTS = {"cost", "taken", "seconds", "memory", "made", "date"}


class Failure(Exception):
    """A try that did not end as it should: why, and the run that shows it, if one does."""


class Tries:
    """The counts of how tries ended; what fails is kept under `folder`. trial: the folder in which they happen."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.trial, self.seed, self.failures = folder, folder / "trial", seed, 0
        self.counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)

    def count(self, section: str, words: str, judge: Callable[[], str]) -> None:
        """Count one try, which `judge` calls one of ENDS, or raises a Failure. words: what was tried."""
        try:
            end = judge()
        except Failure as failure:
            end = "failed"
            self.failures += 1
            kept = clone(self.trial, self.folder / f"failure{self.failures}")
            said = (f"FAILURE {self.failures}, {section}: {words}", *failure.args, f"in {kept}")
            print("\n  ".join(map(str, said)), flush=True)
        self.counts[section][end] += 1

    def table(self) -> str:
        total = sum(self.counts.values(), collections.Counter())
        width = max(map(len, [*self.counts, "in all"]))
        lines = [f"{'':<{width}}" + "".join(f"{column:>15}" for column in ("tries", *ENDS))]
        for section, counter in [*self.counts.items(), ("in all", total)]:
            numbers = (counter.total(), *(counter[end] for end in ENDS))
            lines.append(f"{section:<{width}}" + "".join(f"{number or '':>15}" for number in numbers))
        lines += ["", "Each try is counted once, in the column of how it ended:"]
        return "\n".join(lines + [f"  {end}: {meaning}" for end, meaning in ENDS.items()])


def expect_good_end(outcome: Outcome, why: str) -> None:
    """Failure unless a run ended well."""
    if outcome.code != 0 or "Traceback" in outcome.out + outcome.err:
        raise Failure(why, outcome)


def expect_refusal(outcome: Outcome) -> None:
    """Failure unless a run ended with code 1 or 2 and one line, which says what is wrong and proposes no deletion."""
    if "Traceback" in outcome.out + outcome.err:
        raise Failure("a traceback", outcome)
    if outcome.code not in (1, 2):
        raise Failure(f"exit code {outcome.code}", outcome)
    lines = complaints(outcome)
    if len(lines) != 1:
        raise Failure(f"{len(lines)} lines of error", outcome)
    if re.search(r"\b(delete|remove|rm)\b", lines[0]):
        raise Failure("it proposes to delete something", outcome)


def complaints(outcome: Outcome) -> list[str]:
    """What a run says is wrong: the error that ended it, or else the files that a table or report leaves out."""
    errors = re.findall(r"error: (.*)", outcome.err)
    return errors or re.findall(r"^Not in the \w+: (/.*)$", outcome.out, re.MULTILINE)


def clone(folder: Path, target: Path) -> Path:
    """A copy of a folder, of hard links: stages write by renaming, so the original stays as it is."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(folder, target, copy_function=os.link)


def differences(expected: Path, root: Path, skip: Sequence[str] = ()) -> list[str]:
    """Where the files under two folders differ, in words, hidden ones too; of pictures only the names count."""
    folders = ((folder, filter(Path.is_file, folder.rglob("*"))) for folder in (expected, root))
    one, other = ({str(path.relative_to(folder)): path for path in paths} for folder, paths in folders)
    found = [f"{name} is missing" for name in one.keys() - other.keys() - set(skip)]
    found += [f"{name} is left" for name in other.keys() - one.keys() - set(skip)]
    both = (name for name in sorted((one.keys() & other.keys()) - set(skip)) if not name.endswith((".png", ".pdf")))
    return found + [f"{name} differs" for name in both if not is_same_result(one[name], other[name])]


def is_same_result(one: Path, other: Path) -> bool:
    """Whether two files hold the same, apart from what it cost; a damaged one is like itself alone."""
    try:
        return os.path.samefile(one, other) or content(one) == content(other)
    except Exception:
        return False


def content(path: Path) -> object:
    """What a file holds, to be compared: arrays and settings, whatever keeps them; other files whole."""
    if path.suffix in (".npy", ".npz"):
        loaded = np.load(path, allow_pickle=False)
        return plain(loaded if path.suffix == ".npy" else dict(loaded))
    return plain(torch.load(path, weights_only=True)) if path.suffix == ".pt" else path.read_bytes()


def plain(value: object) -> object:
    """Numbers to the bit, texts that are JSON as what they say, and nothing of COSTS."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items() if name not in COSTS}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        if array.dtype.kind != "U":
            return array.dtype.str, array.shape, array.tobytes()
        value = array.tolist()
    if isinstance(value, str) and value.startswith("{"):
        return plain(json.loads(value))
    return repr(value)  # in which NaN equals NaN
