"""What is known of a tensor of numbers without computing with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FAKE = torch._C._TorchDispatchModeKey.FAKE
"""Of `FakeTensorMode`, in which tensors have shapes and no numbers."""


def recorded() -> bool:
    """Whether torch compiles or traces what runs now, and would not see what a kernel does.

    Or whether it asks for shapes alone.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch._C._get_dispatch_mode(FAKE) is not None
    )


def number(x: Tensor) -> float | None:
    """The number in a tensor of one on a CPU, where it is no part of a graph; else `None`.

    Reading it costs less than the operation that it may save.
    """
    if recorded() or x.requires_grad or not x.is_cpu or x.numel() != 1:
        return None
    return x.item()


class Ones:
    """Whether all numbers of a tensor are 1; those on an accelerator are not read every time.

    A look waits for an accelerator. It is taken where a buffer is another than before, or its
    version: what changes `buffer.data` on an accelerator gets past that. Parameters, which are
    often changed so (by averages, by clipping), are never said to be 1. A copy knows nothing yet:
    versions of copied tensors begin anew.
    """

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.version = 0
        self.answer = False

    def __call__(self, x: Tensor) -> bool:
        """Whether all of `x` are 1; no, where that must not be asked."""
        value = number(x)
        if value is not None:
            return value == 1
        if recorded() or x.is_inference():
            return False
        if x.requires_grad or isinstance(x, nn.Parameter):
            return False
        if x.is_cpu:
            return bool((x == 1).all())
        if x is not self.tensor or x._version != self.version:
            self.answer = bool((x == 1).all())
            self.tensor, self.version = x, x._version
        return self.answer

    def __deepcopy__(self, memo: dict[int, Any]) -> Ones:
        return Ones()

    def __reduce__(self) -> tuple[type[Ones], tuple[()]]:
        return Ones, ()
