"""Draw learned curves on the planes they lie in: test accuracy and loss around A, B, the turning point and the curve.

python visualization/viz_curve_on_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from functools import partial

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "show titles planes variants")
    args = flags.parse_results(parser, argv)
    if 0 in args.epochs:
        parser.error("--epochs 0 is a straight line, which spans no plane")
    return args


def main(args):
    figures.run(args, partial(draw, cmap=args.cmap))


def draw(layout, asked_for, missing, cmap):
    curves = paths.named(asked_for.by_name(layout))
    of_pairs = results.marked(results.load(results.load_plane_with_curve, curves, asked_for.pairs, missing))
    means = {route: results.mean_plane(found) for route, found in of_pairs.items()}
    means = {route: mean | {"paths": figures.curve_on(mean, route.variant)} for route, mean in means.items()}
    style = {"cmap": cmap, "legend_columns": 4}
    drawn = figures.plane_figures(means, "plane_with_curve", "the planes of curves", paint, **style)
    return figures.showing(drawn, of_pairs)


def paint(axis, _route, plane):
    axis.plot(*plane["paths"].T, color="white", label="curve", **figures.OUTLINED)
    figures.mark(axis, results.corners_of_curve(plane))


if __name__ == "__main__":
    process.run(parse_args, main)
