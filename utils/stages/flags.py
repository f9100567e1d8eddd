"""The flags of the stages: which there are, in groups that stages take, and what follows from others."""

import argparse
import contextlib
import math
import re
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from operator import attrgetter, methodcaller
from pathlib import Path
from types import ModuleType

from ..attack import Attack
from ..curves import CURVES, Curve, batch_norm_layers
from ..devices import memory_format
from ..errors import UserError
from ..losses import BUILT_IN, Loss
from ..training import OPTIMIZERS, robust_rates, step_rates
from .data import TRANSFORMS, Data, data_folder, dataset_info, load_data, why_no_name
from .files import expect, expect_writable
from .folders import TEST_FOLDERS
from .hints import TWINS, Here, folder_names
from .layout import (
    EPOCHS_HELP,
    FIRST,
    FOLDERS,
    REPOSITORY,
    ROBUST_FOLDERS,
    TEXT,
    USUAL,
    Layout,
    Variant,
    curve_epochs,
    dataset_folder,
    default_transform,
    full_name,
    is_path_of_data,
    model_epochs,
    tag,
)
from .loading import load_curve
from .parser import DECIDES, NEW, PASSING, Parser
from .process import choose_device, expect_log, made_on
from .records import Record, behind, code_digest
from .samples import load_samples, load_text, read_arrays

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
one_or_three = _number(int, lambda value: value in (1, 3), "1 or 3")
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


def partner(seed: int) -> int:
    """The seed of the network with which one makes a pair, as 1 and 2 do, or 3 and 4."""
    return seed + 1 if seed % 2 and seed < LARGEST_SEED else abs(seed - 1)


# --- which there are ---------------------------------------------------------------------------------------

ATTACK_STEPS = 5  # as published
PRECISIONS = ("fp32", "tf32", "bf16")
OF_ROBUST = attrgetter("robust")  # the outcome of flags in stages that may be of plain networks too

images, networks, optimization, attack, computation, evaluation, figures, files = (
    partial(methodcaller, title)
    for title in ("images", "networks", "optimization", "attack", "computation", "evaluation", "figures", "files")
)
DATASETS_HELP = (
    "a known name, or that of a folder of images data/NAME/{train,test}; or own data: FILE.py:NAME, a function that "
    "gives (train, test), an .npz file, the path of a folder of .npy arrays, or text:FILE, bytes or .npy token ids"
)
TASKS_HELP = f"what is learned: {', '.join(BUILT_IN)}, or FILE.py:NAME, a function of (output, batch)"
LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3, "adam": 1e-3}  # as published; as torch has them

by_channel = partial(images, type=finite_float, outcome=NEW, nargs="+", metavar="X")

