"""Spiking networks by name: `zoo.create("resnet18", ...)`, or `zoo.resnet18(...)` for short.

Importing this package, listing models and looking up recipes do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .recipes import METHODS, Recipe, recipe
from .registry import ModelInfo, create, info, list_models, register

if TYPE_CHECKING:
    from .parts import Parts

__all__ = [
    "METHODS",
    "ModelInfo",
    "Parts",
    "Recipe",
    "create",
    "info",
    "list_models",
    "recipe",
    "register",
]


def __getattr__(name: str) -> Callable[..., Any]:
    """The builder of one model, `zoo.resnet18(num_classes=10, ...)`; `Parts`, which needs torch."""
    if name == "Parts":
        from .parts import Parts

        return Parts
    if not name.startswith("_") and name in list_models():
        return partial(create, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *list_models()])
