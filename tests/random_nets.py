"""Networks drawn at random from what the modules of this package can be."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_stbp import (
    DirectCoding,
    Leaky,
    PopulationVote,
    Precision,
    TDBatchNorm2d,
    TimeDistributed,
)

from .nets import digits, reset_options


class Block(nn.Module):
    """A layer and neurons, then a second layer beside a shortcut, and neurons."""

    def __init__(self, first: nn.Module, second: nn.Module, beside: nn.Module, last: Leaky) -> None:
        super().__init__()
        self.first, self.second, self.beside, self.last = first, second, beside, last

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(self.first(x)) + self.beside(x))
        return result


class Draw:
    """One network for images `[B, 1, 8, 8]`.

    Args:
        seed: Of all that is drawn; the same network for the same seed.
        exact: Only what deployment arithmetic repeats without rounding: quantized currents, decays
            that are simple fractions, thresholds that are not learned.
    """

    def __init__(self, seed: int, exact: bool = False) -> None:
        self.random, self.exact = Random(seed), exact
        chosen = self.random.choice
        torch.manual_seed(seed)
        options: dict[str, Any] = {"weight_bits": chosen([1, "ternary", 2, 3, 4, 5, 8])}
        if exact or self.random.random() < 0.3:
            options["act_bits"] = chosen([2, 3, 4, 6, 8])
        if self.random.random() < 0.3:
            options["membrane_bits"] = chosen([2, 3, 4, 6, 8])
        options["scale"] = chosen(["float", "float", "float", "po2"])
        options["per_channel"] = chosen([True, True, False])
        self.precision = Precision(**options)
        self.steps = chosen([1, 2, 2, 3, 4])
        self.reset = chosen(["zero", "zero", "subtract", "delayed", "none"])
        if exact:
            self.reset = "zero"

    def network(self) -> nn.Sequential:
        """The network, in evaluation mode, with lived-in statistics."""
        chosen, precision = self.random.choice, self.precision
        net = nn.Sequential(precision.input_quant(), DirectCoding(self.steps))
        channels, size = 1, 8
        for index in range(chosen([1, 2, 2, 3])):
            width = chosen([2, 4, 6])
            if index and self.random.random() < 0.3:
                net.append(self._block(channels, width))
                continue
            layer, size = self._conv(channels, width, size)
            net.append(layer)
            channels = width
            if size >= 4 and self.random.random() < 0.3:
                kind = chosen([nn.MaxPool2d, nn.AvgPool2d])
                padding = chosen([0, 0, 1]) if kind is nn.MaxPool2d else 0
                net.append(TimeDistributed(kind(2, padding=padding)))
                size = size // 2 + padding
                if kind is nn.AvgPool2d and layer.norm is None:
                    net.append(TDBatchNorm2d(width))
            net.append(self._neuron())
            if size >= 4 and self.random.random() < 0.3:
                window, stride = chosen([(2, 2), (2, 1), (3, 2)])
                kind, padding = chosen([nn.MaxPool2d, nn.AvgPool2d]), chosen([0, 0, 1])
                net.append(TimeDistributed(kind(window, stride, padding)))
                size = (size + 2 * padding - window) // stride + 1
        self._head(net, channels * size * size)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
        with torch.no_grad():
            net(digits(100))
        return net.eval()

    def _head(self, net: nn.Sequential, features: int) -> None:
        kind = self.random.choice(["current", "spikes", "vote"])
        outputs = 20 if kind == "vote" else 10
        net.append(
            TimeDistributed(nn.Sequential(nn.Flatten(), self.precision.linear(features, outputs)))
        )
        if kind != "current":
            net.append(self._neuron())
        if kind == "vote":
            net.append(PopulationVote(10))

    def _neuron(self) -> Leaky:
        beta = self.random.choice([0.0, 0.25, 0.25, 0.5, 1.0] + [0.3, 0.9] * (not self.exact))
        threshold = self.random.choice([0.4, 1.0, 2.0])
        return self.precision.neuron(beta, threshold, **reset_options(self.reset))

    def _conv(self, inputs: int, outputs: int, size: int) -> tuple[TimeDistributed, int]:
        """A convolution and what it leaves of `size`."""
        chosen = self.random.choice
        kernel, stride, dilation = (
            chosen([1, 2, 3, 3, 5]),
            chosen([1, 1, 1, 2]),
            chosen([1, 1, 1, 2]),
        )
        padding = chosen([0, kernel // 2, 1])
        left = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if left < 2:
            kernel, stride, dilation, padding, left = 1, 1, 1, 0, size
        groups = chosen([1, 1, 1, inputs, 2])
        groups = groups if outputs % groups == inputs % groups == 0 else 1
        norm = TDBatchNorm2d(outputs) if self.random.random() < 0.6 else None
        if norm is not None and self.random.random() < 0.3:
            with torch.no_grad():
                norm.weight[::2] *= -1
        conv = self.precision.conv2d(
            inputs, outputs, kernel, stride, padding, norm is None,
            dilation=dilation, groups=groups,
        )  # fmt: skip
        return TimeDistributed(conv, norm), left

    def _block(self, channels: int, width: int) -> Block:
        def layer(inputs: int, outputs: int, kernel: int) -> TimeDistributed:
            conv = self.precision.conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            return TimeDistributed(conv, TDBatchNorm2d(outputs, alpha=0.7))

        beside = self.random.choice([nn.Identity(), layer(channels, channels, 1)])
        first = nn.Sequential(layer(channels, width, 3), self._neuron())
        return Block(first, layer(width, channels, 3), beside, self._neuron())
