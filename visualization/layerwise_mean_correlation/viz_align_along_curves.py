"""Draw how well a path's midpoint correlates with its ends, layer by layer: learned curves beside straight lines.

python visualization/layerwise_mean_correlation/viz_align_along_curves.py --dataset CIFAR100 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils import cli, figures, results

WHICH = {"unaligned": "as the point is", "aligned": "aligned with the end"}


def parse_args(argv=None):
    parser = figures.parser(__file__, __doc__)
    parser.add_argument("--point_t", type=cli.fraction, default=0.5, help="the point, from 0 at A to 1 at B")
    return results.parse(parser, argv)


def main(args):
    files = []
    for model in args.model:
        figure, axes = figures.panels(2, 2, height=1.9, sharex=True, sharey=True)
        for s in results.series_of(args, model):
            tables = [results.load_along_curve(args, s, pair, args.point_t) for pair in results.pairs_of(args)]
            for row, which in zip(axes, WHICH, strict=True):
                for axis, end in zip(row, "ab", strict=True):
                    values = [table[f"{which}_{end}"] for table in tables]
                    figures.draw_layers(axis, values, **figures.line_style(args, s))
        for axis, end in zip(axes[0], "AB", strict=True):
            axis.set_title(f"with network {end}")
        for axis, words in zip(axes[:, 0], WHICH.values(), strict=True):
            axis.set_ylabel(f"mean correlation,\n{words}")
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        point = "midpoint" if args.point_t == 0.5 else f"t = {args.point_t:g}"
        title = f"{point} of the path"
        files += figures.save(args, figure, title, "correlation_along_curve", model)
    figures.finish(args, files)


if __name__ == "__main__":
    cli.run(parse_args, main)
