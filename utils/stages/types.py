"""What the flags may be: types for argparse, each of which says in a phrase what it wants."""

import argparse
import difflib
import math
import re
import shlex
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from models import check_name

from .datasets import why_no_name
from .folders import TEST_FOLDERS

# Torch's generator on the CPU begins from the lower 32 bits of a seed: beyond them, two seeds give one network.
LARGEST_SEED = 2**32 - 1

# The names that methods of alignment give to their matches
METHODS = ("corr", "w2_pre", "w2_post", "weight", "identity", "random")
# What comes before it in the names of matches of many networks
OF_MANY = ("reference_", "universe_")


def positive_int(text: str) -> int:
    return _number(int, text, lambda value: value > 0, "a whole number above 0")


def nonnegative_int(text: str) -> int:
    return _number(int, text, lambda value: value >= 0, "a whole number, 0 or above")


def positive_float(text: str) -> float:
    return _number(float, text, lambda value: 0 < value < math.inf, "a number above 0")


def nonnegative_float(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value < math.inf, "a number, 0 or above")


def at_least_two(text: str) -> int:
    return _number(int, text, lambda value: value >= 2, "a whole number, 2 or above")


def fraction(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def intensity(text: str) -> float:
    """A number in [0, 1], or a fraction as 8/255."""
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1, as 8/255 is")
    return value


def frequency(text: str) -> int | None:
    """A number of epochs, or None for the word none."""
    return None if text.lower() == "none" else positive_int(text)


def seed(text: str) -> int:
    value = nonnegative_int(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{text!r} is beyond {LARGEST_SEED}, the last seed that the random number generators tell from others"
        )
    return value


def number(text: str) -> float:
    return _number(float, text, math.isfinite, "a number")


def network(text: str) -> str:
    """The name of a network: ours, a library's, or a file and what makes the network in it (`models.build`)."""
    try:
        check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def partner(seed: int) -> int:
    """The seed of the network with which one makes a pair, as 1 and 2 do, or 3 and 4."""
    return seed + 1 if seed % 2 and seed < LARGEST_SEED else abs(seed - 1)


def truth(text: str) -> bool:
    """A flag that the original code takes with a value, as True."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def folder(text: str) -> Path:
    """A folder, which need not exist."""
    path = Path(text)
    if not text or path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is {'a file' if text else 'nothing'}, where a folder is wanted")
    return path


def file(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def word(text: str) -> str:
    """A part of a file's name, or nothing."""
    if text and (not re.fullmatch(r"[\w.+=-]+", text) or text.startswith((".", "-")) or len(text) > 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a part of a file's name here: letters, digits and _ . + = - are, "
            "not first a . or -, and 100 at most"
        )
    return text


def new_name(text: str) -> str:
    """The name of a match that is to be made, whichever stage makes it."""
    name = word(text)
    if not name:
        raise argparse.ArgumentTypeError("a match needs a name; '' stands for none")
    lower = name.casefold()  # some file systems do not tell capitals
    if lower == "null" or lower.startswith("pam_"):
        meaning = "no match at all" if lower == "null" else "matches that PAM finds"
        raise argparse.ArgumentTypeError(f"{text!r} stands for {meaning}; choose another name")
    if "_seeds_" in lower or re.search(r"(^|_)(correlation|distance|aligned|unaligned)(_|$)", lower):
        raise argparse.ArgumentTypeError(
            f"{text!r} has a word in it by which files are told apart (seeds, aligned, correlation, distance)"
        )
    return name


def dataset_name(text: str, with_folder: bool = True) -> str:
    """A dataset's name, which is no path; `with_folder` says whether there is --data_path besides."""
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


def is_free(name: str, method: str) -> bool:
    """Whether a match by a method of alignment may have this name: that of no other method, in capitals or not."""
    lower = name.casefold()
    if lower.startswith("w2_") and not method.startswith("w2_"):
        return False
    for prefix in OF_MANY:
        lower = lower.removeprefix(prefix)
    return name == method or lower not in METHODS


def colour_map(text: str) -> str:
    """A colour map of matplotlib, by name."""
    from matplotlib import colormaps  # slow to import, and most stages do without

    if text not in colormaps:
        close = difflib.get_close_matches(text, colormaps)
        hint = f"; there is {', '.join(close)}" if close else ""
        raise argparse.ArgumentTypeError(f"matplotlib has no colour map {text!r}{hint}")
    return text


def _number(kind: type, text: str, is_valid: Callable, meaning: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
    return value
