"""Learn a robust curve between two robust networks: train_curve.py on attacked images (PGD).

python training/train_curve_adversarial.py --dataset CIFAR100 --transform Adversarial --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from training import train_curve
from utils.stages import process


def parse_args(argv=None):
    return train_curve.parse_args(argv, __doc__, __file__, robust=True)


if __name__ == "__main__":
    process.run(parse_args, train_curve.main)
