"""The flags of the stages: which there are, what they may be, and what follows from others."""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from ..attack import Attack
from ..curves import CURVES
from ..errors import UserError
from ..losses import BUILT_IN, Loss
from ..training import OPTIMIZERS, robust_rates, step_rates
from .data import TRANSFORMS, Data, data_folder, dataset_info, load_data
from .layout import REPOSITORY, USUAL, dataset_folder, is_path_of_data, tag
from .parser import (
    NEW,
    Parser,
    add_folder_flags,
    at_least_two,
    colour_map,
    dataset_name,
    file_path,
    finite_float,
    folder_path,
    in_robust_folders,
    intensity,
    name_part,
    network_options,
    nonnegative_float,
    nonnegative_int,
    positive_float,
    positive_int,
    replaced_folders,
    seed_number,
    task_name,
)
from .process import choose_device, expect_log, made_on
from .published import CURVE_EPOCHS_HELP, EPOCHS_HELP, FIRST, curve_epochs, default_transform, model_epochs
from .records import Record, code_digest
from .samples import load_samples, read_arrays

# --- flags that several stages have ------------------------------------------------------------------------


def stage_parser(
    description: str | None, script: str, models: ModuleType, *, batch_size: int, model: str | None = None
) -> Parser:
    """A parser with the flags of every stage that runs networks on data; `model` is for a script of one model.

    script: the stage's own file. models: what knows networks by name, as the package of this name does.
    """
    parser = Parser(description, script=script)
    parser.set_defaults(robust=False, momentum=0.9, build=models.builder, found=models.found, made=models.made)
    add_dataset_flags(parser)
    task_help = f"what is learned: {', '.join(BUILT_IN)}, or FILE.py:NAME, a function of (output, batch)"
    parser.images("--task", task_name, "classification", task_help, outcome=NEW)
    transform_help = "augmentation and normalization (default: the model's, standard, or Adversarial)"
    parser.images("--transform", None, None, transform_help, choices=TRANSFORMS, outcome=True)
    moments = {"nargs": 3, "metavar": ("R", "G", "B"), "outcome": NEW}
    mean_help = "of pixels in [0, 1], by which images are normalized (default: the dataset's)"
    parser.images("--mean", finite_float, None, mean_help, **moments)
    parser.images("--std", finite_float, None, "the deviations that go with it (default: the dataset's)", **moments)
    parser.computation("--batch_size", positive_int, batch_size, "images in a batch", outcome=True)
    if model:
        parser.networks("--model", None, model, "the network, which is always this", choices=[model])
    else:
        parser.networks("--model", default=FIRST, **network_options(models, "the network"))
    test_help = "evaluate on the test set; otherwise on training images held out for it"
    parser.images("--use_test", None, True, test_help, action=argparse.BooleanOptionalAction, outcome=True)
    device_help = "what computes: cuda, cuda:1, mps, cpu (default: the first that is available)"
    parser.computation("--device", None, None, device_help)
    precision_help = "tf32: faster, less exact convolutions on CUDA; bf16: run the networks under autocast"
    precisions = ("fp32", "tf32", "bf16")
    parser.computation("--precision", None, "fp32", precision_help, choices=precisions, outcome=True)
    return parser


def add_dataset_flags(parser: Parser) -> None:
    """The flags that say which images, and where things are."""
    dataset_help = "a known name, or that of a folder of images data/NAME/{train,test}; or own data: FILE.py:NAME, a "
    dataset_help += "function that gives (train, test), an .npz file, or the path of a folder of .npy arrays"
    parser.images("--dataset", dataset_name, "FashionMNIST10k", dataset_help)
    size_help = "make images square: shorter side to this size, and the middle of it (default: as they are)"
    parser.images("--image_size", positive_int, None, size_help, outcome=NEW)
    parser.computation("--num-workers", nonnegative_int, 4, "threads that decode images")
    parser.add_alias("--num_workers", "num_workers", type=nonnegative_int)
    path_help = "folder that holds the datasets (default: ROOT/data, else the repository's)"
    parser.images("--data_path", folder_path, None, path_help)
    parser.files("--root", folder_path, REPOSITORY, "folder under which all results are written and found")


LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3, "adam": 1e-3}  # as published; as torch has them


def rates(args: argparse.Namespace) -> list[float]:
    """The learning rate of each epoch: the robust schedule, or the one that flags set."""
    if args.robust:
        return robust_rates(args.epochs, args.lr)
    return step_rates(args.epochs, args.lr, args.lr_drop, args.lr_decay)


