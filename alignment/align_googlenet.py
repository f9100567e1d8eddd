"""Align two GoogLeNets: align_models.py with the model given.

python alignment/align_googlenet.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --transform TinyTen --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from alignment import align_models
from utils.stages import process


def parse_args(argv=None):
    return align_models.parse_args(argv, __doc__, __file__, model="GoogLeNet")


if __name__ == "__main__":
    process.run(parse_args, align_models.main)
