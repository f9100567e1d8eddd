"""Draw learned curves on the planes they lie in: test accuracy and loss around A, B, the turning point and the curve.

python visualization/viz_curve_on_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib.pyplot as plt

from utils import cli, figures, results


def parse_args(argv=None):
    parser = figures.parser(__file__, __doc__)
    figures.add_plane_flags(parser)
    args = results.parse(parser, argv)
    if 0 in args.epochs:
        parser.error("--epochs 0 is a straight line, which spans no plane")
    return args


def main(args):
    files = []
    for model in args.model:
        planes = {}
        for s in results.series_of(args, model):
            of_pairs = [results.load_plane_with_curve(args, s, pair) for pair in results.pairs_of(args)]
            planes[s.words.removeprefix("curve, ")] = figures.mean_plane(of_pairs)
        files += figures.plane_figures(args, model, planes, "plane_with_curve", "the planes of curves", paint, 4)
    cli.finish(files)
    if args.show:
        plt.show()


def paint(axis, plane):
    axis.plot(*plane["curve"].T, color="white", label="curve", **figures.OUTLINED)
    figures.mark(axis, dict(zip(("A", "B", "turning point"), plane["corners"], strict=True)))


if __name__ == "__main__":
    cli.run(parse_args, main)
