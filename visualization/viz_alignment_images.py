"""Draw the barrier on the line from A to aligned B by the number of images on which activations were compared.

For matches of align_models.py --align_images N, and with 10,000 images, whose lines have been evaluated.

python visualization/viz_alignment_images.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import re

import numpy as np

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process
from utils.stages.data import ALIGNMENT_IMAGES
from utils.stages.layout import read_name, tag


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "show titles")
    return flags.parse_results(parser, argv, of_curves=False)


def main(args):
    figures.run(args, draw)


def draw(layout, asked_for, missing):
    evaluated = filter(None, map(read_name, layout.folder("evaluated").glob("curve_align_*-0.npz")))
    matches = {name.alignment for name in evaluated}
    figure, [[axis]] = figures.panels(1, height=2.1)
    shown = {}
    for method in map(tag, asked_for.alignments):
        named = (re.fullmatch(rf"{re.escape(method)}_(\d+)", match) for match in matches)
        counts = {method: ALIGNMENT_IMAGES} | {name[0]: int(name[1]) for name in named if name}
        lines = [paths.Route(layout, match, 0) for match in sorted(counts, key=counts.get)]
        of_lines = results.load(results.load_path, paths.named(lines), asked_for.pairs, missing)
        if of_lines:
            fewest = results.of_pairs(min(map(len, of_lines.values())), asked_for.pairs)
            label = f"line, {paths.look(method).words}{fewest}"
            plot(axis, {counts[line.alignment]: of_pairs for line, of_pairs in of_lines.items()}, method, label)
        shown |= of_lines
    if not shown:
        return []
    axis.set(xscale="log", xlabel="images on which activations are compared")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set(ylabel="barrier of the test loss\n(cross-entropy)", ylim=(0, None))
    drawn = figures.Drawing(figure, layout, "alignment_images", "images for alignment, and the line's barrier")
    return figures.showing([drawn], results.marked(shown))


def plot(axis, of_counts, method, label):
    """The barriers, mean and deviation over pairs, by the number of images; a level line where there is only one."""
    barriers = [[results.summary(table, "loss")["barrier"] for table in of_pairs] for of_pairs in of_counts.values()]
    means = [np.mean(of_pairs) for of_pairs in barriers]
    bars = [np.std(of_pairs, ddof=1) if len(of_pairs) > 1 else 0 for of_pairs in barriers]
    look = paths.look(method)
    if len(means) == 1:
        axis.axhline(means[0], linestyle="--", color=look.colour, label=label)
    else:
        style = {"color": look.colour, "marker": look.symbol, "capsize": 1.5}
        axis.errorbar([*of_counts], means, bars if any(bars) else None, label=label, **style)


if __name__ == "__main__":
    process.run(parse_args, main)
