"""SpikingJelly inside the networks of the zoo: its neuron, and its `memopt`.

H. Fang et al., SpikingJelly, doi.org/10.1126/sciadv.adi1480; `memopt` is of version 2 ("Towards
Lossless Memory-efficient Training of Spiking Neural Networks via Gradient Checkpointing and Spike
Compression", ICLR 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snntorch_stbp.zoo.resnet import BasicBlock


class Neuron(nn.Module):
    """Its multi-step LIF neuron at our decay and threshold, which begins at rest."""

    def __init__(self) -> None:
        super().__init__()
        from spikingjelly.activation_based import functional, neuron

        self.reset = functional.reset_net
        self.neuron = neuron.LIFNode(
            tau=4.0 / 3.0, v_threshold=0.4, decay_input=False, step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of a sequence `[T, B, ...]`."""
        self.reset(self.neuron)
        spikes: Tensor = self.neuron(x)
        return spikes


def save_memory(net: nn.Module) -> nn.Module:
    """Checkpoint every residual block, and keep the spikes that enter it as bits.

    That is level 1 of `optimize_memory`; those above it measure on a GPU.
    """
    from spikingjelly.activation_based import memopt

    images = torch.rand(1, 3, 32, 32)
    return memopt.optimize_memory(net, BasicBlock, lambda n: n(images), level=1)
