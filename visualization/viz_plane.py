"""Draw the plane through A, B and aligned B: test accuracy and loss, and the straight paths from A to both.

python visualization/viz_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
            words = f"B as it is, and {results.in_words(s.alignment)}"
            planes[s._replace(words=words)] = figures.mean_plane(results.load_planes_with_alignment(args, s))
        files += figures.plane_figures(args, model, planes, "plane_with_alignment", "what alignment does", paint, 3)
    figures.finish(args, files)


def paint(axis, series, plane):
    a, b, aligned = plane["corners"]
    for end, alignment, stroke in ((b, "null", "--"), (aligned, series.alignment, "-")):
        style = {"color": results.colour(alignment), "label": f"line, {results.in_words(alignment)}"}
        axis.plot(*zip(a, end, strict=True), stroke, **style, **figures.OUTLINED)
    figures.mark(axis, {"A": a, "B": b, "aligned B": aligned})


if __name__ == "__main__":
    cli.run(parse_args, main)
