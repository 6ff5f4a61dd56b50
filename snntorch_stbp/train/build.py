"""From a configuration to the things it names: data, network, optimizer, learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .. import surrogate, zoo
from ..errors import StbpError
from ..mixed import weight_layers
from ..neuron import Leaky
from ..quant import Precision, load_float_state
from . import data
from .config import RunConfig
from .muon import Muon
from .run import checkpoint
from .run.rundir import RunDir

LOWEST_THRESHOLD = 0.01


def build_data(config: RunConfig) -> data.DataBundle:
    """Load the data set of a run."""
    return data.load(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        num_steps=config.steps,
        image_size=config.image_size,
        val_fraction=config.val_fraction,
        seed=config.seed,
        validate_on_test=config.validate_on_test,
    )


def build_model(config: RunConfig, bundle: data.DataBundle) -> nn.Module:
    """The network of a run, freshly initialised from the global random state."""
    precision = Precision(
        weight_bits=config.bits,
        act_bits=config.act_bits,
        input_bits=config.input_bits,
        membrane_bits=config.membrane_bits,
        membrane_grid=config.membrane_grid,  # type: ignore[arg-type]
        per_channel=config.per_channel,
        scale=config.scale,  # type: ignore[arg-type]
        boundary_bits=config.boundary_bits,
        input_max=bundle.input_max,
        weight_range=config.weight_range,  # type: ignore[arg-type]
    )
    curve = getattr(surrogate, config.surrogate)()
    if config.surrogate_centre == "zero":
        curve = replace(curve, centre=-config.threshold)
    return zoo.create(
        config.model,
        num_classes=len(bundle.classes),
        in_channels=bundle.channels,
        image_size=bundle.image_size,
        num_steps=config.steps,
        precision=precision,
        beta=config.beta,
        threshold=config.threshold,
        spike_grad=curve,
        readout=config.readout,
        init=config.init,
        learn_beta=config.learn_beta,
        learn_threshold=config.learn_threshold,
        layer_bits={name: None if bits == 32 else bits for name, bits in config.layer_bits.items()},
    )


def init_from(model: nn.Module, path: str, config: RunConfig) -> None:
    """Fill `model` with the best weights of another run, at whatever precision that run had.

    Raises:
        StbpError: If there is no such run, or it is of another model or architecture.
    """
    run = RunDir.open(path)
    file = run.path / "best.pt"
    state = checkpoint.load(file, config.model)
    try:
        load_float_state(model, state["model"])
    except ValueError as error:
        raise StbpError(f"cannot start from '{file}': {error}.") from error


def build_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run; weight decay acts on weights, not on biases, norms or scales.

    With Muon, AdamW moves the weights of the last layer, whose rows are classes.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    muon = config.optimizer == "muon"
    hidden = {id(m.weight) for m in list(weight_layers(model).values())[:-1]} if muon else set()
    parts: tuple[list[nn.Parameter], ...] = ([], [], [])
    for parameter in parameters:
        parts[2 if id(parameter) in hidden else int(parameter.dim() <= 1)].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parts[0], "weight_decay": config.weight_decay},
        {"params": parts[1], "weight_decay": 0.0},
        {"params": parts[2], "weight_decay": config.weight_decay, "orthogonal": True},
    ]
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
    """Set the learning rate of every parameter group."""
    for group in groups:
        group["lr"] = value
