"""A parser of flags that says in one line what is wrong."""

import argparse
import difflib
import re

from .layout import REPOSITORY

# How a help divides the flags, by the names under which the parser returns them
GROUPS = {
    "images": ("dataset", "data_path", "image_size", "transform", "mean", "std", "use_test"),
    "networks and curves": (
        *("model", "num_classes", "side", "seed_a", "seed_b", "seed_c", "seeds", "seed", "epochs", "epochs_model"),
        *("robust", "alignment", "epochs_curve", "curve_seed", "curve", "num_bends", "fix_start", "fix_end"),
        *("init_linear_off", "t", "point_t"),
    ),
    "alignment": ("method", "init", "to", "pre_act", "align_name", "matrices"),
    "optimization": (
        *("pretrained", "outer_iters", "inner_iters_perm", "inner_iters_phi"),
        *("lr", "lr_drop", "lr_decay", "wd", "momentum", "val_freq"),
    ),
    "attack": ("epsilon", "attack_step", "attack_steps"),
    "evaluation": ("num_points", "bn_images", "repair", "ensemble", "eval_train"),
    "computation": ("batch_size", "num_workers", "device", "precision", "compile"),
    "figures": ("cmap", "no_title", "show"),
    "files": ("file", "key", "root", "dir", "name", "out", "json", "save_freq", "resume", "overwrite", "log_dir"),
}
GROUP_OF = {name: title for title, names in GROUPS.items() for name in names}


class HelpFormatter(argparse.HelpFormatter):
    """Tells defaults, but for those that depend on other flags, which the help text tells; leaves commands whole."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default == argparse.SUPPRESS:
            return action.help
        words = action.help.removesuffix(" (default: %(default)s)")  # which some versions of Python add
        return f"{words} (default: {_in_words(action.default)})".replace("%", "%%")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith("  ") else fill(line, width, indent) for line in text.split("\n"))


def _in_words(default: object) -> str:
    """A default as one would type it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, list):
        return " ".join(map(_in_words, default))
    return "the repository" if default == REPOSITORY else str(default) or "''"


class Parser(argparse.ArgumentParser):
    """An argparse parser of long flags that are never shortened: --epochs must not be taken for --epochs_model.

    Its help shows flags in GROUPS, in whatever order they were added, and an example.
    """

    def __init__(self, description: str | None, epilog: str | None = None):
        """description: a docstring, of which the first line is taken, and the command; python -OO leaves none."""
        words, _, rest = (description or "").strip().partition("\n")
        example = [f"\n\nexample:\n  {line}" for line in rest.splitlines() if line.startswith("python ")]
        super().__init__(
            description="".join([words, *example]) or None,
            epilog=epilog,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self._groups = {title: self.add_argument_group(title) for title in GROUPS}

    def _add_action(self, action: argparse.Action) -> argparse.Action:
        title = GROUP_OF.get("dir" if action.dest.startswith("dir") else action.dest)
        return self._groups[title]._add_action(action) if title else super()._add_action(action)

    def format_help(self) -> str:
        needed = (action for action in self._actions if action.required)
        words = (" ".join([*action.option_strings[:1], action.metavar or action.dest.upper()]) for action in needed)
        self.usage = " ".join(["%(prog)s [flags]", *words])
        return super().format_help()

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
