"""Draw how well the channels of two networks correlate, layer by layer, before and after alignment.

Where midpoints of curves have been compared with their ends (align_along_curve.py), they are drawn too. Where how
every two channels correlate was kept (align_models.py --matrices), it is drawn as images, of one pair.

python visualization/layerwise_mean_correlation/viz_align_models.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils.stages import start

start.quietly()

from dataclasses import replace
from functools import partial

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process
from utils.stages.layout import tag


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "show titles")
    parser.networks("--adversarial", bool, False, "robust networks, from their own folders", dest="robust")
    parser.set_defaults(alignment=["corr"])
    args = flags.parse_results(parser, argv, of_curves=False)
    if "null" in map(tag, args.alignment):
        parser.error("--alignment names matches; what the networks are without one is drawn anyway")
    return args


def main(args):
    figures.run(args, draw)


def draw(layout, asked_for, missing):
    pairs = asked_for.pairs
    matches = asked_for.by_name(layout, epochs=[0])
    matches = [replace(route, words=paths.look(route.alignment).words) for route in matches]
    of_matches = results.marked(results.load(results.load_correlations, matches, pairs, missing))
    if not of_matches:
        return []
    curves = paths.midpoints(layout, pairs, ["null", *(route.alignment for route in of_matches)])
    along = results.load(partial(results.load_along_curve, t=0.5), curves, pairs, missing)
    figure = layerwise(of_matches, along, pairs)
    drawn = [figures.Drawing(figure, layout, "correlation", "activations of A and B")]
    drawn += figures.matrix_drawings(list(of_matches), pairs, missing)
    return figures.showing(drawn, of_matches, along)


def layerwise(of_matches, along, pairs):
    figure, axes = figures.panels(1, height=2.1)
    axis = axes[0, 0]
    before = max(of_matches.values(), key=len)
    words = paths.look("null").words + results.of_pairs(len(before), pairs)
    lines = [("null", words, "--", [table["unaligned"] for table in before])]
    for route, of_pairs in of_matches.items():
        lines.append((route.alignment, route.words, "-", [table["aligned"] for table in of_pairs]))
    for alignment, words, stroke, values in lines:
        look = paths.look(alignment)
        style = {"color": look.colour, "marker": look.symbol, "linestyle": stroke}
        figures.draw_layers(axis, values, label=words, **style)
    for route, of_pairs in along.items():
        values = [(table["unaligned_a"] + table["unaligned_b"]) / 2 for table in of_pairs]
        style = figures.line_style(route) | {"linestyle": ":", "markerfacecolor": "white"}
        words = f"midpoint of the {route.words}, with its ends (alignment images)"
        figures.draw_layers(axis, values, **style | {"label": words})
    axis.set(ylabel="mean correlation of\nmatched channels", xlabel="layer", ylim=(min(0, axis.get_ylim()[0]), None))
    return figure


if __name__ == "__main__":
    process.run(parse_args, main)
