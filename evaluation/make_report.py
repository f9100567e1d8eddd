"""Make one HTML file of everything that has been evaluated: tables, figures, settings, and curves to walk along.

python evaluation/make_report.py --root demo
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.reports import page, results
from utils.reports.paths import Selection
from utils.stages import flags, hints, process


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, __file__, models, "variants", of_all=True)
    return flags.parse_results(parser, argv)


def main(args):
    path = results.output_path(args.root, "report", "html", name=args.name)
    chosen = args.alignment, args.epochs, args.curve_seed, args.num_bends, args.curve
    asked_for = Selection(args.dataset, args.model, args.pairs, *chosen)
    explain = partial(hints.explain, here=args.here)
    missing, headlines = page.write(path, args.root, asked_for, command=args.command, explain=explain)
    for error in missing:
        print(f"Not in the report: {explain(error)}")
    hints.closing_words(args.here, [path])
    for sentence in headlines:
        print(sentence)


if __name__ == "__main__":
    process.run(parse_args, main)
