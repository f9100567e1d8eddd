"""What ends work early: a user's mistakes, which are said in one line, and Ctrl-C, which is never lost."""

import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

# --- mistakes ----------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """A text with its control characters, which could command a terminal, written out."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class UserError(ValueError):
    """What is wrong, in one line; a stage prints it and exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(printable(message))
        self.exit_code = exit_code


class FileError(UserError):
    """What is wrong with the file `path`. The command line, which alone knows commands, adds the one that mends it.

    reason: a phrase of which the path is the subject, as "does not exist".
    mend: what mends it: "make" a file that is not there, "continue" one that is not finished, "remake" one that is
        of no use (and may be the user's own, so that it is moved away first), "replace" one that this code made of
        other things, "resume" a run under way, "resize" images of sizes that do not go, "exchange" an image that
        cannot be read; or "" where the reason says it all.
    flags: what the mending command has to say besides what the file's name tells.
    """

    def __init__(self, path: Path, reason: str, mend: str = "", exit_code: int = 1, /, **flags: object):
        super().__init__(f"{path} {reason}", exit_code)
        self.path, self.reason, self.mend, self.flags = path, reason, mend, flags

    def __reduce__(self):  # it is sent to other processes, and exceptions forget their keywords
        return _restored, (self.path, self.reason, self.mend, self.exit_code, self.flags)


def _restored(path: Path, reason: str, mend: str, exit_code: int, flags: dict[str, object]) -> FileError:
    return FileError(path, reason, mend, exit_code, **flags)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; its type's name if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


# --- Ctrl-C ------------------------------------------------------------------------------------------------

# Python raises KeyboardInterrupt wherever it happens to be. Inside a callback from C (a destructor, an attribute that
# a C function looks up) the exception is swallowed there, and the work would go on. So the handler leaves a note as
# well, and the loops that last look at it once in every step.
_noted = threading.Event()


def note_interrupts() -> None:
    """Take over from Python's own handling of Ctrl-C; where interrupts are ignored, they stay ignored."""
    _noted.clear()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_: object) -> None:
    _noted.set()
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """KeyboardInterrupt if Ctrl-C was pressed since the last look, and nothing came of it."""
    if _noted.is_set():
        _noted.clear()
        raise KeyboardInterrupt


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a look before each of them."""
    for item in items:
        check_interrupt()
        yield item
