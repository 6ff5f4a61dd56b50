"""Levels of a quantized membrane potential that lie close together at the threshold.

What a membrane keeps matters most where a little more makes it fire, so that few levels serve best
when they are dense there (S. Venkatesh et al., "SQUAT: stateful quantization-aware training in
recurrent spiking neural networks", arXiv:2404.19668; snnTorch's `state_quant(uniform=False,
thr_centered=True)`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDEST = 4.0
"""Distance of the lowest level from the threshold, in thresholds; of the nearest 1 / WIDEST."""


def threshold_levels(bits: int) -> list[float]:
    """The `2^bits` levels in thresholds, from the lowest to the highest.

    Below the threshold lie `2^bits - 1` levels, whose distances from it form the geometric series
    `WIDEST^(j / K)`, `j = K ... -K`, with `K = 2^(bits-1) - 1`: the middle one is 0, the state of
    rest. One level lies above it, as near as the nearest below: all that is above leads to the
    same spike and the same reset to zero.
    """
    most = 2 ** (bits - 1) - 1
    distances = [WIDEST ** (j / most) for j in range(most, -most - 1, -1)]
    return [1 - d for d in distances] + [1 + distances[-1]]


class _Nearest(torch.autograd.Function):
    """The nearest level; the gradient passes straight through within limits."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, levels: Tensor, bounds: Tensor, highest: float) -> Any:
        ctx.save_for_backward((u >= levels[0]) & (u <= highest))
        return levels[torch.bucketize(u.contiguous(), bounds)]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (within,) = ctx.saved_tensors
        return grads[0] * within, None, None, None


class ThresholdGrid(nn.Module):
    """Quantizer of a membrane potential on levels that are dense at the threshold.

    Whether a neuron fires does not depend on it: of the levels above and below the threshold, the
    border between the two that are nearest is the threshold itself. It rounds what is kept. The
    gradient passes straight through from the lowest level to twice the threshold.

    Args:
        bits: 2 to 8.
        threshold: Of the neuron, positive.

    Shapes:
        input and output: any.

    Raises:
        ValueError: For a number of bits outside its range.
    """

    levels: Tensor
    bounds: Tensor

    def __init__(self, bits: int, threshold: float) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"a threshold grid has 2 to 8 bits, not {bits!r}")
        self.bits, self.threshold = bits, threshold
        levels = torch.tensor(threshold_levels(bits), dtype=torch.float64) * threshold
        bounds = (levels[1:] + levels[:-1]) / 2
        bounds[-1] = threshold  # as it is, not as it was rounded on the way
        self.register_buffer("levels", levels.float(), persistent=False)
        self.register_buffer("bounds", bounds.float(), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """The level nearest to `u`; half way between two, the lower one."""
        level: Tensor = _Nearest.apply(u, self.levels, self.bounds, 2 * self.threshold)
        return level

    def extra_repr(self) -> str:
        """Bits and threshold."""
        return f"bits={self.bits}, threshold={self.threshold:g}"
