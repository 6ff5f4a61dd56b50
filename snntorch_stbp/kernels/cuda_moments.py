# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="assignment, var-annotated"
"""Batch normalisation of samples `[rows, C]` on a CUDA device: statistics, and the way back.

Sums over rows are made in two kernels, in an order that does not depend on time: programs that
each take a share of the rows, and one that puts their results together. torch's own kernels for
channels-last tensors need several times as long for the statistics (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import cuda

BLOCK = 2048  # numbers that a program takes at once
CHANNELS = 128  # of a program, at most
WARPS = 4
# Where a program puts the results of others together: its channels, and warps.
TOGETHER = 8
MANY_WARPS = 16


@triton.jit
def _moments(
    x_ptr, mean_ptr, square_ptr, rows, share, channels,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean, and sum of squares around it, of `share` rows by B. Welford's updates (1962)."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    line = tl.arange(0, ROWS)
    start = part.to(tl.int64) * share
    left = tl.minimum(rows - start, share).to(tl.int32)
    size = left.to(mean_ptr.dtype.element_ty)
    counts = tl.maximum((left - line + ROWS - 1) // ROWS, 0).to(size.dtype)[:, None]
    mean = tl.zeros([ROWS, CHANNELS], size.dtype)
    square = mean
    count = tl.zeros([], size.dtype)
    x_ptr += start * channels
    at = line[:, None] * channels + channel[None, :]
    following = tl.load(x_ptr + at, mask=(line < left)[:, None], other=0)
    for _ in range(0, share, ROWS):
        x, inside = following.to(mean.dtype), (line < left)[:, None]
        left -= ROWS
        x_ptr += ROWS * channels
        following = tl.load(x_ptr + at, mask=(line < left)[:, None], other=0)  # meanwhile
        count += 1
        off = tl.where(inside, x - mean, 0)
        mean += off * (1 / count)
        square += off * tl.where(inside, x - mean, 0)
    whole = tl.sum(counts * mean, axis=0) / size
    off = mean - whole[None, :]
    square = tl.sum(square + counts * off * off, axis=0)
    tl.store(mean_ptr + part * channels + channel, whole)
    tl.store(square_ptr + part * channels + channel, square)


@triton.jit
def _together(
    mean_ptr, square_ptr, weight_ptr, bias_ptr, out_ptr, exact_ptr, rows, share, parts, channels,
    eps, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Statistics of all rows from those of parts; what follows from them for normalisation."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.arange(0, PARTS)
    at = part[:, None] * channels + channel[None, :]
    inside = (part < parts)[:, None] & (channel < channels)[None, :]
    means = tl.load(mean_ptr + at, mask=inside, other=0)
    counts = tl.maximum(tl.minimum(rows - part * share, share), 0)[:, None].to(means.dtype)
    mean = tl.sum(counts * means, axis=0) / rows
    off = tl.where(inside, means - mean[None, :], 0)
    square = tl.load(square_ptr + at, mask=inside, other=0) + counts * off * off
    variance = tl.sum(square, axis=0) / rows
    rate = 1 / tl.sqrt(variance + eps)
    known = channel < channels
    scale = tl.load(weight_ptr + channel, mask=known, other=0) * rate
    shift = tl.load(bias_ptr + channel, mask=known, other=0) - mean * scale
    tl.store(out_ptr + channel, mean, mask=known)
    tl.store(out_ptr + channels + channel, rate, mask=known)
    tl.store(out_ptr + 2 * channels + channel, scale, mask=known)
    tl.store(out_ptr + 3 * channels + channel, shift, mask=known)
    tl.store(exact_ptr + channel, mean.to(tl.float64), mask=known)
    tl.store(exact_ptr + channels + channel, variance.to(tl.float64), mask=known)


@triton.jit
def _coefficients(
    sums_ptr, rate_ptr, scale_ptr, out_ptr, rows, parts, channels,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias, and the numbers of `_through`, from parts of two sums."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.arange(0, PARTS)
    at = part[:, None] * 2 * channels + channel[None, :]
    known = channel < channels
    inside = (part < parts)[:, None] & known[None, :]
    total = tl.sum(tl.load(sums_ptr + at, mask=inside, other=0), axis=0)
    product = tl.sum(tl.load(sums_ptr + at + channels, mask=inside, other=0), axis=0)
    rate = tl.load(rate_ptr + channel, mask=known, other=0)
    scale = tl.load(scale_ptr + channel, mask=known, other=0)
    tl.store(out_ptr + channel, product * rate, mask=known)
    tl.store(out_ptr + channels + channel, total, mask=known)
    tl.store(out_ptr + 2 * channels + channel, total / rows, mask=known)
    tl.store(out_ptr + 3 * channels + channel, scale * rate * rate * product / rows, mask=known)


@triton.jit
def _through(
    d_ptr, x_ptr, mean_ptr, scale_ptr, level_ptr, slope_ptr, out_ptr, n, channels,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    channel = at % channels
    mean, scale = tl.load(mean_ptr + channel), tl.load(scale_ptr + channel)
    level, slope = tl.load(level_ptr + channel), tl.load(slope_ptr + channel)
    d = tl.load(d_ptr + at, mask=mask, other=0).to(mean.dtype)
    x = tl.load(x_ptr + at, mask=mask, other=0).to(mean.dtype)
    d_x = scale * (d - level) - slope * (x - mean)
    tl.store(out_ptr + at, d_x.to(out_ptr.dtype.element_ty), mask=mask)


class Moments(NamedTuple):
    """Statistics per channel `[C]`, and what follows from them for normalisation.

    Args:
        mean: Of all rows.
        rate: `1 / sqrt(variance + eps)`, with the biased variance.
        scale, shift: What is normalised is `scale x + shift`.
        exact: Mean and variance in float64, `[2, C]`.
    """

    mean: Tensor
    rate: Tensor
    scale: Tensor
    shift: Tensor
    exact: Tensor


def moments(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Moments:
    """Statistics of `x`, `[rows, C]` in a row, of powers of two of channels.

    Args:
        x: Samples.
        weight: Of the normalisation, `[C]`, in the type in which is computed.
        bias: Likewise.
        eps: Added to the variance.
    """
    rows, channels = x.shape
    width = min(channels, CHANNELS)
    lines = BLOCK // width
    parts = triton.cdiv(cuda.PROGRAMS * cuda.processors(x.device) * width, channels)
    share = triton.cdiv(triton.cdiv(rows, parts), lines) * lines
    parts = triton.cdiv(rows, share)
    part = weight.new_empty(2, parts, channels)
    out, exact = weight.new_empty(4, channels), weight.new_empty(2, channels, dtype=torch.float64)
    with torch.cuda.device_of(x):
        _moments[(parts, channels // width)](
            x, *part, rows, share, channels, ROWS=lines, CHANNELS=width, num_warps=WARPS
        )
        _together[(triton.cdiv(channels, TOGETHER),)](
            *part, weight, bias, out, exact, rows, share, parts, channels, eps,
            PARTS=triton.next_power_of_2(parts), CHANNELS=TOGETHER, num_warps=MANY_WARPS,
        )  # fmt: skip
    mean, rate, scale, shift = out
    return Moments(mean, rate, scale, shift, exact)


def backward(
    d: Tensor, x: Tensor, sums: Tensor, found: Moments, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, weight and bias from that of what is normalised.

    S. Ioffe, C. Szegedy, arXiv:1502.03167, the equations behind Algorithm 1.

    Args:
        d: Gradient of what is normalised, `[rows, C]`; is overwritten unless `keep`.
        x: Samples, likewise.
        sums: Parts `[parts, 2, C]` of the sums over rows of `d` and of `d (x - mean)`.
        found: Statistics of `x`.
        keep: Whether `d` is needed any longer.
    """
    rows, channels = x.shape
    out = sums.new_empty(4, channels)
    d_x = torch.empty_like(d) if keep else d
    with torch.cuda.device_of(x):
        _coefficients[(triton.cdiv(channels, TOGETHER),)](
            sums, found.rate, found.scale, out, rows, len(sums), channels,
            PARTS=triton.next_power_of_2(len(sums)), CHANNELS=TOGETHER, num_warps=MANY_WARPS,
        )  # fmt: skip
        _through[(triton.cdiv(x.numel(), BLOCK // 2),)](
            d, x, found.mean, found.scale, out[2], out[3], d_x, x.numel(), channels,
            BLOCK=BLOCK // 2, num_warps=WARPS,
        )  # fmt: skip
    return d_x, out[0], out[1]