GROUPS = {  # by the names by which `stage_parser` and `results_parser` take them
    "data": (
        images("--dataset", dataset_name, "FashionMNIST10k", DATASETS_HELP),
        images("--context", positive_int, None, "of text:FILE, the tokens of a sample (default: 64)", NEW),
        images("--image_size", positive_int, None, "make them square, of this size (default: as they are)", NEW),
        images("--channels", one_or_three, 3, "3, or 1: grey images, for networks of one channel", NEW),
        images("--data_path", folder_path, None, "of the datasets (default: ROOT/data, else the repository's)"),
        computation("--num-workers", nonnegative_int, 4, "threads that decode images", also=["--num_workers"]),
        files("--root", folder_path, REPOSITORY, "folder under which all results are written and found"),
    ),
    "stage": (
        images("--task", task_name, "classification", TASKS_HELP, NEW),
        images("--transform", TRANSFORMS, None, "augmentation and normalization (default: the model's)", DECIDES),
        by_channel("--mean", help="of pixels in [0, 1], by which images are normalized (default: the dataset's)"),
        by_channel("--std", help="the deviations that go with it (default: the dataset's)"),
        images("--use_test", bool, True, "evaluate on the test set, or else on held-out training images", DECIDES),
        computation("--batch_size", positive_int, 512, "images in a batch", DECIDES),
        computation("--device", None, None, "cuda, cuda:1, mps or cpu (default: the first that is there)"),
        computation("--precision", PRECISIONS, "fp32", "tf32: in CUDA's convolutions; bf16: under autocast", DECIDES),
    ),
    "compile": (computation("--compile", bool, False, "compile the networks (torch.compile); pays in long runs"),),
    "sgd": (
        files("--save_freq", positive_int, 200, "keep a checkpoint every so many epochs, and the last"),
        files("--log_dir", folder_path, None, "write scalars for TensorBoard there, every epoch (default: nowhere)"),
        optimization("--optimizer", OPTIMIZERS, "sgd", "sgd (Nesterov), as published, adamw or adam", NEW),
        optimization("--lr", positive_float, None, "of the first epoch (default: 0.1; 0.001 of adam(w))", DECIDES),
        optimization("--wd", nonnegative_float, 5e-4, "weight decay", DECIDES),
        optimization("--lr_decay", positive_float, 0.9996, "factor on the learning rate, every epoch", DECIDES),
        optimization("--lr_drop", positive_int, 20, "the learning rate is halved every so many epochs", DECIDES),
        networks("--seed", seed_number, 1, "of the initial weights and all random draws", DECIDES),
    ),
    "momentum": (optimization("--momentum", nonnegative_float, 0.9, "Nesterov's, or β1 of adam(w)", OF_ROBUST),),
    "epochs": (networks("--epochs", positive_int, None, f"in all, resumed or not ({EPOCHS_HELP})", OF_ROBUST),),
    "trained": (networks("--epochs", positive_int, None, f"epochs of the networks ({EPOCHS_HELP})", DECIDES),),
    "attack": (
        attack("--epsilon", intensity, None, "radius (default: 4/255 on Tiny ImageNet, else 8/255)", OF_ROBUST),
        attack("--attack_step", intensity, None, "length of a step (default: a quarter of that)", OF_ROBUST),
        attack("--attack_steps", nonnegative_int, ATTACK_STEPS, "number of steps of the attack", OF_ROBUST),
    ),
    "pair": (
        networks("--seed_a", seed_number, 1, "seed of network A, the target"),
        networks("--seed_b", seed_number, 2, "seed of network B, which is permuted"),
    ),
    "alignment": (
        networks("--alignment", name_part, "", "name of the match that permutes B, as corr; '' for none"),
        networks("--epochs_model", positive_int, None, f"epochs of the two networks ({EPOCHS_HELP})", DECIDES),
    ),
    "curve": (
        networks("--num_bends", at_least_two, 3, "control points of the curve, the two ends included", DECIDES),
        networks("--curve", CURVES, "Bezier", "family of the curve", DECIDES, also=["--curve_type"]),
        networks("--fix_start", bool, True, "keep A where it is", DECIDES),
        networks("--fix_end", bool, True, "keep B where it is", DECIDES),
        networks("--init_linear_off", bool, False, "begin at random networks, not on the line from A to B", NEW),
    ),
    "path": (
        networks("--epochs_curve", nonnegative_int, None, f"of the curve; 0: the line ({EPOCHS_HELP})"),
        networks("--epochs", positive_int, None, "of the networks or curve, where not given (default: theirs)"),
        networks("--seed", seed_number, 1, "seed with which the curve was learned"),
        networks("--num_bends", at_least_two, 3, "control points of the curve, the two ends included"),
        networks("--curve", CURVES, "Bezier", "family of the curve", also=["--curve_type"]),
    ),
    "evaluation": (
        evaluation("--bn_images", positive_int, None, "training images for batch norm (default: all)", DECIDES),
        evaluation("--repair", bool, False, "let activations vary as between the ends (REPAIR)", NEW),
        files("--overwrite", bool, False, "evaluate again what has been evaluated otherwise"),
    ),
    "results": (
        networks("--seed_a", seed_number, [1], "networks A, one a pair", nargs="+"),
        networks("--seed_b", seed_number, [2], "networks B, one a pair", nargs="+"),
        networks("--alignment", name_part, ["", "corr"], "names of matches; '' for none", nargs="+"),
        files("--root", folder_path, REPOSITORY, "folder under which results are found and written"),
        files("--name", name_part, "", "a word for the names of what is written, to keep it beside other figures"),
    ),
    "variants": (
        networks("--curve_seed", seed_number, [USUAL.seed], "seed of the curves: one, or one a pair", nargs="+"),
        networks("--num_bends", at_least_two, [USUAL.num_bends], "control points of the curves", nargs="+"),
        networks("--curve", CURVES, [USUAL.curve], "families of the curves", also=["--curve_type"], nargs="+"),
    ),
    "show": (figures("--show", bool, False, "open the figures in a window too"),),
    "titles": (figures("--no_title", bool, False, "draw no titles above figures, as for a paper with captions"),),
    "planes": (figures("--cmap", colour_map, None, "of matplotlib (default: viridis; reversed for losses)"),),
}
PATH = "pair alignment path compile evaluation"  # of stages that evaluate a learned curve, or the line


