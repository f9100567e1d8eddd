"""Align network B to network A by the L2 distance of their activations: align_models.py with another measure.

python alignment/align_models_w2.py --dataset CIFAR100 --model TinyTen --seed_a 1 --seed_b 2 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "alignment.align_models", __doc__, __file__, method="w2_pre")
