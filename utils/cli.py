"""What the stage scripts share on the command line: flags, errors as one line, progress, closing words."""

import argparse
import contextlib
import io
import math
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tqdm import tqdm

from models import MODELS
from utils import checkpoint, distributed
from utils.attack import Attack
from utils.checkpoint import tag
from utils.curves import CURVES
from utils.data import TRANSFORMS
from utils.errors import UserError, first_line

REPOSITORY = Path(__file__).resolve().parent.parent


def run(parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], None]) -> None:
    """Run a stage: a user's mistake ends it with one line and exit code 1 or 2, not with a traceback.

    Started by torchrun, it runs as one of several processes; process 0 alone prints.
    """
    distributed.silence_others()
    args = _parsed(parse_args)
    resumes = " Run it with --resume (and without --overwrite) to go on." if hasattr(args, "resume") else ""
    ended = f"another process of this job has ended, and so does the job.{resumes}"
    if distributed.launched() and distributed.is_main():  # torchrun terminates it when another process has ended
        _at_termination(lambda: _complain(ended, 143))
    try:
        distributed.start(getattr(args, "device", torch.device("cpu")))
        main(args)
        distributed.stop()
    except UserError as error:
        sys.exit(_complain(error, error.exit_code))
    except OSError as error:  # a full disk, a folder that cannot be written
        sys.exit(_complain(f"{error.filename or 'input/output'}: {error.strerror or error}", 1))
    except torch.OutOfMemoryError:
        sys.exit(_complain("the device is out of memory; try a smaller --batch_size", 1))
    except KeyboardInterrupt:
        sys.exit(_complain(f"interrupted.{resumes}", 130))
    except RuntimeError as error:
        if not distributed.is_lost_connection(error):
            raise
        sys.exit(_complain(f"{ended} ({first_line(error)})", 1))