def take(parser: Parser, groups: str) -> None:
    """Add the flags of these GROUPS."""
    for name in groups.split():
        for add in GROUPS[name]:
            add(parser)


def stage_parser(
    description: str | None, script: str, models: ModuleType, groups: str = "", *, model: str | None = None
) -> Parser:
    """A parser with the flags of every stage that runs networks on data, and those of GROUPS named in `groups`.

    script: the stage's own file. models: what knows networks by name, as the package of this name does. model: of a
    script of one model.
    """
    parser = Parser(description, script)
    is_robust, learns = "attack" in groups.split(), "sgd" in groups.split()
    parser.set_defaults(
        robust=is_robust, pretrained=False, momentum=0.9, build=models.builder, found=models.found, made=models.made
    )
    take(parser, f"data stage {groups}")
    if model:
        parser.networks("--model", [model], model, "the network, which is always this")
    else:
        parser.networks("--model", default=FIRST, **network_options(models, "the network"))
    if learns:
        take(parser, "compile")
        parser.set_defaults(batch_size=128)
        again = parser.groups["files"].add_mutually_exclusive_group()
        resumed = {"nargs": "?", "type": file_path, "const": True, "default": False, "metavar": "FILE"}
        again.add_argument("--resume", help="go on from the newest checkpoint, or from that in this file", **resumed)
        again.add_argument("--ckpt", dest="resume", default=argparse.SUPPRESS, type=file_path, help=argparse.SUPPRESS)
        again.add_argument("--overwrite", action="store_true", help="delete the run's checkpoints and start anew")
    add_folder_flags(parser)
    return parser


def add_folder_flags(parser: Parser, argv: Sequence[str] = ()) -> None:
    """The folder flags of its script; those that only the original code has, and all of figures, stand in no help.

    argv: of scripts for figures. Whatever in it begins with --dir is understood, as the original has several such.
    """
    for kind, (name, *others) in folder_names(parser.script).items():
        shown = parser.script.startswith("training/") or (name.startswith("--dir_") and parser.script[:3] != "vis")
        words = f"of {kind.replace('_', ' ')}, instead of {FOLDERS[kind]}" if shown else argparse.SUPPRESS
        parser.files(name, folder_path, None, words, also=others)
    for flag in dict.fromkeys(re.match(r"(--dir\w*)?", word)[0] for word in argv):
        with contextlib.suppress(argparse.ArgumentError):  # it exists already
            if flag:
                parser.add_argument(flag, type=folder_path, help=argparse.SUPPRESS)


# --- what follows from them --------------------------------------------------------------------------------


