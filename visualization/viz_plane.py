"""Draw the plane through A, B and aligned B: test accuracy and loss, and the straight paths from A to both.

With --seed_c, the plane through three networks, of which B and C are aligned to A.

python visualization/viz_plane.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import itertools
from dataclasses import replace
from functools import partial

import numpy as np

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process
from utils.stages.flags import seed_number
from utils.stages.layout import tag


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "show titles planes")
    seed_c_help = "third networks, one a pair: the planes of three networks, instead of those with aligned B"
    parser.networks("--seed_c", seed_number, None, seed_c_help, nargs="+")
    parser.set_defaults(alignment=["corr"])
    args = flags.parse_results(parser, argv, of_curves=False)
    if args.seed_c is not None:
        if len(args.seed_c) != len(args.pairs):
            parser.error(f"--seed_c names {len(args.seed_c)} networks for {len(args.pairs)} pairs; give one a pair")
        args.pairs = [(*pair, c) for pair, c in zip(args.pairs, args.seed_c, strict=True)]
    elif "null" in map(tag, args.alignment):
        parser.error("--alignment names no match: without one B and aligned B are the same, and there is no plane")
    return args


def main(args):
    figures.run(args, partial(draw, of_three=args.seed_c is not None, cmap=args.cmap))


def draw(layout, asked_for, missing, of_three, cmap):
    before = "A, B and C, " if of_three else "B as it is, and "
    matches = [
        replace(route, words=f"{before}{paths.look(route.alignment).words}")
        for route in asked_for.by_name(layout, epochs=[0])
    ]
    of_pairs = results.marked(results.load(results.load_plane_with_alignment, matches, asked_for.pairs, missing))
    means = {route: results.mean_plane(found) for route, found in of_pairs.items()}
    for route, mean in means.items():
        sides = [side for line, *_ in lines(route, mean, of_three) for side in itertools.pairwise(line)]
        mean["paths"] = np.concatenate([np.linspace(*side, figures.FINE) for side in sides])
    kind, title = (
        ("plane_of_three", "three networks") if of_three else ("plane_with_alignment", "what alignment does")
    )
    brush = partial(paint, of_three=of_three)
    drawn = figures.plane_figures(means, kind, title, brush, cmap=cmap, legend_columns=3)
    return figures.showing(drawn, of_pairs)


def lines(route, plane, of_three):
    """What runs on a plane: the corners on its way, its alignment, its stroke and what it is."""
    a, b, c = plane["corners"]
    if of_three:
        return [((a, b, c, a), route.alignment, "-", "lines")]
    return [((a, b), "null", "--", "line"), ((a, c), route.alignment, "-", "line")]


def paint(axis, route, plane, of_three):
    for line, alignment, stroke, words in lines(route, plane, of_three):
        look = paths.look(alignment)
        style = {"color": look.colour, "label": f"{words}, {look.words}"}
        axis.plot(*zip(*line, strict=True), stroke, **style, **figures.OUTLINED)
    names = ("A", "B", "C" if of_three else "aligned B")
    figures.mark(axis, dict(zip(names, plane["corners"], strict=True)))


if __name__ == "__main__":
    process.run(parse_args, main)
