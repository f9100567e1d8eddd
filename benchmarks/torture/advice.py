"""What a line of error says to do, and whether doing it word for word helps."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from benchmarks.torture.judging import Failure, differences, error_lines, expect_good_end, expect_refusal
from benchmarks.torture.readers import Reader
from benchmarks.torture.running import REPOSITORY, Outcome, run
from benchmarks.torture.trials import Torture
from benchmarks.torture.workspaces import PLANE

# Commands are taken as they are given but for these, which would take minutes
SMALL = {
    "evaluation/eval_plane_with_curve.py": PLANE,
    "evaluation/eval_plane_with_alignment.py": PLANE,
    "evaluation/eval_adversarial_curve.py": ["--num_points", 3],
}


class Command(NamedTuple):
    script: str
    flags: tuple[str, ...]

    def with_overwrite(self) -> "Command":
        return Command(self.script, (*(flag for flag in self.flags if flag != "--resume"), "--overwrite"))


class Advice(NamedTuple):
    """What a line says: a file to be moved away, and what to run then, in place of what ran or before it."""

    moved: Path | None = None
    instead: Command | None = None
    first: Command | None = None

    @property
    def restores(self) -> bool:
        """Whether what was lost is made again by the stage itself, as it was."""
        return self.instead is not None


def told(outcome: Outcome) -> list[str]:
    """What a run says is wrong: the error that ended it, or the files that a table or report leaves out."""
    left_out = re.findall(r"^Not in the \w+: (/.*)$", outcome.out, re.MULTILINE)
    return [line.partition("error: ")[2] for line in error_lines(outcome)] + left_out


def read(line: str, ran: Command, images: Path) -> Advice | None:
    """What a line of a run's says to do; None if it only says what is wrong.

    images: the folder of the dataset, of which stages that draw do not know.
    """
    path = Path(line.split(" ")[0])
    _, _, advice = line.partition("; ")
    moved = path if "move it away" in advice else None
    given = re.search(r"(?:make it with|make it anew with|go on with): (.*)$", advice)
    if given:
        _, place, *flags = shlex.split(given[1])  # the first word is the interpreter
        script = str(Path(place).resolve().relative_to(REPOSITORY))
        more = [] if "--num_points" in flags else SMALL.get(script, [])
        if "--data_path" not in flags:
            more = [*more, "--data_path", images]
        return Advice(moved, first=Command(script, (*flags, *map(str, more))))
    if "--overwrite" in advice:
        return Advice(moved, instead=ran.with_overwrite())
    if "run the same command again" in advice:
        return Advice(moved, instead=ran)
    return Advice(moved) if moved else None


def follow(t: Torture, reader: Reader, path: Path, outcome: Outcome, expected: Path) -> str:
    """Do what a refusal of the file at `path` says, and what those after it say, until the stage ends well.

    Where the stage itself makes again what was lost, it has to end as it does with sound files (`expected`). One
    advice is followed once: without the damaged file, all damages are alike.
    """
    ran = Command(reader.script, tuple(shlex.split(outcome.command)[2:]))
    line = next((line for line in told(outcome) if str(path) in line), told(outcome)[0])
    if read(line, ran, t.images) is None:
        t.notes[f"refused without advice: {reader.kind}"] += 1
        return "refused"
    key = (*map(str, (ran, path)), line.partition("; ")[2])
    if key not in t.healed:
        last, restores = _until_it_ends_well(t, ran, line)
        name = str(path.relative_to(t.trial))
        different = differences(expected, t.trial, [] if path.exists() else [name]) if restores else []
        if different:
            raise Failure(f"healed, but not as before: {'; '.join(different)}", last)
        t.healed.add(key)
    return "healed"


def _until_it_ends_well(t: Torture, ran: Command, line: str) -> tuple[Outcome, bool]:
    """The run that ended well in the end, and whether the stage itself made all again that was lost."""
    aside = t.folder / "moved away"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    waiting, said, restores = [ran], [], True
    outcome = None
    while line not in said and (advice := read(line, waiting[-1], t.images)):
        said.append(line)
        restores = restores and advice.restores
        if advice.moved:
            if t.trial not in advice.moved.parents or not advice.moved.is_file():
                raise Failure(f"it says to move {advice.moved}: {line}", outcome)
            shutil.move(advice.moved, aside / f"{len(said)} {advice.moved.name}")
        if advice.instead:
            waiting[-1] = advice.instead
        if advice.first:
            waiting.append(advice.first)
        while waiting:
            outcome = run(*waiting[-1])
            if told(outcome):
                break
            expect_good_end(outcome, f"after doing what these lines say:{_listed(said)}")
            waiting.pop()
        if not waiting:
            return outcome, restores
        if outcome.code != 0:
            expect_refusal(outcome)
        line = told(outcome)[0]
    raise Failure(f"these lines lead nowhere:{_listed([*said, line])}", outcome)


def _listed(lines: list[str]) -> str:
    return "".join(f"\n    {line}" for line in lines)
