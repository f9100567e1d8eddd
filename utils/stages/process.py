"""A stage as a process: it runs, says what it wrote, and ends with one line where something is wrong."""

import argparse
import contextlib
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from .. import devices, distributed
from ..devices import set_products
from ..errors import UserError, first_line
from . import commands, files, machine, output


def run(parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], None]) -> None:
    """Run a stage: a user's mistake ends it with one line and exit code 1 or 2, not with a traceback.

    Started by torchrun, it runs as one of several processes; process 0 alone prints.
    """
    output.take_over()
    try:
        try:
            _run(parse_args, main)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted.", 130))
    except OSError as error:
        if not isinstance(error, BrokenPipeError) or not output.is_unread():
            sys.exit(_complain(f"{error.filename or 'input/output'}: {error.strerror or error}", 1))
        output.abandon()
        sys.exit(_ended(141))  # as a shell tells a process that such a signal has ended


def _run(parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], None]) -> None:
    """A stage's work; errors that may be of its output are left to `run`."""
    distributed.silence_others()
    args = _parsed(parse_args)
    flags = vars(args)
    resumes = " Run it with --resume (and without --overwrite) to go on." if "resume" in flags else ""
    ended = f"another process of this job has ended, and so does the job.{resumes}"
    if distributed.launched() and distributed.is_main():  # torchrun terminates it when another process has ended
        _at_termination(lambda: _complain(ended, 143))
    try:
        _prepare(flags)
        files.written.clear()
        for note in flags.get("notes", ()):
            print(note)
        main(args)
        distributed.stop()
    except UserError as error:
        sys.exit(_complain(commands.explain(error, flags, sys.argv[0]), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_complain(f"interrupted.{resumes}", 130))
    except (RuntimeError, MemoryError) as error:
        if devices.is_out_of_memory(error):
            message = "the device is out of memory; try a smaller --batch_size"
        elif distributed.is_lost_connection(error):
            message = f"{ended} ({first_line(error)})"
        elif distributed.is_of_connection(error):
            message = f"the processes of this job cannot work together: {first_line(error)}"
        else:
            raise
        sys.exit(_complain(message, 1))


def _prepare(flags: Mapping[str, object]) -> None:
    """Join the other processes, and set what holds for all that torch does in this one."""
    device = flags.get("device", torch.device("cpu"))
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    distributed.start(device)
    devices.keep_memory()
    torch.backends.cudnn.benchmark = True
    set_products(flags.get("precision", "fp32"))
    if "device" in flags:
        machine.say_where(device, flags["precision"])
    if flags.get("compile"):
        _check_compiler(device)


def _at_termination(action: Callable[[], object]) -> None:
    """On SIGTERM do this, in a thread: the main one may be waiting for a device or for another process."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        with sender:  # which must live as long
            while receiver.recv(1)[0] != signal.SIGTERM:
                pass
            action()

    threading.Thread(target=wait, daemon=True).start()


def _parsed(parse_args: Callable[[], argparse.Namespace]) -> argparse.Namespace:
    if distributed.is_main():
        return parse_args()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_args()
    except SystemExit:
        time.sleep(3)  # as in _complain
        print(said.getvalue(), end="", file=sys.stderr, flush=True)
        raise


def _complain(message: object, code: int) -> int:
    if not distributed.is_main():
        # Process 0 mostly meets the same error and says so; torchrun then ends this process in its sleep.
        time.sleep(3)
        message = f"(process {distributed.rank()}) {message}"
    line = " ".join(str(message).splitlines())
    print(f"{Path(sys.argv[0]).name}: error: {line}", file=sys.stderr, flush=True)
    return _ended(code)


def _ended(code: int) -> int:
    """The exit code, with which one of several processes ends at once: others may be waiting for it."""
    if distributed.launched():
        sys.stdout.flush()
        files.let_go_all()
        os._exit(code)
    return code


def _check_compiler(device: torch.device) -> None:
    """End with one line if torch.compile does not work here, and not minutes later with a traceback."""
    torch._dynamo.config.recompile_limit = 64  # a network is compiled for each size of a batch and each mode
    # Of another size in every process, so that it is not taken from torch's cache
    trial = torch.zeros(1_000 + os.getpid(), device=device)
    try:
        torch.compile(lambda x: x * 2 + 1, **devices.compile_options(device))(trial)
    except Exception as error:  # many kinds, by what is missing
        raise UserError(
            f"--compile cannot compile here ({first_line(error)}): install a C++ compiler, as g++ "
            "(on Debian and Ubuntu: apt install g++), for GPUs also triton (pip install triton), or omit --compile",
            exit_code=2,
        ) from error


# --- telling the user --------------------------------------------------------------------------------------


def print_table(labels: Sequence[str], columns: Mapping[str, Sequence[float]], of: str = "layer") -> None:
    """Numbers with three decimals, a line a label, a column a name. of: what the labels are of."""
    print(f"  {of:<28}" + "".join(f"{name:>18}" for name in columns))
    for label, *values in zip(labels, *columns.values(), strict=True):
        print(f"  {label:<28}" + "".join(f"{value:18.3f}" for value in values))


def closing_words(paths: Sequence[Path], next_command: str | None = None) -> None:
    """Name the files of a stage's result, those that were there apart, and the command that comes next."""
    new = [path for path in paths if path in files.written]
    old = [path for path in paths if path not in files.written]
    for words, those in (("There already:", old), ("Wrote:", new)):
        if those:
            print("\n  ".join([words, *map(str, those)]))
    if next_command and "MAKELEVEL" not in os.environ:  # make goes on by itself
        print(f"Next:\n  {next_command}")
