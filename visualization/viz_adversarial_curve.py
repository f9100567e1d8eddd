"""Draw robust curves: viz_curve.py for robust networks, clean and robust accuracy and loss.

python visualization/viz_adversarial_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 200
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

parse_args, main = start.twin(__name__, "visualization.viz_curve", __doc__, __file__, robust=True)
