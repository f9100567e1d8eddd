"""The exceptions that stand for a user's mistake, and what an error says in one line."""

from pathlib import Path


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
