"""Count the floating-point operations of every stage of a preset: what it costs before it is run.

python benchmarks/cost.py presets/paper.yaml --tflops 20

Each kind of step (to train on a batch, attack, evaluate or correlate it) is run by the stages' own code under torch's
flop counter, on fake tensors, which have shapes and no numbers. How often a stage takes it follows from the preset's
flags and the defaults of the stage's parser. Counted are convolutions and matrix products, a multiply-add as two
operations. Not counted is what works elementwise (batch norm, activations, pooling, augmentation, the update of the
weights, PAM's projection) and the mixing of weights for a point that tens of thousands of images are evaluated at.
For presets/paper.yaml this takes some two minutes, mostly GoogLeNet's.
"""

import argparse
import functools
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from alignment import align_models
from evaluation import eval_adversarial_curve, eval_curve
from models import MODELS
from training import train_curve, train_curve_adversarial, train_curve_pam, train_model, train_model_adversarial
from utils import alignment, cli, data, evaluation, pam, training
from utils.curves import Curve
from utils.errors import UserError
from utils.permutations import permutation_spec

# Tensors that claim to be on the CPU. Few random draws of the stages, which are real, meet them.
FAKE = FakeTensorMode(allow_non_fake_inputs=True)

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


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("preset", type=Path, help="YAML file that the Snakefile takes, as presets/paper.yaml")
    parser.add_argument(
        "--tflops", type=cli.positive_float, help="sustained TFLOP/s, to tell the hours it would take"
    )
    return parser.parse_args(argv)


# --- what a preset names -----------------------------------------------------------------------------------


