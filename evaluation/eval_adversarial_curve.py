"""Evaluate a robust curve: eval_curve.py on clean and on attacked images (PGD).

python evaluation/eval_adversarial_curve.py --dataset CIFAR100 --transform Adversarial --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from evaluation import eval_curve
from utils.stages import process


def parse_args(argv=None):
    return eval_curve.parse_args(argv, __doc__, __file__, robust=True)


if __name__ == "__main__":
    process.run(parse_args, eval_curve.main)
