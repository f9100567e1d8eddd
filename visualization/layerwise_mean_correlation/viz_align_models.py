"""Draw how well the channels of two networks correlate, layer by layer, before and after alignment.

python visualization/layerwise_mean_correlation/viz_align_models.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils import checkpoint, cli, figures, results


def parse_args(argv=None):
    parser = figures.parser(__file__, __doc__)
    parser.add_argument("--adversarial", action="store_true", help="robust networks, from their own folders")
    parser.set_defaults(alignment=["corr"])
    args = results.parse(parser, argv)
    if "null" in map(checkpoint.tag, args.alignment):
        parser.error("--alignment names matches; what the networks are without one is drawn anyway")
    if any(name.startswith("pam_") for name in args.alignment):
        parser.error("--alignment: no correlations belong to the matches that PAM finds")
    return args


def main(args):
    files = []
    for model in args.model:
        figure, axes = figures.panels(1, height=2.4)
        axis, pairs = axes[0, 0], results.pairs_of(args)
        matches = results.named(args.dataset, model, [(0, alignment) for alignment in args.alignment])
        lines = [("null", "--", matches[0], "unaligned"), *((s.alignment, "-", s, "aligned") for s in matches)]
        for alignment, stroke, s, which in lines:
            values = [results.load_correlation(args, s, pair, which) for pair in pairs]
            style = {"color": results.colour(alignment), "label": results.in_words(alignment)}
            figures.draw_layers(axis, values, linestyle=stroke, marker="o", **style)
        axis.set(ylabel="mean correlation of matched channels", xlabel="layer")
        title = "activations of A and B"
        files += figures.save(args, figure, title, "correlation", model)
    figures.finish(args, files)


if __name__ == "__main__":
    cli.run(parse_args, main)
