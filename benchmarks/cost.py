"""Count the floating-point operations of every stage of a preset: what it costs before it is run.

python benchmarks/cost.py presets/paper.yaml --tflops 20

How often a stage takes each kind of step (to train on a batch, attack, evaluate or correlate it) follows from the
preset's flags and the defaults of the stage's parser; counting.py counts the steps and says what counts.
For presets/paper.yaml this takes some two minutes, mostly GoogLeNet's.
"""

import argparse
import functools
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import nn
from tqdm import tqdm

from alignment import align_along_curve, align_models
from benchmarks.counting import (
    Dataset,
    curve_flops,
    evaluation_flops,
    fake_curve,
    fake_network,
    match_flops,
    midpoint_flops,
    network_flops,
    pam_flops,
    plane_flops,
)
from evaluation import eval_adversarial_curve, eval_curve, eval_plane_with_alignment, eval_plane_with_curve
from training import train_curve, train_curve_adversarial, train_curve_pam, train_model, train_model_adversarial
from utils.errors import FileError, UserError
from utils.stages import process
from utils.stages.data import HELD_OUT_IMAGES, dataset_info
from utils.stages.folders import decode, list_images
from utils.stages.parser import positive_float

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
    tflops_help = "sustained TFLOP/s, to tell the hours it would take"
    parser.add_argument("--tflops", type=positive_float, help=tflops_help)
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
        raise FileError(path, f"is not YAML: {' '.join(str(error).split())}") from error
    needed = ("root", "datasets", "pairs", "alignments", "epochs_model", "epochs_curve")
    missing = [key for key in needed if not isinstance(preset, dict) or key not in preset]
    if missing:
        raise FileError(path, f"is not a preset: it lacks {', '.join(missing)}")
    return preset


def count_stages(preset: Mapping) -> Counter:
    """How many stages of each (kind, model, dataset) the Snakefile runs, but for those that prepare images.

    As there, it is from what is evaluated that everything it needs follows, each thing once.
    """
    stages = set()
    usual = preset.get("figure_seed", 1)
    pairs = list(zip(preset["pairs"], preset.get("table_seeds", [usual] * len(preset["pairs"])), strict=True))

    def add(
        kind: str, key: str, robust: str = "", *, curves: bool = True, lines: bool = False, for_tables: bool = False
    ) -> None:
        """A stage of this kind for every path that the preset has under `key`, and all stages that come before."""
        for model, tags in preset.get(key, {}).items():
            for dataset, tag, (pair, table_seed) in product(preset["datasets"], tags, pairs):
                of_pair = (model, dataset, *pair)
                is_pam, start = tag.startswith("pam_"), tag.removeprefix("pam_")
                for seed in {usual, table_seed} if for_tables else {usual if curves else table_seed}:
                    if curves:
                        stages.add((robust + kind, *of_pair, tag, seed))
                    if curves or is_pam:  # which finds the match with the curve
                        stages.add(("PAM" if is_pam else robust + "curve", *of_pair, start, seed))
                if lines and not (curves and is_pam):
                    stages.add((robust + kind, *of_pair, tag, "line"))
                if start != "null":
                    stages.add((robust + "match", *of_pair, start))
                if kind == "plane" and tag == start != "null":
                    stages.add(("aligned plane", *of_pair, tag))
                stages.update((robust + "network", model, dataset, seed) for seed in pair)

    add("evaluation", "alignments", lines=True, for_tables=True)
    add("evaluation", "robust_alignments", "robust ", lines=True, for_tables=True)
    add("evaluation", "lines", curves=False, lines=True)
    add("plane", "planes")
    add("midpoint", "midpoints", lines=True)
    return Counter(stage[:3] for stage in stages)


def epochs_of(preset: Mapping, key: str, kind: str, model: str) -> int:
    """The epochs of networks (`epochs_model`) or of curves (`epochs_curve`): one number, or one a model."""
    epochs = preset[key]
    if kind.startswith("robust "):
        epochs = preset.get(f"robust_{key}", epochs)
    return epochs[model] if isinstance(epochs, Mapping) else epochs


def stage_flags(preset: Mapping, kind: str, model: str, dataset: str) -> dict[str, object]:
    """The flags, by name, with which the Snakefile runs a stage of this kind, but for seeds and alignment."""
    stage = STAGES[kind]
    name = kind.removeprefix("robust ").removeprefix("aligned ").lower()
    known, own = preset.get("flags") or {}, preset["datasets"][dataset] or {}
    words = ["--root", preset["root"], "--dataset", dataset, "--model", model]
    if "data_path" in preset:
        words += ["--data_path", preset["data_path"]]
    for given in (known.get("all"), known.get(name), own.get("all"), own.get(name)):
        words += shlex.split(given or "")
    for flag, key in stage.lengths.items():
        words += [flag, epochs_of(preset, key, kind, model)]
    if kind == "robust match":
        words.append("--adversarial")
    return vars(
        stage.script.parse_args([*map(str, words), "--device", "cpu"])
    )  # nothing is run: no GPU is waited for


