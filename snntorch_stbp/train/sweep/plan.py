"""The runs of a sweep: one model over bits, time steps and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import UsageError
from ..config import RunConfig
from ..run.rundir import RunDir

OWN_FLOAT_RUN = "the sweep's own run of 32 bits"
"""In place of a folder in `init_from`, until that run has one."""

QAT_LR = 0.25
"""Quantized training that starts from a trained network has this part of its learning rate."""


def plan(
    model: str,
    dataset: str,
    bits: Sequence[Any],
    steps: Sequence[int | None],
    seeds: int,
    *,
    qat_epochs: int | None = None,
    qat_lr: float | None = None,
    **given: Any,
) -> list[RunConfig]:
    """The configurations of a sweep.

    Args:
        model: What is trained.
        dataset: On what.
        bits: Bits of weights; `None` is floating point.
        steps: Time steps; `None` is the recipe's number.
        seeds: Runs of each, with seeds 0, 1, ...
        qat_epochs: Let quantized runs start from the floating-point run of the same steps and seed,
            and take so many epochs, with their share of warm-up and light end.
        qat_lr: Their learning rate; `None` is `QAT_LR` times that of the others.
        given: Other fields of all configurations, in place of the recipe's.

    Raises:
        UsageError: For an unknown model, data set or value, or quantized runs that have nothing to
            start from.
    """
    if qat_epochs and None not in bits:
        raise UsageError(
            "--qat-epochs starts from the sweep's own runs of 32 bits: add 32 to --bits."
        )
    if qat_epochs and set(bits) == {None}:
        raise UsageError("--qat-epochs is for runs of fewer than 32 bits: add some to --bits.")
    if qat_lr and not qat_epochs:
        raise UsageError("--qat-lr needs --qat-epochs.")
    absent: dict[str, Any] = {name: None for name, value in given.items() if value is None}
    configs = []
    for width in bits:
        start = {"init_from": OWN_FLOAT_RUN} if qat_epochs and width is not None else {}
        for count in steps:
            for seed in range(seeds):
                wanted = given | {"bits": width, "steps": count, "seed": seed} | start
                if width is None:
                    wanted["boundary_bits"] = None  # of quantized runs alone
                config = replace(RunConfig.from_recipe(model, dataset, **wanted), **absent)
                if start and qat_epochs:
                    lr = qat_lr or QAT_LR * config.lr
                    config = replace(config.shortened(qat_epochs), lr=lr)
                configs.append(config)
    return configs


def needs_float(config: RunConfig) -> bool:
    """Whether the run starts from one of the same sweep."""
    return config.init_from == OWN_FLOAT_RUN


def from_float(config: RunConfig, run: RunDir) -> RunConfig:
    """A configuration that starts from `run`."""
    return replace(config, init_from=str(run.path))
