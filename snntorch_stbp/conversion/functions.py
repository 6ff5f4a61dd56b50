"""Functions of torch that a forward pass may call, and the modules that do the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import StbpError
from .trace import follows_mode

ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_", F.relu6)
RELU_MODULES = (nn.ReLU, nn.ReLU6)
"""In whose place neurons come; a bound from above is that of a rate of spikes anyway."""

SAME: tuple[Any, ...] = ("contiguous", "float", "double", "to", "clone")
"""What changes no value here."""

SIZES: tuple[Any, ...] = ("size", "dim", getattr)
ZEROS: tuple[Any, ...] = (torch.zeros, torch.zeros_like, "new_zeros")

_FLATTENINGS: tuple[Any, ...] = (torch.flatten, "flatten")
_RESHAPES: tuple[Any, ...] = (torch.reshape, "reshape", "view")


class Rows(nn.Flatten):
    """A flattening of all but the batch to `features` values, if there are as many."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


def _pool(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A pooling: its arguments are those of the function, which says `False` to some."""
    return lambda *args, **options: kind(
        *args, **{name: value for name, value in options.items() if value is not False}
    )


def _dropout(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A dropout that is active when the module that calls it is in training, or never."""

    def make(p: float = 0.5, training: Any = True, inplace: bool = False) -> nn.Module:
        if follows_mode(training):
            return kind(p)
        if not training:
            return nn.Identity()
        raise StbpError(
            "cannot convert a dropout that drops in evaluation, too: say from which mode it "
            "follows, F.dropout(x, p, self.training), or take nn.Dropout."
        )

    return make


_MODULES: dict[Any, Callable[..., nn.Module]] = {
    F.max_pool1d: _pool(nn.MaxPool1d),
    F.max_pool2d: _pool(nn.MaxPool2d),
    F.max_pool3d: _pool(nn.MaxPool3d),
    F.avg_pool1d: _pool(nn.AvgPool1d),
    F.avg_pool2d: _pool(nn.AvgPool2d),
    F.avg_pool3d: _pool(nn.AvgPool3d),
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.dropout: _dropout(nn.Dropout),
    F.dropout2d: _dropout(nn.Dropout2d),
}


def name_of(node: fx.Node) -> str:
    """The name of the function that `node` calls."""
    return str(getattr(node.target, "__name__", node.target))


def terms(args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The two operands of an addition.

    Raises:
        StbpError: If it has a factor, or another option.
    """
    rest = dict(options)
    args = (*args, *(rest.pop(name) for name in ("other",) if name in rest))
    if rest.get("alpha", 1) != 1 or set(rest) - {"alpha"} or len(args) != 2:
        given = ", ".join(f"{key}={value}" for key, value in rest.items())
        raise StbpError(
            f"cannot convert an addition with {given or f'{len(args)} operands'}: currents are "
            f"added as they are; take the factor into the weights of a layer."
        )
    return args


def as_module(
    node: fx.Node, args: tuple[Any, ...], options: Mapping[str, Any], batch: int
) -> tuple[str, Any, Callable[[], nn.Module]] | None:
    """The module that does what a function does: its name, what tells it from others, its maker.

    `None` if there is none.

    Args:
        node: A call of a function or method.
        args: What it is given by position, behind what it works on.
        options: What it is given by name.
        batch: Samples of a batch, which a flattening keeps.
    """
    if node.target in _FLATTENINGS:
        named = dict(zip(("start_dim", "end_dim"), args, strict=False)) | dict(options)
        start, end = named.get("start_dim", 0), named.get("end_dim", -1)
        if not isinstance(start, int) or start < 1:
            return None
        return "flatten", (start, end), lambda: nn.Flatten(start, end)
    if node.target in _RESHAPES:
        features = _features(args or tuple(options.values()), batch)
        if features is None:
            return None
        if features == -1:
            return "flatten", (1, -1), nn.Flatten
        return "flatten", features, lambda: Rows(features)
    if node.target not in _MODULES:
        return None
    key = repr((args, sorted(options.items())))
    return name_of(node), key, lambda: _MODULES[node.target](*args, **options)


def _features(shape: tuple[Any, ...], batch: int) -> int | None:
    """The second size of a shape of two dimensions whose first is the batch; `None` of others.

    What is computed of sizes says nothing but what is left, -1.
    """
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if len(shape) != 2:
        return None
    rows, features = shape
    features = -1 if isinstance(features, fx.Node) else features
    kept = isinstance(rows, fx.Node) or rows == batch or (rows == -1 != features)
    return features if kept and isinstance(features, int) else None
