"""Inside of `constant` a network computes what it computes outside, and prepares it once."""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.constant import constant
from snntorch_stbp.kernels import native, normed


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
    with constant(net), constant(net):  # the second has nothing to do
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
    with constant(net):
        assert torch.equal(net(x), expected)
    assert len(seen) == 2
    assert "forward" not in vars(layer)
    assert torch.equal(net(x), expected)


def test_a_quantized_tensor_may_come_in() -> None:
    layer = qnn.QuantLinear(4, 3, bias=True, weight_quant=Int8WeightPerTensorFloat).eval()
    to_eight = qnn.QuantIdentity(return_quant_tensor=True).eval()
    x = to_eight(torch.rand(5, 4))
    expected = layer(x)
    with constant(layer):
        given = layer(x)
    assert torch.equal(getattr(given, "value", given), getattr(expected, "value", expected))


@pytest.mark.skipif(native._compiler() is None, reason="no C compiler")
def test_tables_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = stbp.zoo.create("mnistnet_bn", in_channels=1, image_size=12)
    for _ in range(20):
        net(torch.rand(3, 1, 12, 12))
    net.eval()
    made: list[object] = []
    kind = normed.Prepared

    def counted(*arguments: Any) -> Any:
        made.append(kind(*arguments))
        return made[-1]

    monkeypatch.setattr(normed, "Prepared", counted)
    batches = [torch.rand(n, 1, 12, 12) for n in (1, 4, 1)]
    with torch.no_grad():
        expected = [net(x) for x in batches]
        assert len(made) == 3 * len(batches)  # two convolutions and a linear layer
        made.clear()
        with constant(net):
            assert all(torch.equal(net(x), y) for x, y in zip(batches, expected, strict=True))
            with constant(net):
                assert torch.equal(net(batches[0]), expected[0])
        assert len(made) == 3
        net.features[0].norm.running_mean.sub_(1)
        assert not torch.equal(net(batches[1]), expected[1])  # nothing is kept behind the block
    with constant(net):
        net.train()(batches[1])  # its own statistics, whatever is prepared
        record = net.eval()(batches[1])  # with gradients: module by module
    assert record.requires_grad


def test_neurons_that_come_and_go_are_told_apart() -> None:
    """Also where one takes the place in memory of one that is gone."""
    torch.manual_seed(0)
    layer = stbp.TimeDistributed(nn.Conv2d(1, 4, 3), stbp.TDBatchNorm2d(4)).eval()
    x = torch.rand(3, 2, 1, 6, 6)
    with torch.no_grad(), constant(layer):
        for threshold in (0.1, 0.4, 2.0) * 10:
            neuron = stbp.Leaky(threshold=threshold)
            assert torch.equal(stbp.fire(layer, neuron, x), neuron(layer(x)))
            del neuron
