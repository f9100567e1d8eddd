"""PAM on ResNet32 with the stem's group learned like every other; with --fixed it stays as it is.

For example, from the repository's folder, after training networks 1 and 2 for 6 epochs:

python results/resnet32-stem/stem.py --fixed --root FOLDER --model ResNet32 --epochs_model 6 --inner_iters_perm 2 ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from training import train_curve_pam
from utils import pam
from utils.permutations import groups_in
from utils.stages import process


class StemFixed(pam.SoftPermutation):
    @torch.no_grad()
    def proximal_step(self, rate):
        super().proximal_step(rate)
        for group in groups_in(self.spec.rows[0].axis):
            matrix = self.matrices()[group]
            matrix.copy_(torch.eye(len(matrix)))


if __name__ == "__main__":
    pam.SCREENED_IMAGES = 1000  # of 10,000, for both, to save time
    if "--fixed" in sys.argv:
        sys.argv.remove("--fixed")
        pam.SoftPermutation = StemFixed
    process.run(train_curve_pam.parse_args, train_curve_pam.main)
