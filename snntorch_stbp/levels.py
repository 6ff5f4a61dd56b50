"""Weights rounded to their levels as one operation, with the gradient of the scale.

Brevitas' modules, composed, compute the same in three times as many passes over memory and keep
more for the backward pass. On a CPU with a C compiler it is `kernels/weights.c`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
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
        loading: The largest level in root mean squares of the weights; `None` where it is the
            largest weight.
        per_channel: One scale per output channel.
        learned: Whether `loading` is where a learned one starts. Clipped weights then have no
            gradient of their own: they pull at the range.
    """

    bits: int | Literal["ternary"]
    top: int | None
    loading: float | None
    per_channel: bool
    learned: bool = False

    def blocks(self, w: Tensor) -> Iterator[slice]:
        """Rows of `w` to compute with at a time: on a CPU as many as stay in its cache."""
        count = len(w)
        if self.per_channel and w.device.type == "cpu":
            count = max(1, BLOCK * count // w.numel())
        for start in range(0, len(w), count):
            yield slice(start, start + count)

    def rows(self, rows: slice) -> slice:
        """Where what belongs to the scales of `rows` lies."""
        return rows if self.per_channel else slice(None)

    def over(self, w: Tensor) -> tuple[int, ...]:
        """The dimensions that share a scale."""
        return tuple(range(1 if self.per_channel else 0, w.dim()))

    def scale(self, statistic: Tensor) -> Tensor:
        """The distance of two levels.

        A GPU multiplies by the reciprocal of a Python number, and rounds otherwise than a CPU.
        """
        return statistic if self.top is None else statistic / torch.full_like(statistic, self.top)

    def loadings(self, w: Tensor, log_loading: Tensor | None) -> Tensor:
        """The loading of each row of `w`, reduced dimensions kept, or the one of all."""
        shape = [len(w) if self.per_channel else 1, *[1] * (w.dim() - 1)]
        if log_loading is not None:
            return log_loading.to(_wide(w)).exp().to(w.dtype).reshape(shape)
        return w.new_full(shape, self.loading or 1)

    def statistic(self, w: Tensor, loading: Tensor) -> Tensor:
        """The largest level, or at 1 bit and ternary the scale; reduced dimensions are kept."""
        dims = self.over(w)
        if self.loading is not None:
            kind, count = _wide(w), w.numel() // loading.numel()
            value = torch.linalg.vector_norm(w, dim=dims, keepdim=True, dtype=kind)
            value = value.mul_(loading.to(kind) / count**0.5).to(w.dtype)
        else:
            value = w.abs().amax(dims, keepdim=True)
        return value.clamp_(min=max(SMALLEST_SCALE, torch.finfo(w.dtype).tiny))

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
        self, w: Tensor, loading: Tensor, statistic: Tensor, d_statistic: Tensor, out: Tensor
    ) -> None:
        """Fill `out` with the gradient of `w` from that of the statistic."""
        count = w.numel() // statistic.numel()
        if self.loading is not None:
            torch.mul(w, d_statistic * (loading.square() / count) / statistic, out=out)
        else:
            largest = w.abs() == statistic
            shares = d_statistic / largest.sum(self.over(w), keepdim=True).clamp_(min=1)
            torch.sign(w, out=out).mul_(largest).mul_(shares)


