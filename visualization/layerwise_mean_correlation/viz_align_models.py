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

from functools import partial

from utils.reports import drawing, figures, matrices, paths, results
from utils.stages import flags, process
from utils.stages.layout import tag


def parse_args(argv=None):
    parser = flags.results_parser(__doc__)
    flags.add_figure_flags(parser)
    robust_help = "robust networks, from their own folders"
    parser.add_argument("--adversarial", dest="robust", action="store_true", help=robust_help)
    parser.set_defaults(alignment=["corr"])
    args = flags.parse_results(parser, argv, script=__file__, of_curves=False)
    if "null" in map(tag, args.alignment):
        parser.error("--alignment names matches; what the networks are without one is drawn anyway")
    return args


def main(args):
    def draw(layout, missing):
        matches = paths.named(layout, paths.combined([0], args.alignment))
        matches = [s._replace(words=paths.alignment_words(s.alignment)) for s in matches]
        of_matches = results.load_there(matches, args.pairs, load_both, missing)
        if not of_matches:
            return []
        curves = paths.midpoints(layout, args.pairs, ["null", *(s.alignment for s in of_matches)])
        along = results.load_there(curves, args.pairs, partial(results.load_along_curve, t=0.5), missing)
        figure = layerwise(of_matches, along, args.pairs)
        drawings = [figures.Drawing(figure, layout, "correlation", "activations of A and B")]
        return drawings + matrices.matrix_drawings(list(of_matches), args.pairs)

    drawing.run(vars(args), draw, process.closing_words)


def load_both(series, pairs):
    """Correlations before and after alignment, of every pair; those before are with every match, and the same."""
    return [results.load_correlations(series, pairs, which) for which in ("unaligned", "aligned")]


def layerwise(of_matches, along, pairs):
    figure, axes = figures.panels(1, height=2.1)
    axis = axes[0, 0]
    before = max((unaligned for unaligned, _ in of_matches.values()), key=len)
    words = paths.alignment_words("null") + results.of_pairs(len(before), pairs)
    lines = [("null", words, "--", before)]
    lines += [(s.alignment, s.words, "-", aligned) for s, (_, aligned) in of_matches.items()]
    for alignment, words, stroke, values in lines:
        style = {"color": paths.colour(alignment), "marker": paths.symbol(alignment), "linestyle": stroke}
        figures.draw_layers(axis, values, label=words, **style)
    for s, of_pairs in along.items():
        values = [(table["unaligned_a"] + table["unaligned_b"]) / 2 for table in of_pairs]
        style = figures.line_style(s) | {"linestyle": ":", "markerfacecolor": "white"}
        words = f"midpoint of the {s.words}, with its ends (alignment images)"
        figures.draw_layers(axis, values, **style | {"label": words})
    axis.set(ylabel="mean correlation of\nmatched channels", xlabel="layer", ylim=(min(0, axis.get_ylim()[0]), None))
    return figure


if __name__ == "__main__":
    process.run(parse_args, main)
