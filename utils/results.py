"""What tables, figures and the report share: which results there are, their names in words, their numbers."""

import argparse
import json
import re
import shlex
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models import MODELS
from utils import checkpoint, cli
from utils.errors import UserError
from utils.plane import path_average, spectrum

# Alignments in the order of the paper's table, then others that scripts here make: their name in words and their
# colour everywhere (Okabe and Ito's colours, which stay apart for colour-blind readers and in grey print).
ALIGNMENTS = {
    "null": ("unaligned", "#D55E00"),
    "pam_null": ("PAM unaligned", "#E69F00"),
    "pam_corr": ("PAM aligned", "#009E73"),
    "corr": ("aligned", "#0072B2"),
    "w2_post": ("aligned by L2", "#CC79A7"),
    "w2_pre": ("aligned by L2 before activation", "#56B4E9"),
}
OTHER_COLOURS = ("#7A7A7A", "#000000", "#8C564B", "#6A3D9A", "#A6761D")


# --- what is asked for -------------------------------------------------------------------------------------


def results_parser(
    script: str, description: str, adversarial: bool = False, of_all: bool = False
) -> argparse.ArgumentParser:
    """A parser with the flags of scripts that read results, each of which takes several values.

    script: the file of the script, which goes with what it writes as the command that made it.
    of_all: whether a flag that is not given stands for all there is (and is None); otherwise for one usual value.
    """
    parser = argparse.ArgumentParser(
        description=description.strip().splitlines()[0],
        formatter_class=cli.HelpFormatter,
        allow_abbrev=False,
        epilog="What is not asked for by a flag is everything that has been evaluated." if of_all else None,
    )
    add = parser.add_argument

    def usual(*values: object) -> list[object] | None:
        return None if of_all else list(values)

    if of_all:
        add("--dataset", nargs="+")
    else:
        add("--dataset", default="FashionMNIST10k")
    add("--model", nargs="+", choices=list(MODELS), default=usual("TinyTen"))
    add("--seed_a", nargs="+", type=cli.nonnegative_int, default=usual(1), help="networks A, one a pair")
    add("--seed_b", nargs="+", type=cli.nonnegative_int, default=usual(2), help="networks B, one a pair")
    add("--alignment", nargs="+", default=usual("", "corr"), help="names of matches; '' for none")
    epochs_help = "epochs of the curves, where there are any; 0: straight lines"
    add("--epochs", nargs="+", type=cli.nonnegative_int, default=usual(250), help=epochs_help)
    add("--root", type=Path, default=cli.REPOSITORY, help="folder under which results are found and written")
    add("--name", default="", help="a word for the names of what is written, to keep it beside other figures")
    parser.set_defaults(adversarial=adversarial, script=Path(script).resolve().relative_to(cli.REPOSITORY))
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", str(args.script), *argv])
    seeds_a, seeds_b = args.seed_a or [], args.seed_b or []
    if len(seeds_a) != len(seeds_b):
        parser.error(f"--seed_a names {len(seeds_a)} networks and --seed_b {len(seeds_b)}; a pair is one of each")
    pairs = list(zip(seeds_a, seeds_b, strict=True))
    if any(a == b for a, b in pairs):
        parser.error("--seed_a and --seed_b name one network twice: a pair needs two networks")
    if args.adversarial and any(checkpoint.tag(name).startswith("pam_") for name in args.alignment or []):
        parser.error("--alignment: PAM is for plain networks")
    if len(set(pairs)) < len(pairs):
        parser.error("--seed_a and --seed_b name a pair twice; each counts once")
    return args


def output_path(args: argparse.Namespace, kind: str, suffix: str, *subjects: str) -> Path:
    """Where a figure or table goes: figures/[robust_]KIND_SUBJECTS[_NAME].SUFFIX; subjects: dataset and model."""
    parts = [*(["robust"] if args.adversarial else []), kind, *subjects, *([args.name] if args.name else [])]
    return args.root / "figures" / f"{'_'.join(parts)}.{suffix}"


class Series(NamedTuple):
    """One line of a figure or table: the same path between every pair."""

    dataset: str
    model: str
    alignment: str  # '' or null for none
    epochs: int  # of the curve; 0 for the straight line
    words: str
    rank: int = 0  # among the curves' numbers of epochs, where there are several

    @property
    def is_line(self) -> bool:
        return self.epochs == 0


