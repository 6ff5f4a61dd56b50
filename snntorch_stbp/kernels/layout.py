"""Sequences in whichever memory layout, seen as `[T, rows, channels, inner]` without copying."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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

    order: tuple[int, ...] | None  # dimensions as they lie in memory, where that is not in a row
    inverse: tuple[int, ...]
    shape: tuple[int, ...]  # behind time, in memory order
    view: tuple[int, ...]  # likewise, [N] or [rows, C, inner]

    @classmethod
    def of(cls, x: Tensor, channels: int) -> Layout:
        """The layout of `x`; `channels` is 1 unless a value per channel has to be aligned."""
        return _layout(x.shape, x.stride(), channels)

    def flat(self, x: Tensor) -> Tensor:
        """`x` as `[T, N]` or `[T, rows, C, inner]`; copied only if it lies otherwise."""
        return self._in_order(x).contiguous().view(x.shape[0], *self.view)

    def currents(self, x: Tensor) -> Tensor:
        """As `flat`, but a sequence of one repeated step stays one."""
        if not is_repeated(x):
            return self.flat(x)
        first = self._in_order(x)[0].contiguous()
        return repeat(first.view(self.view), x.shape[0])

    def value(self, value: Tensor) -> Tensor:
        """A value per channel, aligned with `flat` of a sequence; one value stays a scalar."""
        return value if value.dim() == 0 else value[:, None]

    def shaped(self, flat: Tensor) -> Tensor:
        """The inverse of `flat`, for sequences of any length."""
        ordered = flat.view(flat.shape[0], *self.shape)
        return ordered if self.order is None else ordered.permute(self.inverse)

    def _in_order(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.permute(self.order)


@lru_cache(maxsize=1024)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...], channels: int) -> Layout:
    """Found once for all sequences that lie alike: looking took longer than a small neuron."""
    straight = tuple(range(len(shape)))
    order = (0, *sorted(straight[1:], key=strides.__getitem__, reverse=True))
    if not _dense([shape[i] for i in order[1:]], [strides[i] for i in order[1:]]):
        order = straight
    inverse = tuple(sorted(straight, key=order.__getitem__))
    step = tuple(shape[i] for i in order[1:])
    view: tuple[int, ...] = (math.prod(step),)
    if channels > 1:
        place = order.index(2)
        view = (math.prod(step[: place - 1]), channels, math.prod(step[place:]))
    return Layout(None if order == straight else order, inverse, step, view)


def _dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether what lies so fills a piece of memory from front to back."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
