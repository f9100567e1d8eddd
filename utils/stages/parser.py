"""A parser of flags that says in one line what is wrong; what flags may be; the flags that name folders."""

import argparse
import contextlib
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType

from ..errors import UserError
from ..losses import BUILT_IN
from .data import why_no_name
from .folders import TEST_FOLDERS
from .layout import FOLDERS, REPOSITORY, ROBUST_FOLDERS, dataset_folder, is_path_of_data

# The titles under which a help has the flags, in order, by the parser's method that adds one there
TITLES = {name: name for name in ("images", "networks", "alignment", "optimization", "attack", "evaluation")}
TITLES |= {"networks": "networks and curves", "computation": "computation", "figures": "figures", "files": "files"}
NEW = "new"  # the outcome of a flag that older files lack
PASSING = ("root", "device", "resume", "overwrite")  # flags that may be others when a command is run again


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


Outcome = bool | str | Callable[[argparse.Namespace], bool]


class Declared(Exception):
    """Hands out a parser with all its flags, where a script was given DECLARED for its arguments."""

    def __init__(self, parser: "Parser"):
        super().__init__()
        self.parser = parser


DECLARED: list[str] = []  # known by its identity: an empty command line is another list


class Parser(argparse.ArgumentParser):
    """An argparse parser of long flags that are never shortened: --epochs must not be taken for --epochs_model.

    Its help shows flags under TITLES, in whatever order they were added, and an example. Each title has a method that
    adds a flag there: parser.images("--dataset", type, default, help), and more as `add_argument` takes it.
    """

    def __init__(self, description: str | None, epilog: str | None = None, script: str = ""):
        """description: a docstring, of which the first line is taken, and the command; python -OO leaves none.

        script: the file of the script, for the record of what it writes.
        """
        self.script = Path(script).resolve().relative_to(REPOSITORY).as_posix() if script else ""
        self.outcome: dict[str, Outcome] = {}
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
        flag: str,
        type: Callable | None = None,
        default: object = None,
        help: str = "",
        *,
        outcome: Outcome = False,
        **options: object,
    ) -> None:
        """Under a title, and whether the flag decides what is in the files that the script writes.

        outcome: True, or when (given the parsed flags); NEW where older files lack the flag and had its default.
            What a file's name says (networks, match, kind of curve) need not be declared.
        """
        given = {"type": type} if type else {}
        given |= {} if default is None else {"default": default}
        dest = group.add_argument(flag, help=help, **given, **options).dest
        if outcome:
            self.outcome[dest] = outcome

    def outcome_flags(self, args: argparse.Namespace) -> dict[str, object]:
        """The values of the flags that decide the outcome."""
        decide = {name: kind(args) if callable(kind) else True for name, kind in self.outcome.items()}
        return {name: getattr(args, name) for name, does in decide.items() if does}

    def new_flags(self) -> dict[str, object]:
        """The values that flags had in files which are older than they."""
        return {name: self.get_default(name) for name, kind in self.outcome.items() if kind == NEW}

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if args is DECLARED:
            raise Declared(self)
        found, unknown = super().parse_known_args(args, namespace)
        same = {"device", *(action.dest for action in self.groups["images"]._group_actions)}
        words = self.chunks(sys.argv[1:] if args is None else args) or {}
        found.typed = {flag: typed for flag, typed in words.items() if flag in same}  # what further commands repeat
        found.began = time.time()
        return found, unknown

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

    def lasting(self, argv: Sequence[str]) -> list[str]:
        """A command line without the flags that say where files are, what computes, or how a run goes on."""
        chunks = self.chunks(argv).items()
        return [word for flag, words in chunks if flag not in PASSING for word in words]

    def words(self, name: str, value: object) -> list[str]:
        """A flag as one types it for a value; none where the parser has no such flag, or where it is off or None."""
        action = next((one for one in self._actions if one.dest == name and one.option_strings), None)
        if action is None or value is None or (isinstance(value, bool) and value == action.default):
            return []
        said = [flag for flag in action.option_strings if flag.startswith("--no-") == (value is False)]
        if isinstance(value, bool):
            return (said or action.option_strings)[:1]
        return [action.option_strings[0], *map(str, value if isinstance(value, (list, tuple)) else [value])]

    def add_alias(self, flag: str, means: str, **options: object) -> None:
        """A name that the original code has for a flag, in no help; means: the name under which it is returned."""
        self.add_argument(flag, dest=means, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)

    def add_unused(self, flag: str, why: str) -> None:
        """A flag of the original code, in no help, that changes nothing; `why` is said where it is given."""
        self.unused[self.add_argument(flag, help=argparse.SUPPRESS).dest] = f"{flag}: {why}."

    def format_help(self) -> str:
        needed = (action for action in self._actions if action.required)
        words = (" ".join([*action.option_strings[:1], action.metavar or action.dest.upper()]) for action in needed)
        self.usage = " ".join(["%(prog)s [flags]", *words])
        return super().format_help()

    def error(self, message: str):
        """End with one line, and no usage, which --help shows."""
        hint = "; --help shows the flags that there are" if "unrecognized arguments: " in message else ""
        self.exit(2, f"{self.prog}: error: {' '.join((message + hint).splitlines())}\n")


