"""Evaluate a robust curve: eval_curve.py on clean and on attacked images (PGD).

python evaluation/eval_adversarial_curve.py --dataset CIFAR100 --transform Adversarial --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "evaluation.eval_curve", __doc__, __file__, robust=True)
