"""Quantizers of weights: which scale they have, and both computed as one operation.

Brevitas builds a quantizer from a dozen small modules. Its weights, scales and export come from
them here too, but where scales are floating point the numbers are computed by `_Quantize`, in half
the passes over memory and a third of the operations that autograd has to keep (under
`torch.compile`, which fuses on its own, and with BREVITAS_JIT=1, by Brevitas).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import brevitas.config
import torch
from brevitas.core.function_wrapper import CeilSte, RoundSte
from brevitas.core.quant import BinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.inject import ExtendedInjector
from brevitas.inject.enum import (
    QuantType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
    StatsOp,
)
from brevitas.quant.base import NarrowIntQuant
from brevitas.quant.solver import WeightQuantSolver
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Largest level of the uniform quantizer with the least mean squared error for normally
# distributed weights, in units of their root mean square (J. Max, "Quantizing for minimum
# distortion", IRE Transactions on Information Theory 6, 1960; recomputed for odd level counts).
# Above 4 bits the largest weight is representable instead: clipping then costs more than it gains.
GAUSSIAN_LOADING = {1: 0.7979, 2: 1.2240, 3: 1.9523, 4: 2.4739}

TERNARY_THRESHOLD = 0.7  # F. Li et al., "Ternary weight networks", arXiv:1605.04711
SMALLEST_SCALE = 1e-10
BLOCK = 65536  # weights


def injector(name: str, *bases: type, **values: Any) -> type:
    """A Brevitas quantizer put together from fragments and values."""
    return type(ExtendedInjector)(name, bases, values)


def scale_values(scale: str, covers: bool = True) -> dict[str, Any]:
    """Float scales, or powers of two: the next larger where the range must cover all values."""
    if scale == "po2":
        return {
            "restrict_scaling_type": RestrictValueType.POWER_OF_TWO,
            "restrict_value_float_to_int_impl": CeilSte if covers else RoundSte,
        }
    return {"restrict_scaling_type": RestrictValueType.FP}


def weight_quantizer(
    bits: int | Literal["ternary"], per_channel: bool, scale: str, weight_range: str = "fitted"
) -> type:
    """The Brevitas weight quantizer of `bits` (1 to 8, or `"ternary"`).

    Ternary weights follow F. Li et al., "Ternary weight networks", arXiv:1605.04711: zero below
    0.7 times the mean magnitude, which is also the scale.
    """
    kind = ScalingPerOutputType.CHANNEL if per_channel else ScalingPerOutputType.TENSOR
    fitted = bits in GAUSSIAN_LOADING and weight_range == "fitted"
    values: dict[str, Any] = {
        "scaling_impl_type": ScalingImplType.STATS,
        "scaling_per_output_type": kind,
        "scaling_min_val": SMALLEST_SCALE,
        "bit_width": 2 if bits == "ternary" else bits,
        **scale_values(scale, covers=not fitted and bits != "ternary"),
    }
    if bits == "ternary":
        values |= {"quant_type": QuantType.TERNARY, "threshold": TERNARY_THRESHOLD}
        values |= {"scaling_stats_op": StatsOp.AVE}
    elif bits == 1:
        values |= {"quant_type": QuantType.BINARY}
    if fitted:
        # The enumeration still names an operation because the solver derives shapes from it.
        values |= {"scaling_stats_op": StatsOp.AVE}
        values |= {"scaling_stats_impl": ScaledRootMeanSquare, "loading": GAUSSIAN_LOADING[bits]}  # type: ignore[index]
    elif bits != "ternary":
        values |= {"scaling_stats_op": StatsOp.MAX}
    if scale == "float" and not brevitas.config.JIT_ENABLED:
        loading = GAUSSIAN_LOADING[bits] if fitted else None  # type: ignore[index]
        top = None if bits in (1, "ternary") else 2 ** (int(bits) - 1) - 1
        values |= {"levels": _Levels(bits, top, loading, per_channel)}
        values |= {
            "tensor_quant": {1: _FusedBinary, "ternary": _FusedTernary}.get(bits, _FusedInteger)
        }
    return injector(f"Weight{bits}", NarrowIntQuant, WeightQuantSolver, **values)


class ScaledRootMeanSquare(nn.Module):
    """`loading * rms(x)` over `stats_reduce_dim`: a scale statistic in Brevitas' sense."""

    def __init__(self, loading: float, stats_reduce_dim: int | None = None) -> None:
        super().__init__()
        self.loading, self.dim = loading, stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """The scale `[C]` of weights `[C, n]`, or of all of them."""
        power = x.square().mean() if self.dim is None else x.square().mean(self.dim)
        return self.loading * torch.sqrt(power + 1e-20)


