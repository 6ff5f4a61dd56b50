"""Quantizers of weights: which levels and which scale they have.

Brevitas builds a quantizer from a dozen small modules. Its weights, scales and export come from
them here too, but where scales are floating point the numbers are computed by `levels.Quantize`
(under `torch.compile`, which fuses on its own, and with BREVITAS_JIT=1, by Brevitas).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import brevitas.config
import torch
from brevitas.core.function_wrapper import CeilSte, RoundSte, TensorClamp
from brevitas.core.quant import BinaryQuant, RescalingIntQuant, TernaryQuant
from brevitas.core.restrict_val import FloatRestrictValue
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

from .levels import SMALLEST_SCALE, TERNARY_THRESHOLD, Levels, Quantize
from .looking import recorded

# Largest level of the uniform quantizer with the least mean squared error for normally
# distributed weights, in units of their root mean square (J. Max, "Quantizing for minimum
# distortion", IRE Transactions on Information Theory 6, 1960; recomputed for odd level counts).
# Above 4 bits the largest weight is representable instead: clipping then costs more than it gains.
GAUSSIAN_LOADING = {1: 0.7979, "ternary": 1.2240, 2: 1.2240, 3: 1.9523, 4: 2.4739}
# Where learned ranges start.
FIRST_LOADING = GAUSSIAN_LOADING | {5: 2.8987, 6: 3.2701, 7: 3.6075, 8: 3.9205}
SMALLEST_POWER = 2.0**-33
"""Smallest step that is a power of two."""
LEARNED_RANGE = "log_loading"
"""The last part of the name of a range that is learned, in a network's state."""


def injector(name: str, *bases: type, **values: Any) -> type:
    """A Brevitas quantizer put together from fragments and values."""
    return type(ExtendedInjector)(name, bases, values)


def scale_values(scale: str, covers: bool = True) -> dict[str, Any]:
    """Float scales, or powers of two: the next larger where the range must cover all values.

    Brevitas divides ranges of the latter kind by `2^(bits-1)`: right for currents, but not for
    integer weights, which have `Steps`.
    """
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

    Ternary weights follow F. Li et al., "Ternary weight networks", arXiv:1605.04711: the threshold
    (0.61 of the root mean square) and the level (1.22) of the least squared error for normally
    distributed weights. Weights of 2 bits have the same three levels.

    `weight_range` is as in `Precision`.
    """
    kind = ScalingPerOutputType.CHANNEL if per_channel else ScalingPerOutputType.TENSOR
    learned = weight_range == "learned"
    fitted = learned or (bits in GAUSSIAN_LOADING and weight_range == "fitted")
    top = None if bits in (1, "ternary") else 2 ** (int(bits) - 1) - 1
    values: dict[str, Any] = {
        "scaling_impl_type": ScalingImplType.STATS,
        "scaling_per_output_type": kind,
        "scaling_min_val": SMALLEST_SCALE,
        "bit_width": 2 if bits == "ternary" else bits,
        **scale_values(scale, covers=not fitted),
    }
    if bits == "ternary":
        values |= {"quant_type": QuantType.TERNARY, "threshold": TERNARY_THRESHOLD}
        values |= {"tensor_quant": Ternary}
    elif bits == 1:
        values |= {"quant_type": QuantType.BINARY}
    if fitted:
        # The enumeration still names an operation because the solver derives shapes from it.
        values |= {"scaling_stats_op": StatsOp.AVE}
        statistic = LearnedRange if learned else ScaledRootMeanSquare
        values |= {"scaling_stats_impl": statistic, "loading": FIRST_LOADING[bits]}
        if learned:  # clipped weights pull at the range, and not straight through the clipping
            values |= {"tensor_clamp_impl": TensorClamp}
    else:
        values |= {"scaling_stats_op": StatsOp.MAX}
    if scale == "po2" and top is not None:
        # Brevitas would make a power of two of the range, and divide it by one more than `top`.
        values |= {"restrict_scaling_type": RestrictValueType.FP}
        values |= {"restrict_scaling_impl": Steps(top, covers=not fitted)}
        values |= {"restrict_threshold_impl": FloatRestrictValue()}
        values |= {"scaling_min_val": top * SMALLEST_POWER}
    if scale == "float" and not brevitas.config.JIT_ENABLED:
        loading = FIRST_LOADING[bits] if fitted else None
        values |= {"levels": Levels(bits, top, loading, per_channel, learned)}
        values |= {
            "tensor_quant": {1: _FusedBinary, "ternary": _FusedTernary}.get(bits, _FusedInteger)
        }
    return injector(f"Weight{bits}", NarrowIntQuant, WeightQuantSolver, **values)


class Steps(nn.Module):
    """Ranges whose step, the distance of two levels, is a power of two.

    Gradients are those of a range that is only rescaled.

    Args:
        top: Steps in a range.
        covers: Take the next larger one, not the nearest in its logarithm.
    """

    def __init__(self, top: int, covers: bool) -> None:
        super().__init__()
        self.top = float(top)
        self.whole = CeilSte() if covers else RoundSte()

    def restrict_init_module(self) -> nn.Module:
        """What Brevitas does to a range before it gives it to this."""
        return nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The range that `x` stands for."""
        return self.top * torch.exp2(self.whole(torch.log2(x / torch.full_like(x, self.top))))


