"""A parser of flags that says in one line what is wrong."""

import argparse
import difflib
import re


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, but for those that depend on other flags, which the help text tells."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser of long flags that are never shortened: --epochs must not be taken for --epochs_model."""

    def __init__(self, description: str | None, epilog: str | None = None):
        """description: a docstring, of which the first line is taken; python -OO leaves none."""
        first_line = (description or "").strip().partition("\n")[0]
        super().__init__(
            description=first_line or None, epilog=epilog, formatter_class=HelpFormatter, allow_abbrev=False
        )

    def error(self, message: str):
        """End with one line, and no usage, which --help shows."""
        self.exit(2, f"{self.prog}: error: {' '.join((message + self._hints(message)).splitlines())}\n")

    def _hints(self, message: str) -> str:
        """For each flag that there is none of, the one that may be meant."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        if not unknown:
            return ""
        shown = [
            flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings
        ]
        close = (difflib.get_close_matches(flag, shown, n=1) for flag in re.findall(r"(?<!\S)--?[\w-]+", words))
        meant = dict.fromkeys(flag for found in close for flag in found)
        return f"; did you mean {' and '.join(meant)}?" if meant else "; --help shows the flags that there are"