def _at_termination(action: Callable[[], object]) -> None:
    """On SIGTERM do this, in a thread: the main one may be waiting for a device or for another process."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        with sender:  # which must live as long
            while receiver.recv(1)[0] != signal.SIGTERM:
                pass
            action()

    threading.Thread(target=wait, daemon=True).start()


def _parsed(parse_args: Callable[[], argparse.Namespace]) -> argparse.Namespace:
    if distributed.is_main():
        return parse_args()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_args()
    except SystemExit:
        time.sleep(3)  # as in _complain
        print(said.getvalue(), end="", file=sys.stderr, flush=True)
        raise


def _complain(message: object, code: int) -> int:
    if not distributed.is_main():
        # Process 0 mostly meets the same error and says so; torchrun then ends this process in its sleep.
        time.sleep(3)
        message = f"(process {distributed.rank()}) {message}"
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr, flush=True)
    if distributed.launched():
        sys.stdout.flush()
        checkpoint.let_go_all()
        os._exit(code)  # not waiting for the others, who may be waiting for this one
    return code


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
    parser.set_defaults(adversarial=False, momentum=0.9)
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
    parser.set_defaults(adversarial=True)
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


def add_curve_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--curve", choices=CURVES, default="Bezier")
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
    add("--epochs", type=positive_int, help="whichever of --epochs_model and --epochs_curve is not given")
    parser.set_defaults(epochs_model=None)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and fill in what depends on other flags or on the machine."""
    args = parser.parse_args(argv)
    if hasattr(args, "seed_a") and args.seed_a == args.seed_b:
        parser.error(f"--seed_a and --seed_b are both {args.seed_a}: a pair needs two networks")
    if getattr(args, "transform", "") is None:
        args.transform = default_transform(args.model, args.adversarial)
    if hasattr(args, "epochs_curve"):
        epochs = args.epochs or 200
        args.epochs_model = epochs if args.epochs_model is None else args.epochs_model
        args.epochs_curve = epochs if args.epochs_curve is None else args.epochs_curve
    args.attack = None
    if getattr(args, "attack_steps", None) is not None:
        published = 4 / 255 if args.dataset == "TINY-IMAGENET-200" else 8 / 255
        args.epsilon = published if args.epsilon is None else args.epsilon
        args.attack_step = published / 4 if args.attack_step is None else args.attack_step
        args.attack = Attack(args.epsilon, args.attack_step, args.attack_steps)
    if hasattr(args, "device"):
        args.device = choose_device(parser, args.device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    if getattr(args, "compile", False):
        check_compiler(parser, args.device)
    return args


def default_transform(model: str | None, adversarial: bool) -> str:
    if adversarial:
        return "Adversarial_GoogLeNet" if model == "GoogLeNet" else "Adversarial"
    return model


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


def check_compiler(parser: argparse.ArgumentParser, device: torch.device) -> None:
    """End with one line if torch.compile does not work here, and not minutes later with a traceback."""
    torch._dynamo.config.recompile_limit = 64  # a network is compiled for each size of a batch and each mode
    # Of another size in every process, so that it is not taken from torch's cache
    trial = torch.zeros(1_000 + os.getpid(), device=device)
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(trial)
    except Exception as error:  # many kinds, by what is missing
        parser.error(
            f"--compile cannot compile here ({first_line(error)}): install a C++ compiler, as g++ "
            "(on Debian and Ubuntu: apt install g++), for GPUs also triton (pip install triton), or omit --compile"
        )


# --- telling the user --------------------------------------------------------------------------------------


class Progress:
    """A tqdm bar on a terminal; in a log file, only the lines given to `line`, each with the time left."""

    def __init__(self, total: int, unit: str, description: str = "", done: int = 0):
        """done: of `total`, what an earlier process did."""
        self.bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=description,
            disable=None if distributed.is_main() else True,
            leave=False,
            dynamic_ncols=True,
        )
        self.total, self.done, self.start = total - done, 0, time.monotonic()

    @property
    def is_shown(self) -> bool:
        return not self.bar.disable

    def step(self) -> None:
        self.done += 1
        self.bar.n += 1
        self.bar.update(0)

    def reach(self, done: int) -> None:
        """So many of the total are done, with those that other processes did."""
        self.done += done - self.bar.n
        self.bar.n = done
        self.bar.update(0)

    def show(self, **figures: float) -> None:
        """Figures to stand beside the bar."""
        self.bar.set_postfix(figures)

    def line(self, text: str) -> None:
        rest = (time.monotonic() - self.start) / max(self.done, 1) * (self.total - self.done)
        self.bar.write(f"{text}  {_duration(rest)} left", file=sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def print_table(labels: Sequence[str], columns: Mapping[str, Sequence[float]]) -> None:
    """Numbers with three decimals, a line a label, a column a name."""
    print(f"  {'layer':<28}" + "".join(f"{name:>18}" for name in columns))
    for label, *values in zip(labels, *columns.values(), strict=True):
        print(f"  {label:<28}" + "".join(f"{value:18.3f}" for value in values))


def finish(files: Sequence[Path], next_command: str | None = None) -> None:
    """Name the files a stage wrote, and the command that comes next."""
    print("Wrote:")
    for path in files:
        print(f"  {path}")
    if next_command:
        print(f"Next:\n  {next_command}")


ADVERSARIAL_SCRIPTS = {
    "training/train_model.py": "training/train_model_adversarial.py",
    "training/train_curve.py": "training/train_curve_adversarial.py",
    "evaluation/eval_curve.py": "evaluation/eval_adversarial_curve.py",
    "visualization/viz_curve.py": "visualization/viz_adversarial_curve.py",
}


def command(script: str, args: argparse.Namespace, *names: str, **values: object) -> str:
    """The command line of a stage with the flags `names` as they are in `args`, and `values` on top.

    For robust networks, that of its adversarial twin.
    """
    flags = {name: getattr(args, name) for name in ("model", "dataset", *names) if hasattr(args, name)} | values
    adversarial = getattr(args, "adversarial", False)
    script = ADVERSARIAL_SCRIPTS.get(script, script) if adversarial else script
    words = []
    if script.startswith(("training/", "alignment/", "evaluation/eval_")):
        if getattr(args, "transform", None) not in (None, default_transform(flags.get("model"), adversarial)):
            flags["transform"] = args.transform
        folders = () if script.startswith("training/train_model") else ("dir_models", "dir_alignment")
        for name in ("data_path", *folders):
            if getattr(args, name, None) is not None:
                flags.setdefault(name, getattr(args, name))
        if not getattr(args, "use_test", True):
            words.append("--no-use_test")
    if args.root != REPOSITORY:
        flags["root"] = args.root
    if adversarial and script not in ADVERSARIAL_SCRIPTS.values():
        words.append("--adversarial")
    given = [word for name, value in flags.items() for word in (f"--{name}", shlex.quote(str(value)))]
    return " ".join(["python", script, *given, *words])


def made_with(script: str, settings: Mapping[str, object], root: Path) -> str:
    """The command line that the stored settings of a run or a result amount to; flags that are off are left out."""
    words = [] if root == REPOSITORY else ["--root", shlex.quote(str(root))]
    for name, value in settings.items():
        if name == "use_test" and not value or name in ("fix_start", "fix_end") and not value:
            words.append(f"--no-{name}")
        elif name == "attack" and value is not None:
            flags = zip(("--epsilon", "--attack_step", "--attack_steps"), value, strict=True)
            words += [f"{flag} {number!r}" for flag, number in flags]
        elif value is True and name not in ("use_test", "fix_start", "fix_end"):
            words.append(f"--{name}")
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            words.append(f"--{name} {shlex.quote(str(value))}")
    return " ".join(["python", script, *words])


def align_command(args: argparse.Namespace, epochs: int, name: str = "corr", **seeds: int) -> str:
    """The command that makes the match `name`."""
    if name in ("w2_post", "w2_pre"):
        made = command("alignment/align_models_w2.py", args, epochs=epochs, **seeds)
        return made + " --pre_act" if name == "w2_pre" else made
    script = "align_googlenet.py" if args.model == "GoogLeNet" else "align_models.py"
    named = {} if name == "corr" else {"align_name": name}
    return command(f"alignment/{script}", args, epochs=epochs, **seeds, **named)


def curve_command(args: argparse.Namespace, alignment: str, epochs: int, **flags: object) -> str:
    """The command that learns a curve for `epochs` epochs: PAM's, for an alignment that PAM finds."""
    if not tag(alignment).startswith("pam_"):
        return command("training/train_curve.py", args, **flags, alignment=alignment, epochs=epochs)
    start = tag(alignment).removeprefix("pam_").removeprefix("null")
    return command("training/train_curve_pam.py", args, **flags, alignment=start, inner_iters_phi=epochs)
