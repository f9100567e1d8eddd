"""A stage as a process: on what it runs, the one line with which it ends where something is wrong, what it wrote."""

import argparse
import contextlib
import datetime
import io
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from .. import distributed
from ..checks import misfit
from ..devices import compile_options
from ..errors import UserError, first_line, note_interrupts
from . import files
from .hints import explain
from .machine import (
    crowded,
    describe,
    is_out_of_memory,
    keep_memory,
    limit_threads,
    multiplies_bf16,
    set_products,
    why_unusable,
)
from .parser import Parser


def run(parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], None]) -> None:
    """Run a stage: a user's mistake ends it with one line and exit code 1 or 2, not with a traceback.

    Started by torchrun, it runs as one of several processes; process 0 alone prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook has put its own
            stream.reconfigure(errors="replace")  # no character that an encoding lacks is an error
    note_interrupts()
    _expect_torchrun()
    distributed.silence_others()
    args = argparse.Namespace()
    try:
        try:
            args = _parsed(parse_args)
            if distributed.launched() and distributed.is_main():  # torchrun terminates it when another has ended
                signal.signal(signal.SIGTERM, lambda *_: _complain(_with_advice(ENDED, args), 143))
            _prepare(args)
            for note in getattr(args, "notes", ()):
                print(note)
            main(args)
            distributed.stop()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_complain(_with_advice("interrupted.", args), 130))
    except BrokenPipeError:  # the reader has gone, as `head` does when it has its lines
        nobody = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nobody, stream.fileno())  # so that the interpreter finds nothing to complain about at its end
        sys.exit(_ended(141))  # as shells report a process that was ended by this signal
    except UserError as error:
        sys.exit(_complain(explain(error, getattr(args, "here", None)), error.exit_code))
    except Exception as error:
        message = _in_words(error, args)
        if message is None:
            raise
        sys.exit(_complain(message, 1))


ENDED = "another process of this job has ended, and so does the job."


def _with_advice(sentence: str, args: argparse.Namespace) -> str:
    return f"{sentence} Run it with --resume (and without --overwrite) to go on." if "resume" in args else sentence


def _in_words(error: Exception, args: argparse.Namespace) -> str | None:
    """What an error says that is no mistake of the code's; None for those that are."""
    if is_out_of_memory(error):
        return "the device is out of memory; try a smaller --batch_size"
    if distributed.launched() and is_lost_connection(error):
        return f"{_with_advice(ENDED, args)} ({first_line(error)})"
    if distributed.launched() and is_of_connection(error):
        return f"the processes of this job cannot work together: {first_line(error)}"
    if isinstance(error, OSError):
        return f"{error.filename or 'input/output'}: {error.strerror or error}"
    return misfit(error)


def _expect_torchrun() -> None:
    """End with one line where the environment has a part of what torchrun puts into it."""
    numbers = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE")}
    odd = [f"{name} is {value!r}" for name, value in numbers.items() if not value.isdecimal()]
    if not odd and distributed.launched():
        needed = ["MASTER_ADDR", "MASTER_PORT"]
        needed += ["LOCAL_RANK", "LOCAL_WORLD_SIZE"] if torch.cuda.is_available() else []
        odd = [f"there is no {name} beside RANK" for name in needed if name not in os.environ]
    if odd:
        advice = "start several processes with torchrun, or unset RANK for one"
        sys.exit(f"{Path(sys.argv[0]).name}: error: {' and '.join(odd)} in the environment; {advice}")


# What gloo, nccl and torch's store say when the process at the other end of a connection is gone
LOST = ("by peer", "broken pipe", "connection was likely closed", "remote process exit")


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LOST)


def is_of_connection(error: BaseException) -> bool:
    """Whether an error is one of the processes' communication, whatever its cause."""
    names = ("gloo", "nccl")
    return isinstance(error, torch.distributed.DistError) or any(name in str(error).lower() for name in names)


def _parsed(parse_args: Callable[[], argparse.Namespace]) -> argparse.Namespace:
    """The flags. What is wrong with them is the same in all processes, and said by process 0 first."""
    if distributed.is_main():
        return parse_args()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return parse_args()
        except SystemExit as end:
            code, line = end.code, said.getvalue().partition("error: ")[2]
    sys.exit(_complain(line, code) if code else 0)


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


