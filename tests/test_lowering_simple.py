"""The simple form of networks as snnTorch trains them: reset by subtraction, decays such as 0.9."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import to_c99, to_folder, to_qonnx
from snntorch_stbp.frozen import Settings, freeze
from snntorch_stbp.lowering import lower
from snntorch_stbp.train.metrics import spike_record

from .nets import digits, make


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """snnTorch's tutorial network, smaller, with 4-bit weights, and neurons that fire."""
    torch.manual_seed(0)
    neuron = {"beta": 0.9, "init_hidden": True}
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.MaxPool2d(2),
        snn.Leaky(**neuron),
        nn.Flatten(),
        nn.Linear(72, 10),
        snn.Leaky(**neuron, output=True),
    )
    with torch.no_grad():
        for layer in (model[0], model[4]):
            layer.weight *= 3
    four = stbp.Precision(weight_bits=4)
    return stbp.convert(model, digits(4), num_steps=10, precision=four).eval()


def share(net: nn.Module, fixed: nn.Module, samples: torch.Tensor) -> float:
    """Of all neurons and steps, those where the spikes of the two differ."""
    record: dict[str, torch.Tensor] = {}
    fixed(samples, record)
    with torch.no_grad(), spike_record(net) as spikes:
        net(samples)
    differing = sum(int((record[name] != own).sum()) for name, own in spikes.items())
    return differing / sum(own.numel() for own in spikes.values())


def test_a_decay_gets_as_many_digits_as_fit_and_help(net: nn.Module) -> None:
    samples = digits(200)
    eight = share(net, lower(net, form="simple", fraction=8, bits=30), samples)
    narrow, wide = (lower(net, form="simple", samples=samples, bits=bits) for bits in (24, 30))
    for fixed in (narrow, wide):
        assert fixed.changed == share(net, fixed, samples)
        assert max(reach.largest for reach in fixed.ranges.values()) <= 2 ** (
            24 if fixed is narrow else 30
        )
    assert wide.changed < narrow.changed
    assert wide.changed < eight / 4
    assert all(s.neuron.leak > 8 for s in wide.integers.stages if s.neuron is not None)
    unseen = digits(300)[200:]
    assert share(net, wide, unseen) < 2 * wide.changed + 1e-3


def test_what_the_integers_change_is_told(
    net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = digits(20)
    fixed = lower(net, form="simple", samples=samples, bits=20)
    assert fixed.changed is not None
    assert fixed.changed > 0.01
    said = f"the network of integers changes {100 * fixed.changed:.2f} % of the spikes"
    assert f"{said} of these samples: 20 bits have no room" in caplog.text
    exported = to_qonnx(fixed, samples, tmp_path / "net.onnx", vectors=1)
    assert exported.changed == fixed.changed
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert lower(net, form="simple", fraction=4).changed is None
        quantized = make("mnistnet")
        assert lower(quantized, samples=samples).changed == 0
    assert not caplog.records
    coarse = lower(make("mnistnet_bn", membrane_bits=8), samples=samples, act_bits=4)
    assert coarse.changed is not None
    assert coarse.changed > 0.01  # by the bits of its currents, not for want of digits
    assert caplog.messages[-1].endswith("of the spikes of these samples")


def test_rounded_currents_name_a_form_that_the_network_has(
    net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = digits(10)
    exported = to_qonnx(net, samples, tmp_path / "a.onnx", settings=Settings(act_bits=6), vectors=1)
    assert exported.changed is not None
    assert exported.changed > 0.01
    remedy = 'to_qonnx(lower(model, form="simple", samples=samples), ...) rounds none'
    assert remedy in caplog.text


def test_messages_name_the_argument(net: nn.Module) -> None:
    simple = r"use the simple form \(--arithmetic simple\)"
    with pytest.raises(StbpError, match=rf"resets by subtraction, .*{simple}"):
        lower(net)
    uneven = make("mnistnet")
    neurons = [m for m in uneven.modules() if isinstance(m, stbp.Leaky)]
    neurons[0].beta = torch.tensor([0.25] * 14 + [0.3])
    with pytest.raises(StbpError, match=r"0\.3, is no multiple of 2\^-8"):
        lower(uneven)


def test_what_must_be_lowered_or_converted_first(net: nn.Module, tmp_path: Path) -> None:
    for write in (to_c99, to_folder):
        with pytest.raises(
            UsageError, match=r"networks of integers, not a .*: give lower\(model\)"
        ):
            write(net, digits(2), tmp_path / "out")  # type: ignore[arg-type]
    layers = stbp.DirectCoding(2), stbp.TimeDistributed(nn.Conv2d(1, 4, 3))
    for read in (lower, freeze):
        with pytest.raises(
            StbpError, match=r"'2' is snnTorch's Leaky: .*convert\(model, example\)"
        ):
            read(nn.Sequential(*layers, snn.Leaky(0.5)))
    normalised = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4))
    with pytest.raises(StbpError, match="cannot export '1': GroupNorm has no counterpart"):
        freeze(nn.Sequential(layers[0], stbp.TimeDistributed(normalised), stbp.Leaky(0.5)))
    assert not list(tmp_path.iterdir())


