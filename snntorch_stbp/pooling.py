"""Average pooling, fast where torch is slow: windows of 2x2 on a CPU.

There torch visits one output after the other, or few channels at a time, and pooling takes as long
as the convolutions of a small network. With a C compiler it is `kernels/pool.c`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import kernels
from .kernels import native
from .looking import recorded

Size = int | Sequence[int]


class AvgPool2d(nn.AvgPool2d):
    """`torch.nn.AvgPool2d`, with its arguments and its results, by `avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> `[B, C, H', W']`."""
        if self.padding in (0, (0, 0)) and not self.ceil_mode:
            return avg_pool2d(input, self.kernel_size, self.stride, self.divisor_override)
        return super().forward(input)


def avg_pool2d(
    x: Tensor, kernel_size: Size, stride: Size | None = None, divisor_override: int | None = None
) -> Tensor:
    """As `torch.nn.functional.avg_pool2d` without padding.

    Args:
        x: Images `[B, C, H, W]`.
        kernel_size: Height and width of the windows.
        stride: From one window to the next; by default their size.
        divisor_override: What sums are divided by, by default the pixels of a window: 1 for sums.

    Returns:
        `[B, C, H', W']`, to the last bit what torch returns; differentiable once.
    """
    divisor = 4 if divisor_override is None else divisor_override
    library = _library(x, kernel_size, stride) if divisor in (1, 2, 4) else None  # exact factors
    if library is None:
        return F.avg_pool2d(x, kernel_size, stride, divisor_override=divisor_override)  # type: ignore[arg-type]
    pooled: Tensor = _Pool2x2.apply(x, 1 / divisor, library)
    return pooled


class _Pool2x2(torch.autograd.Function):
    """Sums of windows of 2x2 times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, library: ctypes.CDLL) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, H / 2, W / 2]` in the layout of `x`; keeps no tensor."""
        ctx.shape, ctx.layout = x.shape, _layout(x)
        ctx.factor, ctx.library = factor, library
        batch, channels, height, width = x.shape
        y = torch.empty(
            (batch, channels, height // 2, width // 2),
            dtype=x.dtype,
            device=x.device,
            memory_format=ctx.layout,
        )
        _call(library.forward, x, y, ctx)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        d_y = d_y.contiguous(memory_format=ctx.layout)
        d_x = torch.empty(ctx.shape, dtype=d_y.dtype, device=d_y.device, memory_format=ctx.layout)
        _call(ctx.library.backward, d_y, d_x, ctx)
        return d_x, None, None


def sum_pool2d(
    x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Sums over windows of images `[B, C, H, W]`, padded with zeros; sizes are height and width."""
    if padding == (0, 0):
        return avg_pool2d(x, kernel_size, stride, divisor_override=1)
    return F.avg_pool2d(x, kernel_size, stride, padding, divisor_override=1)


def _layout(x: Tensor) -> torch.memory_format | None:
    """How the images of `x` lie, if they lie densely."""
    layouts = (torch.contiguous_format, torch.channels_last)
    return next((layout for layout in layouts if x.is_contiguous(memory_format=layout)), None)


def _library(x: Tensor, kernel_size: Size, stride: Size | None) -> ctypes.CDLL | None:
    """The compiled loops, where there are any for these windows and images."""
    if not (
        not recorded()
        and kernels.compiles()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in native.STORED
        and kernel_size in (2, (2, 2), [2, 2])
        and stride in (None, 2, (2, 2), [2, 2])
        and x.dim() == 4
        and x.numel() > 0
        and x.shape[2] % 2 == x.shape[3] % 2 == 0
        and _layout(x) is not None
    ):
        return None
    return native.library("pool", ("STORED", native.STORED[x.dtype]))


def _call(function: Any, source: Tensor, target: Tensor, ctx: Any) -> None:
    batch, channels, height, width = ctx.shape
    if ctx.layout == torch.channels_last:
        counts = (batch * height, width, channels, torch.get_num_threads())
    else:
        counts = (batch * channels * height, width, 1, torch.get_num_threads())
    function(
        native.pointer(source),
        native.pointer(target),
        *map(ctypes.c_int64, counts),
        ctypes.c_double(ctx.factor),
    )