def add_training_flags(parser: Parser) -> None:
    """The flags of SGD and of a run that can be resumed."""
    parser.files("--save_freq", positive_int, 200, "keep a checkpoint every so many epochs, and the last")
    kinds_help = "sgd, with Nesterov's momentum, as published; adamw, whose weight decay is its own; or adam"
    parser.optimization("--optimizer", None, "sgd", kinds_help, choices=OPTIMIZERS, outcome=NEW)
    rates_help = "learning rate of the first epoch (default: 0.1, and 0.001 of adamw and adam)"
    parser.optimization("--lr", positive_float, None, rates_help, outcome=True)
    parser.optimization("--wd", nonnegative_float, 5e-4, "weight decay", outcome=True)
    decay_help = "factor on the learning rate, every epoch"
    parser.optimization("--lr_decay", positive_float, 0.9996, decay_help, outcome=True)
    drop_help = "the learning rate is halved every so many epochs"
    parser.optimization("--lr_drop", positive_int, 20, drop_help, outcome=True)
    parser.networks("--seed", seed_number, 1, "of the initial weights and all random draws", outcome=True)
    log_help = "write loss, accuracy and learning rate of every epoch there, for TensorBoard (default: nowhere)"
    parser.files("--log_dir", folder_path, None, log_help, metavar="DIR")
    add_compile_flag(parser)
    again = parser.groups["files"].add_mutually_exclusive_group()
    resume_help = "go on from the newest checkpoint, if there is one, or from the checkpoint in this file"
    resumed = {"nargs": "?", "type": file_path, "const": True, "default": False, "metavar": "FILE"}
    again.add_argument("--resume", help=resume_help, **resumed)
    again.add_argument("--ckpt", dest="resume", default=argparse.SUPPRESS, type=file_path, help=argparse.SUPPRESS)
    again.add_argument("--overwrite", action="store_true", help="delete the run's checkpoints and start anew")


def training_parser(
    description: str | None, script: str, models: ModuleType, epochs_help: str, *, robust: bool
) -> Parser:
    """A parser with the flags of a stage that learns a network or a curve, robust or not, for --epochs epochs."""
    parser = stage_parser(description, script, models, batch_size=128)
    add_training_flags(parser)
    words = f"epochs in all, those before a resume included ({epochs_help})"
    parser.networks("--epochs", positive_int, None, words, outcome=robust)
    if robust:
        add_attack_flags(parser)
        momentum_help = "of SGD (Nesterov), or β1 of adamw and adam"
        parser.optimization("--momentum", nonnegative_float, 0.9, momentum_help, outcome=attrgetter("robust"))
    return parser


def add_compile_flag(parser: Parser) -> None:
    compile_help = "compile the networks (torch.compile); pays in long runs"
    parser.computation("--compile", None, False, compile_help, action="store_true")


def add_pair_flags(parser: Parser) -> None:
    parser.networks("--seed_a", seed_number, 1, "seed of network A, the target")
    parser.networks("--seed_b", seed_number, 2, "seed of network B, which is permuted")


ATTACK_STEPS = 5  # as published


def add_attack_flags(parser: Parser) -> None:
    """The flags that make a stage one of robust networks."""
    of_robust = attrgetter("robust")  # a stage may be of plain ones too
    parser.set_defaults(robust=True)
    radius_help = "radius of the attack, as 8/255 (default: 4/255 on Tiny ImageNet, else 8/255)"
    parser.attack("--epsilon", intensity, None, radius_help, outcome=of_robust)
    step_help = "length of a step of the attack (default: a quarter of 8/255 or 4/255)"
    parser.attack("--attack_step", intensity, None, step_help, outcome=of_robust)
    parser.attack("--attack_steps", nonnegative_int, ATTACK_STEPS, "number of steps of the attack", outcome=of_robust)


def add_robust_flag(parser: Parser, help_text: str) -> None:
    parser.networks("--adversarial", None, False, help_text, dest="robust", action="store_true")


def add_curve_flags(parser: Parser) -> None:
    add_family_flags(parser, outcome=True)
    fixed = {"action": argparse.BooleanOptionalAction, "outcome": True}
    parser.networks("--fix_start", None, True, "keep A where it is", **fixed)
    parser.networks("--fix_end", None, True, "keep B where it is", **fixed)
    off_help = "begin at random networks, not on the line from A to B"
    parser.networks("--init_linear_off", None, False, off_help, action="store_true", outcome=NEW)


