"""Quantizers of what neurons take and keep: the input, input currents, membrane potentials.

All of them are Brevitas' `QuantIdentity` with one scale. Where a neuron has both, the steps of its
current are those of its membrane potential doubled or halved some times (`Doublings`); and what
lies half way between two levels rounds up (`HalfUpQuant`): what integers compute by shifts.
"""

from __future__ import annotations

import math

import brevitas.nn as qnn
import torch
from brevitas.core.function_wrapper import CeilSte
from brevitas.core.restrict_val import FloatRestrictValue, PowerOfTwoRestrictValue
from brevitas.inject.enum import ScalingImplType, ScalingPerOutputType
from brevitas.quant.base import IntQuant, UintQuant
from brevitas.quant.solver import ActQuantSolver
from torch import Tensor

from .weights import injector, scale_values

NUDGE = 2.0**-13
"""Part of a step by which currents and membrane potentials are raised before they are rounded."""


class Doublings(FloatRestrictValue):
    """A learned range as a power of two times a constant, the nearest; gradients pass straight on.

    Args:
        unit: The constant.
    """

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        """The range that `x` stands for."""
        x = x.abs()
        nearest = self.unit * torch.exp2(torch.log2(x.detach() / self.unit).round())
        return x + (nearest - x.detach())


class Exponents(PowerOfTwoRestrictValue):
    """The same where the exponent is learned, of base 2 and rounded up, as of `"po2"` scales.

    Args:
        unit: The constant.
    """

    def __init__(self, unit: float) -> None:
        super().__init__(CeilSte())
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        """The range that `x` stands for."""
        result: Tensor = super().forward(x - math.log2(self.unit)) * self.unit
        return result


class HalfUpQuant(qnn.QuantIdentity):
    """A quantizer that rounds up what lies half way between two levels.

    Averages of spikes, sums of weights that are powers of two, and `beta * u + x` lie there often;
    rounding half to even, in floating point, hardware would have to repeat bit by bit.

    Attributes:
        constant: The nudge where it is known, so that it need not be computed at every step.
    """

    constant: float | None = None

    @property
    def nudge(self) -> float | Tensor:
        """What is added before the nearest level is taken."""
        if self.constant is not None:
            return self.constant
        return self.act_quant.scale().detach() * NUDGE

    def forward(self, x: Tensor) -> Tensor:
        """The level nearest to `x`."""
        level: Tensor = super().forward(x + self.nudge)
        return level


def activation_quantizer(
    bits: int,
    limit: float,
    *,
    signed: bool,
    learned: bool,
    scale: str = "float",
    unit: float | None = None,
    kind: type[qnn.QuantIdentity] = qnn.QuantIdentity,
) -> qnn.QuantIdentity:
    """A per-tensor quantizer whose range is `limit`, learned from there or constant.

    With `unit` its step is a power of two times that.
    """
    values = scale_values(scale)
    if unit is not None:
        values["restrict_scaling_impl"] = (Exponents if scale == "po2" else Doublings)(unit)
        values["restrict_threshold_impl"] = FloatRestrictValue()
    quantizer = injector(
        f"Act{bits}",
        IntQuant if signed else UintQuant,
        ActQuantSolver,
        scaling_impl_type=ScalingImplType.PARAMETER if learned else ScalingImplType.CONST,
        scaling_per_output_type=ScalingPerOutputType.TENSOR,
        scaling_min_val=1e-10,
        bit_width=bits,
        min_val=-limit if signed else 0.0,
        max_val=limit,
        **values,
    )
    return kind(act_quant=quantizer, return_quant_tensor=False)


def membrane_step(bits: int, threshold: float) -> float:
    """The step of a membrane potential, see `membrane_quantizer`."""
    return threshold / (2 ** (bits - 1) - 1.5)


def membrane_quantizer(bits: int, threshold: float) -> HalfUpQuant:
    """Quantizer of a membrane potential: signed integers with the threshold between two of them.

    The step is `threshold / (2^(bits-1) - 1.5)`: the largest level is the only one above the
    threshold, since all that is above it leads to the same spike and the same reset to zero.
    (With reset by subtraction what exceeds that level is lost.)
    """
    step = membrane_step(bits, threshold)
    limit = step * 2 ** (bits - 1)
    quantizer = activation_quantizer(bits, limit, signed=True, learned=False, kind=HalfUpQuant)
    assert isinstance(quantizer, HalfUpQuant)
    quantizer.constant = step * NUDGE
    return quantizer
