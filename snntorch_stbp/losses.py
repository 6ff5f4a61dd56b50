"""Losses on records `[T, B, classes]`, beside those of `snntorch.functional`.

Each takes the record of the last layer (spikes or currents) and targets `[B]` of class indices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, float], Tensor]


def cross_entropy(record: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the record's mean over time."""
    return F.cross_entropy(record.mean(0), target, label_smoothing=label_smoothing)


def tet(record: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Temporal efficient training: mean over time of each step's cross-entropy.

    S. Deng et al., "Temporal efficient training of spiking neural network via gradient
    re-weighting", ICLR 2022, arXiv:2202.11946, equation 9 (without its regulariser).
    """
    steps = record.shape[0]
    return F.cross_entropy(
        record.flatten(0, 1), target.repeat(steps), label_smoothing=label_smoothing
    )


def mse_rate(record: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Squared distance of the firing rates from the one-hot target, as a mean over classes.

    Y. Wu et al., "Spatio-temporal backpropagation for training high-performance spiking neural
    networks", Frontiers in Neuroscience 12, 2018, equation 5, has half the sum over classes in its
    place: `classes / 2` times as much.
    """
    classes = record.shape[-1]
    wanted = F.one_hot(target, classes).to(record.dtype)
    wanted = wanted * (1 - label_smoothing) + label_smoothing / classes
    return F.mse_loss(record.mean(0), wanted)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "tet": tet, "mse_rate": mse_rate}
