"""Make one HTML file of everything that has been evaluated: tables, figures, settings, and curves to walk along.

python evaluation/make_report.py --root demo
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import cli, report, results


def parse_args(argv=None):
    parser = results.results_parser(__file__, __doc__, of_all=True)
    return results.parse(parser, argv)


def main(args):
    path = results.output_path(args, "report", "html")
    for error in report.write(args, path):
        print(f"Not in the report: {error}")
    cli.finish([path])


if __name__ == "__main__":
    cli.run(parse_args, main)
