"""Make the paper's main table from what has been evaluated: average and minimum accuracy along each path.

python evaluation/make_tables.py --dataset CIFAR10 CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.reports import tables
from utils.reports.paths import Selection
from utils.stages import flags, hints, process


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "variants", of_all=True)
    parser.networks("--adversarial", bool, False, "robust networks: clean and robust accuracy", dest="robust")
    return flags.parse_results(parser, argv)


def main(args):
    chosen = args.alignment, args.epochs, args.curve_seed, args.num_bends, args.curve
    asked_for = Selection(args.dataset, args.model, args.pairs, *chosen)
    table = tables.build(args.root, asked_for, robust=args.robust)
    if not table.rows:
        raise table.missing[0]
    missing = [f"Not in the table: {hints.explain(error, args.here)}" for error in table.missing]
    said = [*tables.headlines(table), *missing]
    files = tables.save(table, args.root, "table", args.command, said=said, name=args.name)
    hints.closing_words(args.here, files)


if __name__ == "__main__":
    process.run(parse_args, main)
