"""On what a stage runs: its device and precision, refused in one line where they cannot be had."""

import datetime
import platform
from pathlib import Path

import torch

from .. import distributed
from ..devices import describe, why_unusable
from ..errors import UserError, first_line
from .files import expect_writable
from .parser import Parser


def choose_device(parser: Parser, name: str | None) -> torch.device:
    """The device of this name, or the best that there is; where networks cannot run on it, one line says why."""
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
            if distributed.local_size() > (there := torch.cuda.device_count()):
                many = f"{distributed.local_size()} processes are started on this machine, where torch sees {there}"
                parser.error(f"--device cuda: {many} GPUs, and each takes one of its own; start fewer, or use cpu")
            device = torch.device("cuda", distributed.local_rank())
    if (reason := why_unusable(device)) is not None:
        parser.error(f"--device {name} {reason}; --device cpu does without it")
    return device


def expect_log(parser: Parser, folder: Path) -> None:
    """End with one line where no scalars can be written to this folder for TensorBoard."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        install = "install it with: python -m pip install tensorboard"
        parser.error(f"--log_dir: TensorBoard cannot be used here ({first_line(error)}); {install}")
    try:
        expect_writable(folder)
    except UserError as error:
        parser.error(f"--log_dir: {error}")


def say_where(device: torch.device, precision: str) -> None:
    """Tell on what the stage runs. UserError if the device has not that precision."""
    if precision != "fp32" and (reason := why_unusable(device, precision)) is not None:
        raise UserError(f"--precision {precision}: {device} {reason}; use fp32", exit_code=2)
    together = distributed.size()
    also = f", one of {together} processes" if together > 1 else ""
    print(f"Running on {describe(device)}, {precision}{also}.")


def made_on(device: torch.device) -> dict[str, str]:
    """What a file tells of where and when it was made. The day will do: a run that is resumed ends with the same."""
    on = str(device) if device.type == "cpu" else describe(device)
    today = datetime.date.today().isoformat()
    return {"torch": str(torch.__version__), "python": platform.python_version(), "device": on, "date": today}


def require_fp32(precision: str) -> None:
    """Called by stages that align: a rounded activation correlates with others than the activation itself does."""
    if precision != "fp32":
        raise UserError(f"--precision {precision}: activations are compared in fp32 only", exit_code=2)
