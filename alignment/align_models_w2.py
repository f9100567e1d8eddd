"""Align network B to network A by the L2 distance of their activations: align_models.py with another measure.

python alignment/align_models_w2.py --dataset CIFAR100 --model TinyTen --seed_a 1 --seed_b 2 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from alignment import align_models
from utils.stages import process


def parse_args(argv=None):
    return align_models.parse_args(argv, __doc__, __file__, method="w2_pre")


if __name__ == "__main__":
    process.run(parse_args, align_models.main)