def add_family_flags(parser: Parser, *, outcome: bool = False) -> None:
    bends_help = "control points of the curve, the two ends included"
    parser.networks("--num_bends", at_least_two, 3, bends_help, outcome=outcome)
    parser.networks("--curve", None, "Bezier", "family of the curve", choices=CURVES, outcome=outcome)
    parser.add_alias("--curve_type", "curve", choices=CURVES)


def add_alignment_flag(parser: Parser) -> None:
    parser.networks("--alignment", name_part, "", "name of the match that permutes B, as corr; '' for none")
    epochs_help = f"epochs for which the two networks were trained ({EPOCHS_HELP})"
    parser.networks("--epochs_model", positive_int, None, epochs_help, outcome=True)


def add_evaluation_flags(parser: Parser) -> None:
    """The flags of stages that evaluate networks with batch-norm statistics re-estimated for them."""
    add_compile_flag(parser)
    images_help = "re-estimate batch norm on so many training images (default: all)"
    parser.evaluation("--bn_images", positive_int, None, images_help, outcome=True)
    repair_help = "let activations vary as between the ends (REPAIR), in networks without batch norm"
    parser.evaluation("--repair", None, False, repair_help, action="store_true", outcome=NEW)
    overwrite_help = "evaluate again what has been evaluated otherwise"
    parser.files("--overwrite", None, False, overwrite_help, action="store_true")


def path_parser(description: str | None, script: str, models: ModuleType, *, attacks: bool = False) -> Parser:
    """A parser with the flags of a stage that evaluates a path between two networks: a learned curve, or the line.

    attacks: whether with the flags of attacks.
    """
    parser = stage_parser(description, script, models, batch_size=512)
    if attacks:
        add_attack_flags(parser)
    add_pair_flags(parser)
    add_alignment_flag(parser)
    curve_help = f"epochs of the curve; 0 is the straight line ({CURVE_EPOCHS_HELP})"
    parser.networks("--epochs_curve", nonnegative_int, None, curve_help)
    parser.networks("--seed", seed_number, 1, "seed with which the curve was learned")
    add_family_flags(parser)
    epochs_help = "whichever of --epochs_model and --epochs_curve is not given (default: theirs)"
    parser.networks("--epochs", positive_int, None, epochs_help)
    add_folder_flags(parser)
    add_evaluation_flags(parser)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None, *, fp32_only: bool = False) -> argparse.Namespace:
    """Parse, and fill in what depends on other flags or on the machine.

    And add `images`, the keywords of `load_data`, `build`, which makes the network for so many classes, and
    `record`, which goes with what is written.

    fp32_only: for stages that align. A rounded activation correlates with others than the activation itself does.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    _replace_folders(parser, args)
    if hasattr(args, "seed_a") and args.seed_a == args.seed_b:
        parser.error(f"--seed_a and --seed_b are both {args.seed_a}: a pair needs two networks")
    if fp32_only and args.precision != "fp32":
        parser.error(f"--precision {args.precision}: activations are compared in fp32 only")
    if getattr(args, "optimizer", "sgd") != "sgd" and args.momentum >= 1:
        parser.error(f"--momentum {args.momentum:g}: the β1 of {args.optimizer} is below 1")
    if "optimizer" in args and args.lr is None:
        args.lr = LEARNING_RATES[args.optimizer]
    if is_path_of_data(args.dataset):
        _expect_as_they_are(parser, args)
    if args.robust and args.task != "classification":
        parser.error(f"--task {args.task}: adversarial attacks are on classification")
    if getattr(args, "transform", "") is None:
        args.transform = default_transform(args.model, args.robust)
    if hasattr(args, "mean"):
        if (args.mean is None) != (args.std is None):
            parser.error("--mean and --std go together: give both, or none")
        if args.std and min(args.std) <= 0:
            parser.error("--std: a deviation is above 0")
        args.moments = [args.mean, args.std] if args.mean else None
    _complete_epochs(parser, args)
    if args.robust and tag(getattr(args, "alignment", "")).startswith("pam_"):
        parser.error("--alignment: PAM is for plain networks; use corr or ''")
    if args.robust and getattr(args, "repair", False):
        parser.error("--repair is for plain networks")
    args.data_folder = data_folder(args.dataset, data_path=args.data_path, root=args.root)
    args.attack = None
    if getattr(args, "attack_steps", None) is not None:
        published = published_attack(args.dataset)
        args.epsilon = published.epsilon if args.epsilon is None else args.epsilon
        args.attack_step = published.step if args.attack_step is None else args.attack_step
        args.attack = Attack(args.epsilon, args.attack_step, args.attack_steps)
    if getattr(args, "log_dir", None):
        expect_log(parser, args.log_dir)
    args.notes = _without_effect(parser, vars(args))
    args.asked_device, args.device = args.device, choose_device(parser, args.device)
    own, args.task = args.task if ":" in args.task else "", dataset_folder(args.task)
    try:
        args.build = args.build(args.model, pretrained=getattr(args, "pretrained", False))
        args.load = _loader(args, args.found(own) if own else args.task)
    except UserError as error:
        parser.error(str(error))
    flags, made = parser.outcome_flags(args), made_on(args.device)
    inputs = {"loss": code_digest(own).get("code", "")} if own else {}
    args.record = Record((parser.script, *parser.lasting(argv)), flags, inputs, made=made, new=parser.new_flags())
    return args


def _expect_as_they_are(parser: Parser, args: argparse.Namespace) -> None:
    """End with one line where flags would change data that networks see as they are."""
    changing = [f"--{name}" for name in ("mean", "std", "image_size") if getattr(args, name) is not None]
    changing += [] if args.transform in (None, "none") else [f"--transform {args.transform}"]
    if changing or args.robust:
        parser.error(f"--dataset {args.dataset}: seen as it is, without {(*changing, 'adversarial attacks')[0]}")
    args.transform = "none"


def _loader(args: argparse.Namespace, task: Loss) -> Callable[[], Data]:
    """What loads the data that the flags name."""
    name, how = args.dataset, {"use_test": args.use_test, "device": args.device}
    if is_path_of_data(name):
        make = partial(args.made, name) if ":" in name else partial(read_arrays, Path(name).expanduser())
        return partial(load_samples, name, make, task=task, **how)
    how |= {"transform": args.transform, "moments": args.moments, "image_size": args.image_size}
    how |= {"folder": args.data_folder, "threads": args.num_workers}
    return lambda: replace(load_data(name, **how), task=task)


def _replace_folders(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in which folders replace others, and whether they are those of robust networks, if the stage has both."""
    try:
        args.replaced = replaced_folders(vars(args))
    except ValueError as error:
        parser.error(str(error))
    if parser.words("robust", True):
        args.robust |= in_robust_folders(args.replaced)


