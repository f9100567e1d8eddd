"""The one exception that stands for a user's mistake, and what an error says in one line."""


class UserError(Exception):
    """What is wrong and how to mend it, in one line; `cli.run` prints it and exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; its type's name if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
