"""What a trained network costs to run: synaptic operations, counted on data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .time import TimeDistributed


@dataclass(frozen=True)
class Operations:
    """Operations per sample, over all time steps.

    Attributes:
        additions: Synaptic operations: each spike adds one weight to every neuron it reaches.
        multiplications: Products of weights and inputs that are not 0 or 1: those of the first
            layer, whose input is an image (once, where every step presents the same), and those
            behind average pooling.
        dense: Products that the same network would need without spikes, once (`T` steps as one).
    """

    additions: float
    multiplications: float
    dense: float


@torch.no_grad()
def operations(model: nn.Module, x: Tensor) -> Operations:
    """Count the operations of `model` on samples.

    Only inputs that are not zero are counted, and at the border of an image only the neurons that
    a padded convolution really has there; where it pads with the image itself, what it pads, too.
    A layer that is called several times counts each time.

    Args:
        model: A network of the modules of this package, in evaluation mode.
        x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`, features `[B, F]` or `[T, B, F]`.
    """
    x = x.to(next(model.parameters(), x).device)
    batch = x.shape[1] if x.dim() in (3, 5) else x.shape[0]
    totals = {"additions": 0.0, "multiplications": 0.0, "dense": 0.0}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        value = inputs[0]
        reached = _reached(layer, (value != 0).float())
        binary = bool(((value == 0) | (value == 1)).all())
        totals["additions" if binary else "multiplications"] += reached
        # The layer takes time folded into the batch, or one step of an image that is repeated.
        steps = max(1, len(value) // batch)
        totals["dense"] += _reached(layer, torch.ones_like(value)) / steps

    layers = {  # each once, however many modules share it: a hook is called at every call
        child
        for module in model.modules()
        if isinstance(module, TimeDistributed)
        for child in module.modules()
        if isinstance(child, nn.Conv2d | nn.Linear)
    }
    handles: list[Any] = [layer.register_forward_hook(count) for layer in layers]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return Operations(**{name: total / batch for name, total in totals.items()})


def _reached(layer: nn.Module, active: Tensor) -> float:
    """Pairs of an active input and an output that its weight leads to."""
    if isinstance(layer, nn.Linear):
        return float(active.sum()) * layer.out_features
    assert isinstance(layer, nn.Conv2d)
    groups, padding = layer.groups, layer.padding
    if layer.padding_mode != "zeros":  # borders are wired to pixels of the image
        sides = layer._reversed_padding_repeated_twice
        active, padding = F.pad(active, sides, mode=layer.padding_mode), (0, 0)
    ones = active.new_ones(groups, layer.in_channels // groups, *layer.kernel_size)
    sums = F.conv2d(
        active, ones, None, layer.stride, padding, layer.dilation, groups
    )  # inputs that each output of a group sees
    return float(sums.double().sum()) * (layer.out_channels // groups)
