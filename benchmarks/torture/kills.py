"""kill -9, at random moments and before files are renamed; what goes on ends as what was never disturbed."""

import itertools
import random
import signal
from functools import partial
from pathlib import Path

from benchmarks.torture.judging import Failure, Tries, clone, differences, expect_good_end
from benchmarks.torture.running import run
from benchmarks.torture.stages import KILLED, undisturbed, words


def kills(tries: Tries, made: Path, count: int) -> None:
    """Kill stages so often in all, each once to three times until it is let go on to its end."""
    generator, done = random.Random(f"{tries.seed} kills"), 0
    for command in itertools.cycle(KILLED):
        if done >= count:
            break
        expected, known = undisturbed(tries, made, command)
        stage, killed = words(clone(made, tries.trial), command), []
        for _ in range(min(generator.randint(1, 3), count - done)):
            before = generator.randint(1, known.renamed) if generator.random() < 0.5 else 0
            after = None if before else generator.uniform(0, known.seconds)
            if run(stage, kill_after=after, kill_before=before).code != -signal.SIGKILL:
                break
            killed.append(f"before it renamed file {before}" if before else f"after {after:.3f} s")
        done += max(len(killed), 1)
        said = f"killed {', '.join(killed)}"
        tries.count(f"kill -9: {Path(stage[0]).stem}", said, partial(_end, tries, stage, expected))


def _end(tries: Tries, stage: tuple[str, ...], expected: Path) -> str:
    """Let the stage go on to its end."""
    outcome = run(stage)
    expect_good_end(outcome, "it did not go on")
    if different := differences(expected, tries.trial):
        raise Failure("; ".join(different), outcome)
    return "identical"