def parse(parser: Parser, argv: Sequence[str] | None, *, fp32_only: bool = False) -> argparse.Namespace:
    """Parse, and fill in what depends on other flags or on the machine.

    Added are, for the stage: `build`, which makes the network for so many classes and channels, `load`, which gives
    the data, `layout`, `record`, which goes with what is written, `here`, for advice, `is_precision_open`, whether
    another precision is worth naming; and, where there are flags for them, `attack`, `rates`, the learning rate of
    each epoch, `seeds`, and `variant`.

    fp32_only: for stages that align. A rounded activation correlates with others than the activation itself does.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    _replace_folders(parser, args)
    if "seed_a" in args:
        args.seeds = (args.seed_a, args.seed_b)
        if args.seed_a == args.seed_b:
            parser.error(f"--seed_a and --seed_b are both {args.seed_a}: a pair needs two networks")
    args.is_precision_open = not fp32_only and "precision" not in parser.chunks(argv)
    if fp32_only and args.precision != "fp32":
        parser.error(f"--precision {args.precision}: activations are compared in fp32 only")
    if getattr(args, "optimizer", "sgd") != "sgd" and args.momentum >= 1:
        parser.error(f"--momentum {args.momentum:g}: the β1 of {args.optimizer} is below 1")
    if "optimizer" in args and args.lr is None:
        args.lr = LEARNING_RATES[args.optimizer]
    if is_path_of_data(args.dataset):
        _expect_as_they_are(parser, args)
    if args.dataset.startswith(TEXT):
        args.context = args.context or 64
    elif args.context:
        parser.error(f"--context {args.context}: for --dataset text:FILE alone")
    if args.robust and args.task != "classification":
        parser.error(f"--task {args.task}: adversarial attacks are on classification")
    if (args.mean is None) != (args.std is None):
        parser.error("--mean and --std go together: give both, or none")
    if args.std and not len(args.mean) == len(args.std) == args.channels:
        parser.error(f"--mean and --std: one number for each channel, of which images have {args.channels}")
    if args.std and min(args.std) <= 0:
        parser.error("--std: a deviation is above 0")
    _complete_epochs(parser, args)
    if args.robust and tag(getattr(args, "alignment", "")).startswith("pam_"):
        parser.error("--alignment: PAM is for plain networks; use corr or ''")
    if args.robust and getattr(args, "repair", False):
        parser.error("--repair is for plain networks")
    args.attack = None
    if "attack_steps" in args:
        published = published_attack(args.dataset)
        args.epsilon = published.epsilon if args.epsilon is None else args.epsilon
        args.attack_step = published.step if args.attack_step is None else args.attack_step
        args.attack = Attack(args.epsilon, args.attack_step, args.attack_steps)
    if "lr_drop" in args:
        if args.log_dir:
            expect_log(parser, args.log_dir)
        args.rates = robust_rates(args.epochs, args.lr) if args.robust else _step_rates(parser, args)
    args.notes = _without_effect(parser, args)
    args.device = choose_device(parser, args.device)
    args.transform = args.transform or default_transform(args.model, args.robust)
    own, args.task = args.task if ":" in args.task else "", dataset_folder(args.task)
    try:
        args.build = args.build(args.model, pretrained=args.pretrained, context=args.context)
        args.load = _loader(args, args.found(own) if own else args.task)
    except UserError as error:
        parser.error(str(error))
    if "num_bends" in args:
        args.variant = Variant(args.seed, args.num_bends, args.curve)
    args.layout = Layout(args.root, args.model, args.dataset, args.robust, args.replaced)
    args.here = _here(parser, args, argv, args.layout)
    lasting = [word for flag, words in parser.chunks(argv).items() if flag not in PASSING for word in words]
    flags, new = parser.outcome_flags(args)
    inputs = code_digest(args.model) | ({"loss": code_digest(own).get("code", "")} if own else {})
    made, network = made_on(args.device), full_name(args.model)
    args.record = Record((parser.script, *lasting), flags, inputs, made=made, network=network, new=new)
    return args


def name_match(
    parser: Parser, args: argparse.Namespace, usual: str, methods: Collection[str], to: Collection[str]
) -> argparse.Namespace:
    """With the name of the match that is made: the usual one, or one of no other method, number of images or kind.

    to: of methods for many networks.
    """
    args.align_name = args.align_name or usual
    args.here = replace(args.here, match=args.align_name)
    lower = re.sub(r"(_rotations)?(_\d+)?$", "", args.align_name.casefold())
    taken = {*methods, *(f"{of}_{method}" for of in to for method in methods)}
    is_reserved = lower.startswith("w2_") and not usual.startswith("w2_")
    if args.align_name != usual and (is_reserved or lower in taken):
        parser.error(f"--align_name {args.align_name} is the name of a match of another kind than {usual}")
    return args


def parse_each(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As `parse`, and --seed may name several: `networks` is what `parse` gives for each of them alone."""
    argv = sys.argv[1:] if argv is None else argv
    seed = next(action for action in parser._actions if action.dest == "seed")
    seed.nargs = "+"
    args, typed = parser.parse_args(argv), parser.chunks(argv)
    seeds = args.seed if "seed" in typed else [args.seed]
    if len(set(seeds)) < len(seeds):
        parser.error(f"--seed {' '.join(map(str, seeds))} names a network twice")
    if len(seeds) > 1 and isinstance(args.resume, Path):
        parser.error(f"--resume {args.resume}: a file is of one network, and --seed names {len(seeds)}; give no file")
    seed.nargs = None
    lines = [{"": list(argv)}]
    if len(seeds) > 1:
        flag, *words = typed["seed"]
        lines = [typed | {"seed": [flag, word]} for word in words]
    networks = [parse(parser, [word for words in line.values() for word in words]) for line in lines]
    return argparse.Namespace(**vars(networks[0]), networks=networks)


