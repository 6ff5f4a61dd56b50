"""Layers of quantized weights behind spikes, by the 8-bit instructions of a CPU.

Both are small whole numbers, times a scale that can wait. Processors with AVX2 multiply twice, and
with VNNI four times as many bytes as float32 numbers in the same time, and add them up in 32 bits,
exactly. The layers are oneDNN's, as torch ships it. What enters is looked at, and whatever is not
whole goes the usual way.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..looking import recorded
from . import compiles, native
from .geometry import LARGEST, OUTPUTS, Geometry, outputs, reaches, worth

_log = logging.getLogger(__name__)

DIVISORS = (1, 4, 16)
"""Of what inputs may be multiples: spikes and sums of them, averages of 2x2 and of 4x4."""


@dataclass(frozen=True)
class Packed:
    """Weights as oneDNN wants them; copies lay them out anew, which nobody else can.

    Attributes:
        weight: Whole numbers, as bytes.
        scale: One per output channel.
        geometry: Of a convolution; `None` of a linear layer.
        levels: `weight` in a layout that only oneDNN knows.
    """

    weight: Tensor
    scale: Tensor
    geometry: Geometry | None
    levels: Tensor

    @classmethod
    def of(cls, weight: Tensor, scale: Tensor, geometry: Geometry | None) -> Packed:
        """Lay `weight` out."""
        if geometry is None:
            levels = torch.ops.onednn.qlinear_prepack(weight, [64, weight.shape[1]])
        else:
            stride, padding, dilation, groups = geometry
            shape = [1, weight.shape[1] * groups, 16, 16]  # to choose a layout for, not a limit
            levels = torch.ops.onednn.qconv_prepack(
                weight, scale, 1.0, 0, stride, padding, dilation, groups, shape
            )
        return cls(weight, scale, geometry, levels)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.weight, self.scale, self.geometry)


def _again(weight: Tensor, scale: Tensor, geometry: Geometry | None) -> Packed | None:
    """The weights on the processor that a copy is for."""
    return Packed.of(weight, scale, geometry) if _supported() else None


def pack(weight: Tensor, scale: Tensor | None, geometry: Geometry | None) -> Packed | None:
    """Weights laid out for many passes, or `None` where these take the usual way.

    Args:
        weight: As of `apply`.
        scale: As of `apply`.
        geometry: As of `apply`.
    """
    if not (weight.device.type == "cpu" and weight.dtype == torch.float32 and compiles()):
        return None
    library = _library(weight.dtype) if worth(weight, geometry) and _supported() else None
    if library is None:
        return None
    scales = weight.new_ones(1) if scale is None else scale.detach()
    scales = scales.float().flatten().expand(len(weight)).contiguous()
    rows = weight.detach()
    rows = rows if _in_rows(rows) else rows.contiguous()
    levels = torch.empty_like(rows, dtype=torch.int8)
    tensors = map(native.pointer, (rows, scales, levels))
    counts = (len(rows), rows[0].numel(), torch.get_num_threads())
    if library.weights(*tensors, *map(ctypes.c_int64, counts)):
        return None
    return Packed.of(levels, scales, geometry)


def apply(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry | None,
    packed: Packed | None = None,
) -> Tensor:
    """`F.conv2d` or `F.linear`, in bytes where that is possible and pays.

    Bytes are rounded once, where float32 is at every sum. They are differentiable once, and the
    gradient is that of the usual way.

    Args:
        x: Images `[N, I, H, W]`, or features `[N, I]`.
        weight: `[O, I, kh, kw]`, or `[O, I]`: whole numbers times `scale`.
        scale: Positive, one per output channel or one for all; `None` for 1.
        bias: `[O]`.
        geometry: Of a convolution; `None` of a linear layer.
        packed: What `pack` made of the weights, where they stay as they are.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(apply, (x,), x, weight, scale, bias, geometry, packed)
    seen = _as_bytes(x) if _fits(x, weight, geometry, packed) else None
    if seen is not None and packed is None:
        packed = pack(weight, scale, geometry)
    if seen is None or packed is None:
        return _usual(x, weight, bias, geometry)
    leaves = (x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in leaves):
        result: Tensor = _Apply.apply(*leaves, *seen, packed, geometry)
        return result
    return _computed(*seen, packed, bias, geometry, _result_type(x))


