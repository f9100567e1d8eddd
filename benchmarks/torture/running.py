"""Stages as processes: each is a fork of this one, which has imported everything, and takes a tenth of a second."""

import atexit
import importlib
import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FORK = multiprocessing.get_context("fork")
TIME_LIMIT = 120  # seconds, after which a stage counts as hanging and is killed


class Outcome(NamedTuple):
    """How a run of a stage ended; `code` is negative for a signal."""

    words: Sequence[str]
    code: int
    out: str
    err: str
    seconds: float
    renamed: int  # files that were given their final names

    def __str__(self) -> str:
        last = (self.out + self.err).strip().splitlines()[-6:]
        return "\n    ".join([f"python {shlex.join(self.words)}", f"exit code {self.code}", *last])


def warm_up() -> None:
    """Import what stages import, at first and while they run, so that their forks have it."""
    for folder in ("data", "training", "alignment", "evaluation", "visualization"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    for name in ("torch._dynamo", "matplotlib.backends.backend_agg", "scipy.optimize"):
        importlib.import_module(name)


def run(words: Sequence[str], *, kill_after: float | None = None, kill_before: int = 0) -> Outcome:
    """Run a stage (its script and flags) as its command would.

    kill_after: seconds after which it is killed (kill -9), if it is still there. kill_before: it is killed before the
    file of this number, from 1, is renamed from its temporary to its final name.
    """
    renamed = FORK.Value("i", 0)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = FORK.Process(target=_be_a_stage, args=(words, (out.fileno(), err.fileno()), kill_before, renamed))
        start = time.monotonic()
        process.start()
        process.join(TIME_LIMIT if kill_after is None else kill_after)
        seconds = time.monotonic() - start
        process.kill()
        process.join()
        texts = (os.pread(stream.fileno(), 1 << 24, 0).decode(errors="replace") for stream in (out, err))
        return Outcome(words, process.exitcode, *texts, seconds, renamed.value)


def _be_a_stage(words: Sequence[str], streams: Sequence[int], kill_before: int, renamed) -> None:
    """Run a stage in this process, and end it with the stage's exit code."""
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    rename = os.replace

    def counting(*names: object, **options: object) -> None:
        renamed.value += 1
        if renamed.value == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*names, **options)

    os.replace = counting
    sys.argv = list(words)
    code: int | str = 0
    try:
        runpy.run_path(str(REPOSITORY / words[0]), run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # which a fork leaves out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
