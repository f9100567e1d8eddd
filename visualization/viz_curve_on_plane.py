"""Draw learned curves on the planes they lie in: test accuracy and loss around A, B, the turning point and the curve.

python visualization/viz_curve_on_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from utils.reports import drawing, figures, paths, planes, results
from utils.stages import flags, process


def parse_args(argv=None):
    parser = flags.results_parser(__doc__)
    flags.add_figure_flags(parser)
    flags.add_plane_flags(parser)
    flags.add_variant_flags(parser)
    args = flags.parse_results(parser, argv, script=__file__)
    if 0 in args.epochs:
        parser.error("--epochs 0 is a straight line, which spans no plane")
    return args


def main(args):
    def draw(layout, missing):
        curves = paths.combined(args.epochs_of[layout.model], args.alignment, args.variants)
        curves = paths.named(layout, curves, args.curve_seeds)
        of_pairs = results.load_there(curves, args.pairs, results.load_planes_with_curve, missing)
        of_means = {s: results.mean_plane(found) for s, found in of_pairs.items()}
        of_means = {s: mean | {"paths": planes.curve_on(mean, s.variant)} for s, mean in of_means.items()}
        words = ("plane_with_curve", f"the planes of curves{figures.say_images(layout, of_pairs)}")
        return planes.plane_figures(of_means, *words, paint, cmap=args.cmap, legend_columns=4)

    drawing.run(vars(args), draw, process.closing_words)


def paint(axis, _series, plane):
    axis.plot(*plane["paths"].T, color="white", label="curve", **planes.OUTLINED)
    planes.mark(axis, results.corners_of_curve(plane))


if __name__ == "__main__":
    process.run(parse_args, main)
