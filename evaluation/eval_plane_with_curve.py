"""Evaluate the plane that a learned curve lies in: loss and accuracy on a grid through A, B and the turning point.

python evaluation/eval_plane_with_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import cli, evaluation
from utils.data import load_data
from utils.errors import UserError
from utils.pair import layout_of, load_curve

# As fractions of the way from A to B, and of the turning point's height above it
GRID = ((-0.05, 1.05), (-0.10, 1.5))


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=512)
    cli.add_path_flags(parser)
    cli.add_evaluation_flags(parser)
    parser.add_argument("--num_points", type=cli.at_least_two, default=17, help="points along each side of the grid")
    return cli.parse(parser, argv)


def main(args):
    if args.epochs_curve == 0:
        raise UserError("a straight line spans no plane; name a learned curve with --epochs_curve", exit_code=2)
    layout = layout_of(args, curves=args.dir_curves)
    data = load_data(args)
    curve = load_curve(layout, args, data.num_classes).to(args.device)
    path = layout.plane_with_curve(args.alignment, args.seed_a, args.seed_b, args.epochs_curve)
    results = evaluation.open_results(path, args, curve, "num_points")
    if not results.finished:
        evaluation.evaluate_plane(args, data, curve, GRID, results)
    if curve.num_bends > 3:
        print("A curve of more than three control points leaves this plane; its projection lies in it.")
    command = cli.command(
        "visualization/viz_curve_on_plane.py", args, "seed_a", "seed_b", "alignment", epochs=args.epochs_curve
    )
    cli.finish([path], command)


if __name__ == "__main__":
    cli.run(parse_args, main)
