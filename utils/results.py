"""What tables and figures share: which evaluated curves are asked for, their names in words, their numbers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models import MODELS
from utils import checkpoint, cli
from utils.errors import UserError
from utils.plane import path_average

# Published alignments in the order of the paper's table: their name in words and their colour everywhere
# (Okabe and Ito's colours, which stay apart for colour-blind readers and in grey print).
ALIGNMENTS = {
    "null": ("unaligned", "#D55E00"),
    "pam_null": ("PAM unaligned", "#E69F00"),
    "pam_corr": ("PAM aligned", "#009E73"),
    "corr": ("aligned", "#0072B2"),
}
OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#7A7A7A", "#000000")


def results_parser(description: str, adversarial: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags of scripts that read evaluated curves, each of which takes several values."""
    parser = argparse.ArgumentParser(
        description=description.strip().splitlines()[0],
        formatter_class=cli.HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", default="FashionMNIST10k")
    add("--model", nargs="+", choices=list(MODELS), default=["TinyTen"])
    add("--seed_a", nargs="+", type=cli.nonnegative_int, default=[1], help="networks A, one a pair")
    add("--seed_b", nargs="+", type=cli.nonnegative_int, default=[2], help="networks B, one a pair")
    add("--alignment", nargs="+", default=["", "corr"])
    add("--epochs", nargs="+", type=cli.nonnegative_int, default=[250], help="epochs of curves; 0: straight lines")
    add("--root", type=Path, default=cli.REPOSITORY, help="folder under which results are found and written")
    add("--name", default="", help="a word for the names of what is written, to keep it beside other figures")
    parser.set_defaults(adversarial=adversarial)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    args = parser.parse_args(argv)
    if len(args.seed_a) != len(args.seed_b):
        parser.error(
            f"--seed_a names {len(args.seed_a)} networks and --seed_b {len(args.seed_b)}; a pair is one of each"
        )
    if any(a == b for a, b in zip(args.seed_a, args.seed_b, strict=True)):
        parser.error("--seed_a and --seed_b name one network twice: a pair needs two networks")
    return args


def output_path(args: argparse.Namespace, kind: str, model: str, suffix: str) -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_DATASET_MODEL[_NAME].SUFFIX."""
    parts = [
        *(["robust"] if args.adversarial else []),
        kind,
        args.dataset,
        model,
        *([args.name] if args.name else []),
    ]
    return args.root / "figures" / f"{'_'.join(parts)}.{suffix}"


class Series(NamedTuple):
    """One line of a figure or table: the same path between every pair."""

    model: str
    alignment: str
    epochs: int
    words: str
    rank: int  # among the curves' numbers of epochs, where there are several

    @property
    def is_line(self) -> bool:
        return self.epochs == 0


def series_of(args: argparse.Namespace, model: str) -> list[Series]:
    curves = sorted(set(args.epochs) - {0})
    series = []
    for epochs in sorted(set(args.epochs)):
        path = "line" if epochs == 0 else "curve" if len(curves) == 1 else f"curve of {epochs} epochs"
        for alignment in args.alignment:
            words = ALIGNMENTS.get(checkpoint.tag(alignment), (alignment,))[0]
            rank = curves.index(epochs) if epochs else 0
            series.append(Series(model, alignment, epochs, f"{path}, {words}", rank))
    return series


def colour(alignment: str, alignments: Sequence[str]) -> str:
    """The alignment's own colour, the same in every figure; unpublished ones take the next free colour."""
    others = [tag for tag in map(checkpoint.tag, alignments) if tag not in ALIGNMENTS]
    tag = checkpoint.tag(alignment)
    return ALIGNMENTS[tag][1] if tag in ALIGNMENTS else OTHER_COLOURS[others.index(tag) % len(OTHER_COLOURS)]


def eval_command(args: argparse.Namespace, series: Series, seed_a: int, seed_b: int) -> str:
    flags = {"seed_a": seed_a, "seed_b": seed_b, "epochs_model": _epochs_model(args, series, seed_a)}
    flags |= {"alignment": series.alignment, "epochs_curve": series.epochs}
    return cli.command("evaluation/eval_curve.py", _one_model(args, series), **flags)


def train_command(args: argparse.Namespace, series: Series, seed_a: int, seed_b: int) -> str:
    flags = {"seed_a": seed_a, "seed_b": seed_b, "epochs_model": _epochs_model(args, series, seed_a)}
    return cli.curve_command(_one_model(args, series), series.alignment, series.epochs, **flags)


def _one_model(args: argparse.Namespace, series: Series) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "model": series.model})


def _epochs_model(args: argparse.Namespace, series: Series, seed: int) -> int:
    """The epochs of the networks that are there, for a command that has to name some; else those of the curve."""
    layout = checkpoint.Layout(args.root, series.model, args.dataset, args.adversarial)
    return (checkpoint.kept_epochs(layout.endpoint_stem(seed)) or [series.epochs or 250])[-1]


def load_series(args: argparse.Namespace, series: Series) -> list[dict[str, np.ndarray]]:
    """The evaluated path of every pair: arrays t, loss, accuracy, length (n,) and coordinates (n, 2).

    Raises UserError, naming the file and the command that makes it, if one is missing or damaged.
    """
    layout = checkpoint.Layout(args.root, series.model, args.dataset, args.adversarial)
    tables = []
    for pair in zip(args.seed_a, args.seed_b, strict=True):
        path = layout.evaluated(series.alignment, *pair, series.epochs)
        maker = eval_command(args, series, *pair)
        names = [name for accuracy in accuracies(args) for name in (accuracy, accuracy.replace("accuracy", "loss"))]
        tables.append(checkpoint.load_arrays(path, maker, "t", "length", "coordinates", *names))
        if not np.array_equal(tables[0]["t"], tables[-1]["t"]):
            raise UserError(f"{path} has other points than that of the first pair; make it with: {maker} --overwrite")
    return tables


def accuracies(args: argparse.Namespace) -> dict[str, str]:
    """The accuracies that an evaluation has, by their name in its file, in words."""
    if args.adversarial:
        return {"accuracy": "clean accuracy", "accuracy_robust": "robust accuracy"}
    return {"accuracy": "accuracy"}


def summary(table: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """The figures of the paper's table: accuracy of the ends, averaged over arc length, and the minimum."""
    accuracy = table[name]
    return {
        "ends": float(accuracy[[0, -1]].mean()),
        "average": path_average(table["length"], accuracy),
        "minimum": float(accuracy.min()),
    }


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (ddof 1) if there is more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
