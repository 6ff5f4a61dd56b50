"""What quantized layers compute with: weights rounded once are those of every pass."""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import rounded


def test_size_counts_every_parameter_at_its_bits() -> None:
    precision = stbp.Precision(4)
    net = nn.Sequential(precision.conv2d(1, 8, 3), nn.Flatten(), precision.linear(8, 2))
    assert rounded.size_in_bytes(net) == (8 * 9 + 16) * 0.5 + (8 + 2) * 4


@pytest.mark.parametrize("bits", [1, "ternary", 4])
def test_weights_rounded_once_are_those_of_every_pass(bits: Any) -> None:
    net = stbp.zoo.create(
        "mnistnet_bn", in_channels=1, image_size=12, precision=stbp.Precision(bits)
    )
    x = torch.rand(3, 1, 12, 12)
    for _ in range(20):  # statistics of tdBN, so that neurons fire
        net(x)
    net.eval()
    calls: list[str] = []
    for name, module in net.named_modules():
        if name.endswith("weight_quant.tensor_quant"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    expected = net(x)
    layers = len(calls)
    assert layers == 4
    with rounded.rounded_once(net), rounded.rounded_once(net):  # the second has nothing to do
        for _ in range(3):
            assert torch.equal(net(x), expected)
        assert len(calls) == 2 * layers
        with torch.no_grad():
            net.head[0].layer.weight.neg_()
    changed = net(x)
    assert len(calls) == 3 * layers
    assert changed.abs().max() > 0
    torch.testing.assert_close(changed, -expected)
    changed.sum().backward()
    assert net.head[0].layer.weight.grad is not None


@pytest.mark.parametrize("kind", ["plain", "input", "output"])
def test_layers_of_brevitas_own_keep_their_other_quantizers(kind: str) -> None:
    options = {} if kind == "plain" else {f"{kind}_quant": Int8ActPerTensorFloat}
    layer = qnn.QuantConv2d(3, 8, 3, weight_quant=Int8WeightPerTensorFloat, **options)
    net = nn.Sequential(layer, nn.ReLU())
    for _ in range(3):
        net(torch.randn(2, 3, 8, 8))  # ranges of activations
    net.eval()
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(2, 3, 8, 8)
    expected = net(x)
    with rounded.rounded_once(net):
        assert torch.equal(net(x), expected)
    assert len(seen) == 2
    assert "forward" not in vars(layer)
    assert torch.equal(net(x), expected)


def test_a_quantized_tensor_may_come_in() -> None:
    layer = qnn.QuantLinear(4, 3, bias=True, weight_quant=Int8WeightPerTensorFloat).eval()
    to_eight = qnn.QuantIdentity(return_quant_tensor=True).eval()
    x = to_eight(torch.rand(5, 4))
    expected = layer(x)
    with rounded.rounded_once(layer):
        given = layer(x)
    assert torch.equal(getattr(given, "value", given), getattr(expected, "value", expected))
