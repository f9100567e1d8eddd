"""Evaluate a curve: loss and accuracy on the test set at equally spaced points from network A to network B.

python evaluation/eval_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import checkpoint, cli, training
from utils.data import load_data
from utils.pair import layout_of, load_curve
from utils.plane import path_average, plane_basis, plane_coordinates


def parse_args(argv=None, description=__doc__, adversarial=False):
    parser = cli.stage_parser(description, batch_size=512)
    if adversarial:
        cli.add_attack_flags(parser)
    cli.add_pair_flags(parser)
    cli.add_alignment_flag(parser)
    cli.add_pair_folders(parser)
    add = parser.add_argument
    add("--dir_curves", type=Path, help="folder of curves instead of model_dicts/curve_models")
    add("--epochs_curve", type=cli.nonnegative_int, help="epochs of the curve; 0 is the straight line")
    add("--epochs", type=cli.positive_int, help="whichever of --epochs_model and --epochs_curve is not given")
    add("--num_points", type=cli.num_bends, default=65, help="points evaluated, the two ends included")
    add("--eval_train", action="store_true", help="loss and accuracy on training images too, without augmentation")
    add("--bn_images", type=cli.positive_int, help="re-estimate batch norm on so many training images (default: all)")
    add("--overwrite", action="store_true", help="evaluate again what has been evaluated otherwise")
    parser.set_defaults(epochs_model=None)
    args = cli.parse(parser, argv)
    epochs = args.epochs or 200
    args.epochs_model = epochs if args.epochs_model is None else args.epochs_model
    args.epochs_curve = epochs if args.epochs_curve is None else args.epochs_curve
    return args


def main(args):
    layout = layout_of(args, curves=args.dir_curves)
    path = layout.evaluated(args.alignment, args.seed_a, args.seed_b, args.epochs_curve)
    data = load_data(args)
    curve = load_curve(layout, args, data.num_classes).to(args.device)
    names = (
        "transform",
        "batch_size",
        "use_test",
        "precision",
        "num_points",
        "epochs_model",
        "eval_train",
        "bn_images",
    )
    settings = {name: getattr(args, name) for name in names} | {"attack": args.attack, "points": curve.digests()}
    results = checkpoint.Results(path, json.dumps(settings), "the same command and --overwrite", args.overwrite)
    if not results.finished:
        evaluate(args, data, curve, results)

    table = results.arrays
    print(f"{'':<32}endpoints  average  minimum")
    for name in table:
        if name.startswith("accuracy"):
            ends, average = table[name][[0, -1]].mean(), path_average(table["length"], table[name])
            print(f"{name.replace('_', ' '):<32}{ends:7.1f} %{average:7.1f} %{table[name].min():7.1f} %")
    names = ("seed_a", "seed_b", "alignment")
    cli.finish([path], cli.command("visualization/viz_curve.py", args, *names, epochs=args.epochs_curve))


def evaluate(args, data, curve, results):
    """Add what is missing to `results`, point by point."""
    ts = np.linspace(0, 1, args.num_points)
    start, end = curve.row(0), curve.row(curve.num_bends - 1)
    u, v = plane_basis(start, end, curve.row(curve.num_bends // 2))
    for_batch_norm = data.train.subset(data.train.spread(args.bn_images or len(data.train)))
    splits = {"": data.test, "_train": data.train} if args.eval_train else {"": data.test}
    attacks = {"": None, "_robust": args.attack} if args.adversarial else {"": None}
    with cli.Progress(len(ts) - len(results), "point", "along the curve") as progress:
        for i in range(len(results), len(ts)):
            theta = curve.point(ts[i]).detach()
            step = (theta - curve.point(ts[max(i - 1, 0)])).norm().item()
            model = curve.place(ts[i])
            training.reestimate_batch_norm(model, for_batch_norm, args.batch_size, args.precision, args.attack)
            figures = {}
            for split, images in splits.items():
                for kind, attack in attacks.items():
                    loss, accuracy = training.evaluate(model, images, args.batch_size, args.precision, attack)
                    figures |= {f"loss{kind}{split}": loss, f"accuracy{kind}{split}": accuracy}
            results.add(
                t=ts[i],
                coordinates=plane_coordinates(theta, start, u, v),
                length=step + (results.arrays["length"][-1] if i else 0.0),
                **figures,
            )
            progress.step()
            progress.show(**figures)
            progress.line(f"t = {ts[i]:.3f}  {training.in_words(figures)}")
    results.finish()


if __name__ == "__main__":
    cli.run(parse_args, main)
