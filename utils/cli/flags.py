"""The flags of the stages: which there are, what they may be, and what follows from others."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch

from models import MODELS
from utils import distributed
from utils.attack import Attack
from utils.cli.commands import REPOSITORY, default_transform
from utils.curves import CURVES, Curve
from utils.datasets import TRANSFORMS, data_folder, known
from utils.storage.layout import tag

# --- types of flags ----------------------------------------------------------------------------------------


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


def _number(kind: type, text: str, is_valid: Callable, meaning: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
    return value


# --- flags that several stages have ------------------------------------------------------------------------


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, but for those that depend on other flags, which the help text tells."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which images, and where things are."""
    add = parser.add_argument
    add("--dataset", default="FashionMNIST10k", help="a known name, or a folder of images data/NAME/{train,test}")
    add("--num-workers", "--num_workers", type=nonnegative_int, default=4, help="threads that decode images")
    add("--data_path", type=Path, help="folder that holds the datasets (default: ROOT/data, else the repository's)")
    add("--root", type=Path, default=REPOSITORY, help="folder under which all results are written and found")


def stage_parser(description: str, batch_size: int, model: str | None = None) -> argparse.ArgumentParser:
    """A parser with the flags of every stage that runs networks on data; `model` is for a script of one model."""
    # Without abbreviations: --epochs must not be taken for --epochs_model.
    parser = argparse.ArgumentParser(
        description=description.strip().splitlines()[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_dataset_flags(parser)
    add = parser.add_argument
    add(
        "--transform",
        choices=TRANSFORMS,
        help="augmentation and normalization (default: the model's, or Adversarial)",
    )
    add("--batch_size", type=positive_int, default=batch_size, help="images in a batch")
    add("--model", choices=[model] if model else list(MODELS), default=model or "TinyTen", help="architecture")
    add(
        "--use_test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="evaluate on the test set; otherwise on training images held out for it",
    )
    add("--device", help="default: cuda, else mps, else cpu")
    precision_help = "tf32: faster, less exact products on CUDA; bf16: run the networks under autocast"
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help=precision_help)
    parser.set_defaults(robust=False, momentum=0.9)
    return parser


def add_training_flags(parser: argparse.ArgumentParser, epochs: int | None = 200) -> None:
    """The flags of SGD and of a run that can be resumed."""
    add = parser.add_argument
    if epochs is not None:
        add("--epochs", type=positive_int, default=epochs, help="epochs in all, those before a resume included")
    add("--save_freq", type=positive_int, default=200, help="keep a checkpoint every so many epochs, and the last")
    add("--lr", type=positive_float, default=0.1, help="learning rate of the first epoch")
    add("--wd", type=nonnegative_float, default=5e-4, help="weight decay")
    add("--lr_decay", type=positive_float, default=0.9996, help="factor on the learning rate, every epoch")
    add("--lr_drop", type=positive_int, default=20, help="the learning rate is halved every so many epochs")
    add("--seed", type=nonnegative_int, default=1, help="of the initial weights and all random draws")
    add_compile_flag(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    again.add_argument("--overwrite", action="store_true", help="delete the run's checkpoints and start anew")


def add_compile_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks (torch.compile); pays in long runs"
    )


def add_pair_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed_a", type=nonnegative_int, default=1, help="seed of network A, the target")
    parser.add_argument("--seed_b", type=nonnegative_int, default=2, help="seed of network B, which is permuted")


def add_attack_flags(parser: argparse.ArgumentParser, training: bool = False) -> None:
    """The flags that make a stage one of robust networks."""
    add = parser.add_argument
    parser.set_defaults(robust=True)
    add(
        "--epsilon",
        type=intensity,
        help="radius of the attack, as 8/255 (default: 4/255 on Tiny ImageNet, else 8/255)",
    )
    add("--attack_step", type=intensity, help="length of a step of the attack (default: a quarter of 8/255 or 4/255)")
    add("--attack_steps", type=nonnegative_int, default=5, help="number of steps of the attack")
    if training:
        add("--momentum", type=nonnegative_float, default=0.9, help="of SGD (Nesterov)")


CURVE_FLAGS = ("curve", "num_bends", "fix_start", "fix_end", "init_linear_off")


def add_robust_flag(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--adversarial", dest="robust", action="store_true", help=help_text)


def add_curve_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--curve", "--curve_type", choices=CURVES, default="Bezier", help="family of the curve")
    add("--num_bends", type=at_least_two, default=3, help="control points, the two ends included")
    add("--fix_start", action=argparse.BooleanOptionalAction, default=True, help="keep A where it is")
    add("--fix_end", action=argparse.BooleanOptionalAction, default=True, help="keep B where it is")
    add("--init_linear_off", action="store_true", help="begin at random networks, not on the line from A to B")


def add_alignment_flag(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--alignment", default="", help="name of the match that permutes B, as corr; '' for none")
    add("--epochs_model", type=positive_int, default=200, help="epochs for which the two networks were trained")


def add_pair_folders(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dir_models", type=Path, help="folder of networks instead of model_dicts/basic_models")
    add("--dir_alignment", type=Path, help="folder of matches instead of model_dicts/paired_models")


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of stages that evaluate networks with batch-norm statistics re-estimated for them."""
    add = parser.add_argument
    add_compile_flag(parser)
    add("--bn_images", type=positive_int, help="re-estimate batch norm on so many training images (default: all)")
    add("--overwrite", action="store_true", help="evaluate again what has been evaluated otherwise")


def add_path_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name a path between two networks: a learned curve, or the straight line."""
    add_pair_flags(parser)
    add_alignment_flag(parser)
    add_pair_folders(parser)
    add = parser.add_argument
    add("--dir_curves", type=Path, help="folder of curves instead of model_dicts/curve_models")
    add("--epochs_curve", type=nonnegative_int, help="epochs of the curve; 0 is the straight line")
    add("--seed", type=nonnegative_int, default=1, help="seed with which the curve was learned")
    add("--num_bends", type=at_least_two, default=3, help="control points of the curve, the two ends included")
    add("--curve", "--curve_type", choices=CURVES, default="Bezier", help="family of the curve")
    add("--epochs", type=positive_int, help="whichever of --epochs_model and --epochs_curve is not given")
    parser.set_defaults(epochs_model=None)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and fill in what depends on other flags or on the machine."""
    args = parser.parse_args(argv)
    if hasattr(args, "seed_a") and args.seed_a == args.seed_b:
        parser.error(f"--seed_a and --seed_b are both {args.seed_a}: a pair needs two networks")
    if getattr(args, "transform", "") is None:
        args.transform = default_transform(args.model, args.robust)
    if hasattr(args, "epochs_curve"):
        epochs = args.epochs or 200
        args.epochs_model = epochs if args.epochs_model is None else args.epochs_model
        args.epochs_curve = epochs if args.epochs_curve is None else args.epochs_curve
    if args.robust and tag(getattr(args, "alignment", "")).startswith("pam_"):
        parser.error("--alignment: PAM is for plain networks; use corr or ''")
    args.data_folder = data_folder(args.dataset, data_path=args.data_path, root=args.root)
    args.attack = None
    if getattr(args, "attack_steps", None) is not None:
        published = known(args.dataset).attack_radius
        args.epsilon = published if args.epsilon is None else args.epsilon
        args.attack_step = published / 4 if args.attack_step is None else args.attack_step
        args.attack = Attack(args.epsilon, args.attack_step, args.attack_steps)
    args.device = choose_device(parser, args.device)
    return args


def choose_device(parser: argparse.ArgumentParser, name: str | None) -> torch.device:
    if name is None:
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available() and not distributed.launched():
            name = "mps"
    try:
        device = torch.device(name)
        if distributed.launched():
            if name not in ("cpu", "cuda"):
                parser.error(f"--device {name}: many processes are on cpu or cuda, where each takes a GPU of its own")
            if name == "cuda":
                device = torch.device("cuda", distributed.local_rank())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {name} cannot be used here: {str(error).splitlines()[0]}")
    return device


# --- settings that files keep ------------------------------------------------------------------------------


def run_settings(flags: Mapping[str, object], *names: str) -> dict[str, object]:
    """The flags that decide a run's outcome, which a resumed run must share; `names` are beyond the usual ones."""
    shared = ("dataset", "transform", "model", "batch_size", "use_test", "precision")
    sgd = ("lr", "wd", "lr_decay", "lr_drop", "seed")
    robust = ("momentum", "epsilon", "attack_step", "attack_steps", "epochs") if flags["robust"] else ()
    return {name: flags[name] for name in (*shared, *sgd, *robust, *names)}


def evaluation_settings(flags: Mapping[str, object], curve: Curve, *names: str) -> dict[str, object]:
    """The flags that decide a result's numbers, and the control points it is of; `names` beyond the usual ones."""
    shared = ("transform", "batch_size", "use_test", "precision", "epochs_model", "bn_images", "attack")
    return {name: flags[name] for name in (*shared, *names)} | {"points": curve.digests()}


# --- scripts that read results -----------------------------------------------------------------------------


def results_parser(description: str, *, robust: bool = False, of_all: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags of scripts that read results, each of which takes several values.

    of_all: whether a flag that is not given stands for all there is (and is None); otherwise for one usual value.
    """
    parser = argparse.ArgumentParser(
        description=description.strip().splitlines()[0],
        formatter_class=HelpFormatter,
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
    add("--seed_a", nargs="+", type=nonnegative_int, default=usual(1), help="networks A, one a pair")
    add("--seed_b", nargs="+", type=nonnegative_int, default=usual(2), help="networks B, one a pair")
    add("--alignment", nargs="+", default=usual("", "corr"), help="names of matches; '' for none")
    epochs_help = "epochs of the curves, where there are any; 0: straight lines"
    add("--epochs", nargs="+", type=nonnegative_int, default=usual(250), help=epochs_help)
    add("--root", type=Path, default=REPOSITORY, help="folder under which results are found and written")
    add("--name", default="", help="a word for the names of what is written, to keep it beside other figures")
    parser.set_defaults(robust=robust)
    return parser


def add_figure_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--show", action="store_true", help="open the figures in a window too")


def add_plane_flags(parser: argparse.ArgumentParser) -> None:
    from matplotlib import colormaps  # slow to import, and most stages do without

    help_text = "colour map of matplotlib (default: viridis; reversed for losses, so that bright is good)"
    parser.add_argument("--cmap", choices=list(colormaps), metavar="NAME", help=help_text)


def parse_results(parser: argparse.ArgumentParser, argv: Sequence[str] | None, script: str) -> argparse.Namespace:
    """Parse, and add `pairs` (None for all there are) and `command`, which goes with what is written.

    script: the file of the script.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", str(Path(script).resolve().relative_to(REPOSITORY)), *argv])
    seeds_a, seeds_b = args.seed_a or [], args.seed_b or []
    if len(seeds_a) != len(seeds_b):
        parser.error(f"--seed_a names {len(seeds_a)} networks and --seed_b {len(seeds_b)}; a pair is one of each")
    pairs = list(zip(seeds_a, seeds_b, strict=True))
    if any(a == b for a, b in pairs):
        parser.error("--seed_a and --seed_b name one network twice: a pair needs two networks")
    if args.robust and any(tag(name).startswith("pam_") for name in args.alignment or []):
        parser.error("--alignment: PAM is for plain networks")
    if len(set(pairs)) < len(pairs):
        parser.error("--seed_a and --seed_b name a pair twice; each counts once")
    args.pairs = pairs or None
    return args
