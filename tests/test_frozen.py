"""Frozen networks compute in float32 exactly what 64-bit integers compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.activation import activation_quantizer
from snntorch_stbp.errors import StbpError
from snntorch_stbp.frozen import Settings, freeze

from .nets import digits, integers, make

CASES: list[tuple[str, dict[str, Any]]] = [
    ("mnistnet", {"bits": 4}),
    ("mnistnet", {"bits": None, "num_steps": 3, "readout": "rate"}),
    ("mnistnet", {"bits": 8, "act_bits": 8, "scale": "po2", "beta": 0.5, "num_steps": 4}),
    ("mnistnet_bn", {"bits": 1, "membrane_bits": 4, "num_steps": 4}),
    ("mnistnet_bn", {"bits": "ternary", "act_bits": 8, "beta": 0.9, "num_steps": 5}),
    ("mnistnet", {"bits": 4, "act_bits": 6, "beta": 0.0, "num_steps": 4}),
    ("mnistnet", {"bits": 4, "act_bits": 6, "beta": 1.0, "num_steps": 4}),
    ("resnet", {"bits": 2}),
    ("mnistnet_bn", {"bits": 4, "act_bits": 4, "membrane_bits": 6, "num_steps": 4}),
    ("pooled", {"bits": 4}),
    ("pooled", {"bits": None}),
    ("pooled", {"bits": 1}),
    ("averaged", {"bits": 4}),
    ("padded", {"bits": 4}),
    ("padded currents", {"bits": 4}),
    ("averaged", {"bits": None}),
    ("averaged", {"bits": 1, "act_bits": 6}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_float32_equals_integers(name: str, options: dict[str, Any]) -> None:
    net = freeze(make(name, **options))
    images = digits(8)
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        scores = net(images, record).sum(0)
    spikes, expected = integers(net, images)
    for stage, value in spikes.items():
        assert np.array_equal(record[stage].numpy(), value), stage
        assert value.any() or stage != net.stages[0].stage.name
    assert np.array_equal(scores.numpy().astype(np.float64), expected)


@pytest.mark.parametrize("reset", ["subtract", "delayed", "none"])
def test_other_resets_equal_integers(reset: str) -> None:
    net = freeze(make("mnistnet", num_steps=4, reset=reset))
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        net(digits(8), record)
    spikes, _ = integers(net, digits(8))
    assert all(np.array_equal(record[stage].numpy(), value) for stage, value in spikes.items())


def test_per_channel_beta_and_threshold_equal_integers() -> None:
    model = nn.Sequential(
        stbp.DirectCoding(4),
        stbp.TimeDistributed(stbp.Precision(4).conv2d(1, 6, 3), stbp.TDBatchNorm2d(6)),
        stbp.Leaky(torch.linspace(0.1, 0.9, 6), torch.linspace(0.2, 0.8, 6)),
        stbp.TimeDistributed(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10))),
    )
    model(digits(64))
    net = freeze(model)
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        scores = net(digits(8), record).sum(0)
    spikes, expected = integers(net, digits(8))
    assert np.array_equal(record["2"].numpy(), spikes["2"])
    assert np.array_equal(scores.numpy().astype(np.float64), expected)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_nothing_needs_more_than_24_bits(name: str, options: dict[str, Any]) -> None:
    net = freeze(make(name, **options))
    for stage in net.stages:
        largest = stage.current.largest * torch.exp2(stage.current.fraction + 1)
        assert largest.max() <= 2**24
        for branch in stage.current.branches:
            assert branch.largest.max() < 2**24


@pytest.mark.parametrize("bits", [None, 4, "ternary"])
def test_freezing_changes_little(bits: Any) -> None:
    model = make("mnistnet_bn", bits=bits, act_bits=8)
    net, images = freeze(model), digits(256)
    record: dict[str, torch.Tensor] = {}
    spikes: dict[str, torch.Tensor] = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, n=n: spikes.__setitem__(n, o))
        for n, m in model.named_modules()
        if isinstance(m, stbp.Leaky)
    ]
    with torch.no_grad():
        model(images)
        net(images, record)
    for hook in hooks:
        hook.remove()
    differing = [(record[n] != spikes[n]).float().mean().item() for n in spikes]
    assert max(differing) < 0.03


@pytest.mark.parametrize("name", ["mnistnet_bn", "cifarnet_neunorm"])
def test_the_default_device_changes_nothing(name: str) -> None:
    model, images = make(name, num_steps=2), digits(4)
    with torch.no_grad():
        expected = freeze(model)(images)
        with torch.device("meta"):
            found = freeze(model)(images)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("bits", [None, 4])
def test_the_network_is_left_in_the_mode_that_it_is_in(bits: int | None) -> None:
    """Module by module; in whichever it is, it is frozen as in evaluation, and again."""
    model, images = make("mnistnet_bn", act_bits=bits, membrane_bits=bits), digits(4)
    expected = freeze(model)(images)
    model.train()
    next(model.children()).eval()
    modes = [m.training for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    net = freeze(model)
    assert net.reading.changed(net, images) < 0.5
    net.refold()
    assert torch.equal(net(images), expected)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_state_that_is_loaded_is_frozen() -> None:
    images, trained, net = digits(4), freeze(make("mnistnet_bn")), freeze(make("mnistnet_bn"))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.5)
    trained.refold()
    assert not torch.equal(net(images), trained(images))
    net.load_state_dict(trained.state_dict())
    assert torch.equal(net(images), trained(images))


def test_training_in_frozen_arithmetic_is_what_freezing_gives() -> None:
    model = make("mnistnet_bn", bits=4)
    net = freeze(model)
    net.refolds = True
    images, target = digits(64), torch.arange(64) % 10
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images).mean(0), target)
        loss.backward()
        losses.append(loss.item())
        if not losses[1:]:
            grads = {n: p.grad for n, p in model.named_parameters()}
            assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
        optimizer.step()
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert torch.equal(net(images), freeze(model)(images))


def test_hardware_is_fed_the_pixels() -> None:
    net = freeze(make("mnistnet"))
    pixels = torch.arange(64, dtype=torch.float32).reshape(1, 1, 8, 8) * 4
    assert torch.equal(net.quantize_input(pixels / 255), pixels)


def wrap(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(stbp.DirectCoding(2), *layers)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "cannot follow the forward pass of Branching"),
        (wrap(nn.Identity()), "must be the spikes or currents of the last layer"),
        (wrap(stbp.TimeDistributed(nn.Conv2d(1, 2, 3))), "has no layers of neurons"),
        (
            wrap(stbp.TimeDistributed(nn.Conv2d(1, 2, 3)), nn.GELU()),
            "cannot export '2': GELU has no counterpart",
        ),
        (
            wrap(stbp.TimeDistributed(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)))),
            "follows '1' without a neuron between them; put a Leaky there",
        ),
        (
            wrap(nn.Conv2d(1, 2, 3), stbp.Leaky(), nn.Linear(6, 2), stbp.Leaky()),
            r"'3' \(Linear\) takes images as they are, and mixes their columns: put Flatten\(2\)",
        ),
        (
            wrap(activation_quantizer(10, 1.0, signed=False, learned=False), stbp.Leaky()),
            r"gives the input 10 bits, and files hold inputs of 8 .* Precision\(input_bits=8\)",
        ),
        (wrap(nn.Softmax(-1), stbp.Leaky()), "Softmax has no counterpart in integer arithmetic"),
        (
            wrap(stbp.Leaky(), nn.AdaptiveAvgPool2d(1), stbp.Leaky()),
            r"'2' \(AdaptiveAvgPool2d\) has windows .* take AvgPool2d with the size of the windows",
        ),
        (
            wrap(stbp.NeuNorm(1, (8, 8)), stbp.Leaky()),
            r"'1' \(NeuNorm\) must follow a Leaky directly",
        ),
        (
            wrap(stbp.Leaky(), stbp.NeuNorm(1, (8, 8)), stbp.NeuNorm(1, (8, 8))),
            r"'3' \(NeuNorm\) takes a sum",
        ),
        (
            wrap(stbp.Leaky(), stbp.NeuNorm(1, (8, 8)), nn.AvgPool2d(2), stbp.Leaky()),
            r"'3' \(AvgPool2d\) takes a sum",
        ),
        (wrap(stbp.Leaky(), stbp.NeuNorm(1, (8, 8))), "must be the spikes or currents"),
        (wrap(stbp.Leaky(output=True)), "returns its membrane"),
        (wrap(stbp.Leaky(graded_spikes_factor=2.0)), "graded spikes; hardware spikes are 0 or 1"),
        (wrap(nn.MaxPool2d(3, ceil_mode=True), stbp.Leaky()), "'1' has ceil_mode"),
        (
            wrap(nn.AvgPool2d(3, padding=1, count_include_pad=False), stbp.Leaky()),
            "'1' leaves padding out of what it divides by, .* take count_include_pad=True",
        ),
        (
            wrap(nn.AvgPool2d(2, divisor_override=1), stbp.Leaky()),
            "'1' divides by 1, its windows have 4 pixels: .*leave out divisor_override",
        ),
        (
            wrap(nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, padding=1), stbp.Leaky()),
            "'2' pads currents: at the borders it would take less of their bias",
        ),
        (
            wrap(stbp.Leaky(state_quant=lambda u: u)),
            "only quantizers made by Precision",
        ),
        (wrap(snn.Synaptic(0.5, 0.5)), "Synaptic has no counterpart"),
        (
            wrap(
                stbp.Leaky(),
                nn.AvgPool2d(2),
                stbp.Precision(act_bits=4).pool_quant(5),
                stbp.TimeDistributed(nn.Conv2d(1, 2, 3)),
                stbp.Leaky(),
            ),
            r"'4', averages of 4 spikes, was rounded to other numbers .* Precision.pool_quant\(4\)",
        ),
        (
            wrap(
                stbp.TimeDistributed(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2))),
                stbp.TDBatchNorm2d(2),
                stbp.Leaky(),
            ),
            "the normalisation '2' must follow a convolution or linear layer, at most with average",
        ),
        (
            wrap(stbp.Leaky(threshold=-1.0, reset_mechanism="subtract", reset_delay=True)),
            "'1' has a threshold of -1 and a delayed reset, .* train with positive thresholds",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(StbpError, match=message):
        freeze(model)


def test_settings_are_no_number() -> None:
    with pytest.raises(TypeError, match=r"settings are Settings\(act_bits=...\), not 3"):
        freeze(make("mnistnet"), 3)  # type: ignore[arg-type]


def test_widths_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="act_bits of a frozen network is 4 to 12, not 3"):
        Settings(act_bits=3)
