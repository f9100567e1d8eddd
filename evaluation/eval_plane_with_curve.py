"""Evaluate the plane that a learned curve lies in: loss and accuracy on a grid through A, B and the turning point.

python evaluation/eval_plane_with_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.errors import UserError
from utils.measuring import evaluate_plane, measure, midpoint_height, plane_of
from utils.repairing import renormalizer
from utils.stages import flags, hints, process
from utils.stages.flags import at_least_two
from utils.stages.runs import GrowingTable

# As fractions of the way from A to B, and of the height above it of the curve's point t = ½
GRID = ((-0.05, 1.05), (-0.10, 1.5))


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, flags.PATH)
    parser.evaluation("--num_points", at_least_two, 17, "points along each side of the grid", outcome=True)
    return flags.parse(parser, argv)


def main(args):
    if args.epochs_curve == 0:
        raise UserError("a straight line spans no plane; name a learned curve with --epochs_curve", exit_code=2)
    path = args.layout.plane_with_curve(args.alignment, *args.seeds, args.epochs_curve, args.variant)
    data, curve, record = flags.load_path(args, path)
    height = midpoint_height(curve)
    # Planes reached twice as far before.
    record = record.having(before={"height": "turning point"}, height="midpoint")
    table = GrowingTable(path, record, overwrite=args.overwrite)
    if not table.finished:
        images = data.for_batch_norm(args.bn_images)
        size, precision = args.batch_size, args.precision
        renormalize = renormalizer(curve, images, repaired=args.repair, batch_size=size, precision=precision)

        def measured(model, x, _):
            renormalize(model, x)
            return measure(model, {"": data.test}, loss=data.task, batch_size=size, precision=precision)

        for row in evaluate_plane(curve, GRID, args.num_points, measured, height=height, done=len(table)):
            table.add(**row)
        table.finish(corners=plane_of(curve)[0])
    if curve.num_bends > 3:
        print("A curve of more than three control points leaves this plane; its projection lies in it.")
    next_command = hints.command(args.here, "visualization/viz_curve_on_plane.py", flags.drawn(args))
    hints.closing_words(args.here, [path], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