def _complete_epochs(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in the epochs that are not given. `epochs` are the networks' in a stage that has no others."""
    is_of_path = hasattr(args, "epochs_curve")
    epochs = args.epochs if is_of_path else None
    if epochs is not None and None not in (given := {args.epochs_model, args.epochs_curve}) and epochs not in given:
        parser.error(
            f"--epochs {epochs} stands for nothing: --epochs_model {args.epochs_model} and "
            f"--epochs_curve {args.epochs_curve} are both given"
        )
    of_networks, of_curves = model_epochs(args.robust), curve_epochs(args.model, args.robust)
    usual = {"epochs_model": epochs or of_networks, "epochs_curve": epochs or of_curves}
    if not is_of_path:
        usual["epochs"] = of_curves if hasattr(args, "epochs_model") else of_networks
    for name, value in usual.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)


def _without_effect(parser: Parser, flags: Mapping[str, object]) -> list[str]:
    """What is to be said of flags that change nothing."""
    told = {name for name, value in flags.items() if value != parser.get_default(name)}

    def named(names: set[str]) -> str:
        return " and ".join(f"--{name}" for name in sorted(told & names))

    notes = [why for name, why in parser.unused.items() if name in told]
    if flags["robust"] and flags.get("attack") and (words := named({"lr_decay", "lr_drop"})):
        why = "not in robust training, whose learning rate is constant at first and then falls to 1 %"
        notes.append(f"{words}: {why}.")
    is_line = flags.get("epochs_curve") == 0 and not tag(flags["alignment"]).startswith("pam_")
    if is_line and (words := named({"seed", "num_bends", "curve"})):
        notes.append(f"{words}: the straight line is the same for all curves.")
    if "align_name" in flags and "seed" in told and flags.get("method") not in ("weight", "random"):
        notes.append("--seed: nothing in an alignment is drawn at random, but for --method weight and random.")
    return notes


