"""What is known of a tensor of parameters, without a look at its numbers in every pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Looked:
    """Whether `holds` is true of a tensor; it is asked again only where that may have changed.

    A look waits for an accelerator, and on a CPU costs as much as the operation it may save. What
    changes in place is noticed by the tensor's version, which `tensor.data` gets past: answers are
    good for saving an operation that would hardly matter, not for values.

    Args:
        holds: Tells it of a tensor that needs no gradient.
    """

    def __init__(self, holds: Callable[[Tensor], bool]) -> None:
        self.holds = holds
        self.tensor: Tensor | None = None
        self.version = 0
        self.answer = False

    def __call__(self, x: Tensor) -> bool:
        """Whether it holds of `x`; no, where `x` is learned, or where a compiler is watching."""
        if x.requires_grad or torch.compiler.is_compiling() or x.is_inference():
            return False
        if not self.at(x):
            self.answer = self.holds(x)
            self.tensor, self.version = x, x._version
        return self.answer

    def at(self, x: Tensor) -> bool:
        """Whether the last look was at `x` as it is."""
        return x is self.tensor and x._version == self.version


def is_one(x: Tensor) -> bool:
    """Whether all of `x` are 1."""
    return bool((x == 1).all())


def within_unit(x: Tensor) -> bool:
    """Whether all of `x` lie in [0, 1]."""
    return bool(((x >= 0) & (x <= 1)).all())
