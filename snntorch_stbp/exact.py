"""Arithmetic in which sums of integers that fit float32's 24 bits come out exact, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_sums(device: torch.device) -> Iterator[None]:
    """Convolutions and products of float32 integers are exact inside the `with` block.

    Fast modes are off that round: autocast, TF32 or bfloat16 products, and cuDNN, whose FFT and
    Winograd convolutions multiply numbers that are no integers any more.

    Args:
        device: Where the tensors are.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
