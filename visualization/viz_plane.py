"""Draw the plane through A, B and aligned B: test accuracy and loss, and the straight paths from A to both.

With --seed_c, the plane through three networks, of which B and C are aligned to A.

python visualization/viz_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from dataclasses import replace
from functools import partial

import numpy as np

import models
from utils.reports import drawing, figures, paths, planes, results
from utils.stages import flags, process
from utils.stages.layout import tag
from utils.stages.parser import seed_number


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, models)
    flags.add_figure_flags(parser)
    flags.add_plane_flags(parser)
    seed_c_help = "third networks, one a pair: the planes of three networks, instead of those with aligned B"
    parser.networks("--seed_c", nargs="+", type=seed_number, help=seed_c_help)
    parser.set_defaults(alignment=["corr"])
    args = flags.parse_results(parser, argv, script=__file__, of_curves=False)
    if args.seed_c is not None:
        if len(args.seed_c) != len(args.pairs):
            parser.error(f"--seed_c names {len(args.seed_c)} networks for {len(args.pairs)} pairs; give one a pair")
        args.pairs = [(*pair, c) for pair, c in zip(args.pairs, args.seed_c, strict=True)]
    elif "null" in map(tag, args.alignment):
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    drawing.run(args, partial(draw, of_three=args.seed_c is not None, cmap=args.cmap))


def draw(layout, asked_for, missing, of_three, cmap):
    before = "A, B and C, " if of_three else "B as it is, and "
    matches = [
        replace(route, words=f"{before}{paths.look(route.alignment).words}")
        for route in asked_for.by_name(layout, epochs=[0])
    ]
    of_pairs = results.marked(results.load(results.load_plane_with_alignment, matches, asked_for.pairs, missing))
    means = {route: results.mean_plane(found) for route, found in of_pairs.items()}
    means = {route: mean | {"paths": lines_on(mean, of_three)} for route, mean in means.items()}
    kind, title = (
        ("plane_of_three", "three networks") if of_three else ("plane_with_alignment", "what alignment does")
    )
    brush = paint_three if of_three else paint
    drawn = planes.plane_figures(means, kind, title, brush, cmap=cmap, legend_columns=3)
    return figures.showing(drawn, of_pairs)


def lines_on(plane, of_three):
    """Points of the lines from A to B and to aligned B, or of those between three networks: (n, 2)."""
    a, b, c = plane["corners"]
    ends = [(a, b), (a, c), *([(b, c)] if of_three else [])]
    return np.concatenate([np.linspace(*line, planes.FINE) for line in ends])


def paint(axis, route, plane):
    a, b, aligned = plane["corners"]
    for end, alignment, stroke in ((b, "null", "--"), (aligned, route.alignment, "-")):
        look = paths.look(alignment)
        style = {"color": look.colour, "label": f"line, {look.words}"}
        axis.plot(*zip(a, end, strict=True), stroke, **style, **planes.OUTLINED)
    planes.mark(axis, {"A": a, "B": b, "aligned B": aligned})


def paint_three(axis, route, plane):
    look = paths.look(route.alignment)
    places = dict(zip("ABC", plane["corners"], strict=True))
    ring = [*places.values(), places["A"]]
    style = {"color": look.colour, "label": f"lines, {look.words}"}
    axis.plot(*zip(*ring, strict=True), **style, **planes.OUTLINED)
    planes.mark(axis, places)


if __name__ == "__main__":
    process.run(parse_args, main)
