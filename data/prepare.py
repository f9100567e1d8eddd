"""Download or decode a dataset before it is used: where training has no network, or begins in many processes at once.

python data/prepare.py --dataset CIFAR100
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import cli
from utils.data import prepare


def parse_args(argv=None):
    description = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter, allow_abbrev=False)
    cli.add_dataset_flags(parser)
    return parser.parse_args(argv)


def main(args):
    counts = prepare(args)
    print(f"{args.dataset} is ready: {counts['train']} training images and {counts['test']} test images.")


if __name__ == "__main__":
    cli.run(parse_args, main)