def _expect_as_they_are(parser: Parser, args: argparse.Namespace) -> None:
    """End with one line where flags would change data that networks see as they are."""
    changing = [f"--{name}" for name in ("mean", "std", "image_size") if getattr(args, name) is not None]
    changing += [] if args.channels == 3 else [f"--channels {args.channels}"]
    changing += [] if args.transform in (None, "none") else [f"--transform {args.transform}"]
    if changing or args.robust:
        parser.error(f"--dataset {args.dataset}: seen as it is, without {(*changing, 'adversarial attacks')[0]}")
    args.transform = "none"


def _loader(args: argparse.Namespace, task: Loss) -> Callable[[], Data]:
    """What loads the data that the flags name."""
    name = args.dataset
    if name.startswith(TEXT):
        return partial(load_text, name, args.context, task=task, use_test=args.use_test, device=args.device)
    if is_path_of_data(name):
        make = partial(args.made, name) if ":" in name else partial(read_arrays, Path(name).expanduser())
        return partial(load_samples, name, make, task=task, use_test=args.use_test, device=args.device)
    return partial(
        load_data,
        name,
        transform=args.transform,
        moments=[args.mean, args.std] if args.mean else None,
        image_size=args.image_size,
        channels=args.channels,
        use_test=args.use_test,
        device=args.device,
        folder=data_folder(name, data_path=args.data_path, root=args.root),
        threads=args.num_workers,
        task=task,
    )


def _step_rates(parser: Parser, args: argparse.Namespace) -> list[float]:
    """The learning rate of each epoch; of PAM, as many as either phase has."""
    phases = [getattr(args, name) for name in ("epochs", "inner_iters_perm", "inner_iters_phi") if name in args]
    try:
        return step_rates(max(phases) * getattr(args, "outer_iters", 1), args.lr, args.lr_drop, args.lr_decay)
    except OverflowError:
        parser.error(f"--lr_decay {args.lr_decay:g}: the learning rate would grow beyond all numbers")


def published_attack(dataset: str) -> Attack:
    """The attack with the published budget."""
    radius = dataset_info(dataset).attack_radius
    return Attack(radius, radius / 4, ATTACK_STEPS)


