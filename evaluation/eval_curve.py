"""Evaluate a curve: loss and accuracy on the test set at equally spaced points from network A to network B.

python evaluation/eval_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import cli, distributed, evaluation
from utils.data import load_data
from utils.pair import layout_of, load_curve
from utils.plane import path_average, plane_basis, plane_coordinates


def parse_args(argv=None, description=__doc__, adversarial=False):
    parser = cli.stage_parser(description, batch_size=512)
    if adversarial:
        cli.add_attack_flags(parser)
    cli.add_path_flags(parser)
    cli.add_evaluation_flags(parser)
    parser.add_argument(
        "--num_points", type=cli.at_least_two, default=65, help="points evaluated, the two ends included"
    )
    parser.add_argument("--eval_train", action="store_true", help="on training images too, without augmentation")
    return cli.parse(parser, argv)


def main(args):
    layout = layout_of(args, curves=args.dir_curves)
    path = layout.evaluated(args.alignment, args.seed_a, args.seed_b, args.epochs_curve)
    data = load_data(args)
    curve = load_curve(layout, args, data.num_classes).to(args.device)
    results = evaluation.open_results(path, args, curve, "num_points", "eval_train")
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
    for_batch_norm = data.for_batch_norm(args.bn_images)
    splits = {"": data.test, "_train": data.train} if args.eval_train else {"": data.test}
    attacks = {"": None, "_robust": args.attack} if args.adversarial else {"": None}

    def measure(i):
        return evaluation.measure(curve.place(ts[i]), args, for_batch_norm, splits, attacks)

    with cli.Progress(len(ts), "point", "along the curve", done=len(results)) as progress:
        while len(results) < len(ts):
            # As many at once as there are processes
            points = range(len(results), min(len(results) + distributed.size(), len(ts)))
            for i, figures in zip(points, distributed.shared_out(measure, points), strict=True):
                theta = curve.point(ts[i]).detach()
                step = (theta - curve.point(ts[max(i - 1, 0)])).norm().item()
                results.add(
                    t=ts[i],
                    coordinates=plane_coordinates(theta, start, u, v),
                    length=step + (results.arrays["length"][-1] if i else 0.0),
                    **figures,
                )
                progress.step()
                progress.show(**figures)
                progress.line(f"t = {ts[i]:.3f}  {evaluation.in_words(figures)}")
    results.finish()


if __name__ == "__main__":
    cli.run(parse_args, main)
