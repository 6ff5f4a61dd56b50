"""What rounding the currents of a trained network changed."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from ..frozen import FrozenNet
from ..neuron import Leaky

NOTED = 0.01
"""Share of spikes from which on what rounded currents change is told."""

COMPARED = 32
"""Samples whose spikes are compared at a time: those of all layers are in memory together."""


@torch.no_grad()
def spikes_changed(net: FrozenNet, samples: Tensor) -> float:
    """Share in [0, 1] of the spikes of `samples` that differ from the network `net` was made of.

    Args:
        net: A frozen network.
        samples: Real inputs, images `[N, C, H, W]` or frames `[T, N, C, H, W]`.
    """
    frozen: dict[str, Tensor] = {}
    differing = total = 0

    def compare(name: str, _: Leaky, spikes: Tensor) -> None:
        nonlocal differing, total
        differing += int((frozen[name] != spikes).sum())
        total += spikes.numel()

    with ExitStack() as stack:
        for stage in net.graph.stages:
            if stage.neuron is not None:
                hook = stage.neuron.register_spike_hook(partial(compare, stage.name))
                stack.callback(hook.remove)
        for part in samples.split(COMPARED, 1 if samples.dim() == 5 else 0):
            frozen.clear()
            net(part, frozen)
            net.model(part)
    return differing / max(total, 1)
