"""An exponential moving average of the weights, kept beside the network that is trained."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's state dictionary.

    After step `n` the average moves by the share `1 - d` towards the network, where
    `d = min(decay, (1 + n) / (10 + n))`: a short run is not held back by its initial weights
    (Polyak 1992; the growing decay is that of TensorFlow's `ExponentialMovingAverage`).

    All that is floating point is averaged, the running statistics of normalisation too, so that
    they belong to averaged weights; counters are copied. Entries that share their memory, as of
    a layer that has two names, are averaged once and share their average.

    Args:
        model: The network on its device, its weights loaded; they are where the average starts.
        decay: Largest `d`, between 0 and 1, both excluded.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.live: dict[str, Tensor] = model.state_dict()  # shares the network's memory
        first: dict[Hashable, str] = {}  # the first name of each place in memory
        names = {key: first.setdefault(_place(value), key) for key, value in self.live.items()}
        copies = {key: self.live[key].detach().clone() for key in first.values()}
        self.state = {key: copies[name] for key, name in names.items()}
        self.own = list(copies)  # one name of each tensor of `live` and of `state`
        self.floating = [key for key in self.own if self.state[key].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step of the optimizer."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine = [self.state[key] for key in self.floating]
        torch._foreach_lerp_(mine, [self.live[key] for key in self.floating], 1 - decay)
        for key in set(self.own) - set(self.floating):
            self.state[key].copy_(self.live[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While active, the network computes with the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange the values of the network and of the average, in place."""
        for key in self.own:
            kept = self.live[key].clone()
            self.live[key].copy_(self.state[key])
            self.state[key].copy_(kept)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from an average that was saved after `steps` steps.

        Raises:
            KeyError, RuntimeError: If it is of another network.
        """
        for key, value in self.state.items():
            value.copy_(state[key])
        self.steps = steps


def _place(value: Tensor) -> Hashable:
    """What tensors have in common that are one and the same in memory."""
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
