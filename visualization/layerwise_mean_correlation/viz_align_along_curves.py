"""Draw how well a path's midpoint correlates with its ends, layer by layer: learned curves beside straight lines.

python visualization/layerwise_mean_correlation/viz_align_along_curves.py --dataset CIFAR100 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils.stages import start

start.quietly()

from functools import partial

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process
from utils.stages.flags import fraction

WHICH = {
    "unaligned": "as the point is",
    "aligned": "aligned with the end",
    "noid": "each layer aligned\nby itself",  # of networks whose layers share a stream of channels
}


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "show titles variants")
    parser.networks("--point_t", fraction, 0.5, "the point, from 0 at A to 1 at B")
    return flags.parse_results(parser, argv)


def main(args):
    figures.run(args, partial(draw, t=args.point_t))


def draw(layout, asked_for, missing, t):
    routes = paths.named(asked_for.by_name(layout))
    if 0 not in asked_for.epochs:  # drawn too, as published, if there
        routes += paths.named(asked_for.by_name(layout, epochs=[0]))
    tables = results.load(partial(results.load_along_curve, t=t), routes, asked_for.pairs, missing)
    if not tables:
        return []
    tables = results.marked(tables)
    title = f"{'midpoint' if t == 0.5 else f't = {t:g}'} of the path"
    drawn = [figures.Drawing(with_ends(tables), layout, "correlation_along_curve", title)]
    return figures.showing(drawn, tables)


def with_ends(tables):
    names = [which for which in WHICH if all(f"{which}_a" in table for of in tables.values() for table in of)]
    figure, axes = figures.panels(len(names), 2, height=1.7, sharex=True, sharey=True)
    for route, of_pairs in tables.items():
        for row, which in zip(axes, names, strict=True):
            for axis, end in zip(row, "ab", strict=True):
                values = [table[f"{which}_{end}"] for table in of_pairs]
                figures.draw_layers(axis, values, **figures.line_style(route))
    for axis, end in zip(axes[0], "AB", strict=True):
        axis.set_title(f"with network {end}")
    for axis, which in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(f"mean correlation,\n{WHICH[which]}")
    for axis in axes[-1]:
        axis.set_xlabel("layer")
    return figure


if __name__ == "__main__":
    process.run(parse_args, main)
