"""Print the paper's main table from what has been evaluated: average and minimum accuracy along each path.

python evaluation/make_tables.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import checkpoint, cli, results
from utils.errors import UserError


def parse_args(argv=None):
    parser = results.results_parser(__doc__)
    parser.add_argument("--adversarial", action="store_true", help="robust networks: clean and robust accuracy")
    return results.parse(parser, argv)


def main(args):
    accuracies = results.accuracies(args)
    columns = [f"{words}, {figure}" for words in accuracies.values() for figure in ("average", "minimum")]
    lines = [row(args.dataset, columns), row("---", ["---"] * len(columns))]
    missing = []
    for model in args.model:
        rows, ends = [], None
        for series in results.series_of(args, model):
            try:
                tables = results.load_series(args, series)
            except UserError as error:
                missing.append(error)
                continue
            summaries = [[results.summary(table, name) for table in tables] for name in accuracies]
            ends = ends or [text for s in summaries for text in (cell(s, "ends"), "")]
            rows.append(row(series.words, [cell(s, figure) for s in summaries for figure in ("average", "minimum")]))
        if rows:
            lines += [row(f"**{model}**, the two networks", ends), *rows]
    if len(lines) == 2:
        raise missing[0]
    pairs = len(args.seed_a)
    lines += [
        "",
        f"Test accuracy in percent; {'one pair' if pairs == 1 else f'mean ± standard deviation of {pairs} pairs'}.",
    ]
    text = "\n".join(lines)
    print(text)
    for error in missing:
        print(f"Not in the table: {error}")
    path = results.output_path(args, "table", "_".join(args.model), "md")
    checkpoint.write_atomically(path, lambda stream: stream.write((text + "\n").encode()))
    cli.finish([path])


def row(head, cells):
    return f"| {' | '.join([head, *cells])} |".replace("|  |", "| |")


def cell(summaries, name):
    mean, deviation = results.mean_and_deviation([summary[name] for summary in summaries])
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    cli.run(parse_args, main)