class Quantize(torch.autograd.Function):
    """Weights and their scale; gradients run straight through every rounding and clipping.

    But of learned ranges not through clipping, as in equation 3 of S. K. Esser et al., "Learned
    step size quantization", ICLR 2020, arXiv:1902.08153.
    """

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, log_loading: Tensor | None, levels: Levels
    ) -> tuple[Tensor, Tensor]:
        """The quantized weights, shaped as `w`, and the scale `[C, 1, ...]`, or one value.

        `log_loading` is the logarithm of learned loadings, `[C]` or one value.
        """
        ctx.levels, ctx.library = levels, _library(w, levels)
        loading, quantized = levels.loadings(w, log_loading), torch.empty_like(w)
        if ctx.library is None:
            statistic = _forward(w, loading, quantized, levels)
        else:
            statistic = torch.empty_like(loading)
            tensors = (w, loading, quantized, statistic)
            _call(ctx.library.forward, tensors, SMALLEST_SCALE, levels.top or 0, TERNARY_THRESHOLD)
        ctx.save_for_backward(w, loading, quantized, statistic)
        scale = levels.scale(statistic)
        if not levels.per_channel:  # in Brevitas' shapes
            scale = scale.reshape(() if levels.top else 1)
        return quantized, scale.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_quantized: Tensor, d_scale: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        """With `y = q s` and `s` a function of `w`, both `q` and the weights it rounds move `y`.

        Straight through the rounding, `dy/ds` is `q - w / s` at 2 bits and more, and `q` below and
        where a weight is clipped to a learned range.
        """
        w, loading, quantized, statistic = ctx.saved_tensors
        levels: Levels = ctx.levels
        d_w, d_statistic = torch.empty_like(w), torch.empty_like(statistic)
        if d_quantized.stride() != w.stride() or d_quantized.dtype != w.dtype:
            d_quantized = torch.empty_like(w).copy_(d_quantized)
        d_scale = d_scale.reshape(statistic.shape).contiguous()
        tensors = (w, loading, quantized, statistic, d_quantized, d_scale, d_w, d_statistic)
        if ctx.library is None:
            _backward(*tensors, levels)
        else:
            _call(ctx.library.backward, tensors, levels.top or 0)
        if not levels.learned:
            return d_w, None, None
        shape = (-1,) if levels.per_channel else ()
        return d_w, (d_statistic * statistic).reshape(shape), None


def _wide(w: Tensor) -> torch.dtype:
    """A type in which results, once they are rounded to that of `w`, do not depend on the machine.

    That is float64, whatever the order of a sum, but Apple's devices have none.
    """
    return torch.float64 if w.device.type != "mps" else w.dtype


def _forward(w: Tensor, loading: Tensor, quantized: Tensor, levels: Levels) -> Tensor:
    """Fill `quantized` by torch operations, and return the statistic of each scale."""
    statistics = []
    for rows in levels.blocks(w):
        part = w[rows]
        statistics.append(levels.statistic(part, loading[levels.rows(rows)]))
        levels.round(part, levels.scale(statistics[-1]), out=quantized[rows])
    return torch.cat(statistics)


def _backward(
    w: Tensor,
    loading: Tensor,
    quantized: Tensor,
    statistic: Tensor,
    d_quantized: Tensor,
    d_scale: Tensor,
    d_w: Tensor,
    d_statistic: Tensor,
    levels: Levels,
) -> None:
    """Fill `d_w` and `d_statistic` by torch operations."""
    for rows in levels.blocks(w):
        part, y, given, through = w[rows], quantized[rows], d_quantized[rows], d_w[rows]
        at = levels.rows(rows)
        scale = levels.scale(statistic[at])
        torch.sub(y, part, out=through) if levels.bits != 1 else through.copy_(y)
        if levels.learned:
            clipped = torch.round(part / scale).abs() > levels.top  # type: ignore[operator]
            torch.where(clipped, y, through, out=through)
        moved = through.mul_(given).sum(levels.over(part), keepdim=True)
        d_statistic[at] = levels.scale(moved / scale + d_scale[at])
        levels.through_statistic(part, loading[at], statistic[at], d_statistic[at], out=through)
        if levels.learned:
            through.add_(given.masked_fill(clipped, 0))
        else:
            through.add_(given) if levels.bits != 1 else through.addcmul_(given, y.abs())


def _library(w: Tensor, levels: Levels) -> ctypes.CDLL | None:
    """The compiled equations, where there are any for weights that lie as these do."""
    rows = w.is_contiguous() or (
        w.dim() == 4 and w.is_contiguous(memory_format=torch.channels_last)
    )
    plain = type(w) in (Tensor, nn.Parameter)  # and not what a tracer sends through
    fits = plain and w.device.type == "cpu" and w.dtype in (torch.float32, torch.float64)
    if not (kernels.compiles() and levels.per_channel and rows and fits):
        return None
    return native.library(
        "weights",
        ("STORED", native.STORED[w.dtype]),
        ("LEVELS", 0 if levels.top else 2 if levels.bits == "ternary" else 1),
        ("SCALE", 0 if levels.loading else 1),
        ("LEARNED", int(levels.learned)),
    )


def _call(function: Any, tensors: Sequence[Tensor], *values: float) -> None:
    w = tensors[0]
    counts = (len(w), w[0].numel(), torch.get_num_threads())
    function(
        *map(native.pointer, tensors), *map(ctypes.c_int64, counts), *map(ctypes.c_double, values)
    )
