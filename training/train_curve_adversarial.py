"""Learn a robust curve between two robust networks: train_curve.py on attacked images (PGD).

python training/train_curve_adversarial.py --dataset CIFAR100 --transform Adversarial --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "training.train_curve", __doc__, __file__, robust=True)
