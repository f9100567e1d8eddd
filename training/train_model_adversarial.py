"""Train an adversarially robust network: train_model.py on attacked images (PGD).

python training/train_model_adversarial.py --dataset CIFAR100 --model TinyTen --transform Adversarial --seed 1
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from training import train_model
from utils.stages import process


def parse_args(argv=None):
    return train_model.parse_args(argv, __doc__, __file__, robust=True)


if __name__ == "__main__":
    process.run(parse_args, train_model.main)
