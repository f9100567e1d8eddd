"""Draw learned curves on the planes they lie in: test accuracy and loss around A, B, the turning point and the curve.

python visualization/viz_curve_on_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
            planes[s] = figures.mean_plane(results.load_planes_with_curve(args, s))
        files += figures.plane_figures(args, model, planes, "plane_with_curve", "the planes of curves", paint, 4)
    figures.finish(args, files)


def paint(axis, _series, plane):
    axis.plot(*plane["curve"].T, color="white", label="curve", **figures.OUTLINED)
    figures.mark(axis, dict(zip(("A", "B", "turning point"), plane["corners"], strict=True)))


if __name__ == "__main__":
    cli.run(parse_args, main)
