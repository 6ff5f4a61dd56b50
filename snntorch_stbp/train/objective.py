"""What a training step minimises: the loss of the labels, of mixed pairs, and of teachers."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import memory
from ..losses import LOSSES
from .config import RunConfig
from .data import upload
from .distill import Teachers
from .rates import excess, hidden_rates


def mix(x: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Blend every sample of a batch with another of it.

    H. Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018, arXiv:1710.09412:
    `share * x[i] + (1 - share) * x[order[i]]` with one share for the batch, drawn from the beta
    distribution of `alpha, alpha`; here the larger part is always that of sample `i`.

    Args:
        x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
        alpha: Positive; the larger, the more equal the parts.
        generator: On the CPU; the only source of randomness.

    Returns:
        The blended batch, the order `[B]` of the partners, and the share in [0.5, 1].
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = max(share, 1 - share)
    order = upload(torch.randperm(x.shape[-4], generator=generator), x.device)
    return share * x + (1 - share) * x.index_select(x.dim() - 4, order), order, share


def lean(config: RunConfig) -> AbstractContextManager[Any]:
    """What `save_memory` and `checkpoint_activations` put around a forward pass."""
    ways = ExitStack()
    if config.checkpoint_activations:
        ways.enter_context(memory.checkpointing())
    if config.save_memory:
        ways.enter_context(memory.saving())
    return ways


class Objective:
    """The loss of a configuration.

    See its `loss`, `label_smoothing`, `mixup`, `teacher` and `spike_rate_target`.

    Args:
        config: The run.
        teachers: Its teachers, if it has any.
    """

    def __init__(self, config: RunConfig, teachers: Teachers | None) -> None:
        self.config, self.teachers = config, teachers
        self.loss = LOSSES[config.loss]

    def __call__(
        self, net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Run `net` on a batch.

        Args:
            net: Maps `x` to a record `[T, B, classes]`.
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            y: Classes `[B]`.
            generator: On the CPU; the only source of randomness.

        Returns:
            The loss, and the record in float32.
        """
        smoothing, order, share = self.config.label_smoothing, None, 1.0
        if self.config.mixup:
            x, order, share = mix(x, self.config.mixup, generator)
        target = self.config.spike_rate_target
        with lean(self.config), self._rates(net) as rates:
            record = net(x).float()
        loss = self.loss(record, y, smoothing)
        if order is not None:
            loss = share * loss + (1 - share) * self.loss(record, y[order], smoothing)
        if self.teachers:
            loss = self.teachers.blend(loss, record, x)
        if target is not None:
            loss = loss + self.config.spike_rate_weight * excess(rates, target)
        return loss, record

    def _rates(self, net: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """Collects the rates of hidden layers, where these are part of the loss."""
        if self.config.spike_rate_target is None:
            return nullcontext([])
        return hidden_rates(net, self.config.readout)
