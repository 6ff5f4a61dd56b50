"""Precision gives Brevitas layers whose weights are integers of the stated range times a scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import quant, rounded, weights

ALL_BITS = [1, "ternary", 2, 3, 4, 5, 6, 7, 8]
LEVELS = {1: {-1, 1}, "ternary": {-1, 0, 1}}


def integers(layer: nn.Module) -> torch.Tensor:
    weight = layer.quant_weight()
    steps = weight.value / weight.scale
    assert (steps - steps.round()).abs().max() < 1e-3
    return steps.round()


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scale", ["float", "po2"])
def test_weights_are_integers_of_their_range(bits: Any, per_channel: bool, scale: str) -> None:
    precision = stbp.Precision(bits, per_channel=per_channel, scale=scale)
    for layer in (precision.conv2d(3, 16, 3), precision.linear(27, 16)):
        allowed = LEVELS.get(
            bits, set(range(-(2 ** (7 if bits == "ternary" else bits - 1)) + 1, 128))
        )
        largest = 1 if bits in (1, "ternary") else 2 ** (bits - 1) - 1
        values = set(integers(layer).unique().int().tolist())
        assert values <= allowed
        assert max(values) <= largest
        scales = layer.quant_weight().scale
        assert scales.numel() == (16 if per_channel else 1)
        if scale == "po2":
            exponents = scales.log2()
            assert torch.equal(exponents, exponents.round())


@pytest.mark.parametrize("bits", [None, 4, 1])
def test_convolutions_take_what_torchs_take(bits: Any) -> None:
    sizes: dict[str, Any] = {"stride": (2, 1), "padding": (0, 1), "dilation": 2, "groups": 2}
    layer = stbp.Precision(bits).conv2d(4, 6, (3, 1), **sizes, bias=False)
    plain = nn.Conv2d(4, 6, (3, 1), **sizes, bias=False)
    weight = layer.weight if bits is None else layer.quant_weight().value
    plain.weight.data.copy_(weight)
    x = torch.rand(2, 4, 9, 9)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_largest_weight_sets_the_range_where_that_is_asked(
    bits: int, per_channel: bool
) -> None:
    """The formula of `quantize_tensor` in STBP-train-and-compression."""
    layer = stbp.Precision(bits, per_channel=per_channel, weight_range="max").conv2d(3, 16, 3)
    weight = layer.weight.detach()
    largest = weight.abs().amax((1, 2, 3), keepdim=True) if per_channel else weight.abs().max()
    step = largest / (2 ** (bits - 1) - 1)
    torch.testing.assert_close(layer.quant_weight().value, (weight / step).round() * step)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_gradients_flow_to_the_weights(bits: Any) -> None:
    layer = stbp.Precision(bits).conv2d(2, 4, 3)
    layer(torch.rand(2, 2, 5, 5)).square().sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
    assert (layer.weight.grad != 0).float().mean() > 0.5


def test_ternary_follows_the_paper() -> None:
    """The threshold with the largest `(sum |w|)^2 / count` beyond it; their mean is the level."""
    layer = stbp.Precision("ternary").linear(100_000, 1)
    nn.init.normal_(layer.weight)
    w = layer.weight.detach()[0]
    sums = w.abs().sort(descending=True).values.double().cumsum(0)
    count = int((sums**2 / torch.arange(1, len(w) + 1)).argmax()) + 1
    quantized = layer.quant_weight().value.detach()[0]
    assert int((quantized != 0).sum()) == pytest.approx(count, rel=0.02)
    assert float(quantized.max()) == pytest.approx(float(sums[count - 1]) / count, rel=0.02)


def test_two_bits_and_ternary_are_the_same_three_levels() -> None:
    two, three = (stbp.Precision(bits).linear(300, 40) for bits in (2, "ternary"))
    three.weight.data.copy_(two.weight)
    quantized = [layer.quant_weight().value for layer in (two, three)]
    torch.testing.assert_close(*quantized)
    for value in quantized:
        value.square().sum().backward()
    torch.testing.assert_close(two.weight.grad, three.weight.grad)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_low_bit_scales_are_optimal_for_normal_weights(bits: int) -> None:
    """No uniform quantizer of as many levels has a smaller mean squared error (Max 1960)."""
    x = np.linspace(-8, 8, 400_001)
    density = np.exp(-(x**2) / 2)
    top = max(2 ** (bits - 1) - 1, 1)

    def error(largest: float) -> float:
        step = largest / top
        if bits == 1:
            return float(((x - np.sign(x) * largest) ** 2 * density).sum())
        return float(((x - np.clip(np.round(x / step), -top, top) * step) ** 2 * density).sum())

    chosen = weights.GAUSSIAN_LOADING[bits]
    assert error(chosen) < min(error(0.99 * chosen), error(1.01 * chosen))


def test_four_bits_of_normal_weights_keep_most_of_them() -> None:
    layer = stbp.Precision(4).linear(4096, 4)
    nn.init.normal_(layer.weight)
    error = (layer.quant_weight().value - layer.weight).square().mean().sqrt()
    assert error < 0.115  # 15 levels: 0.1087 times the standard deviation in theory


@pytest.mark.parametrize("bits", [None, 4])
def test_boundary_layers_keep_their_own_bits(bits: int | None) -> None:
    precision = stbp.Precision(bits, boundary_bits=8)
    boundary = precision.conv2d(1, 4, 3, boundary=True)
    assert rounded.weight_bits(boundary) == (8 if bits else 32)
    assert rounded.weight_bits(precision.linear(4, 4)) == (bits or 32)


def test_input_quantizer_is_exact_on_eight_bit_images() -> None:
    pixels = torch.arange(256) / 255
    quantized = stbp.Precision().input_quant()(pixels)
    torch.testing.assert_close(quantized, pixels, rtol=2e-7, atol=0)
    coarse = stbp.Precision(input_bits=2).input_quant()
    torch.testing.assert_close(coarse(torch.tensor([0.1, 0.4, 2.0])), torch.tensor([0, 1 / 3, 1.0]))
    assert isinstance(stbp.Precision(input_bits=None).input_quant(), nn.Identity)


def test_current_and_membrane_quantizers_are_put_into_the_neuron() -> None:
    neuron = stbp.Precision(4, act_bits=8, membrane_bits=4).neuron(output=True)
    x = torch.randn(3, 4, 5)
    spikes, membrane = neuron(x)
    spikes.sum().backward()
    assert len(membrane.unique()) <= 16
    scale = stbp.Precision(4, act_bits=8, scale="po2").neuron().current_quant.act_quant.scale()
    assert scale.item() == 2.0 ** round(torch.log2(scale).item())


def test_thresholds_that_differ_have_one_range_of_currents_and_no_grid_of_membranes() -> None:
    thresholds = torch.tensor([0.2, 0.4, 0.8, 0.6])
    neuron = stbp.Precision(act_bits=4).neuron(threshold=thresholds)
    one = stbp.Precision(act_bits=4).neuron(threshold=0.8)
    x = torch.randn(3, 5, 4)
    assert torch.equal(neuron.current_quant(x), one.current_quant(x))
    assert torch.equal(neuron.threshold, thresholds)
    with pytest.raises(
        ValueError, match=r"of one threshold, .* not for thresholds from 0.2 to 0.8"
    ):
        stbp.Precision(membrane_bits=4).neuron(threshold=thresholds)
    alike = stbp.Precision(membrane_bits=4, act_bits=4).neuron(threshold=torch.full((4,), 0.4))
    one = stbp.Precision(membrane_bits=4, act_bits=4).neuron(threshold=torch.tensor(0.4))
    assert torch.equal(alike(x), one(x))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_membrane_grid_is_centred_on_the_threshold(bits: int) -> None:
    grid = quant.membrane_quantizer(bits, 0.4)
    levels = grid(torch.linspace(-4, 4, 20_001)).unique()
    above = levels[levels > 0.4]
    below = levels[levels < 0.4].max()
    assert len(levels) == 2**bits
    assert len(above) == 1
    torch.testing.assert_close((above[0] + below) / 2, torch.tensor(0.4))


@pytest.mark.parametrize("act_bits", [2, 4, 8, 16])
@pytest.mark.parametrize("membrane_bits", [2, 4, 8])
@pytest.mark.parametrize("scale", ["float", "po2"])
def test_steps_of_currents_are_those_of_the_membrane_doubled_or_halved(
    act_bits: int, membrane_bits: int, scale: Any
) -> None:
    bits = {"act_bits": act_bits, "membrane_bits": membrane_bits}
    neuron = stbp.Precision(4, **bits, scale=scale).neuron()
    learned = neuron.current_quant.act_quant
    membrane = neuron.state_quant.act_quant.scale()
    (name, limit), *others = learned.named_parameters()
    assert "scaling_impl.value" in name
    assert not others
    for value in (1.6, 0.1, 0.7, 11.0):
        limit.data.fill_(math.log2(value) if scale == "po2" else value)
        ratio = (learned.scale() / membrane).log2().item()
        assert ratio == pytest.approx(round(ratio), abs=1e-5)
        covered = learned.scale().item() * 2 ** (act_bits - 1) / value
        assert 0.7 < covered < 1.42 if scale == "float" else 1 <= covered < 2
    learned.scale().sum().backward()
    assert limit.grad > 0


def test_what_lies_half_way_between_two_levels_rounds_up() -> None:
    grid = quant.membrane_quantizer(4, 0.4)
    step = grid.act_quant.scale()
    middle = torch.arange(-8, 7) + 0.5
    for off in (0, 1e-5, -1e-5):  # as floating point may leave it
        torch.testing.assert_close(grid((middle + off) * step), (middle + 0.5) * step)
    torch.testing.assert_close(grid((middle - 1 / 256) * step), (middle - 0.5) * step)


@pytest.mark.parametrize("count", [4, 9, 16, 64])
def test_averages_of_spikes_keep_the_bits_of_their_number(count: int) -> None:
    pool = stbp.Precision(4, act_bits=2).pool_quant(count)
    averages = torch.arange(count + 1) / count
    torch.testing.assert_close(pool(averages), averages)
    torch.testing.assert_close(pool(averages + 0.4 / count), averages)
    assert pool.act_quant.bit_width() == math.ceil(math.log2(count + 1))
    assert isinstance(stbp.Precision(4).pool_quant(count), nn.Identity)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_float_weights_load_into_a_quantized_network(bits: Any) -> None:
    def net(precision: stbp.Precision) -> nn.Module:
        return nn.Sequential(precision.linear(4, 3), precision.neuron(), precision.linear(3, 2))

    floats = net(stbp.Precision())
    quantized = net(stbp.Precision(bits, act_bits=8))
    kept = quant.load_float_state(quantized, floats.state_dict())
    assert torch.equal(quantized[0].weight, floats[0].weight)
    assert kept
    assert all("_quant" in key for key in kept)
    quant.load_float_state(floats, quantized.state_dict())


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"another architecture: 1 of them differ, first '0.weight'"
    ):
        quant.load_float_state(
            nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(5, 3)).state_dict()
        )


@pytest.mark.parametrize("count", [0, -4, 2.5, True])
@pytest.mark.parametrize("bits", [None, 4])
def test_averages_are_of_one_spike_or_more(bits: int | None, count: Any) -> None:
    with pytest.raises(ValueError, match=rf"number of spikes of an average, from 1, not {count}"):
        stbp.Precision(act_bits=bits).pool_quant(count)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"weight_bits": 0},
            "whole number from 1 to 8, 'ternary' or None for floating point, not 0",
        ),
        ({"weight_bits": 9}, "not 9"),
        ({"weight_bits": 32}, "from 1 to 8, 'ternary' or None for floating point, not 32"),
        ({"weight_bits": "four"}, "not 'four'"),
        (
            {"act_bits": 1},
            "act_bits is a whole number from 2 to 16 or None for floating point, not 1",
        ),
        (
            {"input_bits": 9},
            "input_bits is a whole number from 1 to 8 or None for floating point, not 9",
        ),
        (
            {"membrane_bits": 1},
            "membrane_bits is a whole number from 2 to 16 or None for floating point, not 1",
        ),
        (
            {"membrane_grid": "threshold"},
            "'threshold' is for membrane_bits of 2 to 8, not for None",
        ),
        ({"boundary_bits": 1}, "boundary_bits is a whole number from 2 to 8, not 1"),
        ({"scale": "log"}, "scale is 'float' or 'po2', not 'log'"),
        ({"weight_range": "min"}, "weight_range is 'fitted', 'learned' or 'max', not 'min'"),
        ({"weight_bits": 1, "weight_range": "max"}, "for weights of 2 to 8 bits, not for 1"),
        ({"weight_bits": "ternary", "weight_range": "learned"}, "2 to 8 bits, not for 'ternary'"),
        ({"input_max": 0.0}, "input_max is a positive, finite number, not 0.0"),
        ({"input_max": float("inf")}, "input_max is a positive, finite number, not inf"),
    ],
)
def test_refuses_impossible_precisions(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stbp.Precision(**values)


def test_thresholds_are_not_learned_where_levels_lie_around_them() -> None:
    """A threshold above the highest level would never be reached again."""
    assert stbp.Precision(4).neuron(learn_threshold=True).threshold.requires_grad
    for grid in ("uniform", "threshold"):
        precision = stbp.Precision(4, membrane_bits=6, membrane_grid=grid)
        with pytest.raises(ValueError, match="away from the levels of membrane_bits"):
            precision.neuron(learn_threshold=True)
