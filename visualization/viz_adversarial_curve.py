"""Draw robust curves: viz_curve.py for robust networks, clean and robust accuracy and loss.

python visualization/viz_adversarial_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from utils.stages import process
from visualization import viz_curve


def parse_args(argv=None):
    return viz_curve.parse_args(argv, __file__, __doc__, robust=True)


if __name__ == "__main__":
    process.run(parse_args, viz_curve.main)
