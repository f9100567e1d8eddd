"""Compare all alignments of one pair of networks or several: correlation, distance, and what lies between.

python evaluation/compare_alignments.py --dataset CIFAR10 --model TinyTen --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import textwrap

import models
from utils.reports import figures, paths, tables
from utils.reports.paths import Selection
from utils.stages import flags, hints, process
from utils.stages.layout import model_folder

SHADES = ("#000000", "#999999", "#8C564B", "#6A3D9A")  # of lines and kinds of curves, as in no other figure
# The losses whose barriers are drawn, in words, and their symbols
BARRIERS = {"loss": "", "loss_interpolated": " with interpolated statistics", "loss_repaired": ", repaired"}
BARRIER_SYMBOLS = {"loss": "o", "loss_interpolated": "x", "loss_repaired": "D"}


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "variants titles", of_all=True)
    return flags.parse_results(parser, argv)


def main(args):
    chosen = args.alignment, args.epochs, args.curve_seed, args.num_bends, args.curve
    asked_for = Selection(args.dataset, args.model, args.pairs, *chosen)
    table = tables.compare(args.root, asked_for)
    if not table.rows:
        raise table.missing[0]
    said = [f"Not in the comparison: {hints.explain(error, args.here)}" for error in table.missing]
    files = tables.save(table, args.root, "comparison", args.command, said=said, name=args.name)
    datasets, models = {column.dataset for column in table.columns}, {row.model for row in table.rows}
    with figures.style():
        for layout, pairs in evaluated(args.root, asked_for).items():
            if layout.dataset in datasets and layout.model in models:
                drawing, titled = draw(table, layout), not args.no_title
                files += figures.save([drawing], pairs=pairs, command=args.command, name=args.name, titled=titled)
    hints.closing_words(args.here, files)


def evaluated(root, asked_for):
    """The pairs between which any path is evaluated, by layout."""
    pairs = {}
    for route, those in asked_for.among(paths.evaluated(root)).items():
        pairs.setdefault(route.layout, {}).update(dict.fromkeys(those))
    return {layout: list(those) for layout, those in pairs.items()}


def draw(table, layout):
    """Barriers and lowest accuracies of a model's paths on a dataset: a row an alignment, a shade a kind of path."""
    rows = [row for row in table.rows if row.model == layout.model and row.route]
    alignments = list(dict.fromkeys(row.route.alignment for row in rows))
    quantities = ["barrier of the test loss"]
    if any((column.dataset, column.quantity) == (layout.dataset, "accuracy") for row in rows for column in row.cells):
        quantities.append("lowest test accuracy (%)")
    figure, axes = figures.panels(len(quantities), height=0.5 + 0.32 * len(alignments), sharey=True)
    kinds = list(dict.fromkeys(row.words.partition(",")[0] for row in rows))
    for row in rows:
        kind, height = row.words.partition(",")[0], alignments.index(row.route.alignment)
        style = {"color": SHADES[kinds.index(kind) % len(SHADES)], "capsize": 2, "clip_on": False}
        for column, cell in row.cells.items():
            if column.dataset != layout.dataset:
                continue
            mean, deviation = cell.measured
            bar = {"x": [mean], "y": [height], "xerr": None if deviation is None else [deviation]}
            if column.statistic == "barrier" and column.quantity in BARRIERS:
                label, symbol = kind + BARRIERS[column.quantity], BARRIER_SYMBOLS[column.quantity]
                axes[0, 0].errorbar(**bar, fmt=symbol, label=label, **style)
            if (column.quantity, column.statistic) == ("accuracy", "minimum"):
                axes[1, 0].errorbar(**bar, fmt="o", label=kind, **style)
    words = [textwrap.fill(paths.look(alignment).words, 19) for alignment in alignments]
    for axis, quantity in zip(axes.flat, quantities, strict=True):
        axis.set(xlabel=quantity, ylim=(len(alignments) - 0.5, -0.5))
        axis.set_yticks(range(len(alignments)), words)
    axes[0, 0].set_xlim(left=0)
    place = model_folder(layout.model), layout.dataset
    shown = {path: digest for path, digest in table.files.items() if path.parts[-3:-1] == place}
    words = [row.words for row in rows]
    return figures.Drawing(
        figure, layout, "comparison", "alignments compared", legend_columns=1, words=words, files=shown
    )


if __name__ == "__main__":
    process.run(parse_args, main)