def series_of(args: argparse.Namespace, model: str) -> list[Series]:
    paths = [(epochs, alignment) for epochs in sorted(set(args.epochs)) for alignment in args.alignment]
    return named(args.dataset, model, paths)


def named(dataset: str, model: str, paths: Sequence[tuple[int, str]]) -> list[Series]:
    """The paths (epochs, alignment) with their names in words."""
    curves = sorted({epochs for epochs, _ in paths} - {0})
    series = []
    for epochs, alignment in paths:
        path = "line" if epochs == 0 else "curve" if len(curves) == 1 else f"curve of {epochs} epochs"
        rank = curves.index(epochs) if epochs else 0
        series.append(Series(dataset, model, alignment, epochs, f"{path}, {in_words(alignment)}", rank))
    return series


def in_words(alignment: str) -> str:
    return ALIGNMENTS.get(checkpoint.tag(alignment), (alignment,))[0]


def colour(alignment: str) -> str:
    """The alignment's own colour, the same in every figure; the user's own have one by their name."""
    tag = checkpoint.tag(alignment)
    own = OTHER_COLOURS[zlib.crc32(tag.encode()) % len(OTHER_COLOURS)]
    return ALIGNMENTS.get(tag, (tag, own))[1]


# --- what there is -----------------------------------------------------------------------------------------


class Found(NamedTuple):
    """An evaluated path, as its file name tells."""

    dataset: str
    model: str
    alignment: str
    epochs: int
    pair: tuple[int, int]


def evaluated(root: Path, adversarial: bool) -> list[Found]:
    """All paths under `root` whose evaluation is finished or begun, in the order of the paper's tables."""
    folders = checkpoint.ADVERSARIAL_FOLDERS if adversarial else checkpoint.FOLDERS
    pattern = re.compile(r"curve_align_(.+)_seeds_(\d+)_(\d+)-(\d+)(?:\.partial)?\.npz")
    found = set()
    for path in (root / folders["evaluated"]).glob("*/*/*.npz"):
        if match := pattern.fullmatch(path.name):
            alignment, seed_a, seed_b, epochs = match.groups()
            model, dataset = path.parts[-3:-1]
            found.add(Found(dataset, model, alignment, int(epochs), (int(seed_a), int(seed_b))))
    models = list(MODELS)
    return sorted(
        (one for one in found if one.model in MODELS),
        key=lambda one: (
            one.dataset,
            models.index(one.model),
            one.epochs,
            alignment_order(one.alignment),
            one.pair,
        ),
    )


def alignment_order(tag: str) -> tuple[int, str]:
    """By which alignments are sorted: the paper's and ours first, then by name."""
    known = list(ALIGNMENTS)
    return known.index(tag) if tag in known else len(known), tag


# --- the commands that make what is missing ----------------------------------------------------------------


def maker(args: argparse.Namespace, script: str, series: Series, pair: tuple[int, int], **flags: object) -> str:
    """The command of a stage on one pair, for a path; `flags` on top."""
    known = {"model": series.model, "dataset": series.dataset, "seed_a": pair[0], "seed_b": pair[1]}
    known |= {"epochs_model": _epochs_model(args, series, pair[0]), "alignment": series.alignment}
    return cli.command(script, _of_series(args, series), **known | flags)


def eval_command(args: argparse.Namespace, series: Series, pair: tuple[int, int]) -> str:
    return maker(args, "evaluation/eval_curve.py", series, pair, epochs_curve=series.epochs)


def train_command(args: argparse.Namespace, series: Series, pair: tuple[int, int]) -> str:
    flags = {"seed_a": pair[0], "seed_b": pair[1], "epochs_model": _epochs_model(args, series, pair[0])}
    return cli.curve_command(_of_series(args, series), series.alignment, series.epochs, **flags)


def _of_series(args: argparse.Namespace, series: Series) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "model": series.model, "dataset": series.dataset})


def _epochs_model(args: argparse.Namespace, series: Series, seed: int) -> int:
    """The epochs of the networks that are there, for a command that has to name some; else those of the curve."""
    return (checkpoint.kept_epochs(layout_of(args, series).endpoint_stem(seed)) or [series.epochs or 250])[-1]


def layout_of(args: argparse.Namespace, series: Series) -> checkpoint.Layout:
    return checkpoint.Layout(args.root, series.model, series.dataset, args.adversarial)


