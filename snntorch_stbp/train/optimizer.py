"""The optimizer of a run, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..mixed import weight_layers
from ..neuron import Leaky
from ..norm import NeuNorm
from .config import RunConfig
from .muon import Muon

LOWEST_THRESHOLD = 0.01
OF_NEURONS = 0.1
"""The step of a decay or a threshold in units of that of weights; see `docs/accuracy.md`."""


def build_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run; weight decay acts on weights, not on biases, norms or scales.

    With Muon, AdamW moves the weights of the last layer, whose rows are classes. Neurons' own
    values take steps of `OF_NEURONS` times the learning rate.
    """
    muon = config.optimizer == "muon"
    hidden = {id(m.weight) for m in list(weight_layers(model).values())[:-1]} if muon else set()
    norms = {id(p) for m in model.modules() if isinstance(m, NeuNorm) for p in m.parameters()}
    neurons = [m for m in model.modules() if isinstance(m, Leaky)]
    learned = {id(p) for m in neurons for p in m.parameters(recurse=False)}
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": config.weight_decay},
        {"params": [], "weight_decay": 0.0},
        {"params": [], "weight_decay": config.weight_decay, "orthogonal": True},
        {"params": [], "weight_decay": 0.0, "lr_factor": OF_NEURONS},
    ]
    for parameter in (p for p in model.parameters() if p.requires_grad):
        if id(parameter) in learned:
            place = 3
        else:
            plain = parameter.dim() <= 1 or id(parameter) in norms
            place = 2 if id(parameter) in hidden else int(plain)
        groups[place]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    if muon:
        dtype = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
        return Muon(groups, lr=config.lr, dtype=dtype)
    # One pass over the parameters, which would unscale gradients of float16 after they are clipped.
    fused = config.precision != "16-mixed"
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            fused=fused,
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


@torch.no_grad()
def keep_in_range(neurons: Iterable[Leaky]) -> None:
    """Put decays that were learned back into [0, 1], thresholds to `LOWEST_THRESHOLD` or more."""
    for neuron in neurons:
        if isinstance(neuron.beta, nn.Parameter):
            neuron.beta.clamp_(0, 1)
        if isinstance(neuron.threshold, nn.Parameter):
            neuron.threshold.clamp_(min=LOWEST_THRESHOLD)


def learning_rate(config: RunConfig, progress: float) -> float:
    """The learning rate after `progress` epochs (fractional): linear warm-up, then the schedule.

    A function of position alone, so that a resumed run needs no scheduler state.
    """
    if progress < config.warmup_epochs:
        return config.lr * (progress + 1e-3) / config.warmup_epochs
    if config.schedule == "constant":
        return config.lr
    span = max(config.epochs - config.warmup_epochs, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup_epochs) / span))


def set_learning_rate(groups: Iterable[dict[str, Any]], value: float) -> None:
    """Set the learning rate of every parameter group, some of which have a factor of their own."""
    for group in groups:
        group["lr"] = value * group.get("lr_factor", 1.0)
