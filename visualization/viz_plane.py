"""Draw the plane through A, B and aligned B: test accuracy and loss, and the straight paths from A to both.

python visualization/viz_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib.pyplot as plt

from utils import checkpoint, cli, figures, results


def parse_args(argv=None):
    parser = figures.parser(__file__, __doc__)
    figures.add_plane_flags(parser)
    parser.set_defaults(alignment=["corr"])
    args = results.parse(parser, argv)
    if "null" in map(checkpoint.tag, args.alignment):
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    files = []
    for model in args.model:
        planes = {}
        for s in results.named(args.dataset, model, [(0, alignment) for alignment in args.alignment]):
            of_pairs = [results.load_plane_with_alignment(args, s, pair) for pair in results.pairs_of(args)]
            words = results.in_words(s.alignment)
            planes[f"B as it is, and {words}"] = figures.mean_plane(of_pairs)
        files += figures.plane_figures(args, model, planes, "plane_with_alignment", "what alignment does", paint, 3)
    cli.finish(files)
    if args.show:
        plt.show()


def paint(axis, plane):
    a, b, aligned = plane["corners"]
    for end, tag, stroke in ((b, "null", "--"), (aligned, "corr", "-")):
        words, colour = results.ALIGNMENTS[tag]
        axis.plot(*zip(a, end, strict=True), stroke, color=colour, label=f"line, {words}", **figures.OUTLINED)
    figures.mark(axis, {"A": a, "B": b, "aligned B": aligned})


if __name__ == "__main__":
    cli.run(parse_args, main)
