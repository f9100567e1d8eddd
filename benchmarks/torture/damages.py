"""Truncated and damaged files, given to the stages that read them; and whether the advice in their refusal helps."""

import random
import re
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.torture.judging import Failure, Tries, clone, complaints, differences, expect_good_end, expect_refusal
from benchmarks.torture.running import REPOSITORY, Outcome, run
from benchmarks.torture.stages import FILES, UNDER_WAY, undisturbed, words


class Try(NamedTuple):
    """A stage that is given the damaged file at `path` of a workspace."""

    stage: tuple[str, ...]
    path: Path
    workspace: Path
    expected: Path  # what the stage makes of sound files
    sound: Outcome


def damages(tries: Tries, workspaces: dict[str, Path], count: int) -> None:
    """Damage a file of each kind in turn, and run one of the stages that read it."""
    done: set[tuple[str, ...]] = set()
    for index in range(count):
        generator = random.Random(f"{tries.seed} damage {index}")
        kind = list(FILES)[index % len(FILES)]
        pattern, commands = generator.choice(list(FILES[kind].items()))
        command = generator.choice(commands)
        workspace = workspaces["under way" if command in UNDER_WAY else "made"]
        known = undisturbed(tries, workspace, command)
        path = generator.choice(sorted(clone(workspace, tries.trial).rglob(pattern)))
        said = f"damage {index}, {path.relative_to(tries.trial)} {damage(path, generator)}"
        one = Try(words(tries.trial, command), path, workspace, *known)
        tries.count(f"damage: {kind}", said, partial(_end, tries, one, done))


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
    content[offset] ^= (bits := generator.randint(1, 255))
    path.write_bytes(content)
    return f"bits {bits:#04x} of byte {offset} of {size} flipped"


def _end(tries: Tries, one: Try, done: set[tuple[str, ...]]) -> str:
    """Run the stage, and say how it ended. done: what was healed before; one advice is followed once."""
    content, name = one.path.read_bytes(), str(one.path.relative_to(tries.trial))
    outcome = run(one.stage)
    is_as_it_was = one.path.exists() and one.path.read_bytes() == content
    if outcome.code != 0:
        expect_refusal(outcome)
        more = differences(one.workspace, tries.trial, [name])
        lost = [what for what in more if not what.endswith("is left") and "/." not in what]  # other than locks
        if lost or not is_as_it_was:
            raise Failure(f"it was refused, but changed files: {'; '.join(lost) or name}", outcome)
    if lines := [line for line in complaints(outcome) if outcome.code != 0 or str(one.path) in line]:
        key = (*one.stage, name, lines[0].partition("; ")[2])
        if not any(advice(lines[0], one.stage)):
            return "refused"
        if key not in done:
            _heal(tries, one, lines[0])
            done.add(key)
        return "healed"
    expect_good_end(outcome, "a traceback")
    if one.path.suffix == ".png":
        return "other picture"
    if different := differences(one.expected, tries.trial, [name] if is_as_it_was else []):
        raise Failure("; ".join(different), outcome)
    return "harmless"


class Advice(NamedTuple):
    """What a line says: a file to be moved away, and what to run then, in place of what ran or before it."""

    moved: Path | None = None
    instead: tuple[str, ...] | None = None
    first: tuple[str, ...] | None = None


def advice(line: str, stage: tuple[str, ...]) -> Advice:
    """What a line of a run of `stage` says to do; nothing if it only says what is wrong."""
    _, _, said = line.partition("; ")
    moved = Path(line.split(" ")[0]) if "move it away" in said else None
    if given := re.search(r": \S*python\S* (.*)$", said):
        script, *flags = shlex.split(given[1])
        script = str((REPOSITORY / script).resolve().relative_to(REPOSITORY))
        # Where the number of points is lost with the file, the published one would take minutes
        if "--num_points" not in flags and re.search("plane|eval_adversarial", script):
            flags += ["--num_points", "2"]
        return Advice(moved, first=(script, *flags))
    if "--overwrite" in said:
        return Advice(moved, instead=(*(word for word in stage if word != "--resume"), "--overwrite"))
    return Advice(moved, instead=stage if "run the same command again" in said else None)


def _heal(tries: Tries, one: Try, line: str) -> None:
    """Do what a refusal says, word for word, and what those after it say, until the stage ends well.

    Where the stage itself makes again what was lost, it has to end as it does with sound files.
    """
    waiting, said, is_by_itself = [one.stage], [], True
    while waiting:
        now = advice(line, waiting[-1])
        said.append(line)
        if line in said[:-1] or not any(now):
            raise Failure("these lines lead nowhere:" + "".join(f"\n    {line}" for line in said))
        is_by_itself = is_by_itself and now.instead is not None
        if now.moved:
            if tries.trial not in now.moved.parents or not now.moved.is_file():
                raise Failure(f"it says to move {now.moved}: {line}")
            now.moved.rename(tries.folder / "moved away")
        waiting[-1] = now.instead or waiting[-1]
        waiting += [now.first] if now.first else []
        while waiting:
            outcome = run(waiting[-1])
            if left := [what for what in complaints(outcome) if what not in complaints(one.sound)]:
                line = left[0]
                break
            expect_good_end(outcome, f"after doing what this line says: {line}")
            waiting.pop()
    skip = [] if one.path.exists() else [str(one.path.relative_to(tries.trial))]
    if is_by_itself and (different := differences(one.expected, tries.trial, skip)):
        raise Failure(f"healed, but not as before: {'; '.join(different)}", outcome)
