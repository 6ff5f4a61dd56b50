"""Bits of weights by layer as a JSON file: `{"features.0": 8, "hidden.*": "ternary"}`.

Keys are names of layers, or shell patterns of them, of which the last one that fits decides; values
are bits as they are typed: 1 to 8, 32 (floating point) or `"ternary"`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import atomic_write


def check(bits: Any) -> None:
    """Make sure that `bits` maps names to bit widths.

    Raises:
        UsageError: If it does not; the message names the wrong entry.
    """
    if not isinstance(bits, dict):
        raise UsageError(
            f"bits by layer are one JSON object of names and bits, not {json.dumps(bits):.40}."
        )
    for name, width in bits.items():
        whole = isinstance(width, int) and not isinstance(width, bool)
        if width != "ternary" and not (whole and (1 <= width <= 8 or width == 32)):
            raise UsageError(
                f"the bits of layer '{name}' are 1 to 8, 32 (floating point) or \"ternary\", "
                f"not {json.dumps(width):.40}."
            )


def read(path: Path) -> dict[str, Any]:
    """The bits by layer that a file holds.

    Raises:
        UsageError: If it cannot be read, or holds anything else.
    """
    try:
        bits = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' is no JSON file of bits by layer ({error}).") from error
    if bits == {}:
        raise UsageError(f"'{path}' names no layer.")
    try:
        check(bits)
    except UsageError as error:
        raise UsageError(f"in '{path}', {error}") from error
    return dict(bits)


def write(path: Path, bits: Mapping[str, Any]) -> None:
    """Write what `read` reads.

    Raises:
        StbpError: If the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write((json.dumps(dict(bits), indent=2) + "\n").encode())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name comes twice."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"'{name}' comes twice")
        seen.add(name)
    return dict(pairs)
