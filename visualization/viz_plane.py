"""Draw the plane through A, B and aligned B: test accuracy and loss, and the straight paths from A to both.

python visualization/viz_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.cli import start

start.quietly()

from utils.cli import flags, process
from utils.reporting import figures, paths, planes, results
from utils.storage.layout import Layout, tag


def parse_args(argv=None):
    parser = flags.results_parser(__doc__)
    flags.add_figure_flags(parser)
    flags.add_plane_flags(parser)
    parser.set_defaults(alignment=["corr"])
    args = flags.parse_results(parser, argv, script=__file__, of_curves=False)
    if "null" in map(tag, args.alignment):
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    drawings, files = [], []
    with figures.style():
        for model in args.model:
            layout = Layout(args.root, model, args.dataset, replaced=args.replaced)
            of_pairs = {}
            for s in paths.named(layout, paths.combined([0], args.alignment)):
                s = s._replace(words=f"B as it is, and {paths.alignment_words(s.alignment)}")
                of_pairs[s] = results.load_planes_with_alignment(s, args.pairs)
            of_means = {s: planes.mean_plane(found) for s, found in of_pairs.items()}
            words = ("plane_with_alignment", f"what alignment does{figures.say_images(layout, of_pairs)}")
            drawn = planes.plane_figures(of_means, *words, paint, cmap=args.cmap, legend_columns=3)
            files += figures.save(drawn, pairs=args.pairs, command=args.command, name=args.name)
            drawings += drawn
        process.closing_words(files)
        if args.show:
            figures.show(drawings)


def paint(axis, series, plane):
    a, b, aligned = plane["corners"]
    for end, alignment, stroke in ((b, "null", "--"), (aligned, series.alignment, "-")):
        words = f"line, {paths.alignment_words(alignment)}"
        style = {"color": paths.colour(alignment), "label": words}
        axis.plot(*zip(a, end, strict=True), stroke, **style, **planes.OUTLINED)
    planes.mark(axis, {"A": a, "B": b, "aligned B": aligned})


if __name__ == "__main__":
    process.run(parse_args, main)
