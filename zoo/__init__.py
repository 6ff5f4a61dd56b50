"""Spiking networks by name: `zoo.create("resnet18", ...)`, or `zoo.resnet18(...)` for short.

Importing this package, listing models and looking up recipes do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .recipes import METHODS, Recipe, recipe
from .registry import MODELS, ModelInfo, create, info, list_models

__all__ = ["METHODS", "ModelInfo", "Recipe", "create", "info", "list_models", "recipe"]


def __getattr__(name: str) -> Callable[..., Any]:
    """The builder of one model, `zoo.resnet18(num_classes=10, ...)`."""
    if name in MODELS:
        return partial(create, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *MODELS])