def read_preset(path: Path) -> dict:
    """The preset as the Snakefile sees it. UserError if it cannot be read or lacks what every preset has."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise UserError("presets are YAML: python -m pip install -r requirements-workflow.txt") from error
    try:
        preset = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    needed = ("root", "datasets", "pairs", "alignments", "epochs_model", "epochs_curve")
    missing = [key for key in needed if not isinstance(preset, dict) or key not in preset]
    if missing:
        raise UserError(f"{path} is not a preset: it lacks {', '.join(missing)}")
    return preset


def count_stages(preset: Mapping) -> Counter:
    """How many stages of each (kind, model, dataset) the Snakefile runs, but for those that prepare images.

    As there, it is from what is evaluated that everything it needs follows, each thing once.
    """
    stages = set()
    for robust, key in (("", "alignments"), ("robust ", "robust_alignments")):
        for model, tags in preset.get(key, {}).items():
            for dataset, tag, (a, b) in product(preset["datasets"], tags, preset["pairs"]):
                is_pam, start = tag.startswith("pam_"), tag.removeprefix("pam_")
                for epochs in [preset["epochs_curve"]] if is_pam else [0, preset["epochs_curve"]]:
                    stages.add((robust + "evaluation", model, dataset, tag, a, b, epochs))
                stages.add(("PAM" if is_pam else robust + "curve", model, dataset, start, a, b))
                if start != "null":
                    stages.add((robust + "match", model, dataset, a, b))
                stages |= {(robust + "network", model, dataset, seed) for seed in (a, b)}
    return Counter(stage[:3] for stage in stages)


def stage_args(preset: Mapping, kind: str, model: str, dataset: str) -> argparse.Namespace:
    """The arguments with which the Snakefile runs a stage of this kind, but for seeds and alignment."""
    script, length, _ = STAGES[kind]
    name = kind.removeprefix("robust ").lower()
    known, own = preset.get("flags") or {}, preset["datasets"][dataset] or {}
    words = ["--root", preset["root"], "--dataset", dataset, "--model", model]
    if "data_path" in preset:
        words += ["--data_path", preset["data_path"]]
    for flags in (known.get("all"), known.get(name), own.get("all"), own.get(name)):
        words += shlex.split(flags or "")
    for flag, key in length.items():
        words += [flag, preset[key]]
    if kind == "robust match":
        words.append("--adversarial")
    return script.parse_args([*map(str, words), "--device", "cpu"])  # nothing is run: no GPU is waited for


def dataset_of(args) -> Dataset:
    """The images that `load_data` would load, counted and not loaded. UserError if nobody knows them."""
    folder = data.data_folder(args) / args.dataset
    if (folder / "train").is_dir():
        found = _in_folder(folder)
    elif args.dataset in DATASETS:
        found = DATASETS[args.dataset]
    else:
        raise UserError(f"there is no folder {folder}/train, and {args.dataset!r} is none of {', '.join(DATASETS)}")
    if args.dataset == "TINY-IMAGENET-200" and args.transform.endswith("GoogLeNet"):
        found = found._replace(size=(32, 32))
    if not args.use_test:
        held_out = min(data.HELD_OUT_IMAGES, found.train // 10)
        found = found._replace(train=found.train - held_out, test=held_out)
    return found


@functools.cache
def _in_folder(folder: Path) -> Dataset:
    test = folder / ("test" if (folder / "test").is_dir() else "val")
    train, tested = (
        [path for path in split.glob("*/*") if path.suffix.lower() in data.SUFFIXES]
        for split in (folder / "train", test)
    )
    if not train or not tested:
        raise UserError(f"{folder} has no images to train on or none to test on")
    with Image.open(train[0]) as image:
        size = (image.height, image.width)
    return Dataset(len(train), len(tested), size, len({path.parent for path in train}))


# --- counting ----------------------------------------------------------------------------------------------


def fake_network(name: str, classes: int) -> nn.Module:
    with torch.device("meta"):  # initialization that looks at numbers works here, and not on fake tensors
        model = MODELS[name](classes)
    with FAKE:
        return model.to_empty(device="cpu")


def fake_curve(args, classes: int) -> Curve:
    base = fake_network(args.model, classes)
    with FAKE:
        return Curve(base, args.num_bends, args.curve, args.fix_start, args.fix_end)


def flops(step: Step, dataset: Dataset, images: int) -> int:
    """FLOPs of a step on so many images."""
    with FAKE:
        x, labels = torch.empty(images, 3, *dataset.size), torch.zeros(images, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        step(x, labels)
    return counter.get_total_flops()


def passes(step: Step, dataset: Dataset, mixes: bool = False) -> Callable[[int, int], int]:
    """A function (images, batch size) → FLOPs of taking the step on all of the images, batch by batch.

    mixes: whether the step mixes weights first, which costs the same for any number of images.
    """
    two = flops(step, dataset, 2)
    an_image = flops(step, dataset, 3) - two if mixes else two // 2
    mixing = two - 2 * an_image
    return lambda images, batch_size: an_image * images + mixing * math.ceil(images / batch_size)


def backward(output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
    """The gradient of a loss of all logits; which loss is elementwise, and does not count."""
    sum(logits.sum() for logits in (output if isinstance(output, tuple) else (output,))).backward()


# In place of images that tell an attack how they are normalized. The counter's hooks want a network's input to have
# been computed from the pixels that the attack differentiates by.
NORMALIZED = argparse.Namespace(to_pixels=lambda x: x, normalize=lambda pixels: pixels * 1)


def attacked(attack, network: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return x if attack is None else attack(network, x, labels, NORMALIZED, torch.Generator())


def forward_step(model: nn.Module, mode: Callable[[nn.Module], object], attack=None) -> Step:
    """What evaluation does with a batch; `mode` sets the model's mode, which decides what it computes (GoogLeNet)."""

    @torch.no_grad()
    def step(x, labels):
        mode(model)
        model(attacked(attack, model, x, labels))

    return step


def curve_step(curve: Curve, args) -> Step:
    forward = training.curve_forward(curve, args, NORMALIZED)

    def step(x, labels):
        curve.train()
        backward(forward(x, labels, torch.Generator())[0])

    return step


def validations(epochs: int, frequency: int | None) -> int:
    """How often `training.fit` validates: every so many epochs, and after the last."""
    return math.ceil(epochs / frequency) if frequency else 0


