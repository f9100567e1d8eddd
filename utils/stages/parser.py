"""A parser of flags that says in one line what is wrong."""

import argparse
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from .layout import REPOSITORY

# The titles under which a help has the flags, in order, by the parser's method that adds one there
TITLES = {name: name for name in ("images", "networks", "alignment", "optimization", "attack", "evaluation")}
TITLES |= {"networks": "networks and curves", "computation": "computation", "figures": "figures", "files": "files"}
DECIDES = True  # the outcome of a flag that decides what is in files
NEW = "new"  # that of one which older files lack, too
PASSING = ("root", "device", "resume", "overwrite")  # flags that may be others when a command is run again

Deciding = bool | str | Callable[[argparse.Namespace], bool]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds defaults, except those that depend on other flags: the help text has them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default == argparse.SUPPRESS:
            return action.help
        words = action.help.removesuffix(" (default: %(default)s)")  # which some versions of Python add
        return f"{words} (default: {_in_words(action.default)})".replace("%", "%%")


def _in_words(default: object) -> str:
    """A default as one would type it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, list):
        return " ".join(map(_in_words, default))
    return "the repository" if default == REPOSITORY else str(default) or "''"


class Declared(Exception):
    """Carries a parser with all its flags, where a script was given DECLARED for its arguments."""


DECLARED: list[str] = []  # known by its identity: an empty command line is another list


class Parser(argparse.ArgumentParser):
    """An argparse parser of long flags that are never shortened: --epochs must not be taken for --epochs_model.

    Its help shows flags under TITLES, in whatever order they were added, and an example. Each title has a method that
    adds a flag there: parser.images("--dataset", type, default, help), and more as `_add` takes it.
    """

    def __init__(self, description: str | None, script: str = "", epilog: str | None = None):
        """description: a docstring, of which the first line is taken, and the command; python -OO leaves none.

        script: the file of the script, for the record of what it writes.
        """
        self.script = Path(script).resolve().relative_to(REPOSITORY).as_posix() if script else ""
        self.outcome: dict[str, Deciding] = {}
        self.unused: dict[str, str] = {}
        words, _, rest = (description or "").strip().partition("\n")
        example = [f"\n\nexample:\n  {line}" for line in rest.splitlines() if line.startswith("python ")]
        description = "".join([words, *example]) or None
        super().__init__(description=description, epilog=epilog, formatter_class=HelpFormatter, allow_abbrev=False)
        self.groups = {name: self.add_argument_group(title) for name, title in TITLES.items()}
        for name, group in self.groups.items():
            setattr(self, name, partial(self._add, group))

    def _add(
        self,
        group: argparse._ArgumentGroup,
        name: str,
        type: Callable | Collection[str] | None = None,
        default: object = None,
        help: str = "",
        outcome: Deciding = False,
        also: Sequence[str] = (),
        **more: object,
    ) -> None:
        """Under a title, and whether the flag decides what is in the files that the script writes.

        type: what parses it; the values that it may have; or bool, for a flag that is on or off without a value.
        outcome: True, or when (given the parsed flags); NEW where older files lack the flag and had its default.
            What a file's name says (networks, match, kind of curve) need not be declared.
        also: names that the original code has for it, in no help. more: what else `add_argument` takes.
        """
        if type is bool:
            more["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif type is not None:
            more["type" if callable(type) else "choices"] = type
        more |= {} if default is None else {"default": default}
        dest = group.add_argument(name, help=help, **more).dest
        self.add_names(dest, *also)
        if outcome:
            self.outcome[dest] = outcome

    def add_names(self, flag: str, *names: str) -> None:
        """Names that the original code has for a flag, in no help."""
        action = next(one for one in self._actions if one.dest == flag)
        self._option_string_actions |= dict.fromkeys(names, action)

    def add_unused(self, flag: str, why: str) -> None:
        """A flag of the original code, in no help, that changes nothing; `why` is said where it is given."""
        self.unused[self.add_argument(flag, help=argparse.SUPPRESS).dest] = f"{flag}: {why}."

    def outcome_flags(self, args: argparse.Namespace) -> tuple[dict[str, object], dict[str, object]]:
        """The values of the flags that decide the outcome, and the values that some had in files older than they."""
        decide = [name for name, kind in self.outcome.items() if not callable(kind) or kind(args)]
        new = {name: self.get_default(name) for name, kind in self.outcome.items() if kind == NEW}
        return {name: getattr(args, name) for name in decide}, new

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        if args is DECLARED:
            raise Declared(self)
        return super().parse_args(args, namespace)

    def choices(self, flag: str) -> Collection[str]:
        """The values that a flag may have."""
        return next(action.choices for action in self._actions if action.dest == flag)

    def chunks(self, argv: Sequence[str]) -> dict[str, list[str]] | None:
        """The words of a command line by the names under which the parser returns them; '' for those of no flag.

        None if there is a flag that the parser does not have.
        """
        chunks: dict[str, list[str]] = {}
        dest, room = "", 0
        for word in argv:
            action = self._option_string_actions.get(word.partition("=")[0])
            if action is not None:
                dest, chunks[action.dest] = action.dest, [word]
                many = {None: 1, "?": 1}.get(action.nargs, action.nargs)
                room = 0 if "=" in word else many if isinstance(many, int) else len(argv)
            elif word.startswith("--"):
                return None
            elif room:
                chunks[dest].append(word)
                room -= 1
            else:
                chunks.setdefault("", []).append(word)
        return chunks

    def words(self, name: str, value: object) -> list[str]:
        """A flag as one types it for a value; none where the parser has no such flag, or where it is off or None."""
        action = next((one for one in self._actions if one.dest == name and one.option_strings), None)
        if action is None or value is None or (isinstance(value, bool) and value == action.default):
            return []
        said = [flag for flag in action.option_strings if flag.startswith("--no-") == (value is False)]
        if isinstance(value, bool):
            return (said or action.option_strings)[:1]
        return [action.option_strings[0], *map(str, value if isinstance(value, (list, tuple)) else [value])]

    def format_help(self) -> str:
        needed = (action for action in self._actions if action.required)
        words = (" ".join([*action.option_strings[:1], action.metavar or action.dest.upper()]) for action in needed)
        self.usage = " ".join(["%(prog)s [flags]", *words])
        return super().format_help()

    def error(self, message: str):
        """End with one line, and no usage, which --help shows."""
        hint = "; --help shows the flags that there are" if "unrecognized arguments: " in message else ""
        self.exit(2, f"{self.prog}: error: {' '.join((message + hint).splitlines())}\n")
