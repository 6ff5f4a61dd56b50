"""Sequences that hold one tensor at every step, such as an image that direct coding presents.

`repeat` makes them without copying, as `tensor.expand` does: their stride in time is 0. What knows
that computes a step once instead of `T` times.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor


def is_repeated(x: Tensor) -> bool:
    """Whether the sequence `x`, `[T, ...]`, is one tensor in memory, presented at every step."""
    return x.dim() > 0 and x.shape[0] > 1 and x.stride(0) == 0


def repeat(x: Tensor, steps: int) -> Tensor:
    """`x` as a sequence of `steps` steps, without copying."""
    if torch.is_grad_enabled() and x.requires_grad:
        sequence: Tensor = _Repeat.apply(x, steps)
        return sequence
    return x.expand(steps, *x.shape)


class _Repeat(torch.autograd.Function):
    """`expand` whose gradient is summed step by step, each in the order in which it lies in memory.

    `Tensor.sum` over the first dimension of channels-last sequences is several times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        """A view `[steps, ...]` of `x`."""
        return x.expand(steps, *x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum over time, of half precision in float32."""
        exact = torch.promote_types(gradient.dtype, torch.float32)
        first, *others = gradient.unbind(0)
        return reduce(torch.add, others, first.to(exact)).to(gradient.dtype), None