class _Levels(NamedTuple):
    """What a quantizer rounds to, and where its scale comes from.

    Args:
        bits: 1, `"ternary"`, or 2 to 8.
        top: Largest integer; `None` at 1 bit and ternary.
        loading: The scale's share of the root mean square; `None` where it is the mean magnitude
            (ternary) or the largest.
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
        elif self.bits == "ternary":
            value = w.abs().mean(dims, keepdim=True)
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
        elif self.bits == "ternary":
            torch.sign(w, out=out).mul_(d_statistic / count)
        else:
            largest = w.abs() == statistic
            shares = d_statistic / largest.sum(self.over(w), keepdim=True).clamp_(min=1)
            torch.sign(w, out=out).mul_(largest).mul_(shares)


class _Quantize(torch.autograd.Function):
    """Weights and their scale; gradients run straight through every rounding and clipping."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, levels: _Levels) -> tuple[Tensor, Tensor]:
        """The quantized weights, shaped as `w`, and the scale `[C, 1, ...]`, or one value."""
        quantized, statistics = torch.empty_like(w), []
        for rows in levels.blocks(w):
            part = w[rows]
            statistics.append(levels.statistic(part))
            levels.round(part, levels.scale(statistics[-1]), out=quantized[rows])
        statistic = torch.cat(statistics)
        ctx.save_for_backward(w, quantized, statistic)
        ctx.levels = levels
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
        levels: _Levels = ctx.levels
        d_scale, d_w = d_scale.reshape(statistic.shape), torch.empty_like(w)
        for rows in levels.blocks(w):
            part, y, given = w[rows], quantized[rows], d_quantized[rows]
            at = rows if levels.per_channel else slice(None)
            through = d_w[rows]
            torch.sub(y, part, out=through) if levels.top else through.copy_(y)
            moved = through.mul_(given).sum(levels.over(part), keepdim=True)
            d_statistic = levels.scale(moved / levels.scale(statistic[at]) + d_scale[at])
            levels.through_statistic(part, statistic[at], d_statistic, out=through)
            through.add_(given) if levels.top else through.addcmul_(given, y.abs())
        return d_w, None


class _Fused:
    """In front of a quantizer of Brevitas: the same numbers, computed by `_Quantize`."""

    levels: _Levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, scale, zero point and bits."""
        if torch.compiler.is_compiling():
            return super().forward(x)  # type: ignore[misc]
        y, scale = _Quantize.apply(x, self.levels)
        return y, scale, *self.constants(x, scale)

    def constants(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Zero point and bits."""
        return self.zero_point(), self.bit_width()  # type: ignore[attr-defined]


class _FusedInteger(_Fused, RescalingIntQuant):
    def __init__(
        self,
        levels: _Levels,
        int_quant: nn.Module,
        scaling_impl: nn.Module,
        int_scaling_impl: nn.Module,
        zero_point_impl: nn.Module,
        bit_width_impl: nn.Module,
    ) -> None:
        super().__init__(int_quant, scaling_impl, int_scaling_impl, zero_point_impl, bit_width_impl)
        self.levels = levels

    def constants(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        bits = self.msb_clamp_bit_width_impl()
        return self.zero_point_impl(x, scale, bits), bits


class _FusedBinary(_Fused, BinaryQuant):
    def __init__(self, levels: _Levels, scaling_impl: nn.Module) -> None:
        super().__init__(scaling_impl)
        self.levels = levels


class _FusedTernary(_Fused, TernaryQuant):
    def __init__(self, levels: _Levels, scaling_impl: nn.Module, threshold: float) -> None:
        super().__init__(scaling_impl, threshold)
        self.levels = levels
