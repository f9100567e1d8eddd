"""What a script does before its slow imports."""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType

NEEDED = {"torch", "torchvision", "numpy", "scipy", "matplotlib", "tqdm", "PIL"}


def quietly() -> None:
    """Ctrl-C and mistakes of the user's end the process without a traceback, also while torch is being imported.

    `utils.stages.process.run` takes over from there. Does nothing where torch is there already, as in tests.
    """
    if "torch" in sys.modules:
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.excepthook = _in_one_line


def twin(
    name: str, plain: str, description: str, script: str, **differing: object
) -> tuple[Callable[..., object], Callable[[object], None]]:
    """`parse_args` and `main` of a script that is another one with something given; if it is started, it runs.

    name: its `__name__`. plain: the module of the other one. differing: arguments of the other one's `parse_args`.
    """
    quietly()
    module = importlib.import_module(plain)
    parse_args = partial(module.parse_args, description=description, script=script, **differing)
    if name == "__main__":
        from .process import run

        run(parse_args, module.main)
    return parse_args, module.main


def _in_one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What Python calls for an exception that nobody has caught."""
    from ..errors import UserError

    if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
        says = (
            f"{sys.executable} has no {error.name}; activate the environment (. .venv/bin/activate), or install it: "
        )
        says += "python -m pip install -r requirements.txt"
    elif issubclass(kind, UserError):
        says = str(error)
    else:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{os.path.basename(sys.argv[0])}: error: {says}", file=sys.stderr)
