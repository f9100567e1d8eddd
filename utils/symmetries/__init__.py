"""The permutation symmetries of any network, found by running it: what may be reordered without changing it."""

from .finding import permutation_spec
from .recording import Recording
from .spec import Activation, Group, PermutationSpec, axis_index, moved_share, permute, soft_permute

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
