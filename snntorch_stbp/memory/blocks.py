"""Networks as blocks: what a network keeps, and what it computes twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..firing import through
from ..neuron import Leaky

_checkpoints = False


@contextmanager
def checkpointing() -> Iterator[None]:
    """Networks of the zoo keep only what enters each of their blocks, inside the `with` block.

    What lies between is computed again in the backward pass (`torch.utils.checkpoint`), which may
    run outside. Gradients, and running statistics, are bit for bit those without it.
    """
    global _checkpoints
    before, _checkpoints = _checkpoints, True
    try:
        yield
    finally:
        _checkpoints = before


def run(blocks: Iterable[Sequence[nn.Module]], x: Tensor) -> Tensor:
    """Send a sequence through the modules of all blocks in turn.

    Args:
        blocks: Modules that are called one after the other; inside of `checkpointing`, each block
            is a checkpoint.
        x: Input of the first module, `[T, B, ...]`.

    Returns:
        What the last module makes of it.
    """
    for modules in blocks:
        if _checkpoints and torch.is_grad_enabled():
            contexts = partial(_contexts, modules)
            x = checkpoint(through, modules, x, use_reentrant=False, context_fn=contexts)
        else:
            x = through(modules, x)
    return x


def by_neuron(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """`layers` in blocks, each of which ends with a neuron (the last with the last layer)."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        blocks[-1].append(layer)
        if isinstance(layer, Leaky):
            blocks.append([])
    return [block for block in blocks if block]


def _contexts(
    modules: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first computation of a block, and around the second."""
    return nullcontext(), _buffers_kept(modules)


@contextmanager
def _buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Leave the buffers of `modules`, running statistics among them, as they were before.

    Those of neurons do not change; and what is written to is looked at again (see `looking`).
    """
    within = (m for module in modules for m in module.modules())
    changing = [m for m in within if not isinstance(m, Leaky)]
    before = [(b, b.clone()) for module in changing for b in module.buffers(recurse=False)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
