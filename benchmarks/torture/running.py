"""Stages as processes: each is a fork of this one, which has imported everything, and takes a tenth of a second."""

import mmap
import os
import resource
import runpy
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent

TIME_LIMIT = 120  # seconds, after which a stage counts as hanging


class Outcome(NamedTuple):
    """How a run of a stage ended; `code` is negative for a signal."""

    command: str
    code: int
    out: str
    err: str
    seconds: float
    operations: int  # file operations, as `_trap` counts them

    def tail(self, count: int = 6) -> list[str]:
        return [f"exit code {self.code}", *(self.out + self.err).strip().splitlines()[-count:]]


class Process(NamedTuple):
    command: str
    pid: int
    out: int
    err: int
    start: float
    counted: mmap.mmap


def start(
    script: str, flags: Sequence[object], *, limit: int | None = None, trap: int = 0, learn: Path | None = None
) -> Process:
    """Fork a process that runs a stage as its command would.

    limit: the largest file that it may write, in bytes. trap: the number of the file operation before which it kills
    itself. learn: where it writes the names of all modules it has imported in the end.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads can hang"
    (out, out_end), (err, err_end), counted = os.pipe(), os.pipe(), mmap.mmap(-1, 8)
    words = [str(flag) for flag in flags]
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(out_end)
        os.close(err_end)
        return Process(shlex.join(["python", script, *words]), pid, out, err, time.monotonic(), counted)
    code = 70
    try:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", closefd=False) for number in (1, 2)
        )  # with buffers of its own
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        _trap(trap, counted)
        code = _run_here(script, words)
        if learn is not None:
            learn.write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_here(script: str, words: list[str]) -> int:
    """Run a stage in this process; its exit code."""
    sys.argv = [script, *words]
    try:
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _trap(number: int, counted: mmap.mmap) -> None:
    """Count the moments at which files change, and die before that of the given number, from 1."""

    def counting(function: Callable) -> Callable:
        def wrapped(*args, **options):
            seen = int.from_bytes(counted[:8], "little") + 1
            counted[:8] = seen.to_bytes(8, "little")
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return wrapped

    for name in ("replace", "rename", "unlink", "fsync", "chmod"):
        setattr(os, name, counting(getattr(os, name)))


def collect(process: Process, kill_after: float | None = None) -> Outcome:
    """Read what a process says until it ends; kill -9 after so many seconds from its start, if it is still there."""
    texts = {process.out: b"", process.err: b""}
    opened = set(texts)
    deadline = process.start + (TIME_LIMIT if kill_after is None else kill_after)
    while opened:
        ready = select.select(list(opened), [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            os.kill(process.pid, signal.SIGKILL)
            deadline = time.monotonic() + TIME_LIMIT
        for descriptor in ready:
            chunk = os.read(descriptor, 1 << 16)
            texts[descriptor] += chunk
            if not chunk:
                opened.remove(descriptor)
                os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    out, err = (texts[descriptor].decode(errors="replace") for descriptor in (process.out, process.err))
    seconds = time.monotonic() - process.start
    return Outcome(process.command, code, out, err, seconds, int.from_bytes(process.counted[:8], "little"))


def run(
    script: str,
    flags: Sequence[object],
    *,
    kill_after: float | None = None,
    limit: int | None = None,
    trap: int = 0,
    learn: Path | None = None,
) -> Outcome:
    return collect(start(script, flags, limit=limit, trap=trap, learn=learn), kill_after)
