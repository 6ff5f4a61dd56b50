"""Weights rounded to their levels as one operation, with the gradient of the scale.

Brevitas' modules, composed, compute the same in three times as many passes over memory and keep
more for the backward pass. On a CPU with a C compiler it is `kernels/weights.c`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels
from .kernels import native

TERNARY_THRESHOLD = 0.5  # of the scale: to the nearest of three levels
SMALLEST_SCALE = 1e-10
BLOCK = 65536  # weights


class Levels(NamedTuple):
    """What a quantizer rounds to, and where its scale comes from.

    Args:
        bits: 1, `"ternary"`, or 2 to 8.
        top: Largest integer; `None` at 1 bit and ternary.
        loading: The largest level's share of the root mean square; `None` where it is the largest
            weight.
        per_channel: One scale per output channel.
    """

    bits: int | Literal["ternary"]
    top: int | None
    loading: float | None
    per_channel: bool

    def blocks(self, w: Tensor) -> Iterator[slice]:
        """Rows of `w` to compute with at a time: on a CPU as many as stay in its cache."""
        count = len(w)
        if self.per_channel and w.device.type == "cpu":
            count = max(1, BLOCK * count // w.numel())
        for start in range(0, len(w), count):
            yield slice(start, start + count)

    def over(self, w: Tensor) -> tuple[int, ...]:
        """The dimensions that share a scale."""
        return tuple(range(1 if self.per_channel else 0, w.dim()))

    def scale(self, statistic: Tensor) -> Tensor:
        """The distance of two levels."""
        return statistic if self.top is None else statistic / self.top

    def statistic(self, w: Tensor) -> Tensor:
        """The largest level, or at 1 bit and ternary the scale; reduced dimensions are kept."""
        dims = self.over(w)
        if self.loading is not None:
            count = w.numel() // (len(w) if self.per_channel else 1)
            value = torch.linalg.vector_norm(w, dim=dims, keepdim=True)
            value.mul_(self.loading / count**0.5)
        else:
            value = w.abs().amax(dims, keepdim=True)
        return value.clamp_(min=SMALLEST_SCALE)

    def round(self, w: Tensor, scale: Tensor, out: Tensor) -> None:
        """Fill `out` with the level of each weight: an integer times `scale`."""
        if self.bits == 1:
            torch.ge(w, 0, out=out).mul_(2).sub_(1)
        elif self.bits == "ternary":
            torch.sign(w, out=out).mul_(w.abs() > TERNARY_THRESHOLD * scale)
        else:
            torch.div(w, scale, out=out).round_().clamp_(-self.top, self.top)  # type: ignore[operator]
        out.mul_(scale)

    def through_statistic(
        self, w: Tensor, statistic: Tensor, d_statistic: Tensor, out: Tensor
    ) -> None:
        """Fill `out` with the gradient of `w` from that of the statistic."""
        count = w.numel() // statistic.numel()
        if self.loading is not None:
            torch.mul(w, d_statistic * (self.loading**2 / count) / statistic, out=out)
        else:
            largest = w.abs() == statistic
            shares = d_statistic / largest.sum(self.over(w), keepdim=True).clamp_(min=1)
            torch.sign(w, out=out).mul_(largest).mul_(shares)


class Quantize(torch.autograd.Function):
    """Weights and their scale; gradients run straight through every rounding and clipping."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """The quantized weights, shaped as `w`, and the scale `[C, 1, ...]`, or one value."""
        ctx.levels, ctx.library = levels, _library(w, levels)
        quantized = torch.empty_like(w)
        if ctx.library is None:
            statistic = _forward(w, quantized, levels)
        else:
            statistic = w.new_empty([len(w), *[1] * (w.dim() - 1)])
            tensors = (w, quantized, statistic)
            _call(ctx.library.forward, tensors, levels, SMALLEST_SCALE, levels.top or 0,
                  TERNARY_THRESHOLD)  # fmt: skip
        ctx.save_for_backward(w, quantized, statistic)
        scale = levels.scale(statistic)
        if not levels.per_channel:  # in Brevitas' shapes
            scale = scale.reshape(() if levels.top else 1)
        return quantized, scale.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_quantized: Tensor, d_scale: Tensor) -> tuple[Tensor, None]:
        """With `y = q s` and `s` a function of `w`, both `q` and the weights it rounds move `y`.

        Straight through the rounding, `dy/ds` is `q - w / s` at 2 bits and more, and `q` below.
        """
        w, quantized, statistic = ctx.saved_tensors
        levels: Levels = ctx.levels
        d_scale, d_w = d_scale.reshape(statistic.shape), torch.empty_like(w)
        if ctx.library is None:
            _backward(w, quantized, statistic, d_quantized, d_scale, d_w, levels)
        else:
            if d_quantized.stride() != w.stride() or d_quantized.dtype != w.dtype:
                d_quantized = torch.empty_like(w).copy_(d_quantized)
            tensors = (w, quantized, statistic, d_quantized, d_scale.contiguous(), d_w)
            _call(ctx.library.backward, tensors, levels, levels.top or 0)
        return d_w, None


def _forward(w: Tensor, quantized: Tensor, levels: Levels) -> Tensor:
    """Fill `quantized` by torch operations, and return the statistic of each scale."""
    statistics = []
    for rows in levels.blocks(w):
        part = w[rows]
        statistics.append(levels.statistic(part))
        levels.round(part, levels.scale(statistics[-1]), out=quantized[rows])
    return torch.cat(statistics)


def _backward(
    w: Tensor,
    quantized: Tensor,
    statistic: Tensor,
    d_quantized: Tensor,
    d_scale: Tensor,
    d_w: Tensor,
    levels: Levels,
) -> None:
    """Fill `d_w` by torch operations."""
    for rows in levels.blocks(w):
        part, y, given, through = w[rows], quantized[rows], d_quantized[rows], d_w[rows]
        at = rows if levels.per_channel else slice(None)
        torch.sub(y, part, out=through) if levels.bits != 1 else through.copy_(y)
        moved = through.mul_(given).sum(levels.over(part), keepdim=True)
        d_statistic = levels.scale(moved / levels.scale(statistic[at]) + d_scale[at])
        levels.through_statistic(part, statistic[at], d_statistic, out=through)
        through.add_(given) if levels.bits != 1 else through.addcmul_(given, y.abs())


def _library(w: Tensor, levels: Levels) -> ctypes.CDLL | None:
    """The compiled equations, where there are any for weights that lie as these do."""
    rows = w.is_contiguous() or (
        w.dim() == 4 and w.is_contiguous(memory_format=torch.channels_last)
    )
    fits = w.device.type == "cpu" and w.dtype in (torch.float32, torch.float64)
    if not (kernels.compiles() and levels.per_channel and rows and fits):
        return None
    return native.library(
        "weights",
        ("STORED", native.STORED[w.dtype]),
        ("LEVELS", 0 if levels.top else 2 if levels.bits == "ternary" else 1),
        ("SCALE", 0 if levels.loading else 1),
    )


def _call(function: Any, tensors: Sequence[Tensor], levels: Levels, *values: float) -> None:
    w = tensors[0]
    counts = (len(w), w[0].numel(), torch.get_num_threads())
    function(
        *map(native.pointer, tensors),
        *map(ctypes.c_int64, counts),
        *map(ctypes.c_double, (levels.loading or 1, *values)),
    )