def test_normalisation_may_stand_beside_its_layer() -> None:
    """`TimeDistributed(nn.Sequential(conv, norm))`, as well as `TimeDistributed(conv, norm)`."""
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4) / 4, torch.rand(4)  # type: ignore[assignment]

    def around(first: nn.Module) -> nn.Module:
        last = stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(144, 10)))
        return nn.Sequential(stbp.DirectCoding(2), first, stbp.Leaky(0.5, threshold=0.2), last)

    apart = around(stbp.TimeDistributed(layer, norm))
    inside = around(stbp.TimeDistributed(nn.Sequential(layer, norm)))
    inside.load_state_dict(dict(zip(inside.state_dict(), apart.state_dict().values(), strict=True)))
    samples = digits(20)
    assert torch.equal(freeze(inside)(samples), freeze(apart)(samples))
    with pytest.raises(StbpError, match="the normalisation '1' must follow a convolution"):
        freeze(around(stbp.TimeDistributed(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3)))))


def test_networks_and_samples_in_float64(tmp_path: Path) -> None:
    samples, model = digits(8), make("mnistnet")
    expected = freeze(model)(samples)
    options = {"vectors": 1, "force": True}
    path = tmp_path / "net.onnx"
    trained = to_qonnx(model, samples.double(), path, as_trained=True, **options)
    assert trained.onnxruntime.differences == 0
    changed = to_qonnx(model, samples, path, **options).changed
    assert to_qonnx(model, samples.double(), path, **options).changed == changed
    assert torch.equal(freeze(model.double())(samples), expected)
    assert to_qonnx(model, samples.double(), path, **options).changed is not None
    assert freeze(model)(samples[:0]).shape == lower(model)(samples[:0]).shape == (2, 0, 10)


@pytest.mark.parametrize("largest", [0.2, 0.3])
@pytest.mark.parametrize("options", [{}, {"form": "simple"}, {"form": "simple", "bits": 30}])
def test_small_float_weights_beside_a_shortcut_are_kept(
    largest: float, options: dict[str, Any]
) -> None:
    """Fewer bits of weights leave more to the multipliers, by which both are brought together."""
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            neuron = {"beta": 0.5, "init_hidden": True, "reset_mechanism": "zero"}
            self.a, self.l1 = nn.Linear(16, 8), snn.Leaky(**neuron)
            self.b, self.l2 = nn.Linear(8, 8), snn.Leaky(**neuron)
            self.c, self.l3 = nn.Linear(8, 4), snn.Leaky(**neuron)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.l1(self.a(x))
            return self.l3(self.c(self.l2(self.b(x) + x)))

    model, x = Residual(), torch.randint(0, 256, (64, 16)) / 255
    with torch.no_grad():
        model.a.weight *= 4
        model.c.weight *= 4
        model.b.weight.uniform_(-largest, largest)
    fixed = lower(stbp.convert(model, x, num_steps=4).eval(), samples=x, **options)
    weighted, _ = fixed.integers.stages[1].branches
    assert weighted.multiplier.min() > 0
    assert fixed.changed is not None
    assert fixed.changed < 0.002


