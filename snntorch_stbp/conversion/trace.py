"""Following the forward pass of a network that was written without this package.

The input is symbolic, but its shape, type and device are those of an example: a loop over
`x.size(0)` steps, or a `torch.zeros(..., device=x.device)`, runs as it would on the example.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import StbpError

LEAVES = ("torch", "snntorch", "brevitas", "snntorch_stbp")
"""Packages whose modules are what networks are made of; all others are looked into."""


class _Input(fx.Proxy):
    """The input of a network, of which an example says what it is like."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, example: Tensor) -> None:
        super().__init__(node, tracer)
        self.example = example

    @property
    def shape(self) -> torch.Size:
        return self.example.shape

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        return self.example.dtype

    def size(self, dim: int | None = None) -> Any:
        return self.example.shape if dim is None else self.example.shape[dim]

    def dim(self) -> int:
        return self.example.dim()

    def __len__(self) -> int:
        return len(self.example)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (operator.getitem(self, index) for index in range(len(self.example)))


class _OneInput(nn.Module):
    """A network called with its input alone: other arguments have their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model.forward(x)


class _Tracer(fx.Tracer):
    """Follows a forward pass down to the modules of torch and snnTorch."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        foreign = type(module).__module__.partition(".")[0] in LEAVES
        return foreign and not isinstance(module, nn.Sequential)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op == "placeholder":
            return _Input(node, self, self.example)
        return super().proxy(node)


def trace(model: nn.Module, example: Tensor) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The operations of `model(example)` in their order, and the modules that they call, by target.

    Raises:
        StbpError: If the forward pass takes several inputs, or cannot be followed.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    if len(needed) > 1:
        raise StbpError(
            f"the forward pass of {type(model).__name__} takes {', '.join(needed)}; to convert, it "
            f"must take the input alone (states start at zero)."
        )
    root = _OneInput(model)
    try:
        graph = _Tracer(example).trace(root)
    except Exception as error:  # whatever the forward pass of a user's network raises
        what = str(error).partition(". ")[0]  # what follows is advice on tracing
        raise StbpError(
            f"cannot follow the forward pass of {type(model).__name__}: {what}; what it does must "
            f"not depend on values of tensors, and spikes are coded outside."
        ) from error
    return graph, dict(root.named_modules())
