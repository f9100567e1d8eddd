"""What all tries share: the folders, and the count of how they ended, each try once."""

import collections
import contextlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture.judging import Failure, clone
from benchmarks.torture.running import Outcome

# How a try can end. Every try is counted in one of these columns.
ENDS = {
    "refused": "one line says what is wrong, the exit code is 1 or 2, and all files are as they were; or a table or "
    "report says which file it leaves out",
    "healed": "refused like that; then what the line says was done word for word (a file moved away, a command run), "
    "and the stage ended well",
    "identical": "after the disturbance the same command was given again, and ended with the same files, bit for "
    "bit, as one that was never disturbed",
    "harmless": "the stage ended well, with the files that it makes without the damage",
    "other picture": "a damaged image still decodes; formats of images have no checksum",
    "failed": "anything else: a traceback, a wrong result, a lost file",
}


@dataclass
class Torture:
    """The folders, the counts, and the results of runs that nothing happens to, each made once."""

    folder: Path
    seed: int
    counts: dict[str, collections.Counter] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    notes: collections.Counter = field(default_factory=collections.Counter)
    failures: int = 0
    undisturbed: dict[str, tuple[Path, Outcome]] = field(default_factory=dict)
    healed: set[tuple[str, ...]] = field(default_factory=set)  # what has been healed before

    @property
    def images(self) -> Path:
        return self.folder / "data"

    @property
    def trial(self) -> Path:
        return self.folder / "trial"

    def flags(self, root: Path, script: str, *more: object, images: Path | None = None) -> list[object]:
        """The flags of a stage on the small dataset, under `root`."""
        if script.startswith("evaluation/make_"):
            return ["--root", root, *more]
        if script.startswith("visualization/"):
            return ["--root", root, "--dataset", "bars", *more]
        flags = ["--root", root, "--dataset", "bars", "--data_path", images or self.images]
        if script.startswith("data/"):
            return [*flags, *more]
        return [*flags, "--batch_size", 32, "--device", "cpu", *more]

    def fresh(self, name: str) -> Path:
        """The folder for the next try, a copy of the workspace of that name."""
        return clone(self.folder / name, self.trial)

    def attempt(self, section: str, words: str, judge: Callable[[], str], tries: int = 1) -> None:
        """Count how a try ended, which `judge` tells as one of ENDS, or by a Failure.

        words: what was tried. tries: how many tries end in this way together.
        """
        try:
            end = judge()
        except Failure as failure:
            end = "failed"
            self._tell(section, words, failure)
        self.counts[section][end] += tries

    def _tell(self, section: str, words: str, failure: Failure) -> None:
        """Tell of a failure and keep its folder."""
        self.failures += 1
        print(f"\nFAILURE {self.failures} (--seed {self.seed}), {section}: {words}\n  {failure.why}")
        if failure.outcome is not None:
            print("\n".join(f"  {line}" for line in (failure.outcome.command, *failure.outcome.tail())))
        if self.trial.is_dir() and self.failures <= 50:
            kept = self.folder / f"failure{self.failures}"
            with contextlib.suppress(OSError):
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(self.trial, kept)
                print(f"  its folder as it was left: {kept}")
        sys.stdout.flush()

    def print_table(self) -> None:
        total = sum(self.counts.values(), collections.Counter())
        width = max(map(len, [*self.counts, "in all"]))
        print(f"\n{'':<{width}}" + "".join(f"{column:>15}" for column in ("tries", *ENDS)))
        for section, counter in [*self.counts.items(), ("in all", total)]:
            numbers = (counter.total(), *(counter[end] for end in ENDS))
            print(f"{section:<{width}}" + "".join(f"{number or '':>15}" for number in numbers))
        print("\nEach try is counted once, in the column of how it ended:")
        for end, meaning in ENDS.items():
            print(f"  {end}: {meaning}")
        for note, number in self.notes.items():
            print(note + (f" ({number})" if number > 1 else ""))
