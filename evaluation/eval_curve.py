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
from utils.pair import load_curve
from utils.plane import path_average, plane_basis, plane_coordinates


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=512)
    cli.add_pair_flags(parser)
    cli.add_alignment_flag(parser)
    cli.add_pair_folders(parser)
    add = parser.add_argument
    add("--dir_curves", type=Path, help="folder of curves instead of model_dicts/curve_models")
    add("--epochs_curve", type=cli.nonnegative_int, help="epochs of the curve; 0 is the straight line")
    add("--epochs", type=cli.positive_int, help="whichever of --epochs_model and --epochs_curve is not given")
    add("--num_points", type=cli.num_bends, default=65, help="points evaluated, the two ends included")
    add("--overwrite", action="store_true", help="evaluate again what has been evaluated otherwise")
    parser.set_defaults(epochs_model=None)
    args = cli.parse(parser, argv)
    epochs = args.epochs or 200
    args.epochs_model = epochs if args.epochs_model is None else args.epochs_model
    args.epochs_curve = epochs if args.epochs_curve is None else args.epochs_curve
    return args


def main(args):
    layout = checkpoint.Layout(
        args.root,
        args.model,
        args.dataset,
        models=args.dir_models,
        matches=args.dir_alignment,
        curves=args.dir_curves,
    )
    path = layout.evaluated(args.alignment, args.seed_a, args.seed_b, args.epochs_curve)
    data = load_data(args)
    curve = load_curve(layout, args, data.num_classes).to(args.device)
    names = ("transform", "batch_size", "use_test", "precision", "num_points", "epochs_model")
    settings = json.dumps({name: getattr(args, name) for name in names} | {"points": curve.digests()})

    results = checkpoint.Results(path, settings, "the same command and --overwrite", args.overwrite)
    if not results.finished:
        evaluate(args, data, curve, results)
    table = results.arrays
    files = [path]
    print(f"{'':<22}average  minimum")
    ends = table["accuracy"][[0, -1]].mean()
    average = path_average(table["length"], table["accuracy"])
    print(f"{'accuracy, endpoints':<22}{ends:6.1f} %")
    print(f"{'accuracy, along path':<22}{average:6.1f} % {table['accuracy'].min():6.1f} %")
    cli.finish(
        files,
        cli.command("visualization/viz_curve.py", args, "seed_a", "seed_b", "alignment", epochs=args.epochs_curve),
    )


def evaluate(args, data, curve, results):
    """Add what is missing to `results`, point by point."""
    ts = np.linspace(0, 1, args.num_points)
    start, end = curve.row(0), curve.row(curve.num_bends - 1)
    u, v = plane_basis(start, end, curve.row(curve.num_bends // 2))
    with cli.Progress(len(ts) - len(results), "point", "along the curve") as progress:
        for i in range(len(results), len(ts)):
            theta = curve.point(ts[i]).detach()
            step = 0.0 if i == 0 else (theta - curve.point(ts[i - 1])).double().norm().item()
            model = curve.place(ts[i])
            training.reestimate_batch_norm(model, data.train, args.batch_size, args.precision)
            loss, accuracy = training.evaluate(model, data.test, args.batch_size, args.precision)
            results.add(
                t=ts[i],
                loss=loss,
                accuracy=accuracy,
                coordinates=plane_coordinates(theta, start, u, v),
                length=step if i == 0 else results.arrays["length"][-1] + step,
            )
            progress.step()
            progress.show(loss=loss, accuracy=accuracy)
            progress.line(f"t = {ts[i]:.3f}  loss {loss:.4f}  accuracy {accuracy:.1f} %")
    results.finish()


if __name__ == "__main__":
    cli.run(parse_args, main)
