"""Precision: how many bits each part of a network has, and the Brevitas layers that follow from it.

A quantized network is the same network with other layers. `Precision` is the one place where
quantizers are chosen:

- weights: binary {-1, 1}, ternary {-1, 0, 1} or integers of 2 to 8 bits (narrow range), times a
  scale per output channel or per tensor that is a function of the weights, so that it needs no
  parameter of its own and fp32 weights can be loaded at any time;
- the input: unsigned integers, by default the 8 bits that an image has;
- input currents of neurons: `act_bits`; averages of spikes have the bits of their number;
- membrane potentials: `membrane_bits`, on a uniform grid with the threshold between two levels, or
  on levels that are dense at the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .activation import HalfUpQuant, activation_quantizer, membrane_quantizer, membrane_step
from .layers import QuantConv2d, QuantLinear
from .membrane import ThresholdGrid
from .neuron import Leaky
from .weights import weight_quantizer

Bits = int | Literal["ternary"] | None

FLOATING = " or None for floating point"

CURRENT_RANGE = 4.0
"""Initial range of a current quantizer, in thresholds; tdBN puts one threshold at one sigma."""


@dataclass(frozen=True)
class Precision:
    """Bits of every part of a network; a choice of layers, not another network.

    Args:
        weight_bits: `None` (fp32), 1 (binary), `"ternary"`, or 2 to 8.
        act_bits: Bits (2 to 16) of the input currents of neurons; `None` keeps them float.
        input_bits: Bits (1 to 8) of what enters the first layer; `None` keeps it float.
        membrane_bits: Bits (2 to 16) of the membrane potential; `None` keeps it float.
        per_channel: One weight scale per output channel, else one per tensor.
        scale: `"float"`, or `"po2"` for weight and current scales that are powers of two (of a
            current, times the step of a quantized membrane potential): of weights the nearest to
            that of a fitted or learned range, else the next larger, so that ranges are covered.
        boundary_bits: Bits (2 to 8) of the first and the last layer where these should differ;
            where weights are float, these layers are, too.
        input_max: Largest input value; an image of 8 bits scaled to [0, 1] has 1.
        weight_range: `"fitted"`, the range with the least squared error up to 4 bits; for 2 to 8
            bits also `"learned"`, a range that training moves from there, or `"max"`, up to the
            largest weight.
        membrane_grid: `"uniform"`, or `"threshold"` (2 to 8 `membrane_bits`) for levels that are
            dense at the threshold, which training knows and export does not.

    Raises:
        ValueError: For a number of bits outside its range or an unknown kind of scale.
    """

    weight_bits: Bits = None
    act_bits: int | None = None
    input_bits: int | None = 8
    membrane_bits: int | None = None
    per_channel: bool = True
    scale: Literal["float", "po2"] = "float"
    boundary_bits: int | None = None
    input_max: float = 1.0
    weight_range: Literal["fitted", "learned", "max"] = "fitted"
    membrane_grid: Literal["uniform", "threshold"] = "uniform"

    def __post_init__(self) -> None:
        if self.weight_bits != "ternary":
            _check("weight_bits", self.weight_bits, 1, 8, f", 'ternary'{FLOATING}")
        _check("act_bits", self.act_bits, 2, 16, FLOATING)
        _check("input_bits", self.input_bits, 1, 8, FLOATING)
        _check("membrane_bits", self.membrane_bits, 2, 16, FLOATING)
        _check("boundary_bits", self.boundary_bits, 2, 8)
        if self.scale not in ("float", "po2"):
            raise ValueError(f"scale is 'float' or 'po2', not {self.scale!r}")
        if self.weight_range not in ("fitted", "learned", "max"):
            raise ValueError(
                f"weight_range is 'fitted', 'learned' or 'max', not {self.weight_range!r}"
            )
        if self.weight_range != "fitted" and self.weight_bits in (1, "ternary"):
            raise ValueError(
                f"weight_range {self.weight_range!r} is for weights of 2 to 8 bits, not for "
                f"{self.weight_bits!r}"
            )
        if self.membrane_grid not in ("uniform", "threshold"):
            raise ValueError(
                f"membrane_grid is 'uniform' or 'threshold', not {self.membrane_grid!r}"
            )
        if self.membrane_grid == "threshold":
            if self.membrane_bits is None:
                raise ValueError(
                    "membrane_grid 'threshold' is for membrane_bits of 2 to 8, not for None"
                )
            _check("membrane_bits of a threshold grid", self.membrane_bits, 2, 8)
        if not 0 < self.input_max < math.inf:
            raise ValueError(f"input_max is a positive, finite number, not {self.input_max!r}")

    def conv2d(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        bias: bool = True,
        boundary: bool = False,
        *,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> nn.Conv2d:
        """A convolution at this precision; `boundary` marks the first or the last layer.

        The other arguments are those of `nn.Conv2d`.
        """
        layer, options = nn.Conv2d, dict[str, Any](bias=bias, dilation=dilation, groups=groups)
        bits = self.layer_bits(boundary)
        if bits is not None:
            layer, options["weight_quant"] = QuantConv2d, self._weight_quant(bits)
        return layer(in_channels, out_channels, kernel_size, stride, padding, **options)

    def linear(
        self, in_features: int, out_features: int, bias: bool = True, boundary: bool = False
    ) -> nn.Linear:
        """A fully connected layer at this precision; `boundary` as in `conv2d`."""
        bits = self.layer_bits(boundary)
        if bits is None:
            return nn.Linear(in_features, out_features, bias=bias)
        return QuantLinear(
            in_features, out_features, bias=bias, weight_quant=self._weight_quant(bits)
        )

    def input_quant(self) -> nn.Module:
        """Unsigned quantizer of the input, of range [0, input_max]."""
        if self.input_bits is None:
            return nn.Identity()
        return activation_quantizer(self.input_bits, self.input_max, signed=False, learned=False)

    def pool_quant(self, count: int) -> nn.Module:
        """Unsigned quantizer of averages of `count` spikes, whose steps are `1 / count`.

        It has the bits that their number has, and changes no average: hardware adds spikes up.
        With float currents it is left out.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"pool_quant takes the number of spikes of an average, from 1, not {count!r}"
            )
        if self.act_bits is None:
            return nn.Identity()
        bits = count.bit_length()
        return activation_quantizer(bits, (2**bits - 1) / count, signed=False, learned=False)

    def neuron(
        self, beta: float | Tensor = 0.25, threshold: float | Tensor = 0.4, **options: Any
    ) -> Leaky:
        """A `Leaky` whose input current and membrane potential are quantized at this precision.

        Where both are, the steps of the current are those of the membrane potential (on a uniform
        grid) doubled or halved some times, so that hardware adds them as they are. Of several
        thresholds the largest sets the range of the current; a quantized membrane takes one.

        Raises:
            ValueError: If the potential is quantized and there are several thresholds, or one that
                is to be learned: its levels lie around the threshold, and do not follow it.
        """
        if self.membrane_bits is not None and options.get("learn_threshold"):
            raise ValueError(
                "learn_threshold moves the threshold away from the levels of membrane_bits, which "
                "lie around the first one: leave either out"
            )
        largest = self._largest(threshold)
        if self.act_bits is not None:
            unit = None
            if self.membrane_bits is not None and self.membrane_grid == "uniform":
                unit = membrane_step(self.membrane_bits, largest)
            options["current_quant"] = activation_quantizer(
                self.act_bits, CURRENT_RANGE * largest, signed=True, learned=True,
                scale=self.scale, unit=unit, kind=HalfUpQuant,
            )  # fmt: skip
        if self.membrane_bits is not None:
            grid = ThresholdGrid if self.membrane_grid == "threshold" else membrane_quantizer
            options["state_quant"] = grid(self.membrane_bits, largest)
        return Leaky(beta, threshold, **options)

    def layer_bits(self, boundary: bool = False) -> Bits:
        """Bits of a layer's weights; `boundary` marks the first or the last layer."""
        if boundary and self.boundary_bits is not None and self.weight_bits is not None:
            return self.boundary_bits
        return self.weight_bits

    def _largest(self, threshold: float | Tensor) -> float:
        """The threshold that a neuron's quantizers are made for."""
        if not isinstance(threshold, Tensor):
            return threshold
        low, high = threshold.min().item(), threshold.max().item()
        if self.membrane_bits is not None and low != high:
            raise ValueError(
                f"membrane_bits {self.membrane_bits} is for neurons of one threshold, around which "
                f"the levels lie, not for thresholds from {low:.4g} to {high:.4g}"
            )
        return high

    def _weight_quant(self, bits: int | Literal["ternary"]) -> type:
        return weight_quantizer(bits, self.per_channel, self.scale, self.weight_range)


