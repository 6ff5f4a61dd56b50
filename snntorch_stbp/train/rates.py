"""A limit on how often neurons fire, as a term of the loss.

Every spike costs additions in each layer behind it, so that a network that fires less computes
less on event-driven hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..neuron import Leaky
from .metrics import watched


@contextmanager
def hidden_rates(net: nn.Module, readout: str) -> Iterator[list[Tensor]]:
    """While active, collects the mean spikes per neuron and step of every hidden layer.

    Args:
        net: The network.
        readout: Where it is not `"current"`, the last layer of neurons is the readout, and not
            hidden.
    """
    rates: list[Tensor] = []

    def note(_: nn.Module, spikes: Tensor) -> None:
        rates.append(spikes.float().mean())

    neurons = [module for module in net.modules() if isinstance(module, Leaky)]
    hidden = neurons if readout == "current" else neurons[:-1]
    with watched(hidden, note):
        yield rates


def excess(rates: list[Tensor], target: float) -> Tensor:
    """By how much layers fire more often than `target`, in [0, 1]; the mean over the layers."""
    return torch.stack(rates).sub(target).clamp(min=0).mean()