# --- what flags may be: types for argparse, which say in a phrase what they want ---------------------------

# Torch's generator on the CPU begins from the lower 32 bits of a seed: beyond them, two seeds give one network.
LARGEST_SEED = 2**32 - 1


def _number(kind: Callable[[str], float], is_valid: Callable[[float], bool], meaning: str) -> Callable:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except (ValueError, ZeroDivisionError):
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return value

    return parse


positive_int = _number(int, lambda value: value > 0, "a whole number above 0")
nonnegative_int = _number(int, lambda value: value >= 0, "a whole number, 0 or above")
at_least_two = _number(int, lambda value: value >= 2, "a whole number, 2 or above")
seed_number = _number(int, lambda value: 0 <= value <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}")
positive_float = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
nonnegative_float = _number(float, lambda value: 0 <= value < math.inf, "a number, 0 or above")
finite_float = _number(float, math.isfinite, "a number")
fraction = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
intensity = _number(lambda text: float(Fraction(text)), lambda value: 0 <= value <= 1, "between 0 and 1, e.g. 8/255")


def epochs_or_none(text: str) -> int | None:
    """A number of epochs, or None for the word none."""
    return None if text.lower() == "none" else positive_int(text)


def true_or_false(text: str) -> bool:
    """For a flag that the original code takes with a value."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def _path(text: str) -> Path:
    """A path, which may begin with ~, also where a shell leaves that, as in --root=~/x."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def new_file(text: str) -> Path:
    """A file that may not exist yet, in whatever folder."""
    path = _path(text)
    if not path.name or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is {'a folder' if text else 'nothing'}, where a file is wanted")
    return path


def folder_path(text: str) -> Path:
    """A folder, which need not exist."""
    path = _path(text)
    if not text or path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is {'a file' if text else 'nothing'}, where a folder is wanted")
    return path


def file_path(text: str) -> Path:
    """A file that exists."""
    path = _path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def colour_map(text: str) -> str:
    """A colour map of matplotlib, by name."""
    from matplotlib import colormaps  # slow to import, and most stages do without

    if text not in colormaps:
        raise argparse.ArgumentTypeError(f"matplotlib has no colour map {text!r}")
    return text


# --- names -------------------------------------------------------------------------------------------------


def network_options(models: ModuleType, words: str) -> dict[str, object]:
    """Type and help of a flag for networks; `models` knows their names and forms."""

    def network_name(text: str) -> str:
        try:
            models.check_name(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return {"type": network_name, "help": f"{words}: {models.FORMS}"}


def dataset_name(text: str, with_folder: bool = True) -> str:
    """A dataset's name, or where data are; with_folder: whether there is --data_path besides, else data's results."""
    if is_path_of_data(text) and (":" in text or text.endswith(".npz") or any(_path(text).glob("*.npy"))):
        return text if with_folder else dataset_folder(text)
    why = why_no_name(text)
    if not why:
        return text
    path = Path(text).expanduser()
    path = path if path.name.strip(".") else path.resolve()
    path = path.parent if path.name in ("train", *TEST_FOLDERS) else path
    advice = ""
    if text and not why_no_name(path.name):
        folder = f"--data_path {shlex.quote(str(path.parent))} " if with_folder else ""
        advice = f"; use: {folder}--dataset {shlex.quote(path.name)}"
    raise argparse.ArgumentTypeError(f"{text!r} is not the name of a dataset: {why}{advice}")


def task_name(text: str) -> str:
    """A built-in loss, or a function in a file."""
    if text not in BUILT_IN and ":" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(BUILT_IN)}, nor FILE.py:NAME")
    return text


