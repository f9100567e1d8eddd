"""Draw how well a path's midpoint correlates with its ends, layer by layer: learned curves beside straight lines.

python visualization/layerwise_mean_correlation/viz_align_along_curves.py --dataset CIFAR100 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils.cli import flags, process
from utils.reporting import figures, results
from utils.storage.layout import Layout

WHICH = {"unaligned": "as the point is", "aligned": "aligned with the end"}


def parse_args(argv=None):
    parser = flags.results_parser(__doc__)
    flags.add_figure_flags(parser)
    parser.add_argument("--point_t", type=flags.fraction, default=0.5, help="the point, from 0 at A to 1 at B")
    return flags.parse_results(parser, argv, script=__file__)


def main(args):
    drawings, files = [], []
    point = "midpoint" if args.point_t == 0.5 else f"t = {args.point_t:g}"
    with figures.style():
        for model in args.model:
            layout = Layout(args.root, model, args.dataset)
            lines = results.named(layout, results.combined(args.epochs, args.alignment))
            tables = {s: [results.load_along_curve(s, pair, args.point_t) for pair in args.pairs] for s in lines}
            figure = with_ends(tables)
            drawn = figures.Drawing(figure, layout, "correlation_along_curve", f"{point} of the path")
            files += figures.save([drawn], pairs=args.pairs, command=args.command, name=args.name)
            drawings.append(drawn)
        process.closing_words(files)
        if args.show:
            figures.show(drawings)


def with_ends(tables):
    figure, axes = figures.panels(2, 2, height=1.9, sharex=True, sharey=True)
    for s, of_pairs in tables.items():
        for row, which in zip(axes, WHICH, strict=True):
            for axis, end in zip(row, "ab", strict=True):
                values = [table[f"{which}_{end}"] for table in of_pairs]
                figures.draw_layers(axis, values, **figures.line_style(s))
    for axis, end in zip(axes[0], "AB", strict=True):
        axis.set_title(f"with network {end}")
    for axis, words in zip(axes[:, 0], WHICH.values(), strict=True):
        axis.set_ylabel(f"mean correlation,\n{words}")
    for axis in axes[-1]:
        axis.set_xlabel("layer")
    return figure


if __name__ == "__main__":
    process.run(parse_args, main)
