"""Two processes with one command."""

import os
import random
import time
from functools import partial

from benchmarks.torture.judging import Failure, error_lines, expect_refusal
from benchmarks.torture.kills import LONG, finish, long_flags, undisturbed
from benchmarks.torture.running import Outcome, collect, start
from benchmarks.torture.trials import Torture


def at_once(t: Torture) -> None:
    """Each of the two ends well, or is refused; the result is that of one."""
    generator = random.Random(f"{t.seed} at once")
    for script in LONG:
        _, known = undisturbed(t, script)
        for delay in (0.0, generator.uniform(0, known.seconds)):
            words = f"{script}, the second {delay:.2f} s later"
            t.attempt("two processes at once", words, partial(_two, t, script, delay))


def _two(t: Torture, script: str, delay: float) -> str:
    t.fresh(LONG[script][0])
    outcomes = _run_two(t, script, delay)
    for outcome in outcomes:
        if outcome.code != 0:
            expect_refusal(outcome)
            line = error_lines(outcome)[0]
            t.notes[f"two at once, refused: {'another process' if 'another process' in line else line}"] += 1
    if all(outcome.code for outcome in outcomes):
        raise Failure("neither ended well", outcomes[0])
    return finish(t, script)


def _run_two(t: Torture, script: str, delay: float) -> list[Outcome]:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # both on one core, which interleaves them, and takes no more of it
    first = start(script, long_flags(t, script))
    time.sleep(delay)
    second = start(script, long_flags(t, script))
    os.sched_setaffinity(0, cores)
    return [collect(process) for process in (first, second)]