def count_images(
    name: str, *, folder: Path, transform: str, use_test: bool = True, image_size: int | None = None
) -> Dataset:
    """The images that `load_data` would load, counted and not loaded. UserError if nobody knows them."""
    if (folder / name / "train").is_dir():
        found = _in_folder(folder / name)
    elif name in DATASETS:
        found = DATASETS[name]
    else:
        raise UserError(f"there is no folder {folder / name}/train, and {name!r} is none of {', '.join(DATASETS)}")
    if (resized := image_size or dataset_info(name).resized_by(transform)) is not None:
        found = found._replace(size=(resized, resized))
    if not use_test:
        held_out = min(HELD_OUT_IMAGES, found.train // 10)
        found = found._replace(train=found.train - held_out, test=held_out)
    return found


@functools.cache
def _in_folder(folder: Path) -> Dataset:
    files = list_images(folder)
    train, test = ([path for paths in classes.values() for path in paths] for classes in files.values())
    return Dataset(len(train), len(test), decode(train[0]).shape[:2], len(files["train"]))


# --- stages ------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A kind of stage: its script, and how its FLOPs follow from the script's flags."""

    script: ModuleType
    lengths: Mapping[str, str]  # the flags for which the Snakefile gives it the preset's epochs, by the preset's key
    build: Callable[..., nn.Module]  # of a model's name, the number of classes and the flags `shape`
    shape: Sequence[str]
    flops: Callable[..., int]  # of what is built, a Dataset and the flags `flags`
    flags: Sequence[str]


MODEL_LENGTH = {"--epochs": "epochs_model"}
CURVE_LENGTH = {"--epochs_model": "epochs_model", "--epochs": "epochs_curve"}
PAM_LENGTH = {"--epochs_model": "epochs_model", "--inner_iters_phi": "epochs_curve"}
PATH_LENGTH = {"--epochs_model": "epochs_model", "--epochs_curve": "epochs_curve"}

SHAPE = ("num_bends", "curve", "fix_start", "fix_end")
OF_TRAINING = ("epochs", "batch_size", "val_freq", "attack")
OF_PAM = ("outer_iters", "inner_iters_perm", "inner_iters_phi", "batch_size", "val_freq")
OF_MATCH = ("batch_size", "attack")
OF_EVALUATION = ("num_points", "batch_size", "bn_images", "eval_train", "attack")

PLANE = (fake_network, (), plane_flops, ("num_points", "batch_size", "bn_images"))
MATCH = Stage(align_models, MODEL_LENGTH, fake_network, (), match_flops, OF_MATCH)
STAGES = {
    "network": Stage(train_model, MODEL_LENGTH, fake_network, (), network_flops, OF_TRAINING),
    "match": MATCH,
    "curve": Stage(train_curve, CURVE_LENGTH, fake_curve, SHAPE, curve_flops, OF_TRAINING),
    "PAM": Stage(train_curve_pam, PAM_LENGTH, fake_curve, SHAPE, pam_flops, OF_PAM),
    "evaluation": Stage(eval_curve, PATH_LENGTH, fake_network, (), evaluation_flops, OF_EVALUATION),
    "plane": Stage(eval_plane_with_curve, PATH_LENGTH, *PLANE),
    "aligned plane": Stage(eval_plane_with_alignment, {"--epochs_model": "epochs_model"}, *PLANE),
    "midpoint": Stage(align_along_curve, PATH_LENGTH, fake_network, (), midpoint_flops, ("batch_size", "bn_images")),
    "robust network": Stage(train_model_adversarial, MODEL_LENGTH, fake_network, (), network_flops, OF_TRAINING),
    "robust match": MATCH,
    "robust curve": Stage(train_curve_adversarial, CURVE_LENGTH, fake_curve, SHAPE, curve_flops, OF_TRAINING),
    "robust evaluation": Stage(
        eval_adversarial_curve, PATH_LENGTH, fake_network, (), evaluation_flops, OF_EVALUATION
    ),
}


def stage_flops(preset: Mapping, kind: str, model: str, dataset: str) -> int:
    """FLOPs of one stage of this kind."""
    stage, given = STAGES[kind], stage_flags(preset, kind, model, dataset)
    which = {name: given[name] for name in ("transform", "use_test", "image_size")}
    images = count_images(dataset, folder=given["data_folder"], **which)
    built = stage.build(model, images.classes, **{name: given[name] for name in stage.shape})
    return stage.flops(built, images, **{name: given[name] for name in stage.flags})


# --- the table ---------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    places = 2 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, places):,.{max(places, 0)}f}"


def table(counts: Mapping[tuple, int], costs: Mapping[tuple, int]) -> str:
    """Markdown: a line a model and kind of stage; PFLOP of one stage on each dataset, and of all of them.

    counts, costs: the number of stages of each (kind, model, dataset), and the FLOPs of one.
    """
    models, names = (list(dict.fromkeys(key[i] for key in costs)) for i in (1, 2))
    lines = [
        f"| stage | stages | {' | '.join(f'one, {name} (PFLOP)' for name in names)} | all (PFLOP) |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    for model, kind in product(models, STAGES):
        keys = [(kind, model, dataset) for dataset in names if (kind, model, dataset) in counts]
        if keys:
            one = " | ".join(digits(costs[key] / 1e15) for key in keys)
            every = sum(counts[key] * costs[key] for key in keys) / 1e15
            lines.append(f"| {model}, {kind} | {sum(counts[key] for key in keys)} | {one} | {digits(every)} |")
    return "\n".join(lines)


def main(args):
    preset = read_preset(args.preset)
    counts = count_stages(preset)
    models = [model for kind in ("alignments", "lines", "robust_alignments") for model in preset.get(kind, {})]
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
    process.run(parse_args, main)
