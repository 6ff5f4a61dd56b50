"""Functions of torch that a forward pass may call, and the modules that do the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_", F.relu6)
RELU_MODULES = (nn.ReLU, nn.ReLU6)
"""In whose place neurons come; a bound from above is that of a rate of spikes anyway."""

SAME: tuple[Any, ...] = ("contiguous", "float", "double", "to", "clone")
"""What changes no value here."""

_FLATTENINGS: tuple[Any, ...] = (torch.flatten, "flatten", torch.reshape, "reshape", "view")


def _pool(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A pooling: its arguments are those of the function, which says `False` to some."""
    return lambda size, *args, **options: kind(
        size, *args, **{name: value for name, value in options.items() if value is not False}
    )


_MODULES: dict[Any, Callable[..., nn.Module]] = {
    F.max_pool1d: _pool(nn.MaxPool1d),
    F.max_pool2d: _pool(nn.MaxPool2d),
    F.max_pool3d: _pool(nn.MaxPool3d),
    F.avg_pool1d: _pool(nn.AvgPool1d),
    F.avg_pool2d: _pool(nn.AvgPool2d),
    F.avg_pool3d: _pool(nn.AvgPool3d),
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.dropout: lambda p=0.5, training=True, inplace=False: nn.Dropout(p),
}


def name_of(node: fx.Node) -> str:
    """The name of the function that `node` calls."""
    return str(getattr(node.target, "__name__", node.target))


def as_module(node: fx.Node, batch: int) -> Callable[[], nn.Module] | None:
    """Makes the module that does what a function does, or `None` if there is none.

    Args:
        node: A call of a function or method.
        batch: Samples of a batch, which a flattening keeps.
    """
    if node.target in _FLATTENINGS:
        return nn.Flatten if _flattens(node, batch) else None
    if node.target not in _MODULES:
        return None
    options = {name: value for name, value in node.kwargs.items() if name != "input"}
    return lambda: _MODULES[node.target](*node.args[1:], **options)


def _flattens(node: fx.Node, batch: int) -> bool:
    """Whether all dimensions but the first become one."""
    if node.target in (torch.flatten, "flatten"):
        start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
        return bool(start == 1)
    shape: Any = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = shape[0]
    return (
        len(shape) == 2 and shape[1] == -1 and (isinstance(shape[0], fx.Node) or shape[0] == batch)
    )
