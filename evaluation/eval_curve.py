"""Evaluate a curve: loss and accuracy on the test set at equally spaced points from network A to network B.

python evaluation/eval_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from models import MODELS
from utils.cli import commands, flags, process
from utils.datasets import load_data
from utils.geometry import path_average
from utils.measuring import evaluate_path, measure
from utils.storage.layout import Layout, Variant
from utils.storage.loading import load_curve
from utils.storage.tables import GrowingTable


def parse_args(argv=None, description=__doc__, robust=False):
    parser = flags.stage_parser(description, batch_size=512)
    if robust:
        flags.add_attack_flags(parser)
    flags.add_path_flags(parser)
    flags.add_evaluation_flags(parser)
    parser.add_argument(
        "--num_points", type=flags.at_least_two, default=65, help="points evaluated, the two ends included"
    )
    parser.add_argument("--eval_train", action="store_true", help="on training images too, without augmentation")
    return flags.parse(parser, argv)


def main(args):
    replaced = {"models": args.dir_models, "matches": args.dir_alignment, "curves": args.dir_curves}
    layout = Layout(args.root, args.model, args.dataset, args.robust, replaced)
    data = load_data(
        args.dataset,
        folder=args.data_folder,
        transform=args.transform,
        use_test=args.use_test,
        threads=args.num_workers,
        device=args.device,
    )
    variant = Variant(args.seed, args.num_bends, args.curve)
    curve = load_curve(
        layout,
        partial(MODELS[args.model], data.num_classes),
        (args.seed_a, args.seed_b),
        args.epochs_model,
        args.epochs_curve,
        alignment=args.alignment,
        transform=args.transform,
        variant=variant,
    ).to(args.device)
    if args.compile:
        curve.compile()
    path = layout.evaluated(args.alignment, args.seed_a, args.seed_b, args.epochs_curve, variant)
    settings = flags.evaluation_settings(vars(args), curve, "num_points", "eval_train")
    table = GrowingTable(path, settings, args.overwrite)
    if not table.finished:
        measured = partial(
            measure,
            for_batch_norm=data.for_batch_norm(args.bn_images),
            splits={"": data.test, "_train": data.train} if args.eval_train else {"": data.test},
            batch_size=args.batch_size,
            precision=args.precision,
            attack=args.attack,
        )
        ts, done = np.linspace(0, 1, args.num_points), len(table)
        length = table.arrays["length"][-1] if done else 0.0
        for row in evaluate_path(curve, ts, measured, done=done, length=length):
            table.add(**row)
        table.finish()

    print(f"{'':<32}endpoints  average  minimum")
    for name, values in table.arrays.items():
        if name.startswith("accuracy"):
            ends, average = values[[0, -1]].mean(), path_average(table.arrays["length"], values)
            print(f"{name.replace('_', ' '):<32}{ends:7.1f} %{average:7.1f} %{values.min():7.1f} %")
    names = ("seed_a", "seed_b", "alignment")
    next_command = commands.command("visualization/viz_curve.py", vars(args), *names, epochs=args.epochs_curve)
    process.closing_words([path], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