def _replace_folders(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in which folders replace others, by kind; they may be of robust networks, if the stage has both.

    A folder under a published name is of the kind that the name says, whichever of the original's flags names it;
    with our own flags the two have to agree.
    """
    usual = {names[0][2:]: kind for kind, names in folder_names(parser.script).items()}
    is_free = TWINS.get(parser.script, parser.script).startswith(("visualization/", "alignment/align_models"))
    args.replaced = {}
    for name in dict.fromkeys(action.dest for action in parser._actions if action.dest.startswith("dir")):
        if (folder := getattr(args, name)) is None:
            continue
        path, kinds = f"{folder.resolve()}/", (*FOLDERS.items(), *ROBUST_FOLDERS.items())
        kind = next((kind for kind, published in kinds if f"/{published}/" in path), usual.get(name))
        if kind not in usual.values() or (not is_free and kind != usual[name]):
            here = ", ".join(sorted({FOLDERS[one] for one in usual.values()}))
            parser.error(f"--{name} {folder} is not in the place of a folder that this script uses: {here}")
        args.replaced[kind] = folder
        if parser.words("robust", True):
            args.robust |= any(f"/{published}/" in path for published in ROBUST_FOLDERS.values())


def _complete_epochs(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in the epochs that are not given. `epochs` are the networks' in a stage that has no others."""
    usual = {"epochs_model": model_epochs(args.robust), "epochs_curve": curve_epochs(args.model, args.robust)}
    if "epochs_curve" not in args:
        usual["epochs"] = usual["epochs_curve" if "epochs_model" in args else "epochs_model"]
    elif args.epochs is not None:
        given = {args.epochs_model, args.epochs_curve}
        if not {None, args.epochs} & given:
            both = f"--epochs_model {args.epochs_model} and --epochs_curve {args.epochs_curve} are both given"
            parser.error(f"--epochs {args.epochs} stands for nothing: {both}")
        usual = dict.fromkeys(usual, args.epochs)
    for name, value in usual.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)


def _without_effect(parser: Parser, args: argparse.Namespace) -> list[str]:
    """What is to be said of flags that change nothing."""

    def told(*names: str) -> str:
        given = (name for name in names if getattr(args, name, None) != parser.get_default(name))
        return " and ".join(f"--{name}" for name in given)

    notes = [why for name, why in parser.unused.items() if told(name)]
    if args.robust and "lr_drop" in args and (words := told("lr_decay", "lr_drop")):
        why = "not in robust training, whose learning rate is constant at first and then falls to 1 %"
        notes.append(f"{words}: {why}.")
    is_line = getattr(args, "epochs_curve", None) == 0 and not tag(args.alignment).startswith("pam_")
    if is_line and (words := told("curve", "num_bends", "seed")):
        notes.append(f"{words}: the straight line is the same for all curves.")
    if "align_name" in args and told("seed") and getattr(args, "method", "") not in ("weight", "random"):
        notes.append("--seed: nothing in an alignment is drawn at random, but for --method weight and random.")
    return notes


def _here(parser: Parser, args: argparse.Namespace, argv: Sequence[str], layout: Layout) -> Here:
    """What advice needs to know of this stage."""
    repeated = {"device", *(action.dest for action in parser.groups["images"]._group_actions)}
    typed = {flag: words for flag, words in parser.chunks(argv).items() if flag in repeated}
    numbers = ("epochs_model", "epochs_curve", "inner_iters_phi", "epochs")
    epochs = {name: getattr(args, name) for name in numbers if name in args}
    return Here(layout, (parser.script, *argv), typed, epochs)


def drawn(args: argparse.Namespace) -> dict[str, object]:
    """The flags by which scripts for figures name the path that a stage evaluates, and the seed of its curve."""
    path = {"seed_a": args.seed_a, "seed_b": args.seed_b, "alignment": args.alignment, "epochs": args.epochs_curve}
    differing = args.variant.differing.items()
    return path | {("curve_seed" if name == "seed" else name): value for name, value in differing}