def published_attack(dataset: str) -> Attack:
    """The attack with the published budget."""
    radius = dataset_info(dataset).attack_radius
    return Attack(radius, radius / 4, ATTACK_STEPS)


# --- scripts that read results -----------------------------------------------------------------------------


def results_parser(
    description: str | None, models: ModuleType, *, robust: bool = False, of_all: bool = False
) -> Parser:
    """A parser with the flags of scripts that read results, each of which takes several values.

    of_all: whether a flag that is not given stands for all there is (and is None); otherwise for one usual value.
    """
    epilog = "What is not asked for by a flag is everything that has been evaluated." if of_all else None
    parser = Parser(description, epilog)

    def usual(*values: object) -> list[object] | None:
        return None if of_all else list(values)

    name = partial(dataset_name, with_folder=False)
    several = {"nargs": "+"} if of_all else {"default": "FashionMNIST10k"}
    parser.images("--dataset", name, help="on which the networks were trained", **several)
    parser.networks("--model", default=usual(FIRST), nargs="+", **network_options(models, "networks"))
    parser.networks("--seed_a", seed_number, usual(1), "networks A, one a pair", nargs="+")
    parser.networks("--seed_b", seed_number, usual(2), "networks B, one a pair", nargs="+")
    parser.networks("--alignment", name_part, usual("", "corr"), "names of matches; '' for none", nargs="+")
    epochs_help = "epochs of the curves, where there are any; 0: straight lines"
    epochs_help += "" if of_all else f"; as many as models (2 or more): one for each model ({CURVE_EPOCHS_HELP})"
    parser.networks("--epochs", nonnegative_int, None, epochs_help, nargs="+")
    parser.files("--root", folder_path, REPOSITORY, "folder under which results are found and written")
    name_help = "a word for the names of what is written, to keep it beside other figures"
    parser.files("--name", name_part, "", name_help)
    parser.set_defaults(robust=robust, curve_seed=None, num_bends=None, curve=None)
    return parser


def add_variant_flags(parser: Parser, *, of_all: bool = False) -> None:
    """The flags that tell curves between the same networks apart; of_all as in `results_parser`."""
    usual = {name: None if of_all else [value] for name, value in USUAL._asdict().items()}
    seed_help = "seed of the curves: one for all pairs, or one a pair"
    parser.networks("--curve_seed", seed_number, usual["seed"], seed_help, nargs="+")
    bends_help = "control points of the curves, the two ends included"
    parser.networks("--num_bends", at_least_two, usual["num_bends"], bends_help, nargs="+")
    parser.networks("--curve", None, usual["curve"], "families of the curves", nargs="+", choices=CURVES)
    parser.add_alias("--curve_type", "curve", nargs="+", choices=CURVES)


def add_figure_flags(parser: Parser) -> None:
    parser.figures("--show", None, False, "open the figures in a window too", action="store_true")
    add_title_flag(parser)


def add_title_flag(parser: Parser) -> None:
    help_text = "draw no titles above figures, as for a paper, which has captions"
    parser.figures("--no_title", None, False, help_text, action="store_true")


def add_plane_flags(parser: Parser) -> None:
    parser.add_unused("--interp", "planes are drawn by contours, and not interpolated as images")
    help_text = "colour map of matplotlib (default: viridis; reversed for losses, so that bright is good)"
    parser.figures("--cmap", colour_map, None, help_text, metavar="NAME")


def parse_results(
    parser: Parser, argv: Sequence[str] | None, script: str, of_curves: bool = True
) -> argparse.Namespace:
    """Parse, and add `pairs` (None for all there are) and `command`, which goes with what is written.

    script: the file of the script. of_curves: whether what it draws is of curves, which have epochs.

    Scripts that draw have also `epochs_of`, the epochs for each model, and `replaced`, as stages have.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser.script = name = Path(script).resolve().relative_to(REPOSITORY).as_posix()
    draws = name.startswith("visualization/")
    if draws:
        parser.add_alias("--alignment_type", "alignment", type=name_part, nargs="+")
        add_folder_flags(parser, argv)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", name, *argv])
    args.notes = _without_effect(parser, vars(args))
    if draws:
        _complete_for_figures(parser, args, of_curves)
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
    return args


def _complete_for_figures(parser: Parser, args: argparse.Namespace, of_curves: bool) -> None:
    _replace_folders(parser, args)
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