# --- reading results ---------------------------------------------------------------------------------------
#
# Each function reads one file, and raises UserError, naming the file and the command that makes it, if the file is
# missing, unfinished, damaged or something else.


def pairs_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    return list(zip(args.seed_a, args.seed_b, strict=True))


def load_path(
    args: argparse.Namespace, series: Series, pair: tuple[int, int], **more_shapes: tuple
) -> dict[str, np.ndarray]:
    """An evaluated path: arrays t, length (of the path up to there), losses and accuracies, each (n,).

    more_shapes: arrays that it must have besides, as `load_arrays` has them.
    """
    path = layout_of(args, series).evaluated(series.alignment, *pair, series.epochs)
    shapes = dict.fromkeys(("t", "length", *quantities(args)), ("n",)) | more_shapes
    return checkpoint.load_arrays(path, eval_command(args, series, pair), **shapes)


def load_paths(args: argparse.Namespace, series: Series, **more_shapes: tuple) -> list[dict[str, np.ndarray]]:
    """The evaluated path of every pair, all at the same points t."""
    tables = [load_path(args, series, pair, **more_shapes) for pair in pairs_of(args)]
    for pair, table in zip(pairs_of(args), tables, strict=True):
        if error := unlike(args, series, pair, tables[0], table):
            raise error
    return tables


def unlike(
    args: argparse.Namespace,
    series: Series,
    pair: tuple[int, int],
    first: dict[str, np.ndarray],
    table: dict[str, np.ndarray],
) -> UserError | None:
    """What forbids to average a pair's evaluated path with that of the first pair: other points, or other flags."""
    flags, others = settings_of(first), settings_of(table)
    different = {
        name: value for name, value in flags.items() if others and name != "points" and value != others.get(name)
    }
    count = len(first["t"])
    if np.array_equal(first["t"], table["t"]) and not different:
        return None
    path = layout_of(args, series).evaluated(series.alignment, *pair, series.epochs)
    told = [f"--{name} {others.get(name)} (there {value})" for name, value in different.items()]
    what = ", ".join(told) or f"{len(table['t'])} points (there {count})"
    wanted = {"num_points": count} | {name: v for name, v in different.items() if type(v) in (int, float, str)}
    command = maker(args, "evaluation/eval_curve.py", series, pair, epochs_curve=series.epochs, **wanted)
    return UserError(
        f"{path} was evaluated unlike that of the first pair, with {what}; make it alike, with: {command} --overwrite"
    )


def load_planes_with_curve(args: argparse.Namespace, series: Series) -> list[dict[str, np.ndarray]]:
    """The plane of a curve for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2), curve (n, 2).

    The curve's coordinates are those of its evaluation; UserError if that is of another curve.
    """
    planes = []
    for pair, table in zip(pairs_of(args), load_paths(args, series, coordinates=("n", 2)), strict=True):
        path = layout_of(args, series).plane_with_curve(series.alignment, *pair, series.epochs)
        command = maker(args, "evaluation/eval_plane_with_curve.py", series, pair, epochs_curve=series.epochs)
        plane = _load_plane(path, command, planes)
        if settings_of(plane).get("points") != settings_of(table).get("points"):
            raise UserError(
                f"{path} is of another curve than was evaluated; "
                f"make both anew: {command} --overwrite, and {eval_command(args, series, pair)} --overwrite"
            )
        planes.append(plane | {"curve": table["coordinates"]})
    return planes


def load_planes_with_alignment(args: argparse.Namespace, series: Series) -> list[dict[str, np.ndarray]]:
    """The plane of A, B and aligned B for every pair: arrays x, y, loss, accuracy (rows, columns), corners (3, 2)."""
    planes = []
    for pair in pairs_of(args):
        path = layout_of(args, series).plane_with_alignment(series.alignment, *pair)
        command = maker(args, "evaluation/eval_plane_with_alignment.py", series, pair)
        planes.append(_load_plane(path, command, planes))
    return planes


