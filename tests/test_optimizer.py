"""The optimizer of a run: what the configuration asks for, in one pass over the parameters."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from snntorch_stbp.train.build import build_optimizer

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
