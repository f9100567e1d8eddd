"""The permutation symmetries of any network, found by running it: what may be reordered without changing it."""

from utils.symmetries.finding import permutation_spec
from utils.symmetries.recording import Recording
from utils.symmetries.spec import Activation, Group, PermutationSpec, axis_index, moved_share, permute, soft_permute

__all__ = [
    "Activation",
    "Group",
    "PermutationSpec",
    "Recording",
    "axis_index",
    "moved_share",
    "permutation_spec",
    "permute",
    "soft_permute",
]
