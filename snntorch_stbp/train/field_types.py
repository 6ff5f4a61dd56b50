"""Types of the fields of a dataclass, of which JSON keeps some of the sense only."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(values: Any) -> None:
    """Refuse a dataclass with a field of another type than it states.

    Raises:
        TypeError: For the first one; a sequence is one of texts.
    """
    for name, hint in get_type_hints(type(values)).items():
        _check(name, getattr(values, name), hint)


def _check(name: str, value: Any, hint: Any) -> None:
    kinds = tuple(str if get_origin(k) is Literal else get_origin(k) or k for k in _kinds(hint))
    if float in kinds:
        kinds += (int,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"'{name}' is {value!r:.40}")
    if isinstance(value, tuple) and not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"'{name}' holds {value!r:.40}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