def curve_validation(base: nn.Module, args, dataset: Dataset) -> int:
    """FLOPs of `evaluation.validate_curve`."""
    statistics = passes(forward_step(base, evaluation.use_batch_statistics), dataset)
    test = passes(forward_step(base, nn.Module.eval), dataset)
    point = statistics(dataset.train, args.batch_size) + test(dataset.test, args.batch_size)
    return len(evaluation.VALIDATION_POINTS) * point


# --- stages ------------------------------------------------------------------------------------------------


def network_flops(args, dataset: Dataset) -> int:
    model = fake_network(args.model, dataset.classes)

    def step(x, labels):
        model.train()
        backward(model(attacked(args.attack, model, x, labels)))

    epoch = passes(step, dataset)(dataset.train, args.batch_size)
    test = passes(forward_step(model, nn.Module.eval), dataset)(dataset.test, args.batch_size)
    return args.epochs * epoch + validations(args.epochs, args.val_freq) * test


def match_flops(args, dataset: Dataset) -> int:
    """Both networks and the products of their activations: for alignment images, a batch (ties), and test images."""
    a, b = (fake_network(args.model, dataset.classes).eval() for _ in range(2))
    rows = permutation_spec(b).rows
    after, before = (
        passes(lambda x, labels, before=before: alignment.cross_moments(a, b, rows, [x], before), dataset)
        for before in (False, True)
    )
    compared = min(data.ALIGNMENT_IMAGES, dataset.train)
    return (
        after(compared, args.batch_size)
        + before(min(args.batch_size, compared), args.batch_size)
        + after(dataset.test, args.batch_size)
    )


def curve_flops(args, dataset: Dataset) -> int:
    curve = fake_curve(args, dataset.classes)
    if not curve.learned_rows:
        return 0
    epoch = passes(curve_step(curve, args), dataset, mixes=True)(dataset.train, args.batch_size)
    times = validations(args.epochs, args.val_freq)
    return args.epochs * epoch + (times * curve_validation(curve.base, args, dataset) if times else 0)


def pam_step(curve: Curve, args, classes: int) -> tuple[Step, int]:
    """A step of PAM's permutation phase, and how many permutations it learns."""
    spec = permutation_spec(curve.base)
    fixed = pam.fixed_groups(spec, curve.base)
    state = fake_network(args.model, classes).state_dict()
    parameters = {name: state[name] for name in curve.flat.shapes}
    with FAKE:
        soft, phi = pam.SoftPermutation(spec, fixed), torch.zeros_like(curve.row(0))

    def step(x, labels):
        curve.train()
        theta = pam.point(0.5, curve.row(0), soft(parameters, curve.flat), phi)
        backward(curve(x, theta))

    return step, len(spec.sizes) - len(fixed)


def pam_flops(args, dataset: Dataset) -> int:
    """Both phases, and between them the rounding, of which the most is counted that it may try."""
    curve = fake_curve(args, dataset.classes)
    step, permutations = pam_step(curve, args, dataset.classes)
    soft_epoch = passes(step, dataset, mixes=True)(dataset.train, args.batch_size)
    curve_epoch = passes(curve_step(curve, args), dataset, mixes=True)(dataset.train, args.batch_size)

    loss = passes(forward_step(curve.base, evaluation.use_batch_statistics), dataset)
    candidates = 2 + pam.DRAWS + pam.REFINED * permutations
    screened = loss(min(pam.SCREENED_IMAGES, dataset.train), args.batch_size)
    rounding = candidates * screened + 2 * loss(dataset.train, args.batch_size)

    phases = ((args.inner_iters_perm, args.val_freq[0]), (args.inner_iters_phi, args.val_freq[-1]))
    times = sum(validations(epochs, frequency) for epochs, frequency in phases)
    validation = times * curve_validation(curve.base, args, dataset) if times else 0
    epochs = args.inner_iters_perm * soft_epoch + args.inner_iters_phi * curve_epoch
    return args.outer_iters * (epochs + rounding + validation)


