"""Evaluate the plane through A, B and aligned B, where one sees what alignment does: loss and accuracy on a grid.

python evaluation/eval_plane_with_alignment.py --dataset CIFAR100 --alignment corr --epochs_model 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models import MODELS
from utils import cli, evaluation
from utils.checkpoint import tag
from utils.curves import Curve
from utils.data import load_data
from utils.pair import layout_of, load_endpoint, load_pair

# As fractions of the way from A to B, and of aligned B's height above it
GRID = ((-0.05, 1.05), (-0.05, 1.05))


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=512)
    cli.add_pair_flags(parser)
    cli.add_alignment_flag(parser)
    cli.add_pair_folders(parser)
    cli.add_evaluation_flags(parser)
    parser.add_argument("--num_points", type=cli.at_least_two, default=17, help="points along each side of the grid")
    parser.set_defaults(alignment="corr")
    args = cli.parse(parser, argv)
    if tag(args.alignment) == "null":
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    layout = layout_of(args)
    data = load_data(args)
    state_a, aligned = load_pair(layout, args, data.num_classes)
    base = MODELS[args.model](data.num_classes).to(memory_format=torch.channels_last)
    corners = Curve(base, num_bends=3).to(args.device)
    if args.compile:
        corners.compile()
    corners.set_point(0, state_a)
    corners.set_point(1, aligned)
    corners.set_point(2, load_endpoint(layout, args, data.num_classes, args.seed_b, args.epochs_model).state_dict())
    path = layout.plane_with_alignment(args.alignment, args.seed_a, args.seed_b)
    results = evaluation.open_results(path, args, corners, "num_points")
    if not results.finished:
        evaluation.evaluate_plane(args, data, corners, GRID, results)
    cli.finish([path], cli.command("visualization/viz_plane.py", args, "seed_a", "seed_b", "alignment"))


if __name__ == "__main__":
    cli.run(parse_args, main)
