"""A layer of neurons on integers, in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import IntNeuron

BLOCK = 131072  # neurons of a block, which stays in the cache through all steps


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
        spikes = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        membranes = torch.empty_like(spikes)
        samples = max(1, BLOCK // max(1, x[0, :1].numel()))
        for part in zip(*(v.split(samples, 1) for v in (x, spikes, membranes)), strict=True):
            self._run(*part)
        return spikes, membranes

    def _run(self, x: Tensor, spikes: Tensor, membranes: Tensor) -> None:
        """Write spikes and membrane potentials of a block of samples."""
        neuron, shape = self.neuron, (1, -1, *[1] * (x.dim() - 3))
        rows = [row.reshape(shape) for row in self.threshold]
        decay = self.beta.reshape(shape) / 2**neuron.leak  # exact: a power of two
        v, age = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        for t, (o, u) in enumerate(zip(spikes.unbind(0), membranes.unbind(0), strict=True)):
            torch.add(v, x[t], out=u)
            if neuron.membrane_bits is not None:
                levels, grid = 2 ** (neuron.membrane_bits - 1), 2**neuron.coarse
                u.add_(grid // 2).div_(grid).floor_().clamp_(-levels, levels - 1).mul_(grid)
            torch.gt(u, self._theta(rows, t, age), out=o)
            if t == len(x) - 1:
                break  # nobody asks for the state behind the last step
            if neuron.reset == "subtract":
                torch.sub(u, o * rows[0], out=v).mul_(decay)
            else:
                torch.mul(u, decay, out=v)
            if neuron.leak:
                v.add_(0.5 if neuron.rounds else 0).floor_()
            if neuron.reset == "zero":
                v.masked_fill_(fired := o.bool(), 0)
                age.add_(1).masked_fill_(fired, 0)

    def _theta(self, rows: list[Tensor], t: int, age: Tensor) -> Tensor:
        """The threshold of step `t`; after `t` steps no neuron is older than `t`."""
        if self.neuron.reset != "zero":
            return rows[min(t, len(rows) - 1)]
        theta = rows[0]
        for older, row in enumerate(rows[1 : t + 1], 1):
            theta = torch.where(age >= older, row, theta)
        return theta
