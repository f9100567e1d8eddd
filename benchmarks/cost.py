"""Count the floating-point operations of every stage of a preset: what it costs before it is run.

python benchmarks/cost.py presets/paper.yaml --tflops 20

The stages, with their flags, are those that Snakemake would run. Each kind of step that they take (to train on a
batch, attack, evaluate or correlate it) is run once by the stages' own code under torch's flop counter, on fake
tensors, which have shapes and no numbers. Counted are convolutions and matrix products, a multiply-add as two
operations. Not counted is what works elementwise: batch norm, activations, pooling, augmentation, the update of the
weights, the mixing of control points, PAM's projection. For presets/paper.yaml it takes some two minutes.
"""

import argparse
import importlib
import math
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from models import MODELS, build
from utils import activations, matching, measuring, pam
from utils.attack import Attack
from utils.curves import Curve
from utils.errors import FileError, UserError
from utils.stages import data, folders, process
from utils.stages.flags import file_path, positive_float
from utils.symmetries.spec import permutation_spec
from utils.training import VALIDATION_POINTS, CurveTask, NetworkTask


class Numberless(FakeTensorMode):
    """Fake tensors; a number that is asked for, as in checks that all are finite, is 1."""

    def dispatch(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return super().dispatch(func, types, args, kwargs)


# Tensors that claim to be on the CPU. They meet some of the stages' that are real: random draws, PAM's matrices.
FAKE = Numberless(allow_non_fake_inputs=True)

Step = Callable[[torch.Tensor, torch.Tensor], object]  # of images (b, 3, H, W) and labels (b,)


class Dataset(NamedTuple):
    train: int  # images
    test: int
    size: tuple[int, int]  # height and width
    classes: int


DATASETS = {
    "CIFAR10": Dataset(50_000, 10_000, (32, 32), 10),
    "cifar10-jpeg": Dataset(50_000, 10_000, (32, 32), 10),
    "CIFAR100": Dataset(50_000, 10_000, (32, 32), 100),
    "TINY-IMAGENET-200": Dataset(100_000, 10_000, (64, 64), 200),
    "FashionMNIST": Dataset(60_000, 10_000, (32, 32), 10),
    "FashionMNIST10k": Dataset(10_000, 2_000, (32, 32), 10),
}

# The kinds of stages in the table's order, by script; and those that robust networks have too
KINDS = {
    "train_model": "network",
    "align_models": "match",
    "train_curve": "curve",
    "train_curve_pam": "PAM",
    "eval_curve": "evaluation",
    "eval_plane_with_curve": "plane",
    "eval_plane_with_alignment": "aligned plane",
    "align_along_curve": "midpoint",
}
ROBUST = tuple(f"robust {kind}" for kind in ("network", "match", "curve", "evaluation"))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("preset", type=file_path, help="YAML file that the Snakefile takes, e.g. presets/paper.yaml")
    parser.add_argument("--tflops", type=positive_float, help="sustained TFLOP/s, to tell the hours it would take")
    return parser.parse_args(argv)


def commands(preset: Path) -> list[str]:
    """Script and flags of each stage that Snakemake would run if there were no files; UserError for no preset."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "1", "--nolock"]
        command += ["--snakefile", REPOSITORY / "Snakefile", "--directory", root, "--config", f"root={root}"]
        command += ["--configfile", preset.absolute()]
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    if "No module named snakemake" in ended.stderr:
        raise UserError("a preset is read by Snakemake: python -m pip install -r requirements-workflow.txt")
    if ended.returncode != 0:
        raise FileError(preset, f"is not a preset: {' '.join(ended.stderr.split())}")
    # A command ends where it depends on what there is, or where its output is sent to a log
    stage = r"((?:training|alignment|evaluation)/\w+\.py .*?)(?: (?:\$\(|2>&1 ).*)?$"
    return re.findall(stage, ended.stdout, re.MULTILINE)


def counted(command: str) -> tuple[str, str, str, int]:
    """The kind, model and dataset of a stage, and its FLOPs."""
    script, *words = shlex.split(command)
    stage = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    args = stage.parse_args([*words, "--device", "cpu"])  # nothing is run: no GPU is waited for
    is_robust = "_adversarial" in script or "--adversarial" in words
    kind = KINDS[Path(script).stem.replace("_adversarial", "").removesuffix("_w2")]
    return "robust " * is_robust + kind, args.model, args.dataset, stage_flops(kind, args)


def count_images(args: argparse.Namespace) -> Dataset:
    """The images that `load_data` would load, counted and not loaded. UserError if nobody knows them."""
    folder = data.data_folder(args.dataset, data_path=args.data_path, root=args.root) / args.dataset
    if (folder / "train").is_dir():
        files = folders.list_images(folder)
        train, test = ([path for paths in classes.values() for path in paths] for classes in files.values())
        found = Dataset(len(train), len(test), folders.decode(Path(train[0])).shape[:2], len(files["train"]))
    elif args.dataset in DATASETS:
        found = DATASETS[args.dataset]
    else:
        raise UserError(f"there is no folder {folder}/train, and {args.dataset!r} is none of {', '.join(DATASETS)}")
    if size := args.image_size or data.dataset_info(args.dataset).resized_by(args.transform):
        found = found._replace(size=(size, size))
    if not args.use_test:
        held_out = min(data.HELD_OUT_IMAGES, found.train // 10)
        found = found._replace(train=found.train - held_out, test=held_out)
    return found


# In place of images, for an attack. What goes into a network is to be computed from what is differentiated by: so the
# counter's hooks want it. Hence attacks of images that are normalized, if by nothing.
PIXELS = SimpleNamespace(share=None, whole=lambda count: count)
NORMALIZED = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Work:
    """FLOPs of the work of stages with an architecture on a dataset, in batches."""

    def __init__(self, model: str, images: Dataset, batch_size: int):
        self.images, self.batch_size = images, batch_size
        with torch.device("meta"):  # initialization that looks at numbers works here, and not on fake tensors
            network = build(model, images.classes)
        with FAKE:
            self.network = network.to_empty(device="cpu")
        self.spec = permutation_spec(self.network, proof=False)

    def passes(self, step: Step, images: int, *, mixes: bool = False) -> int:
        """The step on so many images. mixes: it multiplies weights first, once a batch."""
        two = self.flops(step, 2)
        an_image = self.flops(step, 3) - two if mixes else two // 2
        return an_image * images + (two - 2 * an_image) * math.ceil(images / self.batch_size)

    def flops(self, step: Step, images: int) -> int:
        with FAKE:
            x, labels = torch.empty(images, 3, *self.images.size), torch.zeros(images, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            step(x, labels)
        return counter.get_total_flops()

    def epoch(self, task: NetworkTask, *, mixes: bool = False) -> int:
        """Training on all images; which loss it is that is differentiated is elementwise, and does not count."""

        def step(x, labels):
            task.module.train()
            output, _ = task.forward(x, labels, PIXELS, torch.Generator())
            sum(logits.sum() for logits in (output if isinstance(output, tuple) else (output,))).backward()

        return self.passes(step, self.images.train, mixes=mixes)

    def forward(self, images: int, mode: Callable = nn.Module.eval, attack: Attack | None = None) -> int:
        """Evaluation; `mode` sets the network's mode, which decides what it computes (GoogLeNet)."""

        @torch.no_grad()
        def step(x, labels):
            mode(self.network)
            self.network(x if attack is None else attack(self.network, x, labels, PIXELS, torch.Generator()))

        return self.passes(step, images)

    def statistics(self, bn_images: int | None = None, attack: Attack | None = None) -> int:
        """Re-estimating batch norm."""
        images = min(bn_images or self.images.train, self.images.train)
        return self.forward(images, measuring.use_batch_statistics, attack)

    def validation(self) -> int:
        """Of a curve, while it is learned."""
        return len(VALIDATION_POINTS) * (self.statistics() + self.forward(self.images.test))

    def correlated(self, images: int, *, before: bool = False) -> int:
        """Both networks, and the products of their activations."""

        def step(x, labels):
            activations.cross_moments(self.network, self.network, self.spec, [x], before=before)

        return self.passes(step, images)

    def aligned(self) -> int:
        """`matching.align`: it sees the alignment images, and the first ones once more (ties)."""
        images = min(data.ALIGNMENT_IMAGES, self.images.train)
        return self.correlated(images) + self.correlated(min(activations.TIE_IMAGES, images), before=True)


def validations(epochs: int, frequency: int | None) -> int:
    """How often `fit` validates: every so many epochs, and after the last."""
    return math.ceil(epochs / frequency) if frequency else 0


def stage_flops(kind: str, args: argparse.Namespace) -> int:
    """FLOPs of a stage with these flags."""
    images = count_images(args)
    work, compared = Work(args.model, images, args.batch_size), min(data.ALIGNMENT_IMAGES, images.train)
    if args.attack is not None:
        args.attack = args.attack._replace(**NORMALIZED)
    match kind:
        case "network":
            epoch = work.epoch(NetworkTask(work.network, attack=args.attack))
            return args.epochs * epoch + validations(args.epochs, args.val_freq) * work.forward(images.test)
        case "match":  # the alignment images are attacked on each network
            attacked = 2 * (work.forward(compared, attack=args.attack) - work.forward(compared))
            return work.aligned() + work.correlated(images.test) + attacked
        case "curve":
            with FAKE:
                curve = Curve(work.network, args.num_bends, args.curve, args.fix_start, args.fix_end)
            epoch = work.epoch(CurveTask(curve, attack=args.attack)) if curve.learned_rows else 0
            return args.epochs * epoch + validations(args.epochs, args.val_freq) * work.validation()
        case "PAM":
            phases = args.inner_iters_perm, args.inner_iters_phi
            return args.outer_iters * pam_flops(work, *phases, args.val_freq) + work.correlated(images.test)
        case "midpoint":  # with statistics of its own, as A and B have; matched to each, in a stream one by one
            matches = 1 if matching.each_by_itself(work.spec) is None else 2
            return 3 * work.statistics(args.bn_images) + 2 * (work.correlated(compared) + matches * work.aligned())
        case "evaluation":  # of straight lines not that of interpolated statistics
            held_out = min(data.HELD_OUT_IMAGES, max(images.train // 10, 1)) if args.attack else 0
            measured = images.test + held_out + (images.train if args.eval_train else 0)
            met = sum(work.forward(measured, attack=attack) for attack in {None, args.attack})
            return args.num_points * (work.statistics(args.bn_images, args.attack) + met)
        case _:  # a plane
            return args.num_points**2 * (work.statistics(args.bn_images) + work.forward(images.test))


def pam_flops(work: Work, permuted: int, turned: int, frequencies: Sequence[int | None]) -> int:
    """So many epochs of both phases; between them the rounding, of which the most is counted that it may try."""
    with FAKE:
        curve = Curve(work.network)
    phi = torch.zeros_like(curve.row(0))
    task = pam.PermutationTask(curve, work.spec, curve.base.state_dict(), phi)
    candidates = 2 + pam.DRAWS + pam.REFINED * sum(map(len, task.soft.groups))
    rounding = candidates * work.statistics(pam.SCREENED_IMAGES) + 2 * work.statistics()
    times = validations(permuted, frequencies[0]) + validations(turned, frequencies[-1])
    epochs = permuted * work.epoch(task, mixes=True) + turned * work.epoch(pam.TurningPointTask(curve, phi, 5e-4))
    return epochs + rounding + times * work.validation()


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    places = 2 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, places):,.{max(places, 0)}f}"


def table(stages: Mapping[tuple[str, str, str], list[int]]) -> str:
    """Markdown: a line a model and kind of stage; PFLOP of one stage on each dataset, and of all of them.

    stages: the FLOPs of every stage of a kind, model and dataset.
    """
    names = sorted({dataset for *_, dataset in stages})
    lines = [f"| stage | stages | {' | '.join(f'one, {name} (PFLOP)' for name in names)} | all (PFLOP) |"]
    lines += ["| --- |" + " --- |" * (len(names) + 2)]
    models = sorted({model for _, model, _ in stages}, key=lambda model: ([*MODELS, model].index(model), model))
    for model, kind in ((model, kind) for model in models for kind in (*KINDS.values(), *ROBUST)):
        if columns := [stages[kind, model, name] for name in names if (kind, model, name) in stages]:
            one = " | ".join(digits(sum(flops) / len(flops) / 1e15) for flops in columns)
            every = digits(sum(map(sum, columns)) / 1e15)
            lines.append(f"| {model}, {kind} | {sum(map(len, columns))} | {one} | {every} |")
    return "\n".join(lines)


def main(args):
    stages = defaultdict(list)
    # Stages that differ in seeds and in what they begin with cost the same
    differing = re.compile(r" --(seed|seed_a|seed_b|alignment|epochs_model|epochs_curve) \S+")
    alike = Counter(differing.sub("", stage) for stage in commands(args.preset))
    for stage, number in tqdm(alike.items(), "counting", disable=None, leave=False):
        *names, flops = counted(stage)
        stages[*names] += [flops] * number
    print(table(stages))
    total = sum(map(sum, stages.values()))
    words = f"{alike.total()} stages: {digits(total / 1e18)} EFLOP"
    if args.tflops:
        words += f", {digits(total / (args.tflops * 1e12) / 3600)} hours at a sustained {args.tflops:g} TFLOP/s"
    print(f"\n{words}: a lower bound, since elementwise work is not counted.")


if __name__ == "__main__":
    process.run(parse_args, main)
