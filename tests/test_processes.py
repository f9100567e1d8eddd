"""No test waits for ever: limits of processes that tests start, and what is killed when one is passed."""

import functools
import os
import sys
import time

import processes
import pytest

# What it starts holds the pipes of its parent until it is killed too.
PARENT = "import subprocess, sys; subprocess.call([sys.executable, '-c', {child!r}])".format(
    child="import time; print('ready', flush=True); time.sleep(600)"
)


def wait_for_a_file(process, limit):
    processes.wait_until(lambda: False, "the file", process, limit)


@pytest.mark.parametrize(
    "wait, reason",
    [
        (processes.finish, r"sleep\(600\).* had not ended after 0.1 s; it had printed"),
        (processes.next_line, r"sleep\(600\).* ended, or was ended after 0.1 s, before it printed a line"),
        (wait_for_a_file, r"sleep\(600\).* after 0.1 s still not the file"),
    ],
)
def test_what_was_waited_for_is_said(wait, reason):
    with processes.started(sys.executable, "-c", PARENT) as process:
        assert processes.next_line(process) == "ready\n"
        with pytest.raises(pytest.fail.Exception, match=reason):
            wait(process, 0.1)
        processes.end(process)
        processes.finish(process, 20)  # whose pipes nobody holds any more


def test_a_fork_that_does_not_end():
    with pytest.raises(pytest.fail.Exception, match=r"had not ended after 0.1 s"):
        processes.fork(functools.partial(time.sleep, 600), 0.1)


def test_a_command_of_the_warm_python_ends_with_its_client(warm_python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    with processes.started(warm_python, script) as process:
        number = int(processes.next_line(process))
    ends = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < ends:
            os.kill(number, 0)
            time.sleep(0.01)
