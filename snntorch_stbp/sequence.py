"""Sequences that hold one tensor at every step, such as an image that direct coding presents.

`tensor.expand` makes them without copying: their stride in time is 0. What knows that computes a
step once instead of `T` times.
"""

from __future__ import annotations

from torch import Tensor


def is_repeated(x: Tensor) -> bool:
    """Whether the sequence `x`, `[T, ...]`, is one tensor in memory, presented at every step."""
    return x.dim() > 0 and x.shape[0] > 1 and x.stride(0) == 0


def repeat(x: Tensor, steps: int) -> Tensor:
    """`x` as a sequence of `steps` steps, without copying."""
    return x.expand(steps, *x.shape)