# --- devices -----------------------------------------------------------------------------------------------


def choose_device(parser: Parser, name: str | None) -> torch.device:
    """The device of this name, or the best one; where networks cannot run on it, one line says why."""
    if name is None:
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available() and not distributed.launched():
            name = "mps"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        parser.error(f"--device {name} cannot be used here: {first_line(error)}")
    if distributed.launched():
        if name not in ("cpu", "cuda"):
            parser.error(f"--device {name}: many processes are on cpu or cuda, where each takes a GPU of its own")
        if name == "cuda":
            if (started := int(os.environ["LOCAL_WORLD_SIZE"])) > (there := torch.cuda.device_count()):
                many = f"{started} processes are started on this machine, where torch sees {there}"
                parser.error(f"--device cuda: {many} GPUs, and each takes one of its own; start fewer, or use cpu")
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if (reason := why_unusable(device)) is not None:
        parser.error(f"--device {name} {reason}; --device cpu does without it")
    return device


def _prepare(args: argparse.Namespace) -> None:
    """Join the other processes, set what holds for all that torch does in this one, and say on what it runs."""
    device, precision = getattr(args, "device", torch.device("cpu")), getattr(args, "precision", "fp32")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    distributed.start(device)
    keep_memory()
    limit_threads()
    torch.backends.cudnn.benchmark = True
    set_products(precision)
    if precision != "fp32" and (reason := why_unusable(device, precision)) is not None:
        raise UserError(f"--precision {precision}: {device} {reason}; use fp32", exit_code=2)
    if "device" in args:
        together = distributed.size()
        also = f", one of {together} processes" if together > 1 else ""
        if device.type == "cpu" and getattr(args, "is_precision_open", False) and multiplies_bf16():
            also += "; --precision bf16 would pay: this processor multiplies bf16 in hardware"
        print(f"Running on {describe(device)}, {precision}{also}.")
        if device.type == "cpu" and (note := crowded()):
            print(note)
    if getattr(args, "compile", False):
        _expect_compiler(device)


def _expect_compiler(device: torch.device) -> None:
    """End with one line if torch.compile does not work here, and not minutes later with a traceback."""
    torch._dynamo.config.recompile_limit = 64  # a network is compiled for each size of a batch and each mode
    # Of another size in every process, so that it is not taken from torch's cache
    trial = torch.zeros(1_000 + os.getpid(), device=device)
    try:
        torch.compile(lambda x: x * 2 + 1, **compile_options(device))(trial)
    except Exception as error:  # many kinds, by what is missing
        raise UserError(
            f"--compile cannot compile here ({first_line(error)}): install a C++ compiler, as g++ "
            "(on Debian and Ubuntu: apt install g++), for GPUs also triton (pip install triton), or omit --compile",
            exit_code=2,
        ) from error


def expect_log(parser: Parser, folder: Path) -> None:
    """End with one line where no scalars can be written to this folder for TensorBoard."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        install = "install it with: python -m pip install tensorboard"
        parser.error(f"--log_dir: TensorBoard cannot be used here ({first_line(error)}); {install}")
    try:
        files.expect_writable(folder)
    except UserError as error:
        parser.error(f"--log_dir: {error}")


def made_on(device: torch.device) -> dict[str, str]:
    """Where and when a file is made. A day is exact enough: a run that is resumed ends with the same."""
    on = str(device) if device.type == "cpu" else describe(device)
    today = datetime.date.today().isoformat()
    return {"torch": str(torch.__version__), "python": platform.python_version(), "device": on, "date": today}


# --- telling the user --------------------------------------------------------------------------------------


def print_table(labels: Sequence[str], columns: Mapping[str, Sequence[float]], of: str = "layer") -> None:
    """Numbers with three decimals, a line a label, a column a name. of: what the labels are of."""
    print(f"  {of:<28}" + "".join(f"{name:>18}" for name in columns))
    for label, *values in zip(labels, *columns.values(), strict=True):
        print(f"  {label:<28}" + "".join(f"{value:18.3f}" for value in values))
