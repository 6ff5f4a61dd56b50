r"""The four surrogate gradients of Wu et al. 2018, as `spike_grad` of any snnTorch neuron.

Forward: `o = 1 if v > 0 else 0`, where `v` is the membrane potential minus the threshold.
Backward: the derivative `do/dv` is replaced by one of four curves of unit area, equations
(24) to (27) of Y. Wu et al., "Spatio-temporal backpropagation for training high-performance
spiking neural networks", Frontiers in Neuroscience 12:331, 2018:

    rectangular  h1(v) = 1/a [|v| < a/2]
    polynomial   h2(v) = (sqrt(a)/2 - a/4 |v|) [|v| < 2/sqrt(a)]
    sigmoid      h3(v) = 1/a e^(v/a) / (1 + e^(v/a))^2
    gaussian     h4(v) = 1/sqrt(2 pi a) e^(-v^2 / (2 a))

Spikes and gradients keep the type of `v` (snnTorch's own surrogates return float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _rectangular(v: Tensor, width: float) -> Tensor:
    return (v.abs() < width / 2).to(v.dtype) / width


def _polynomial(v: Tensor, a: float) -> Tensor:
    return (math.sqrt(a) / 2 - a / 4 * v.abs()).clamp(min=0)


def _sigmoid(v: Tensor, a: float) -> Tensor:
    s = torch.sigmoid(v / a)
    return s * (1 - s) / a


def _gaussian(v: Tensor, a: float) -> Tensor:
    return torch.exp(-v.square() / (2 * a)) / math.sqrt(2 * math.pi * a)


CURVES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rectangular": _rectangular,
    "polynomial": _polynomial,
    "sigmoid": _sigmoid,
    "gaussian": _gaussian,
}


class Spike(torch.autograd.Function):
    """Heaviside step whose derivative is `CURVES[curve](v - centre, parameter)`."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, curve: str, parameter: float, centre: float = 0.0) -> Tensor:
        """Spikes of `v`: 1 where `v > 0`, else 0."""
        ctx.save_for_backward(v)
        ctx.curve, ctx.parameter, ctx.centre = curve, parameter, centre
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The incoming gradient times the surrogate derivative."""
        (v,) = ctx.saved_tensors
        v = v - ctx.centre if ctx.centre else v
        return grad * CURVES[ctx.curve](v, ctx.parameter), None, None, None


@dataclass(frozen=True)
class Surrogate:
    """A spike function with a surrogate derivative; call it on `v = membrane - threshold`.

    A value, not a closure: it prints, compares and pickles, and says which curve it is.

    Args:
        curve: One of `CURVES`.
        parameter: The curve's width `a`, positive, in units of the membrane potential (squared
            for the Gaussian, inverse squared for the polynomial).
        centre: Where the curve is centred, on the axis of `v`: 0 is the threshold, minus the
            threshold is a membrane potential of 0.
    """

    curve: str
    parameter: float
    centre: float = 0.0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ValueError(f"unknown surrogate {self.curve!r}: choose one of {', '.join(CURVES)}")
        if not (self.parameter > 0 and math.isfinite(self.parameter)):
            raise ValueError(
                f"the width of a surrogate is a positive number, not {self.parameter!r}"
            )
        if not math.isfinite(self.centre):
            raise ValueError(f"the centre of a surrogate is a number, not {self.centre!r}")

    def __call__(self, v: Tensor) -> Tensor:
        """Spikes (0 or 1, any shape, the type of `v`) with the surrogate gradient."""
        return Spike.apply(v, self.curve, self.parameter, self.centre)

    def derivative(self, v: Tensor) -> Tensor:
        """The curve itself, elementwise."""
        return CURVES[self.curve](v - self.centre if self.centre else v, self.parameter)


def rectangular(width: float = 1.0, centre: float = 0.0) -> Surrogate:
    """Rectangular window of the given full width around the threshold plus `centre` (Wu 2018, h1).

    STBP-train-and-compression centres its window on a membrane potential of 0: there `centre` is
    minus the threshold.
    """
    return Surrogate("rectangular", width, centre)


def polynomial(a: float = 1.0) -> Surrogate:
    """Triangle of half-base `2/sqrt(a)` centred on the threshold (Wu 2018, h2)."""
    return Surrogate("polynomial", a)


def sigmoid(a: float = 1.0) -> Surrogate:
    """Derivative of the logistic function of temperature `a` (Wu 2018, h3)."""
    return Surrogate("sigmoid", a)


def gaussian(a: float = 1.0) -> Surrogate:
    """Normal density of variance `a` (Wu 2018, h4)."""
    return Surrogate("gaussian", a)