def name_part(text: str) -> str:
    """A part of a file's name, or nothing."""
    if text and (not re.fullmatch(r"[\w.+=-]+", text) or text.startswith((".", "-")) or len(text) > 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a part of a file's name here: letters, digits and _ . + = - are, "
            "not first a . or -, and 100 at most"
        )
    return text


def new_match(text: str) -> str:
    """The name of a match that is to be made, whichever stage makes it."""
    name, lower = name_part(text), text.casefold()  # some file systems ignore capitals
    if not name:
        raise argparse.ArgumentTypeError("a match needs a name; '' stands for none")
    if lower == "null" or lower.startswith("pam_"):
        meaning = "no match at all" if lower == "null" else "matches that PAM finds"
        raise argparse.ArgumentTypeError(f"{text!r} stands for {meaning}; choose another name")
    if "_seeds_" in lower or re.search(r"(^|_)(correlation|distance|aligned|unaligned)(_|$)", lower):
        raise argparse.ArgumentTypeError(
            f"{text!r} has a word in it that distinguishes files (seeds, aligned, correlation, distance)"
        )
    return name


def is_free(name: str, usual: str, methods: Collection[str], to: Collection[str]) -> bool:
    """Whether a match may have this name, that of no other method, in capitals or not. to: of many networks."""
    lower, taken = name.casefold(), {*methods, *(f"{of}_{method}" for of in to for method in methods)}
    is_reserved = lower.startswith("w2_") and not usual.startswith("w2_")
    return name == usual or not is_reserved and lower not in taken


def partner(seed: int) -> int:
    """The seed of the network with which one makes a pair, as 1 and 2 do, or 3 and 4."""
    return seed + 1 if seed % 2 and seed < LARGEST_SEED else abs(seed - 1)


# --- the flags that replace folders of the layout ----------------------------------------------------------

# The twins of stages for adversarially robust networks
ROBUST_SCRIPTS = {
    "training/train_model.py": "training/train_model_adversarial.py",
    "training/train_curve.py": "training/train_curve_adversarial.py",
    "evaluation/eval_curve.py": "evaluation/eval_adversarial_curve.py",
    "visualization/viz_curve.py": "visualization/viz_adversarial_curve.py",
}

# Scripts that have the flags of another one
TWINS = {
    **{robust: plain for plain, robust in ROBUST_SCRIPTS.items()},
    "alignment/align_googlenet.py": "alignment/align_models.py",
    "alignment/align_models_w2.py": "alignment/align_models.py",
}

_NETWORKS = {"models": "--dir_models", "matches": "--dir_alignment"}
_PATHS = {"models": "--dir_models --dir_endpoints", "matches": "--dir_alignment"}
_PATHS |= {"curves": "--dir_curves --dir_midpoints"}
_LAYERWISE = "visualization/layerwise_mean_correlation/"

