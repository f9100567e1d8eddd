"""Download or decode a dataset before it is used: where training has no network, or begins in many processes at once.

python data/prepare.py --dataset CIFAR100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from utils.stages import flags, process
from utils.stages.data import data_folder, prepare
from utils.stages.parser import Parser


def parse_args(argv=None):
    parser = Parser(__doc__, __file__)
    flags.take(parser, "data")
    return parser.parse_args(argv)


def main(args):
    folder = data_folder(args.dataset, data_path=args.data_path, root=args.root)
    counts = prepare(
        args.dataset, folder=folder, image_size=args.image_size, channels=args.channels, threads=args.num_workers
    )
    print(f"{args.dataset} is ready: {counts['train']} training images and {counts['test']} test images.")


if __name__ == "__main__":
    process.run(parse_args, main)