def load_path(args: argparse.Namespace, file: Path, *, writes: bool = False) -> tuple[Data, Curve, Record]:
    """The images, the path that a stage evaluates, on the device, and the record of what is made from them in `file`.

    writes: whether more than this file is written to its folder. FileError, before images are loaded, if networks or
    curve are missing, or the folder cannot be written to.
    """
    path = args.layout, args.seeds, args.epochs_model
    made_from = behind(*path, args.alignment, args.epochs_curve, args.variant)
    expect(*made_from.values())
    if writes or args.overwrite or not file.exists():
        expect_writable(file.parent)
    data, named = args.load(), {"alignment": args.alignment, "variant": args.variant}
    curve = load_curve(args.build, args.layout, data, *path[1:], args.epochs_curve, **named)
    curve.to(args.device, memory_format=memory_format(args.device))
    if args.compile:
        curve.compile()
    record = args.record.of(made_from, images=data.digest, points=curve.digests())
    return data, curve, record if batch_norm_layers(curve.base) else record.having(batch_norm=False)


# --- scripts that read results -----------------------------------------------------------------------------


def results_parser(
    description: str | None,
    script: str,
    models: ModuleType,
    groups: str = "",
    *,
    robust: bool = False,
    of_all: bool = False,
) -> Parser:
    """A parser with the flags of scripts that read results, each of which takes several values.

    script, models, groups: as in `stage_parser`. of_all: whether a flag that is not given stands for all there is
    (and is None); otherwise for one usual value.
    """
    epilog = "What is not asked for by a flag is everything that has been evaluated." if of_all else None
    parser = Parser(description, script, epilog)
    parser.set_defaults(robust=robust, curve_seed=None, num_bends=None, curve=None)
    name = partial(dataset_name, with_folder=False)
    one = (None, "+") if of_all else ("FashionMNIST10k", None)
    parser.images("--dataset", name, one[0], "on which the networks were trained", nargs=one[1])
    parser.networks("--model", default=[FIRST], nargs="+", **network_options(models, "networks"))
    take(parser, f"results {groups}")
    if "planes" in groups.split():
        parser.add_unused("--interp", "planes are drawn by contours, and not interpolated as images")
    each = "" if of_all else f"; as many as models (2 or more): one for each model ({EPOCHS_HELP})"
    words = f"epochs of the curves, where there are any; 0: straight lines{each}"
    parser.networks("--epochs", nonnegative_int, None, words, nargs="+")
    if of_all:
        several = (action.dest for action in parser.groups["networks"]._group_actions if action.nargs == "+")
        parser.set_defaults(**dict.fromkeys(several))
    return parser


def parse_results(parser: Parser, argv: Sequence[str] | None, of_curves: bool = True) -> argparse.Namespace:
    """Parse, and add `pairs` (None for all there are), `command`, which goes with what is written, and `here`.

    of_curves: whether what a script draws is of curves, which have epochs. Scripts that draw have also `epochs_of`,
    the epochs for each model, and `replaced`, as stages have.
    """
    argv = sys.argv[1:] if argv is None else argv
    draws = parser.script.startswith("visualization/")
    if draws:
        parser.add_names("alignment", "--alignment_type")
        add_folder_flags(parser, argv)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", parser.script, *argv])
    args.notes = _without_effect(parser, args)
    _replace_folders(parser, args)
    if draws:
        _complete_for_figures(args, of_curves=of_curves)
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
    if pairs and len(args.curve_seed or [1]) not in (1, len(pairs)):
        parser.error(f"--curve_seed names {len(args.curve_seed)} for {len(pairs)} pairs; give one, or one a pair")
    args.here = _here(parser, args, argv, Layout(args.root, "", "", args.robust, args.replaced))
    return args


def _complete_for_figures(args: argparse.Namespace, *, of_curves: bool) -> None:
    if args.epochs is None:
        args.epochs_of = {model: [curve_epochs(model, args.robust)] for model in args.model}
        args.epochs = sorted({epochs for [epochs] in args.epochs_of.values()})
        return
    args.epochs_of = dict.fromkeys(args.model, args.epochs)
    if not of_curves:
        args.notes.append("--epochs: what is drawn here is not of curves, and the same for all their epochs.")
    elif 1 < len(args.model) == len(args.epochs):
        args.epochs_of = {model: [epochs] for model, epochs in zip(args.model, args.epochs, strict=True)}
        args.notes.append("Epochs: " + ", ".join(f"{model} {epochs[0]}" for model, epochs in args.epochs_of.items()))
