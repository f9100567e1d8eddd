"""The numbers that networks compute with: float32, TF32 products on CUDA, or bfloat16 under autocast."""

from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """In this block networks run in bfloat16 if `precision` is bf16, and as they are otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_products(precision: str) -> None:
    """Let CUDA round the factors of products to TF32 for the precision tf32, and for no other."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
