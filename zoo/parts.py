"""What the networks of the zoo are made of: their settings, and layers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_stbp.mixed import assign_bits, weight_layers
from snntorch_stbp.neuron import Leaky
from snntorch_stbp.norm import TDBatchNorm1d, TDBatchNorm2d
from snntorch_stbp.pooling import AvgPool2d
from snntorch_stbp.quant import Bits, Precision
from snntorch_stbp.rounded import quantized_weight
from snntorch_stbp.time import DirectCoding, PopulationVote, TimeDistributed

GAIN = 2.0  # see Parts._initialise
POPULATION = 10  # neurons per class of the population readout (Wu 2019)


def output_size(
    size: tuple[int, int], kernel_size: int, stride: int = 1, padding: int = 0
) -> tuple[int, int]:
    """Height and width of a feature map behind a convolution or pooling."""
    height, width = ((n + 2 * padding - kernel_size) // stride + 1 for n in size)
    return height, width


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The settings of one network (see `create`), and its layers at these settings."""

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    num_steps: int
    precision: Precision
    beta: float
    threshold: float
    spike_grad: Callable[[Any], Any] | None
    readout: str
    init: str = "threshold"
    learn_beta: bool = False
    learn_threshold: bool = False

    def encoder(self) -> nn.Sequential:
        """The input, quantized and presented at every step; the first convolution follows."""
        return nn.Sequential(self.precision.input_quant(), DirectCoding(self.num_steps))

    def neuron(self) -> Leaky:
        """A layer of neurons."""
        return self.precision.neuron(
            beta=self.beta,
            threshold=self.threshold,
            spike_grad=self.spike_grad,
            learn_beta=self.learn_beta,
            learn_threshold=self.learn_threshold,
        )

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
        norm: bool = True,
        alpha: float = 1.0,
        boundary: bool = False,
    ) -> TimeDistributed:
        """A convolution over the sequence, with tdBN behind it if `norm`."""
        layer = self.precision.conv2d(
            in_channels, out_channels, kernel_size, stride, padding, bias=bias, boundary=boundary
        )
        self._initialise(layer, norm)
        return TimeDistributed(
            layer, TDBatchNorm2d(out_channels, alpha, self.threshold) if norm else None
        )

    def linear(
        self, in_features: int, out_features: int, *, norm: bool = False, boundary: bool = False
    ) -> TimeDistributed:
        """A linear layer over the sequence, with tdBN behind it if `norm`."""
        layer = self.precision.linear(in_features, out_features, boundary=boundary)
        self._initialise(layer, norm)
        return TimeDistributed(
            layer, TDBatchNorm1d(out_features, threshold=self.threshold) if norm else None
        )

    def avg_pool(self, kernel_size: int | tuple[int, int]) -> TimeDistributed:
        """Average pooling over the sequence."""
        return TimeDistributed(AvgPool2d(kernel_size))

    def flatten(self) -> TimeDistributed:
        """`[T, B, C, H, W]` -> `[T, B, C * H * W]`."""
        return TimeDistributed(nn.Flatten())

    def head(self, in_features: int) -> nn.Sequential:
        """The last linear layer and the readout: features `[T, B, F]` -> record `[T, B, K]`."""
        population = POPULATION if self.readout == "population" else 1
        layers: list[nn.Module] = [
            self.linear(in_features, population * self.num_classes, boundary=True)
        ]
        if self.readout != "current":
            layers.append(self.neuron())
        if self.readout == "population":
            layers.append(PopulationVote(self.num_classes))
        return nn.Sequential(*layers)

    def assign_bits(self, net: nn.Module, bits: Mapping[str, Bits]) -> None:
        """Other bits for layers of a new network, initialised as if built with them."""
        wanted = {name: _rms(layer) for name, layer in weight_layers(net).items()}
        new = assign_bits(net, bits, self.precision)
        owners = [m for m in net.modules() if isinstance(m, TimeDistributed)]
        normed = [id(owner.layer) for owner in owners if owner.norm is not None]
        for name, layer in new.items():
            if id(layer) not in normed:  # see _initialise: scaled by what quantization leaves
                with torch.no_grad():
                    layer.weight *= wanted[name] / _rms(layer)

    def _initialise(self, layer: nn.Conv2d | nn.Linear, norm: bool) -> None:
        """Initial weights: He 2015's; without tdBN behind them, in units of the threshold.

        A neuron whose `n` inputs spike at rate `r` through weights of variance `v` is driven by a
        current of standard deviation `sqrt(n v r)`, so it fires at the rate
        `r' = Q(threshold / sqrt(n v r))`. With `n v = GAIN (threshold / 0.4)^2`, rates above 0.02
        approach the stable fixed point `r = r' = 0.3`: no layer falls silent, however deep the
        network. torch's default (`n v = 1/3`) has no fixed point but 0. `v` is the variance after
        quantization, which at 1 or 2 bits would take enough of it to silence deep networks.

        With `init="torch"` layers without tdBN keep torch's default.
        """
        if not norm and self.init == "torch":
            return
        if norm:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight)
            with torch.no_grad():
                std = math.sqrt(GAIN / layer.weight[0].numel()) * self.threshold / 0.4
                layer.weight *= std / _rms(layer)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def _rms(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Root mean square of the weights that a layer computes with."""
    return quantized_weight(layer).square().mean().sqrt()
