"""Make the paper's main table from what has been evaluated: average and minimum accuracy along each path.

python evaluation/make_tables.py --dataset CIFAR10 CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import checkpoint, cli, results, tables


def parse_args(argv=None):
    parser = results.results_parser(__file__, __doc__, of_all=True)
    parser.add_argument("--adversarial", action="store_true", help="robust networks: clean and robust accuracy")
    return results.parse(parser, argv)


def main(args):
    table = tables.build(args)
    if not table.rows:
        raise table.missing[0]
    markdown = tables.to_markdown(table)
    print(markdown)
    for error in table.missing:
        print(f"Not in the table: {error}")
    texts = {"md": markdown, "csv": tables.to_csv(table), "tex": tables.to_latex(table, args.command)}
    subjects = ["_".join(dict.fromkeys(column.dataset for column in table.columns))]
    subjects.append("_".join(dict.fromkeys(row.model for row in table.rows)))
    files = []
    for suffix, text in texts.items():
        files.append(results.output_path(args, "table", suffix, *subjects))
        checkpoint.write_atomically(files[-1], lambda stream, text=text: stream.write(text.encode()))
    cli.finish(files)


if __name__ == "__main__":
    cli.run(parse_args, main)
