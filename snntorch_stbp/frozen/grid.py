"""Grids of binary fractions, on which float32 computes exactly."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT_BITS = 24
"""Bits of the significand of a float32: integers up to 2^24 are exact."""


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


def on_grid(x: Tensor, fraction: Tensor | int) -> Tensor:
    """Round `x` to multiples of `2^-fraction`."""
    scale = torch.exp2(fraction) if isinstance(fraction, Tensor) else 2.0**fraction
    return round_ste(x * scale) / scale


def off_grid(x: Tensor, fraction: Tensor) -> Tensor:
    """Move `x` half way between two multiples of `2^-fraction`, the nearest."""
    scale = torch.exp2(fraction)
    middle = (torch.floor(x * scale) + 0.5) / scale
    return x + (middle - x).detach()
