"""Neurons pay for firing too often; decays and thresholds are learned within their range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import losses, zoo
from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.evaluate import evaluate, load_trained
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.objective import Objective
from snntorch_stbp.train.optimizer import LOWEST_THRESHOLD, keep_in_range
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import assert_same_state, make_config, stopped_and_continued


@pytest.mark.parametrize("readout", ["current", "rate", "population"])
def test_the_loss_grows_by_the_mean_excess(readout: str) -> None:
    net = zoo.create("resnet18", in_channels=1, image_size=8, readout=readout, num_classes=3)
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    spikes: list[torch.Tensor] = []
    neurons = [m for m in net.modules() if isinstance(m, stbp.Leaky)]
    for neuron in neurons if readout == "current" else neurons[:-1]:
        neuron.register_forward_hook(lambda m, i, o: spikes.append(o.detach()))
    config = make_config("digits", readout=readout, spike_rate_target=0.1, spike_rate_weight=3.0)
    loss, record = Objective(config, None)(net, x, y, torch.Generator())
    paid = [max(0.0, float(s.sum() / s.numel()) - 0.1) for s in spikes]
    assert max(paid) > 0
    expected = losses.cross_entropy(record, y) + 3 * sum(paid) / len(paid)
    torch.testing.assert_close(loss, expected)
    loss.backward()


def test_a_target_makes_neurons_fire_less(small_digits: str, tmp_path: Path) -> None:
    rates = {}
    for target, weight in ((None, 1.0), (0.02, 20.0)):
        config = make_config(
            small_digits, spike_rate_target=target, spike_rate_weight=weight, epochs=3
        )
        run = fit(config, out=tmp_path, reporter=Reporter())
        rates[target] = run["test_spike_rate"]
    assert rates[0.02] < 0.6 * rates[None]


@pytest.mark.parametrize(
    "option", ["compile", "checkpoint_activations", "frozen_aware", "fixed_point_aware"]
)
def test_a_target_needs_the_networks_own_neurons(option: str) -> None:
    with pytest.raises(UsageError, match=f"leave it or --{option.replace('_', '-')} out"):
        make_config("digits", spike_rate_target=0.1, init_from="runs/x", **{option: True})


def test_learned_neurons_stay_in_range() -> None:
    neuron = stbp.Leaky(0.25, 0.4, learn_beta=True, learn_threshold=True)
    for beta, threshold, expected in ((1.5, -1.0, (1.0, LOWEST_THRESHOLD)), (0.5, 2.0, (0.5, 2.0))):
        nn.init.constant_(neuron.beta, beta)
        nn.init.constant_(neuron.threshold, threshold)
        keep_in_range([neuron])
        assert (neuron.beta.item(), neuron.threshold.item()) == pytest.approx(expected)


def learned(state: dict[str, Any], name: str) -> torch.Tensor:
    values = [v.reshape(1) for k, v in state.items() if k.split(".")[-1] == name]
    return torch.cat(values)


def test_neurons_are_learned_saved_and_frozen(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, learn_beta=True, learn_threshold=True, epochs=2)
    whole = Path(fit(config, out=tmp_path / "whole", reporter=Reporter())["run"])
    assert_same_state(whole, stopped_and_continued(config, tmp_path / "parts"))
    trained = load_trained(RunDir.open(whole))
    state = trained.model.state_dict()
    assert len(learned(state, "beta").unique()) > 1
    assert (learned(state, "threshold") != 0.4).any()
    result = evaluate(RunDir.open(whole), frozen=True, reporter=Reporter())
    assert result["spikes_differ"] < 0.05
