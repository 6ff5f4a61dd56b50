"""Sequences in whichever memory layout, seen as `[T, rows, channels, inner]` without copying."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..sequence import is_repeated, repeat


def per_channel(value: Tensor, x: Tensor) -> bool:
    """Whether `value` broadcasts along the channels of `x`, `[T, B, C, ...]`, and only there."""
    if x.dim() < 3 or value.dim() > x.dim() - 1:
        return False
    shape = [1] * (x.dim() - 1 - value.dim()) + list(value.shape)
    return shape == [1, x.shape[2]] + [1] * (x.dim() - 3)


@dataclass(frozen=True)
class Layout:
    """A way to see sequences of one shape as `[T, N]`, or as `[T, rows, C, inner]`.

    Dimensions behind time are taken in the order in which they lie in memory, so that contiguous
    and channels-last sequences are both walked through front to back, and results lie as the
    input does.
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]  # in memory order
    view: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, channels: int) -> Layout:
        """The layout of `x`; `channels` is 1 unless a value per channel has to be aligned."""
        order = (0, *sorted(range(1, x.dim()), key=x.stride, reverse=True))
        if not x.permute(order)[0].is_contiguous():
            order = tuple(range(x.dim()))
        shape = tuple(x.shape[i] for i in order)
        view: tuple[int, ...] = (x.shape[0], x[0].numel())
        if channels > 1:
            rows = math.prod(shape[1 : order.index(2)])
            view = (x.shape[0], rows, channels, x[0].numel() // (rows * channels))
        return cls(order, shape, view)

    def flat(self, x: Tensor) -> Tensor:
        """`x` as `[T, N]` or `[T, rows, C, inner]`; copied only if it lies otherwise."""
        return x.permute(self.order).contiguous().view(len(x), *self.view[1:])

    def currents(self, x: Tensor) -> Tensor:
        """As `flat`, but a sequence of one repeated step stays one."""
        if not is_repeated(x):
            return self.flat(x)
        first = x.permute(self.order)[0].contiguous()
        return repeat(first.view(self.view[1:]), len(x))

    def value(self, value: Tensor) -> Tensor:
        """A value per channel, aligned with `flat` of a sequence; one value stays a scalar."""
        return value if value.dim() == 0 else value[:, None]

    def shaped(self, flat: Tensor) -> Tensor:
        """The inverse of `flat`, for sequences of any length."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return flat.view(len(flat), *self.shape[1:]).permute(inverse)
