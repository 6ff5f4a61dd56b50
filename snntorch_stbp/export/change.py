"""What rounding the currents of a trained network changed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..frozen import FrozenNet, inputs

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
    neurons = [stage.name for stage in net.graph.stages if stage.neuron is not None]
    differing = total = 0
    for part in samples.split(COMPARED, inputs.batch_axis(samples)):
        frozen: dict[str, Tensor] = {}
        net(part, frozen)
        trained = net.reading.run(part).spikes
        differing += sum(int((frozen[name] != trained[name]).sum()) for name in neurons)
        total += sum(trained[name].numel() for name in neurons)
    return differing / max(total, 1)
