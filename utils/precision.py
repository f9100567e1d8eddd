"""The numbers that networks compute with: float32, TF32 in convolutions on CUDA, or bfloat16 under autocast."""

from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """In this block networks run in bfloat16 if `precision` is bf16, and as they are otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_products(precision: str) -> None:
    """Let CUDA round the factors of convolutions to TF32 for the precision tf32, and for no other.

    Matrix products stay exact: points on curves, soft permutations and correlations are such products. torch has
    older names for these switches too (allow_tf32), and raises errors where both are used.
    """
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
