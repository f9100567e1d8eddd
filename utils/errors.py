"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """What is wrong and how to mend it, in one line; `cli.run` prints it and exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