class _Apply(torch.autograd.Function):
    """Bytes forward and kept, floating point backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, small: Tensor, divisor: int,
        packed: Packed, geometry: Geometry | None,
    ) -> Tensor:  # fmt: skip
        """What the layer makes of `x`, which is `small / divisor`."""
        ctx.save_for_backward(small, weight)
        ctx.divisor, ctx.geometry, ctx.dtype = divisor, geometry, x.dtype
        ctx.biased = bias is not None
        return _computed(small, divisor, packed, bias, geometry, _result_type(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """As that of `F.conv2d` or `F.linear`, in the type of `gradient`."""
        small, kept = ctx.saved_tensors
        x, weight = small.to(gradient.dtype), kept.to(gradient.dtype)
        if ctx.divisor != 1:
            x.div_(ctx.divisor)
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        if ctx.geometry is None:
            d_x = gradient @ weight if of_x else None
            d_weight = gradient.t() @ x if of_weight else None
            d_bias = gradient.sum(0) if of_bias else None
        else:
            stride, padding, dilation, groups = ctx.geometry
            d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(
                gradient, x, weight, [len(weight)] if ctx.biased else None, stride, padding,
                dilation, False, (0, 0), groups, (of_x, of_weight, of_bias),
            )  # fmt: skip
        return (
            None if d_x is None else d_x.to(ctx.dtype),
            *(None if d is None else d.to(kept.dtype) for d in (d_weight, d_bias)),
            *[None] * 4,
        )


def _usual(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry | None) -> Tensor:
    return F.linear(x, weight, bias) if geometry is None else F.conv2d(x, weight, bias, *geometry)


def _fits(x: Tensor, weight: Tensor, geometry: Geometry | None, packed: Packed | None) -> bool:
    """Whether it is worth to look at `x`."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dim() == weight.dim()
        and x.dtype in native.STORED
        and _result_type(x) in (torch.float32, torch.bfloat16)
        and not recorded()
        and compiles()
        and (packed is not None or outputs(x, geometry) >= OUTPUTS)
        and worth(weight, geometry)
        and reaches(x, weight, geometry)
        and _supported()
    )


def _result_type(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _as_bytes(x: Tensor) -> tuple[Tensor, int] | None:
    """`divisor x` as bytes, channels last, and `divisor`; `None` if there is none."""
    library = _library(x.dtype)
    if library is None or x.numel() == 0:
        return None
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    x = x.detach().contiguous(memory_format=layout)
    small = torch.empty_like(x, dtype=torch.uint8)
    tensors = (native.pointer(x), native.pointer(small))
    counts = (ctypes.c_int64(x.numel()), ctypes.c_int64(torch.get_num_threads()))
    for divisor in DIVISORS:
        if not library.inputs(*tensors, *counts, ctypes.c_double(divisor)):
            return small, divisor
    return None


def _library(kind: torch.dtype) -> ctypes.CDLL | None:
    """What makes bytes, if there is a compiler."""
    return native.library("bytes", ("STORED", native.STORED[kind]))


def _in_rows(weight: Tensor) -> bool:
    """Whether each output's weights lie in a row, in whatever order."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return last or weight.is_contiguous()


def _computed(
    small: Tensor, divisor: int, packed: Packed, bias: Tensor | None, geometry: Geometry | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    zero = torch.zeros(len(packed.scale), dtype=torch.int32, device=small.device)
    weights = (packed.levels, packed.scale, zero, None if bias is None else bias.detach().float())
    operands = (small, 1 / divisor, 0, *weights)
    produced: tuple[Any, ...] = (1.0, 0, dtype, "none", [], "")
    result: Tensor
    if geometry is None:
        result = torch.ops.onednn.qlinear_pointwise(*operands, *produced)
    else:
        result = torch.ops.onednn.qconv2d_pointwise(*operands, *geometry, *produced)
    return result


@cache
def _supported() -> bool:
    """Whether this processor and this torch compute in bytes, and exactly."""
    avx2 = getattr(torch.cpu, "_is_avx2_supported", lambda: False)
    if not avx2() or not torch.backends.mkldnn.is_available():
        return False
    try:
        exact = all(_exact(geometry) for geometry in (None, Geometry(padding=(1, 1))))
    except (AttributeError, RuntimeError, TypeError) as error:
        _log.debug("layers in bytes cannot be had: %s", error)
        return False
    if not exact:
        _log.warning("layers in bytes are not exact on this processor: they take float32")
    return exact


def _exact(geometry: Geometry | None) -> bool:
    """Whether sums of the largest bytes come out exact, times scales and with a bias."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = partial(torch.randint, generator=generator, device="cpu")  # whatever the default is
    image, kernel = ((), ()) if geometry is None else ((9, 9), (3, 3))
    x = drawn(0, LARGEST + 1, (2, 32, *image))
    levels = drawn(-LARGEST, LARGEST + 1, (16, 32, *kernel))
    scale = 2.0 ** torch.arange(-8, 8, device="cpu")
    along = scale.double().view(-1, *[1] * len(image))
    expected = _usual(x.double(), levels.double(), None, geometry) * along / 4 + along
    small = x.to(torch.uint8)
    if geometry is not None:
        small = small.contiguous(memory_format=torch.channels_last)
    operands = (small, 4, Packed.of(levels.to(torch.int8), scale, geometry), scale, geometry)
    found, half = (_computed(*operands, dtype) for dtype in (torch.float32, torch.bfloat16))
    return torch.equal(found.double(), expected) and torch.equal(half, found.bfloat16())
