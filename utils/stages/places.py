"""The flags that put other folders in the place of those of the layout: which each script has, under which names."""

import argparse
import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import types
from .layout import FOLDERS, ROBUST_FOLDERS

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
_PATHS = {**_NETWORKS, "curves": "--dir_curves"}
_LAYERWISE = "visualization/layerwise_mean_correlation/"

# By kind of folder, as in utils.stages.layout
FLAGS = {
    "training/train_model.py": {"models": "--dir", "model_history": "--dir2"},
    "training/import_checkpoint.py": {"models": "--dir"},
    "training/train_curve.py": {**_NETWORKS, "curves": "--dir", "curve_history": "--dir2"},
    "training/train_curve_pam.py": {**_NETWORKS, "curves": "--dir", "curve_history": "--dir2"},
    "alignment/align_models.py": {**_NETWORKS, "correlations": "--dir2"},
    "alignment/align_many.py": {**_NETWORKS, "correlations": "--dir2"},
    "alignment/align_along_curve.py": {**_PATHS, "correlations": "--dir"},
    "evaluation/eval_curve.py": {**_PATHS, "evaluated": "--dir"},
    "evaluation/export_point.py": _PATHS,
    "evaluation/eval_plane_with_curve.py": {**_PATHS, "planes_with_curve": "--dir"},
    "evaluation/eval_plane_with_alignment.py": {**_NETWORKS, "planes_with_alignment": "--dir"},
    "visualization/viz_curve.py": {**_PATHS, "evaluated": "--dir", "curve_history": "--dir2"},
    "visualization/viz_curve_on_plane.py": {**_PATHS, "planes_with_curve": "--dir", "evaluated": "--dir2"},
    "visualization/viz_plane.py": {**_NETWORKS, "planes_with_alignment": "--dir"},
    f"{_LAYERWISE}viz_align_models.py": {**_NETWORKS, "correlations": "--dir"},
    f"{_LAYERWISE}viz_align_along_curves.py": {**_PATHS, "correlations": "--dir"},
}

_WORDS = {
    "models": "networks",
    "matches": "matches",
    "curves": "curves",
    "model_history": "histories",
    "curve_history": "histories",
}


def add_flags(parser: argparse.ArgumentParser, script: str) -> None:
    """The flags of a script; those that only the original code has, and all of figures, stand in no help."""
    for kind, flag in FLAGS[script].items():
        shown = script.startswith("training/") or (flag.startswith("--dir_") and script[:3] != "vis")
        words = f"folder of {_WORDS[kind]} instead of {FOLDERS[kind]}" if shown else argparse.SUPPRESS
        parser.add_argument(flag, type=types.folder, help=words)
    parser.set_defaults(script=script)


def replaced(flags: Mapping[str, object]) -> dict[str, Path]:
    """The folders that the flags of a script put in the place of others, by kind.

    A folder under a published name is of the kind that the name tells, whichever of the original's flags it is given
    to; with our own flags the two have to agree. ValueError if they do not, or if the script uses no such folder.
    """
    script = flags.get("script", "")
    usual = {_name(flag): kind for kind, flag in FLAGS.get(script, {}).items()}
    is_free = script.startswith(("visualization/", "alignment/align_models"))
    folders = {}
    for name, folder in flags.items():
        if not name.startswith("dir") or folder is None:
            continue
        told = _kind(folder)
        kind = told or usual.get(name)
        if kind not in usual.values() or (not is_free and kind != usual[name]):
            here = ", ".join(sorted({FOLDERS[one] for one in usual.values()}))
            raise ValueError(f"--{name} {folder} is not in the place of a folder that this script uses: {here}")
        folders[kind] = folder
    return folders


def told(script: str, folders: Mapping[str, Path]) -> dict[str, Path]:
    """The flags by which a script is told of these folders, as far as it has them."""
    known = FLAGS.get(TWINS.get(script, script), {})
    return {_name(flag): folders[kind] for kind, flag in known.items() if kind in folders}


def _name(flag: str) -> str:
    return flag.lstrip("-")


def add_all_in(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Whatever flags begin with --dir, of which the original's scripts for figures have several."""
    for flag in dict.fromkeys(re.match(r"(--dir\w*)?", word)[0] for word in argv):
        with contextlib.suppress(argparse.ArgumentError):  # there is one already
            if flag:
                parser.add_argument(flag, type=types.folder, help=argparse.SUPPRESS)


def _kind(folder: Path) -> str | None:
    """The kind of a folder with a published name, or of one in it."""
    path = f"{folder.resolve()}/"
    kinds = (*FOLDERS.items(), *ROBUST_FOLDERS.items())
    return next((kind for kind, usual in kinds if f"/{usual}/" in path), None)
