"""Evaluate the plane through A, B and aligned B, where one sees what alignment does: loss and accuracy on a grid.

With --seed_c the plane is that of any three networks: A, and B and C as their matches with A permute them.

python evaluation/eval_plane_with_alignment.py --dataset CIFAR100 --alignment corr --epochs_model 250
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.curves import Curve
from utils.devices import memory_format
from utils.measuring import evaluate_plane, measure, plane_of
from utils.repairing import repairer
from utils.stages import flags, hints, process
from utils.stages.files import expect, expect_writable
from utils.stages.flags import at_least_two, seed_number
from utils.stages.layout import tag
from utils.stages.loading import load_endpoint, load_pair
from utils.stages.records import behind
from utils.stages.runs import GrowingTable

# As fractions of the way from A to B, and of aligned B's height above it
GRID = ((-0.05, 1.05), (-0.05, 1.05))


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, "pair alignment compile evaluation")
    seed_c_help = "the plane of three networks: B and this one, both aligned to A, instead of B and aligned B"
    parser.networks("--seed_c", seed_number, None, seed_c_help)
    parser.add_names("epochs_model", "--epochs")
    parser.add_names("alignment", "--alignment_type")
    parser.evaluation("--num_points", at_least_two, 17, "points along each side of the grid", outcome=True)
    parser.set_defaults(alignment="corr")
    args = flags.parse(parser, argv)
    if args.seed_c in (args.seed_a, args.seed_b):
        parser.error(f"--seed_c {args.seed_c}: it is one of the pair, and a plane needs three networks")
    if args.seed_c is None and tag(args.alignment) == "null":
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    layout, seeds = args.layout, args.seeds + (() if args.seed_c is None else (args.seed_c,))
    path = layout.plane_with_alignment(args.alignment, *seeds)
    made_from = behind(layout, seeds, args.epochs_model, args.alignment)
    expect(*made_from.values())
    if args.overwrite or not path.exists():
        expect_writable(path.parent)
    data = args.load()
    load = partial(load_pair, args.build, layout, data, epochs=args.epochs_model, alignment=args.alignment)
    a, aligned = load(seeds[:2])
    if args.seed_c is None:
        second, third = load_endpoint(args.build, layout, data, args.seed_b, args.epochs_model), aligned
    else:
        second, third = aligned, load((args.seed_a, args.seed_c))[1]
    # Of the three points that span a plane, the third is the middle control point.
    corners = Curve(args.build(data.num_classes, data.channels))
    corners.connect({0: a.state_dict(), 1: third.state_dict(), 2: second.state_dict()})
    corners.to(args.device, memory_format=memory_format(args.device))
    coordinates, *_ = plane_of(corners)
    if args.compile:
        corners.compile()
    record = args.record.of(made_from, images=data.digest, points=corners.digests())
    table = GrowingTable(path, record, overwrite=args.overwrite)
    if not table.finished:
        images = data.for_batch_norm(args.bn_images)
        size, precision = args.batch_size, args.precision
        spanning = (corners.place_vector(corners.vector(i)) for i in (0, 2, 1))
        repair = repairer(spanning, images, batch_size=size, precision=precision) if args.repair else None
        along = coordinates[2, 0] / coordinates[1, 0]  # how far towards B the third corner is

        def measured(model, x, y):
            if repair:
                towards_b = x - y * along
                repair(model, (1 - towards_b - y, towards_b, y))
            on = {"": data.test}
            return measure(model, on, for_batch_norm=images, loss=data.task, batch_size=size, precision=precision)

        for row in evaluate_plane(corners, GRID, args.num_points, measured, done=len(table)):
            table.add(**row)
        table.finish(corners=coordinates)
    drawn = {"seed_a": args.seed_a, "seed_b": args.seed_b, "alignment": args.alignment, "seed_c": args.seed_c}
    next_command = hints.command(args.here, "visualization/viz_plane.py", drawn)
    hints.closing_words(args.here, [path], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
