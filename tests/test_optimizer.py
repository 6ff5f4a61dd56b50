"""The optimizer of a run: what the configuration asks for, in one pass over the parameters."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from snntorch_stbp import zoo
from snntorch_stbp.neuron import Leaky
from snntorch_stbp.norm import NeuNorm
from snntorch_stbp.train.optimizer import build_optimizer, set_learning_rate

from .runs import make_config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"momentum": 0.9, "nesterov": True}),
        ({"momentum": 0.5, "nesterov": False}, {"momentum": 0.5, "nesterov": False}),
        ({"momentum": 0.0}, {"momentum": 0, "nesterov": False}),
    ],
)
def test_momentum_of_sgd(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = make_config("digits", optimizer="sgd", **changes)
    (group,) = build_optimizer(config, nn.Linear(2, 2, bias=False)).param_groups
    assert expected.items() <= group.items()


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_optimizers_are_fused_except_where_they_would_unscale_gradients(optimizer: str) -> None:
    for precision, fused in (("32", True), ("bf16-mixed", True), ("16-mixed", False)):
        config = make_config("digits", optimizer=optimizer, precision=precision)
        assert build_optimizer(config, nn.Linear(2, 2)).param_groups[0]["fused"] is fused


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_neurons_learn_at_a_tenth_of_the_rate(optimizer: str) -> None:
    config = make_config(
        "digits", model="resnet18", optimizer=optimizer, learn_beta=True, learn_threshold=True
    )
    net = zoo.create("resnet18", image_size=8, learn_beta=True, learn_threshold=True)
    groups = build_optimizer(config, net).param_groups
    set_learning_rate(groups, 0.5)
    rates = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    learned = [p for m in net.modules() if isinstance(m, Leaky) for p in (m.beta, m.threshold)]
    assert len(learned) == 36
    assert {rates.pop(id(p)) for p in learned} == {(0.05, 0.0)}
    assert {rate for rate, _ in rates.values()} == {0.5}
    assert rates[id(net.conv1.norm.weight)] == (0.5, 0.0)
    assert groups[0]["lr"] == 0.5  # what the log shows


def test_weights_decay_and_norms_do_not() -> None:
    config = make_config("digits", model="cifarnet_neunorm", weight_decay=0.1)
    net = zoo.create("cifarnet_neunorm", image_size=8)
    decays = {
        id(p): group["weight_decay"]
        for group in build_optimizer(config, net).param_groups
        for p in group["params"]
    }
    kinds = [(m, p) for m in net.modules() for p in m.parameters(recurse=False)]
    assert {decays[id(p)] for m, p in kinds if isinstance(m, NeuNorm)} == {0.0}
    weights = [m.weight for m, _ in kinds if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {decays[id(p)] for p in weights} == {0.1}
