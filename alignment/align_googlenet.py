"""Align two GoogLeNets: align_models.py with the model given.

python alignment/align_googlenet.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --transform TinyTen --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "alignment.align_models", __doc__, __file__, model="GoogLeNet")
