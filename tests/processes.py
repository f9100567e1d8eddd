"""Other processes, as tests start them: each has a limit, and a failure says what was waited for.

Nothing else in the tests starts a process or waits for one (test_house.py). A process has a group of its own, all of
which is killed when a limit is passed or the test has ended.
"""

import contextlib
import multiprocessing
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

LIMIT = 300  # seconds, on a machine that has other things to do


def run(*command: object, limit: float = LIMIT, **options: object) -> subprocess.CompletedProcess:
    """What a command returns and prints. options: as for `subprocess.Popen`."""
    with started(*command, **options) as process:
        out, err = finish(process, limit)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def output(*command: object, **options: object) -> str:
    """What a command prints that succeeds."""
    ended = run(*command, **options)
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    return ended.stdout


@contextlib.contextmanager
def started(*command: object, **options: object) -> Iterator[subprocess.Popen]:
    """A process with pipes for what it prints, which is killed at the end of the block where it still runs."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), start_new_session=True, **pipes | options) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process and what it started; first by a signal at which torchrun ends workers in groups of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen, limit: float = LIMIT) -> tuple[str, str]:
    """What a process prints from now on until it has ended: its output and its errors."""
    try:
        return process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(process)
        printed = process.communicate(timeout=20)
        pytest.fail(f"{shlex.join(process.args)} had not ended after {limit} s; it had printed {printed}")


def next_line(process: subprocess.Popen, limit: float = LIMIT) -> str:
    """The next line that a process prints."""
    timer = threading.Timer(limit, end, [process])
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        pytest.fail(f"{shlex.join(process.args)} ended, or was ended after {limit} s, before it printed a line")
    return line


def wait_until(condition: Callable[[], object], what: str, process: subprocess.Popen, limit: float = LIMIT) -> None:
    """Look again and again until the condition holds; what: which one this is. The process may not end before."""
    ends = time.monotonic() + limit
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"{shlex.join(process.args)} ended before {what}")
        if time.monotonic() > ends:
            pytest.fail(f"{shlex.join(process.args)}: after {limit} s still not {what}")
        time.sleep(0.01)


def fork(act: Callable[[], None], limit: float = LIMIT) -> int:
    """The exit code of a fork of this process that does `act`; of one that a signal killed, its number negated."""
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join(20)
        pytest.fail(f"a fork that does {act} had not ended after {limit} s")
    return process.exitcode
