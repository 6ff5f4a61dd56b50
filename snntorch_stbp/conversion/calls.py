"""Calls in a traced forward pass: what they are given, in the order of the parameters."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from ..errors import StbpError

FIRST = ("input", "input_", "tensors", "self")
"""Names of what functions of torch work on; all of them take it first."""


def of_module(node: fx.Node, module: nn.Module, name: str) -> tuple[Any, ...]:
    """The arguments of a call of `module`, by position; what was left out at the end is missing.

    Raises:
        StbpError: If the module does not take them.
    """
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*node.args, **node.kwargs)
    except TypeError as error:
        raise StbpError(
            f"'{name}' is called with arguments that {type(module).__name__} does not take: "
            f"{error}."
        ) from error
    bound.apply_defaults()
    return bound.args


def of_function(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a function or method, what it works on in front."""
    named = dict(node.kwargs)
    first = [named.pop(name) for name in FIRST if name in named and not node.args]
    return (*first, *node.args), named