# By kind of folder (utils.stages.layout), the flag, and other names that the original code has for it
FOLDER_FLAGS = {
    "training/train_model.py": {"models": "--dir", "model_history": "--dir2"},
    "training/import_checkpoint.py": {"models": "--dir"},
    "training/train_curve.py": {**_NETWORKS, "curves": "--dir", "curve_history": "--dir2"},
    "training/train_curve_pam.py": {**_NETWORKS, "curves": "--dir", "curve_history": "--dir2"},
    "alignment/align_models.py": {
        "models": "--dir_models --model_path",
        "matches": "--dir_alignment --dir",
        "correlations": "--dir2",
    },
    "alignment/align_many.py": {**_NETWORKS, "correlations": "--dir2"},
    "alignment/align_along_curve.py": {**_PATHS, "correlations": "--dir"},
    "evaluation/eval_curve.py": {**_PATHS, "evaluated": "--dir"},
    "evaluation/export_point.py": _PATHS,
    "evaluation/eval_plane_with_curve.py": {**_PATHS, "planes_with_curve": "--dir"},
    "evaluation/eval_plane_with_alignment.py": {
        "models": "--dir_models --dir_endpoints",
        "matches": "--dir_alignment --alignment_path",
        "planes_with_alignment": "--dir",
    },
    "visualization/viz_curve.py": {**_PATHS, "evaluated": "--dir", "curve_history": "--dir2"},
    "visualization/viz_curve_on_plane.py": {**_PATHS, "planes_with_curve": "--dir", "evaluated": "--dir2"},
    "visualization/viz_plane.py": {**_NETWORKS, "planes_with_alignment": "--dir"},
    f"{_LAYERWISE}viz_align_models.py": {**_NETWORKS, "correlations": "--dir"},
    f"{_LAYERWISE}viz_align_along_curves.py": {**_PATHS, "correlations": "--dir"},
}


def add_folder_flags(parser: Parser, argv: Sequence[str] = ()) -> None:
    """The folder flags of its script; those that only the original code has, and all of figures, stand in no help.

    argv: of scripts for figures. Whatever in it begins with --dir is understood, as the original has several such.
    """
    script = TWINS.get(parser.script, parser.script)
    for kind, flags in FOLDER_FLAGS[script].items():
        flag, *others = flags.split()
        shown = script.startswith("training/") or (flag.startswith("--dir_") and script[:3] != "vis")
        content = {"models": "networks", "model_history": "histories", "curve_history": "histories"}.get(kind, kind)
        words = f"folder of {content} instead of {FOLDERS[kind]}" if shown else argparse.SUPPRESS
        parser.files(flag, type=folder_path, help=words)
        for other in others:
            parser.add_alias(other, _dest(flag), type=folder_path)
    for flag in dict.fromkeys(re.match(r"(--dir\w*)?", word)[0] for word in argv):
        with contextlib.suppress(argparse.ArgumentError):  # it exists already
            if flag:
                parser.add_argument(flag, type=folder_path, help=argparse.SUPPRESS)
    parser.set_defaults(script=script)


def replaced_folders(flags: Mapping[str, object]) -> dict[str, Path]:
    """The folders that the flags of a script put in the place of others, by kind.

    A folder under a published name is of the kind that the name says, whichever of the original's flags names it;
    with our own flags the two have to agree. ValueError if they do not, or if the script uses no such folder.
    """
    script = flags.get("script", "")
    usual = {_dest(flag): kind for kind, flag in FOLDER_FLAGS.get(script, {}).items()}
    is_free = script.startswith(("visualization/", "alignment/align_models"))
    folders = {}
    for name, folder in flags.items():
        if not name.startswith("dir") or folder is None:
            continue
        path, kinds = f"{folder.resolve()}/", (*FOLDERS.items(), *ROBUST_FOLDERS.items())
        kind = next((kind for kind, published in kinds if f"/{published}/" in path), usual.get(name))
        if kind not in usual.values() or (not is_free and kind != usual[name]):
            here = ", ".join(sorted({FOLDERS[one] for one in usual.values()}))
            raise ValueError(f"--{name} {folder} is not in the place of a folder that this script uses: {here}")
        folders[kind] = folder
    return folders


def in_robust_folders(folders: Mapping[str, Path]) -> bool:
    """Whether one of these folders is under the published name of one for robust networks."""
    paths = [f"{folder.resolve()}/" for folder in folders.values()]
    return any(f"/{published}/" in path for published in ROBUST_FOLDERS.values() for path in paths)


def folder_flags(script: str, folders: Mapping[str, Path]) -> dict[str, Path]:
    """The flags by which a script is given these folders, as far as it has them."""
    known = FOLDER_FLAGS.get(TWINS.get(script, script), {})
    return {_dest(flag): folders[kind] for kind, flag in known.items() if kind in folders}


def _dest(flags: str) -> str:
    """The name under which the parser returns a flag, the first of several names."""
    return flags.split()[0].lstrip("-")