class ScaledRootMeanSquare(nn.Module):
    """`loading * rms(x)` over `stats_reduce_dim`: a scale statistic in Brevitas' sense."""

    def __init__(self, loading: float, stats_reduce_dim: int | None = None) -> None:
        super().__init__()
        self.loading, self.dim = loading, stats_reduce_dim

    def forward(self, x: Tensor) -> Tensor:
        """The scale `[C]` of weights `[C, n]`, or of all of them."""
        power = x.square().mean() if self.dim is None else x.square().mean(self.dim)
        return self.loading * torch.sqrt(power + 1e-20)


class LearnedRange(nn.Module):
    """`exp(log_loading) * rms(x)`, the loading learned for every scale.

    The range is learned as by S. K. Esser et al., "Learned step size quantization", ICLR 2020,
    arXiv:1902.08153, but in units of the weights' root mean square: it grows and shrinks with them.
    As there, gradients run straight through rounding, and clipped weights have none of their own.

    Args:
        loading: Where all of them start.
        scaling_shape: `[C, 1, ...]`, or `[]` for one scale, as Brevitas' solver gives it.
        stats_reduce_dim: As in `ScaledRootMeanSquare`.
    """

    def __init__(
        self, loading: float, scaling_shape: tuple[int, ...], stats_reduce_dim: int | None = None
    ) -> None:
        super().__init__()
        self.statistic = ScaledRootMeanSquare(1.0, stats_reduce_dim)
        shape = scaling_shape[:1] if stats_reduce_dim is not None else ()
        self.log_loading = nn.Parameter(torch.full(shape, math.log(loading)))

    def forward(self, x: Tensor) -> Tensor:
        """The largest level `[C]` of weights `[C, n]`, or of all of them."""
        return self.log_loading.exp() * self.statistic(x)


class Ternary(TernaryQuant):
    """Brevitas' ternary quantizer, with a gradient for all weights.

    Its own gradient is zero for weights that are rounded to zero, which then stay there. F. Li et
    al. hand the gradient of a level to its weight, whichever level that is.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, scale, zero point and bits."""
        scale = self.scaling_impl(x)
        level = torch.sign(x) * (x.abs() > self.threshold * scale)
        units = x / scale
        y = (units + (level - units).detach()) * scale
        return y, scale, self.zero_point(), self.bit_width()


class _Fused:
    """In front of a quantizer of Brevitas: the same numbers, computed by `Quantize`."""

    levels: Levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, scale, zero point and bits."""
        if recorded():
            return super().forward(x)  # type: ignore[misc]
        y, scale = Quantize.apply(x, self.log_loading(), self.levels)
        return y, scale, *self.constants(x, scale)

    def log_loading(self) -> Tensor | None:
        """The learned range, if it is learned."""
        if not self.levels.learned:
            return None
        statistic: LearnedRange = self.scaling_impl.parameter_list_stats.stats.stats_impl  # type: ignore[attr-defined]
        return statistic.log_loading

    def constants(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Zero point and bits."""
        return self.zero_point(), self.bit_width()  # type: ignore[attr-defined]


class _FusedInteger(_Fused, RescalingIntQuant):
    def __init__(
        self,
        levels: Levels,
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
    def __init__(self, levels: Levels, scaling_impl: nn.Module) -> None:
        super().__init__(scaling_impl)
        self.levels = levels


class _FusedTernary(_Fused, Ternary):
    def __init__(self, levels: Levels, scaling_impl: nn.Module, threshold: float) -> None:
        super().__init__(scaling_impl, threshold)
        self.levels = levels