@pytest.mark.parametrize("form", ["exact", "simple"])
@pytest.mark.parametrize("bits", [8, 4, "ternary", 1, None])
@pytest.mark.parametrize("gain", [None, 0.0, 1e-12, 1e-6])
def test_a_channel_that_takes_nothing_in_fires_by_its_shift(
    gain: float | None, bits: Any, form: Any
) -> None:
    """Pruned, that is of weights of 0, or of a gain that never grew; whatever the shift."""
    torch.manual_seed(1)
    precision = stbp.Precision(bits)
    layer = stbp.TimeDistributed(precision.conv2d(1, 12, 3, bias=False), stbp.TDBatchNorm2d(12))
    neuron = stbp.Leaky(0.875, 0.4, reset_mechanism="subtract")
    if form == "exact":
        neuron = stbp.Leaky(0.5, 0.4)
    net = nn.Sequential(
        precision.input_quant(),
        stbp.DirectCoding(5 if form == "exact" else 12),
        layer,
        neuron,
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(432, 10))),
    ).eval()
    shifts = torch.tensor([0.2, -7e3, -0.4, 0.0, 0.06, 0.11, 0.13, 0.24, 0.39, 0.41, 5.3, 8e4])
    with torch.no_grad():
        layer.norm.bias.copy_(shifts)
        if gain is None:
            layer.layer.weight[:] = 0
            layer.layer.weight[0] = torch.randn(3, 3)  # all but the first
        else:
            layer.norm.weight[:] = gain
    images = digits(20)
    with torch.no_grad(), spike_record(net) as spikes:
        net(images)
    ways: list[dict[str, Any]] = [{}]
    if form == "simple":
        ways = [{"samples": images}, {"fraction": 3}]
    for way in ways:
        record: dict[str, torch.Tensor] = {}
        lower(net, form=form, **way)(images, record)
        assert torch.equal(record["3"][:, :, 1:], spikes["3"][:, :, 1:])
    assert 0.2 < spikes["3"].mean() < 0.8


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_channels_that_take_nothing_in_take_no_digits_from_others(reset: str) -> None:
    """However large their shift is: the decay and the fraction are those of a small one."""
    torch.manual_seed(0)
    precision = stbp.Precision(2)
    layer = stbp.TimeDistributed(precision.conv2d(1, 8, 3))
    net = nn.Sequential(
        precision.input_quant(),
        stbp.DirectCoding(25),
        layer,
        stbp.Leaky(0.95, 0.5, reset_mechanism=reset),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(288, 10))),
    ).eval()
    found = set()
    for shift in (-0.05, -10.0, -1e5, 10.0, 1e5):
        with torch.no_grad():
            layer.layer.weight[0], layer.layer.bias[0] = 0, shift
        integers = lower(net, form="simple", samples=digits(40)).integers
        neuron = integers.stages[0].neuron
        assert neuron is not None
        found.add((neuron.leak, int(neuron.beta[0]), integers.settings["fraction/3"]))
    assert len(found) == 1, found


def test_what_exports_do_not_take_is_said(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), snn.Leaky(0.5, init_hidden=True))
    images = stbp.convert(flat, digits(4).squeeze(1), num_steps=2).eval()
    with pytest.raises(StbpError, match=r"still inputs of 3 dimensions; .*x\.unsqueeze\(1\)"):
        lower(images, form="simple", samples=digits(4).squeeze(1))
    half = make("mnistnet", bits=None).bfloat16()
    with pytest.raises(StbpError, match=r"has parameters of bfloat16: give model\.float\(\)"):
        to_qonnx(half, digits(2), tmp_path / "net.onnx", as_trained=True)
    assert not list(tmp_path.iterdir())
