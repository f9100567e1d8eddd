"""Flags of the original code under other names than here: understood, and shown in no help."""

import argparse

from . import types


def _add(parser: argparse.ArgumentParser, flag: str, means: str, **options: object) -> None:
    """`flag` as another name of a flag; `means`: the name under which the parser returns that."""
    parser.add_argument(flag, dest=means, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)


def add_to_alignment(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--model_path", "dir_models", type=types.folder)
    _add(parser, "--dir", "dir_alignment", type=types.folder)
    _add(parser, "--adv_flag", "robust", type=types.truth, nargs="?", const=True)


def add_to_evaluation(parser: argparse.ArgumentParser) -> None:
    """Of what is along a path."""
    _add(parser, "--dir_endpoints", "dir_models", type=types.folder)
    _add(parser, "--dir_midpoints", "dir_curves", type=types.folder)


def add_to_plane_with_alignment(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--epochs", "epochs_model", type=types.positive_int)
    _add(parser, "--alignment_type", "alignment", type=types.word)
    _add(parser, "--alignment_path", "dir_alignment", type=types.folder)
    _add(parser, "--dir_endpoints", "dir_models", type=types.folder)


def add_curve_type(parser: argparse.ArgumentParser, **options: object) -> None:
    _add(parser, "--curve_type", "curve", **options)


def add_to_figures(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--alignment_type", "alignment", type=types.word, nargs="+")
    parser.add_argument("--interp", nargs="*", action=_Interpolation, help=argparse.SUPPRESS)


class _Interpolation(argparse.Action):
    """Refuses, and says what there is."""

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        parser.error(
            "--interp is not known here: lines go through the points that were evaluated (--num_points of the "
            "evaluation), and --epochs 0 draws the straight line between the networks"
        )
