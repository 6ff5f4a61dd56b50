"""A layer of neurons on integers, in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import IntNeuron


class IntegerNeurons(nn.Module):
    """A layer of neurons over a sequence; a module without state, so that hooks can watch it.

    Args:
        neuron: Its integers.
        dtype: Floats wide enough to hold every intermediate exactly.
    """

    beta: Tensor
    threshold: Tensor

    def __init__(self, neuron: IntNeuron, dtype: torch.dtype) -> None:
        super().__init__()
        self.neuron = neuron
        self.register_buffer("beta", torch.tensor(neuron.beta, dtype=dtype), persistent=False)
        threshold = torch.tensor(neuron.threshold, dtype=dtype)
        self.register_buffer("threshold", threshold, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membrane potentials `[T, B, ...]` of input currents `[T, B, ...]`."""
        neuron, shape = self.neuron, (1, -1, *[1] * (x.dim() - 3))
        beta, rows = self.beta.reshape(shape), [row.reshape(shape) for row in self.threshold]
        half = 2**neuron.leak // 2 if neuron.rounds else 0
        age = torch.zeros_like(x[0])
        v = torch.zeros_like(x[0])
        spikes, membranes = [], []
        for step in x.unbind(0):
            u = v + step
            if neuron.membrane_bits is not None:
                levels, grid = 2 ** (neuron.membrane_bits - 1), 2**neuron.coarse
                u = torch.floor((u + grid // 2) / grid).clamp(-levels, levels - 1) * grid
            theta = rows[0]
            for older, row in enumerate(rows[1:], 1):
                theta = torch.where(age >= older, row, theta)
            o = (u > theta).to(u.dtype)
            kept = {"zero": u * (1 - o), "subtract": u - o * rows[0], "none": u}[neuron.reset]
            v = torch.floor((beta * kept + half) / 2**neuron.leak)
            if len(rows) > 1:
                age = (age + 1) * (1 - o) if neuron.reset == "zero" else age + 1
            spikes.append(o)
            membranes.append(u)
        return torch.stack(spikes), torch.stack(membranes)
