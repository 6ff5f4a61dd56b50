"""Deployment arithmetic decides as the trained network does, wherever integers can."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.activation import NUDGE
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.frozen import Settings, freeze
from snntorch_stbp.frozen.neuron import Integrate, freeze_neuron
from snntorch_stbp.lowering import lower

from .nets import digits, reset_options


@pytest.mark.parametrize("reset", ["zero", "subtract", "delayed", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("bits", [(4, 2), (3, 3), (4, 6), (8, 4), (8, 8), (2, 8), (16, 4)], ids=str)
@pytest.mark.parametrize("scale", ["float", "po2"])
def test_quantized_neurons_are_frozen_as_they_were_trained(
    bits: tuple[int, int], beta: float, reset: str, scale: Any
) -> None:
    """Rounded in the same places to the same steps, whichever of the two grids is finer."""
    precision = stbp.Precision(act_bits=bits[0], membrane_bits=bits[1], scale=scale)
    trained = precision.neuron(beta, 0.4, **reset_options(reset))
    neuron = freeze_neuron(trained, 6, Settings())
    current = torch.randn(6, 50, 40) * 0.4
    spikes, membranes = Integrate()(
        neuron, stbp.surrogate.rectangular(), current / (neuron.step * 2**neuron.lift) + NUDGE
    )
    low, high = neuron.potential
    assert torch.equal(spikes, trained(current))
    assert spikes.any()
    assert low <= membranes.min()
    assert membranes.max() <= high


@pytest.mark.parametrize("reset", ["zero", "none"])
@pytest.mark.parametrize(("beta", "steps"), [(0.0, 4), (0.25, 4), (0.5, 6), (0.75, 3), (1.0, 6)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_neurons_with_quantized_currents_are_frozen_as_they_were_trained(
    bits: int, beta: float, steps: int, reset: str
) -> None:
    """What leaks is kept in full; a current of the threshold itself does as in training.

    (Sums of currents that make exactly the threshold are up to float rounding in training.)
    """
    trained = stbp.Precision(act_bits=bits).neuron(beta, 0.4, **reset_options(reset))
    ((_, limit),) = trained.current_quant.named_parameters()
    for off, length in ((1.0, 1), (1 + 3e-5, steps), (1 - 3e-5, steps), (0.77, steps)):
        limit.data.fill_(1.6 * off)
        neuron = freeze_neuron(trained, length, Settings())
        current = torch.randn(length, 50, 40) * 0.5
        spikes, _ = Integrate()(
            neuron, stbp.surrogate.rectangular(), current / (neuron.step * 2**neuron.lift) + NUDGE
        )
        assert torch.equal(spikes, trained(current))
        assert spikes.any()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scale", ["float", "po2"])
def test_counts_of_pooled_spikes_become_the_levels_of_training(size: int, scale: Any) -> None:
    """Also where a range leaves a count at the border of two levels."""
    neuron = stbp.Precision(act_bits=4, scale=scale).neuron()
    ((_, limit),) = neuron.current_quant.named_parameters()
    model = nn.Sequential(
        stbp.DirectCoding(2), stbp.TimeDistributed(nn.Conv2d(1, 2, 3)), stbp.Leaky(),
        stbp.TimeDistributed(nn.AvgPool2d(size)), neuron,
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(2 * (6 // size) ** 2, 10))),
    )  # fmt: skip
    counts = torch.arange(size**2 + 1)
    border = 8 / (1.5 * size**2)
    values = [border, border * (1 + 1e-6), border * (1 - 1e-6), 0.77, 3.1]
    for value in values if scale == "float" else [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]:  # exponents
        limit.data.fill_(value)
        current = freeze(model).stages[1].current
        (branch,) = current.branches
        level = neuron.current_quant(counts / size**2) / neuron.current_quant.act_quant.scale()
        got = (counts * branch.multiplier + current.bias).round().clamp(-8, 7)
        assert torch.equal(got, level.round())


@pytest.mark.parametrize("deploy", [freeze, lower, partial(lower, form="simple", fraction=4)])
@pytest.mark.parametrize(("scale", "shift"), [(2.5, -0.75), (1.0, -0.1), (1.01, 0)])
def test_images_that_integers_would_cut_off_are_refused(
    deploy: Callable[[nn.Module], nn.Module], scale: float, shift: float
) -> None:
    body = [
        stbp.DirectCoding(2), stbp.TimeDistributed(nn.Conv2d(1, 2, 3)), stbp.Leaky(),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(72, 10))),
    ]  # fmt: skip
    images = digits(8)
    net = deploy(nn.Sequential(*body).eval())
    net(images)
    with pytest.raises(StbpError, match=r"the input has values from .* stand for 0 to 1 where the"):
        net(images * scale + shift)
    clipping = nn.Sequential(stbp.Precision().input_quant(), *body).eval()
    net = deploy(clipping)
    assert torch.equal(net(images * scale + shift), net((images * scale + shift).clamp(0, 1)))


@pytest.mark.parametrize("deploy", [freeze, lower])
@pytest.mark.parametrize("quantized", [False, True])
def test_inputs_that_a_network_cannot_take_are_told(
    deploy: Callable[[nn.Module], nn.Module], quantized: bool
) -> None:
    body = [
        stbp.DirectCoding(2), stbp.TimeDistributed(nn.Conv2d(1, 2, 3)), stbp.Leaky(),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(72, 10))),
    ]  # fmt: skip
    first = [stbp.Precision().input_quant()] if quantized else []
    net, images = deploy(nn.Sequential(*first, *body)), digits(4)
    with pytest.raises(
        UsageError, match=r"takes 1 channels of images, .* shape \[4, 3, 8, 8\]: give"
    ):
        net(images.expand(4, 3, 8, 8))
    with pytest.raises(
        UsageError, match=r"takes 72 values, .* the shape \[8, 98\]: give inputs of"
    ):
        net(digits(4, size=9))
    images[1, 0, 2, 2] = float("nan")
    with pytest.raises(StbpError, match="nan"):
        net(images)


@pytest.mark.parametrize("inputs", [1, 3])
def test_thresholds_make_up_for_the_multipliers_of_wide_weights(inputs: int) -> None:
    """Their sums leave few of the 24 bits to a multiplier."""
    model = nn.Sequential(
        stbp.DirectCoding(2),
        stbp.TimeDistributed(
            stbp.Precision(8).conv2d(inputs, 32, 7, padding=3, bias=False), stbp.TDBatchNorm2d(32)
        ),
        stbp.Leaky(),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(2048, 10))),
    )
    images = digits(64).expand(-1, inputs, -1, -1)
    model(images)
    net = freeze(model.eval())
    (trained,) = model[1](images.unsqueeze(0))
    current = net._current(net.stages[0], {"input": net.quantize_input(images)[None]})[0]
    threshold = net.stages[0].neuron.threshold
    assert len(threshold.unique()) > 1
    near = (trained / 0.4 - 1).abs() < 0.5
    error = current / threshold.view(-1, 1, 1) - trained / 0.4
    assert error[near].abs().max() < 1.5 / 128


@pytest.mark.parametrize("reset", ["subtract", "delayed"])
def test_reset_by_subtraction_takes_the_threshold_off(reset: str) -> None:
    """Of a threshold of 2.6 steps of the current, not of 2."""
    trained = stbp.Precision(act_bits=4).neuron(0.5, 0.4, **reset_options(reset))
    ((_, limit),) = trained.current_quant.named_parameters()
    limit.data.fill_(8 * 0.4 / 2.6)
    neuron = freeze_neuron(trained, 4, Settings())
    assert neuron.threshold * neuron.step == pytest.approx(0.4, rel=0.01)
    current = torch.randn(4, 50, 400) * 0.5
    spikes, _ = Integrate()(
        neuron, stbp.surrogate.rectangular(), current / (neuron.step * 2**neuron.lift) + NUDGE
    )
    assert (spikes != trained(current)).float().mean() < 0.01


@pytest.mark.parametrize("beta", [0, 1])
def test_a_leak_of_all_or_nothing_rounds_nothing(beta: int) -> None:
    neuron = freeze_neuron(stbp.Precision(act_bits=6).neuron(float(beta)), 5, Settings())
    theta = int(neuron.threshold)
    current = torch.arange(-32, 32.0).repeat(5, 1, 1)
    spikes, _ = Integrate()(neuron, stbp.surrogate.rectangular(), current)
    v = torch.zeros(64)
    for x, spike in zip(current[:, 0], spikes[:, 0], strict=True):
        u = v + x * 2**neuron.lift
        assert torch.equal(spike, (u > theta).float())
        v = beta * u * (1 - spike)
