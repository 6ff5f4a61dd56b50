r"""Surrogate gradients, as `spike_grad` of any snnTorch neuron: Wu 2018's four, and snnTorch's two.

Forward: `o = 1 if v > 0 else 0`, where `v` is the membrane potential minus the threshold.
Backward: the derivative `do/dv` is replaced by one of four curves of unit area, equations
(24) to (27) of Y. Wu et al., "Spatio-temporal backpropagation for training high-performance
spiking neural networks", Frontiers in Neuroscience 12:331, 2018:

    rectangular  h1(v) = 1/a [|v| < a/2]
    polynomial   h2(v) = (sqrt(a)/2 - a/4 |v|) [|v| < 2/sqrt(a)]
    sigmoid      h3(v) = 1/a e^(v/a) / (1 + e^(v/a))^2
    gaussian     h4(v) = 1/sqrt(2 pi a) e^(-v^2 / (2 a))

or by one of the two that snnTorch's users know best, with the names and arguments they have there:

    fast_sigmoid (slope)  1 / (slope |v| + 1)^2              area 2 / slope (Zenke and Ganguli 2018)
    atan (alpha)          alpha / 2 / (1 + (pi/2 alpha v)^2) unit area (Fang et al. 2021)

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


def _fast_sigmoid(v: Tensor, slope: float) -> Tensor:
    return 1 / (slope * v.abs() + 1).square()


def _atan(v: Tensor, alpha: float) -> Tensor:
    return alpha / 2 / (1 + (math.pi / 2 * alpha * v).square())


CURVES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rectangular": _rectangular,
    "polynomial": _polynomial,
    "sigmoid": _sigmoid,
    "gaussian": _gaussian,
    "fast_sigmoid": _fast_sigmoid,
    "atan": _atan,
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
            for the Gaussian, inverse squared for the polynomial; `slope` and `alpha` are inverse).
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


def fast_sigmoid(slope: float = 25.0) -> Surrogate:
    """As `snntorch.surrogate.fast_sigmoid` (F. Zenke, S. Ganguli, SuperSpike, 2018)."""
    return Surrogate("fast_sigmoid", slope)


def atan(alpha: float = 2.0) -> Surrogate:
    """As `snntorch.surrogate.atan`, snnTorch's default (W. Fang et al., ICCV 2021)."""
    return Surrogate("atan", alpha)


def check_spike_grad(spike_grad: Any) -> None:
    """Refuse what is no spike function; `None` is one.

    Raises:
        TypeError: If it is something else, such as the name of one.
    """
    if not (spike_grad is None or callable(spike_grad)):
        name = spike_grad if isinstance(spike_grad, str) and spike_grad in CURVES else "rectangular"
        raise TypeError(
            f"spike_grad is a spike function, such as snntorch_stbp.surrogate.{name}(), "
            f"not {spike_grad!r}"
        )


def equivalent(spike_grad: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The spike function of this module that does what one of snnTorch's does, else the same."""
    if getattr(spike_grad, "__module__", "") != "snntorch.surrogate":
        return spike_grad
    kind = getattr(spike_grad, "__qualname__", "").partition(".")[0]
    cells: Any = getattr(spike_grad, "__closure__", None) or ()
    if kind not in ("fast_sigmoid", "atan") or len(cells) != 1:
        return spike_grad
    return Surrogate(kind, float(cells[0].cell_contents))