def _load_plane(path: Path, command: str, others: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A plane whose grid has to be as large as those of the other pairs."""
    shapes = dict.fromkeys(("x", "y", "loss", "accuracy"), ("rows", "columns"))
    plane = checkpoint.load_arrays(path, command, **shapes, corners=(3, 2))
    size = plane["loss"].shape
    if min(size) < 2:
        raise UserError(f"{path} is not a grid of points; delete it and make it with: {command}")
    if others and size != others[0]["loss"].shape:
        count = len(others[0]["loss"])
        raise UserError(
            f"{path} has a grid of another size than that of the first pair; "
            f"make it with: {command} --num_points {count} --overwrite"
        )
    return plane


def load_along_curve(
    args: argparse.Namespace, series: Series, pair: tuple[int, int], t: float
) -> dict[str, np.ndarray]:
    """Layerwise mean correlations of point t with the ends: {unaligned,aligned}_{a,b}, each (layers,)."""
    path = layout_of(args, series).along_curve(series.alignment, *pair, series.epochs, t)
    command = maker(
        args, "alignment/align_along_curve.py", series, pair, epochs_curve=series.epochs, point_t=f"{t:g}"
    )
    names = [f"{which}_{end}" for which in ("unaligned", "aligned") for end in "ab"]
    return checkpoint.load_arrays(path, command, **dict.fromkeys(names, ("layers",)))


def load_correlation(args: argparse.Namespace, series: Series, pair: tuple[int, int], which: str) -> np.ndarray:
    """Layerwise mean correlation (layers,) of A with B, `which` being unaligned or aligned."""
    epochs = _epochs_model(args, series, pair[0])
    command = cli.align_command(_of_series(args, series), epochs, series.alignment, seed_a=pair[0], seed_b=pair[1])
    return checkpoint.load_array(layout_of(args, series).correlation(series.alignment, which, *pair), command)


def load_histories(args: argparse.Namespace, series: Series) -> list[dict[str, np.ndarray]]:
    return [load_history(args, series, pair) for pair in pairs_of(args)]


def load_history(args: argparse.Namespace, series: Series, pair: tuple[int, int]) -> dict[str, np.ndarray]:
    """A curve's training by epoch: arrays loss_train and accuracy_train, at least as long as the series' epochs."""
    path = layout_of(args, series).curve_history(series.alignment, *pair)
    command = train_command(args, series, pair)
    history = checkpoint.load_arrays(path, command, loss_train=("n",), accuracy_train=("n",))
    if len(history["loss_train"]) < series.epochs:
        raise UserError(f"{path} has fewer than {series.epochs} epochs; make it with: {command} --resume")
    return history


def settings_of(arrays: dict[str, np.ndarray]) -> dict[str, object]:
    """The flags with which a result was made; none are known of a file of other code."""
    return json.loads(str(arrays["settings"])) if "settings" in arrays else {}


# --- numbers -----------------------------------------------------------------------------------------------


def accuracies(args: argparse.Namespace) -> dict[str, str]:
    """The accuracies that an evaluation has, by their name in its file, in words."""
    if args.adversarial:
        return {"accuracy": "clean accuracy", "accuracy_robust": "robust accuracy"}
    return {"accuracy": "accuracy"}


def quantities(args: argparse.Namespace) -> dict[str, str]:
    """All that an evaluation has at each point, by its name in the file: accuracies, then losses, with units."""
    words = {name: f"{word} (%)" for name, word in accuracies(args).items()}
    for name, word in accuracies(args).items():
        words[name.replace("accuracy", "loss")] = f"{word.replace('accuracy', 'loss')} (cross-entropy)"
    return words


def summary(table: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """The figures of the paper's table: accuracy of the ends, averaged over arc length, and the minimum."""
    accuracy = table[name]
    return {
        "ends": float(accuracy[[0, -1]].mean()),
        "average": path_average(table["length"], accuracy),
        "minimum": float(accuracy.min()),
    }


def spectra(args: argparse.Namespace, series: Series, tables: Sequence[dict[str, np.ndarray]]) -> list[dict]:
    """The spectrum of each loss along the path of each pair (`utils.plane.spectrum`).

    Raises UserError for a path of no length or of less than three points, which has none.
    """
    for pair, table in zip(pairs_of(args), tables, strict=True):
        if len(table["t"]) < 3 or not table["length"][-1] > table["length"][0]:
            path = layout_of(args, series).evaluated(series.alignment, *pair, series.epochs)
            command = eval_command(args, series, pair)
            raise UserError(
                f"{path} has too few points or no length, so no spectrum; make it anew with: {command} --overwrite"
            )
    losses = [name for name in quantities(args) if name.startswith("loss")]
    return [{name: spectrum(table["length"], table[name]) for name in losses} for table in tables]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (ddof 1) if there is more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
