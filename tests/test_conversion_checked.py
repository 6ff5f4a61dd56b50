"""`convert` compares every layer of neurons on the example, whether the last one fires or not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import convert
from snntorch_stbp.errors import StbpError

from .test_conversion import Dense, brighter, pixels, stepped


def silent(**options: Any) -> Dense:
    """A network whose last layer never fires, as it is before training."""
    model = brighter(Dense(**options))
    with torch.no_grad():
        model.fc2.weight.zero_()
        model.fc2.bias.zero_()
    assert not model(pixels(8))[0].any()
    return model


def test_spikes_of_every_layer_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neuron that was converted wrongly is found although nothing reaches the record."""
    build = importlib.import_module("snntorch_stbp.conversion.build")
    made: Callable[..., stbp.Leaky] = build.over_sequences

    def leakier(neuron: snn.Leaky, *rest: Any) -> stbp.Leaky:
        result = made(neuron, *rest)
        if neuron.beta != 0.9:
            result.beta *= 0.5
        return result

    monkeypatch.setattr(build, "over_sequences", leakier)
    model = silent()
    model.lif2.beta.fill_(0.9)
    message = r"gives other spikes of 'lif1' than Dense on the example: (\d+) of 1920 differ\.$"
    with pytest.raises(StbpError, match=message) as raised:
        convert(model, pixels(8))
    found = re.search(message, str(raised.value))
    assert found is not None
    record: list[Tensor] = []
    model.lif1.register_forward_hook(lambda _, given, result: record.append(result[0]))
    model(pixels(8))
    theirs, record[:] = torch.stack(record), []
    model.lif1.beta *= 0.5
    model(pixels(8))
    assert int(found[1]) == (theirs != torch.stack(record)).sum()


def test_input_currents_are_compared() -> None:
    """A hook of the whole network is no part of its forward pass."""
    model = silent()
    model.register_forward_pre_hook(lambda _, given: (given[0] * 1.001,))
    message = r"gives other input currents of 'lif1' than Dense on the example: \d+ of 1920 differ"
    with pytest.raises(StbpError, match=message):
        convert(model, pixels(8))


def test_values_of_a_network_without_spikes_are_compared() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
    model.register_forward_pre_hook(lambda _, given: (given[0] * 1.001,))
    with pytest.raises(StbpError, match=r"other values than Sequential .*: 80 of 80 differ"):
        convert(model, pixels(8), num_steps=2)


def test_the_reset_that_is_not_snntorchs_is_named_where_it_is() -> None:
    neuron: dict[str, Any] = {"init_hidden": True, "reset_mechanism": "subtract"}
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), snn.Leaky(0.5, **neuron), nn.Linear(20, 10),
        snn.Leaky(0.5, 0.2, reset_delay=False, **neuron), nn.Linear(10, 3),
        snn.Leaky(0.5, 100.0, output=True, **neuron),
    )  # fmt: skip
    message = r"gives other spikes of '4' than .* differ\. It resets by subtraction without delay"
    with pytest.raises(StbpError, match=message):
        convert(brighter(model), pixels(16), num_steps=8)
    assert not stepped(model, pixels(16), 8).any()


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("delayed", [True, False])
def test_membranes_are_those_that_snntorch_returns(reset: str, delayed: bool) -> None:
    """Before or after the reset, and their gradients."""
    options: dict[str, Any] = {"init_hidden": True, "reset_mechanism": reset}
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), snn.Leaky(0.5, **options), nn.Linear(30, 10),
        snn.Leaky(0.5, 0.7, reset_delay=delayed, output=True, **options),
    )  # fmt: skip
    x = pixels(8)
    net = convert(brighter(model, 2.0), x, num_steps=5, membrane=True)
    spikes, membranes = net(x)
    assert torch.equal(spikes, stepped(model, x, 5))
    assert spikes.sum() > 5
    utils.reset(model)
    theirs = torch.stack([model(x)[1] for _ in range(5)])
    torch.testing.assert_close(membranes, theirs)
    weights = torch.randn(theirs.shape)
    (membranes * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(net.get_submodule("1").layer.weight.grad, model[1].weight.grad)


def test_values_of_a_single_dimension_are_along_the_last_one_as_in_snntorch() -> None:
    """Of feature maps that are as wide as there are channels, too."""
    values = torch.linspace(0.1, 0.9, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        snn.Leaky(values, 1 - values / 2, init_hidden=True, learn_beta=True),
        nn.Flatten(), nn.Linear(512, 10), snn.Leaky(values.repeat(2)[:10], init_hidden=True),
    )  # fmt: skip
    x = pixels(16)
    net = convert(brighter(model), x, num_steps=6)
    spikes: list[Tensor] = []
    model[1].register_forward_hook(lambda _, given, result: spikes.append(result))
    net.get_submodule("1").register_spike_hook(lambda _, seen: spikes.append(seen))
    ours = net(x)
    assert net.get_submodule("1").beta.shape == (1, 1, 8)
    utils.reset(model)
    assert torch.equal(ours, torch.stack([model(x) for _ in range(6)]))
    assert torch.equal(spikes[0], torch.stack(spikes[1:]))


def test_a_learned_threshold_and_bits_warn_of_nothing() -> None:
    """Warnings are errors here."""
    net = convert(Dense(learn_threshold=True), pixels(4), precision=stbp.Precision(4))
    assert net.lif1.threshold.requires_grad