def check_precision(precision: Any) -> None:
    """Refuse what is no precision; `None` is one.

    Raises:
        TypeError: If it is something else, such as a number of bits.
    """
    if precision is not None and not isinstance(precision, Precision):
        raise TypeError(
            f"precision is a Precision, such as Precision(weight_bits=4), not {precision!r}"
        )


def _check(name: str, value: Any, low: int, high: int, also: str = "") -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is a whole number from {low} to {high}{also}, not {value!r}")


def load_float_state(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load fp32 (or differently quantized) weights into `model`; start of QAT from a float network.

    Parameters of quantizers that `state` does not have keep their initial values; those that
    `model` does not have are left out.

    Args:
        model: The network to fill.
        state: State dictionary of the same architecture at any precision.

    Returns:
        The keys of `model` that kept their initial values, all of quantizers.

    Raises:
        ValueError: If the architectures differ: weights missing, unknown or of another shape.
    """
    own = model.state_dict()
    given = {k: v for k, v in state.items() if not _is_quantizer_key(k) or k in own}
    missing = [k for k in own if k not in given and not _is_quantizer_key(k)]
    unknown = [k for k in given if k not in own]
    shapes = [k for k in given if k in own and given[k].shape != own[k].shape]
    if missing or unknown or shapes:
        differing = missing + unknown + shapes
        raise ValueError(
            f"the weights are of another architecture: {len(differing)} of them differ, first "
            f"'{differing[0]}'"
        )
    model.load_state_dict({**own, **given})
    return [k for k in own if k not in given]


def _is_quantizer_key(key: str) -> bool:
    return any(part.endswith("_quant") for part in key.split("."))
