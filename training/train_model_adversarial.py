"""Train an adversarially robust network: train_model.py on attacked images (PGD).

python training/train_model_adversarial.py --dataset CIFAR100 --model TinyTen --transform Adversarial --seed 1
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "training.train_model", __doc__, __file__, robust=True)