def evaluation_flops(args, dataset: Dataset) -> int:
    """At each point batch norm is re-estimated, attacked if the networks are robust; then all that is measured."""
    model = fake_network(args.model, dataset.classes).requires_grad_(False)
    statistics = passes(forward_step(model, evaluation.use_batch_statistics, args.attack), dataset)
    point = statistics(min(args.bn_images or dataset.train, dataset.train), args.batch_size)
    for attack in {None, args.attack}:
        measure = passes(forward_step(model, nn.Module.eval, attack), dataset)
        point += measure(dataset.test, args.batch_size)
        point += measure(dataset.train, args.batch_size) if args.eval_train else 0
    return args.num_points * point


MODEL_LENGTH = {"--epochs": "epochs_model"}
CURVE_LENGTH = {"--epochs_model": "epochs_model", "--epochs": "epochs_curve"}
PAM_LENGTH = {"--epochs_model": "epochs_model", "--inner_iters_phi": "epochs_curve"}
PATH_LENGTH = {"--epochs_model": "epochs_model", "--epochs_curve": "epochs_curve"}

# kind: its script, the flags for which the Snakefile gives it the preset's epochs, and its FLOPs
STAGES = {
    "network": (train_model, MODEL_LENGTH, network_flops),
    "match": (align_models, MODEL_LENGTH, match_flops),
    "curve": (train_curve, CURVE_LENGTH, curve_flops),
    "PAM": (train_curve_pam, PAM_LENGTH, pam_flops),
    "evaluation": (eval_curve, PATH_LENGTH, evaluation_flops),
    "robust network": (train_model_adversarial, MODEL_LENGTH, network_flops),
    "robust match": (align_models, MODEL_LENGTH, match_flops),
    "robust curve": (train_curve_adversarial, CURVE_LENGTH, curve_flops),
    "robust evaluation": (eval_adversarial_curve, PATH_LENGTH, evaluation_flops),
}


def stage_flops(preset: Mapping, kind: str, model: str, dataset: str) -> int:
    """FLOPs of one stage."""
    args = stage_args(preset, kind, model, dataset)
    return STAGES[kind][2](args, dataset_of(args))


# --- the table ---------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    places = 2 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, places):,.{max(places, 0)}f}"


def table(counts: Mapping[tuple, int], costs: Mapping[tuple, int]) -> str:
    """Markdown: a line a model and kind of stage; PFLOP of one stage on each dataset, and of all of them.

    counts, costs: the number of stages of each (kind, model, dataset), and the FLOPs of one.
    """
    models, datasets = (list(dict.fromkeys(key[i] for key in costs)) for i in (1, 2))
    lines = [
        f"| stage | stages | {' | '.join(f'one, {name} (PFLOP)' for name in datasets)} | all (PFLOP) |",
        "| --- |" + " --- |" * (len(datasets) + 2),
    ]
    for model, kind in product(models, STAGES):
        keys = [(kind, model, dataset) for dataset in datasets if (kind, model, dataset) in counts]
        if keys:
            one = " | ".join(digits(costs[key] / 1e15) for key in keys)
            every = sum(counts[key] * costs[key] for key in keys) / 1e15
            lines.append(f"| {model}, {kind} | {sum(counts[key] for key in keys)} | {one} | {digits(every)} |")
    return "\n".join(lines)


def main(args):
    preset = read_preset(args.preset)
    counts = count_stages(preset)
    models = [*preset["alignments"], *preset.get("robust_alignments", {})]
    ordered = sorted(counts, key=lambda key: (models.index(key[1]), list(preset["datasets"]).index(key[2])))
    progress = tqdm(ordered, "counting", disable=None, leave=False)
    costs = {key: stage_flops(preset, *key) for key in progress}
    print(table(counts, costs))
    total = sum(counts[key] * costs[key] for key in counts)
    words = f"{counts.total()} stages: {digits(total / 1e18)} EFLOP"
    if args.tflops:
        words += f", {digits(total / (args.tflops * 1e12) / 3600)} hours at a sustained {args.tflops:g} TFLOP/s"
    print(f"\n{words}.")


if __name__ == "__main__":
    cli.run(parse_args, main)
