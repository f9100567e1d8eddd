"""Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever it happens to be. Inside a callback from C (a destructor, an attribute that a
C function looks up) the exception is swallowed there, and the work would go on. So the handler leaves a note as well,
and the loops that last look at it once in every step.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_noted = threading.Event()


def watch() -> None:
    """Take over from Python's own handling of Ctrl-C; where interrupts are ignored, they stay ignored."""
    _noted.clear()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_: object) -> None:
    _noted.set()
    raise KeyboardInterrupt


def check() -> None:
    """KeyboardInterrupt if Ctrl-C was pressed since the last look, and nothing came of it."""
    if _noted.is_set():
        _noted.clear()
        raise KeyboardInterrupt


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a look before each of them."""
    for item in items:
        check()
        yield item
