"""The fixed-point network: integers only, the trained spikes, the same in every backend."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import Precision, kernels
from snntorch_stbp.errors import StbpError
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import FixedPointNet, lower, reference
from snntorch_stbp.train.metrics import spike_record

from .nets import digits, integers, make

NETS = ("mnistnet", "mnistnet_bn", "resnet", "pooled", "averaged", "padded", "padded currents")


def numpy_run(net: FixedPointNet, images: torch.Tensor) -> tuple[dict[str, np.ndarray], np.ndarray]:
    record: dict[str, np.ndarray] = {}
    pixels = net.quantize_input(images).numpy().astype(np.int64)
    return record, reference.run(net.integers, pixels, record)


def ways_to_compute() -> list[tuple[str, torch.memory_format]]:
    """Machine code or torch operations, weights and currents of either layout."""
    layouts = (torch.contiguous_format, torch.channels_last)
    return list(product(("compiled", "fused"), layouts))


def trained_spikes(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad(), spike_record(net) as spikes:
        net(images)
    return spikes


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("form", ["exact", "simple"])
@pytest.mark.parametrize("bias", [-0.2, 0.0, 0.3, 0.6])
@pytest.mark.parametrize(("name", "bits"), [("mnistnet_bn", 4), ("mnistnet_bn", 1), ("resnet", 4)])
def test_channels_that_a_normalisation_switched_off_fire_by_its_shift(
    name: str, bits: Any, bias: float, form: Any
) -> None:
    """A gain of exactly 0, as pruning and zero initialisation leave it; in both branches, too."""
    images, net = digits(50), make(name, bits=bits, num_steps=3)
    norms = [m for m in net.modules() if isinstance(m, stbp.TDBatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[:2], norm.bias[:2] = 0, bias
    fixed = lower(net, form=form, samples=images if form == "simple" else None)
    record: dict[str, torch.Tensor] = {}
    fixed(images, record)
    for layer, spikes in trained_spikes(net, images).items():
        assert torch.equal(record[layer][:, :, :2], spikes[:, :, :2]), layer
        assert (record[layer] != spikes).float().mean() < 0.01, layer


@pytest.mark.parametrize("act_bits", [None, 4])
def test_the_network_is_left_in_the_mode_that_it_is_in(act_bits: int | None) -> None:
    model, images = make("mnistnet_bn", act_bits=act_bits), digits(20)
    expected = lower(model, samples=images)(images)
    model.train()
    assert torch.equal(lower(model, samples=images)(images), expected)
    assert all(m.training for m in model.modules())
    with pytest.raises(StbpError, match="not for 7"):
        lower(model, num_steps=7)
    assert all(m.training for m in model.modules())


def test_the_default_device_changes_nothing() -> None:
    model, images = make("mnistnet_bn"), digits(20)
    expected = lower(model, samples=images)(images)
    with torch.device("meta"):
        found = lower(model, samples=images)(images)
    assert torch.equal(found, expected)


def test_scores_of_float_weights_are_on_one_grid_for_all_classes() -> None:
    """So that no class gains by rounding: wide weights, and no multiplier."""
    images, net = digits(50), make("mnistnet", bits=None)
    fixed = lower(net)
    (branch,) = fixed.integers.stages[-1].branches
    assert (branch.multiplier == 1).all()
    assert branch.weight_bits >= 12
    with torch.no_grad():
        expected = net(images)
        # Where spikes are those of the network, as of most samples.
        assert (fixed(images) - expected).abs().median() < 1e-3 * expected.std()


@pytest.mark.parametrize("bits", [8, 4, 2, "ternary", 1])
@pytest.mark.parametrize("name", NETS)
def test_the_exact_form_has_the_spikes_of_the_trained_network(name: str, bits: Any) -> None:
    images = digits(50)
    net = make(name, bits=bits)
    fixed = lower(net)
    record: dict[str, torch.Tensor] = {}
    scores = fixed(images, record).sum(0)
    for stage, spikes in trained_spikes(net, images).items():
        assert torch.equal(record[stage], spikes), stage
    with torch.no_grad():
        expected = net(images).sum(0)
    assert torch.allclose(scores, expected, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("options", [
    {"form": "exact"},
    {"form": "simple", "fraction": 6},
])  # fmt: skip
@pytest.mark.parametrize("bits", [None, 8, "ternary", 1])
@pytest.mark.parametrize("name", NETS)
def test_torch_and_numpy_agree(name: str, bits: Any, options: dict[str, Any]) -> None:
    images = digits(30)
    fixed = lower(make(name, bits=bits), **options)
    assert fixed.dtype == torch.float32
    expected, total = numpy_run(fixed, images)
    for backend, layout in ways_to_compute():
        with kernels.backend(backend):
            record: dict[str, torch.Tensor] = {}
            scores = fixed.to(memory_format=layout)(images, record).sum(0)
            assert torch.equal(fixed(images).sum(0), scores)  # nobody asks for potentials
        for key, value in record.items():
            assert np.array_equal(value.numpy(), expected[key]), (backend, key)
        assert np.array_equal(scores.numpy(), total * fixed.integers.stages[-1].unit.item())


@pytest.mark.parametrize("options", [
    {"act_bits": 6},
    {"act_bits": 6, "membrane_bits": 5},
    {"membrane_bits": 4},
    {"membrane_bits": 4, "reset": "subtract"},
    {"membrane_bits": 4, "reset": "delayed"},
    {"act_bits": 6, "reset": "delayed"},
])  # fmt: skip
def test_quantized_currents_and_membranes_are_those_of_freezing(options: dict[str, Any]) -> None:
    net = make("resnet", **options)
    images = digits(40)
    fixed = lower(net)
    assert fixed.integers.form == "quantized"
    spikes, total = integers(freeze(net), images)
    record, scores = numpy_run(fixed, images)
    unit = fixed.integers.stages[-1].unit.item()
    assert np.array_equal(scores * unit, total)
    for backend, layout in ways_to_compute():
        ours: dict[str, torch.Tensor] = {}
        with kernels.backend(backend):
            result = fixed.to(memory_format=layout)(images, ours).sum(0)
        for stage, value in spikes.items():
            assert np.array_equal(record[stage], value), stage
            assert np.array_equal(ours[stage].numpy(), value), (backend, stage)
        assert np.array_equal(result.numpy(), total)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("reset", ["zero", "none"])
def test_thresholds_by_age_decide_as_rational_numbers_do(
    steps: int, beta: float, reset: str
) -> None:
    """One neuron per channel, driven by every input pattern, in exact fractions."""
    torch.manual_seed(steps)
    layer = Precision(3).linear(4, 6)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.copy_(torch.randn(6) / 8)
    neuron = stbp.Leaky(beta=beta, threshold=0.4, reset_mechanism=reset)
    model = nn.Sequential(
        stbp.DirectCoding(steps), stbp.TimeDistributed(layer), neuron
    )  # 8-bit input
    frames = torch.rand(steps, 64, 4)
    fixed = lower(model)
    pixels = fixed.quantize_input(frames)
    stage = fixed.integers.stages[0]
    values = {"input": pixels.numpy().astype(np.int64)}
    sums = [reference.accumulate(b, values[b.source]) for b in stage.branches]
    assert stage.neuron is not None
    got, _ = reference.integrate(stage.neuron, reference.current(stage, sums))
    scale = layer.quant_weight().scale.detach().double().reshape(-1)
    weight = (layer.quant_weight().value.detach().double() / scale[:, None]).round()
    a = (values["input"] @ weight.T.numpy().astype(np.int64)).tolist()
    for channel in range(6):
        gain = Fraction(float(scale[channel])) * Fraction(1 / 255)
        bias = Fraction(layer.bias[channel].item())
        theta, decay = Fraction(neuron.threshold.item()), Fraction(beta)
        for sample in range(64):
            u = Fraction(0)
            for t in range(steps):
                u = u + gain * int(a[t][sample][channel]) + bias
                spike = u > theta
                assert got[t, sample, channel] == spike
                u = Fraction(0) if spike and reset == "zero" else decay * u


def test_blocks_of_samples_compute_what_numpy_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, images = lower(make("resnet", bits=4)), digits(7)
    monkeypatch.setattr("snntorch_stbp.lowering.neurons.BLOCK", 1)  # one sample each
    record: dict[str, torch.Tensor] = {}
    with kernels.backend("fused"):
        fixed(images, record)
    expected, _ = numpy_run(fixed, images)
    assert record
    for name, value in record.items():
        assert np.array_equal(value.numpy(), expected[name]), name


def test_wide_weights_in_a_residual_block_give_the_digits_of_the_leak_to_multipliers() -> None:
    """512 x 9 weights of 8 bits behind one neuron, with a shortcut of their own kind."""
    torch.manual_seed(0)
    p = Precision(8)
    x = torch.rand(2, 4, 256, 3, 3).round()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = stbp.TimeDistributed(p.conv2d(256, 8, 3, padding=1, bias=False))
            self.shortcut = stbp.TimeDistributed(p.conv2d(256, 8, 1, bias=False))
            self.first, self.lif = stbp.Leaky(threshold=0.5), stbp.Leaky(threshold=0.05)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            spikes = self.first(frames)
            result: torch.Tensor = self.lif(self.main(spikes) + self.shortcut(spikes))
            return result

    block = Block().eval()
    stage = lower(block, samples=x).integers.stages[-1]
    assert stage.neuron is not None
    assert (stage.up, stage.neuron.rounds, stage.exact) == (0, True, False)
    narrow = lower(make("resnet", bits=4)).integers.stages
    assert not any(stage.neuron and stage.neuron.rounds for stage in narrow)


def test_more_calibration_needs_no_fewer_digits_and_keeps_every_spike() -> None:
    net = make("mnistnet_bn", bits=2)
    images = digits(100)
    fixed = lower(net, form="simple", samples=images)
    record, _ = numpy_run(fixed, images)
    for stage, spikes in trained_spikes(net, images).items():
        assert np.array_equal(record[stage], spikes.numpy()), stage
    fewer = lower(net, form="simple", samples=images[:20])
    for a, b in zip(fewer.integers.stages, fixed.integers.stages, strict=True):
        assert a.up <= b.up
    assert set(fixed.integers.settings.values()) >= {"0"}


def test_what_has_no_counterpart_in_the_exact_form_is_refused() -> None:
    for reset in ("subtract", "delayed"):
        net = make("mnistnet", reset=reset)
        with pytest.raises(StbpError, match=r"resets by subtraction.*use the simple form"):
            lower(net)
        assert lower(net, form="simple", fraction=8).integers.form == "simple"
    with pytest.raises(StbpError, match=r"0\.3, is no multiple of 2\^-8"):
        lower(make("mnistnet", beta=0.3))
    with pytest.raises(StbpError, match=r"needs \d+ bits, more than the 24 .* fewer time steps"):
        lower(make("mnistnet", bits=8, num_steps=8))
    assert lower(make("mnistnet", bits=8, num_steps=4), bits=31).dtype == torch.float64


@pytest.mark.parametrize(("options", "message"), [
    ({"form": "other"}, "the form is 'exact' or 'simple', not 'other'"),
    ({"form": "simple"}, "needs either samples to calibrate with or a fraction"),
    ({"form": "simple", "fraction": 21}, "fraction is 0 to 20 bits, not 21"),
    ({"bits": 40}, "bits is 16 to 31, not 40"),
    ({"bits": 20.5}, r"bits is 16 to 31, not 20\.5"),
    ({"multiplier_bits": 8.5}, r"multiplier_bits is 4 to 24, not 8\.5"),
    ({"fraction": 2.5}, r"fraction is 0 to 20 bits, not 2\.5"),
    ({"act_bits": 0}, "act_bits of a frozen network is 4 to 12, not 0"),
    ({"multiplier_bits": 2}, "multiplier_bits is 4 to 24, not 2"),
])  # fmt: skip
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lower(make("mnistnet"), **options)


@pytest.mark.parametrize("readout", ["rate", "population"])
def test_readouts_of_spikes(readout: str) -> None:
    net = make("mnistnet", readout=readout)
    images = digits(30)
    with torch.no_grad():
        assert torch.equal(lower(net)(images), net(images))


def test_event_frames_of_counts() -> None:
    torch.manual_seed(0)
    net = make("nmnistnet", size=20)
    frames = digits(8, 20).unsqueeze(0) * torch.rand(2, 8, 1, 1, 1).round()
    with torch.no_grad():
        assert torch.equal(lower(net)(frames).argmax(-1), net(frames).argmax(-1))
