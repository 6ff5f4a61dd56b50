"""Integers and geometries as constants of C99."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...lowering.layers import IntBranch, IntPool, Ints
from ..shapes import Size

LONGEST = 4095
"""Characters of a string literal that every compiler takes."""

_PLAIN = [chr(i) if 32 <= i < 127 and chr(i) not in '"\\?' else f"\\{i:03o}" for i in range(256)]


@dataclass(frozen=True)
class Weights:
    """Weights as text.

    Attributes:
        kind: Which functions take them: `"nibbles"`, `"int8"`, `"int16"` or `"int32"`.
        stride: Elements from row to row.
        text: The definition.
    """

    kind: str
    stride: int
    text: str


KINDS = {
    "nibbles": "unsigned char",
    "int8": "signed char",
    "int16": "int16_t",
    "int32": "int32_t",
}
"""Element types of the kinds of weights."""


def smallest(value: Ints) -> int:
    """Bits of the smallest signed type that holds integers of at most 32 bits."""
    low, high = int(value.min()), int(value.max())
    return next(b for b in (8, 16, 32) if -(1 << (b - 1)) <= low and high < 1 << (b - 1))


def array(name: str, value: Ints) -> str:
    """The definition of an array of one or two dimensions, in the smallest signed type."""
    dims = "".join(f"[{n}]" for n in value.shape)
    rows = [value] if value.ndim == 1 else list(value)
    body = ["{" + _wrapped(row) + "}" for row in rows]
    text = body[0] if value.ndim == 1 else "{\n" + ",\n".join(body) + "}"
    return f"static const int{smallest(value)}_t {name}{dims} = {text};\n"


def weights(name: str, value: Ints) -> Weights:
    """Rows `[R, C]` of weights; up to 8 bits as strings, which compilers read many times faster.

    Weights of -8 to 7 are packed by two: byte `i` of a row holds channel `i` in its low and channel
    `i + (C + 1) // 2` in its high half, each plus 8. A string ends with a zero, so that a row has
    one byte more than it needs.
    """
    rows, count = value.shape
    low, high = int(value.min()), int(value.max())
    bits = smallest(value)
    if low >= -8 and high <= 7:
        half = (count + 1) // 2
        padded = np.zeros((rows, 2 * half), np.uint8)
        padded[:, :count] = value + 8
        data, kind = padded[:, :half] | padded[:, half:] << 4, "nibbles"
    else:
        data, kind = value, f"int{bits}"
    length = data.shape[1]
    if bits > 8 or length > LONGEST:
        body = ",\n".join("{" + ",".join(map(str, row)) + "}" for row in data.tolist())
        stride = length
    else:
        text = data.astype(np.uint8)
        body = ",\n".join(
            '"' + "".join(map(_PLAIN.__getitem__, row)) + '"' for row in text.tolist()
        )
        stride = length + 1
    head = f"static const {KINDS[kind]} {name}[{rows}][{stride}]"
    return Weights(kind, stride, f"{head} = {{\n{body}}};\n")


def _wrapped(row: Ints) -> str:
    numbers = [str(int(v)) for v in row]
    return ",\n ".join(", ".join(numbers[i : i + 16]) for i in range(0, len(numbers), 16))


def layer_rows(branch: IntBranch, size: Size) -> Ints:
    """The weights of a branch as rows `[tap * channel, sums of its group]`."""
    weight = branch.weight
    assert weight is not None
    if weight.ndim == 2:
        if len(size) == 3:
            weight = weight.reshape(-1, *size).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        return weight.T
    parts = np.stack(np.split(weight, branch.groups))  # [G, C / G, I / G, kh, kw]
    return parts.transpose(3, 4, 0, 2, 1).reshape(-1, parts.shape[1])


def layer_shape(name: str, branch: IntBranch, size: Size, sums: Size) -> str:
    """The definition of the geometry of a layer with weights."""
    assert branch.weight is not None
    if branch.weight.ndim == 2:
        inner = [prod(size), 1, 1, sums[0], 1, 1]
        return _geometry(name, inner, (1, 1), (1, 1), (0, 0), (1, 1), 1)
    kernel = branch.weight.shape[2:]
    return _geometry(
        name, [*size, *sums], kernel, branch.stride, branch.padding, branch.dilation, branch.groups
    )


def pool_shape(name: str, pool: IntPool, size: Size, pooled: Size) -> str:
    """The definition of the geometry of a pooling."""
    return _geometry(name, [*size, *pooled], pool.size, pool.stride, pool.padding, pool.dilation, 1)


def _geometry(
    name: str, sizes: list[int], kernel: Size, stride: Size, padding: Size, dilation: Size,
    groups: int,
) -> str:  # fmt: skip
    pairs = ", ".join(f"{{{pair[0]}, {pair[1]}}}" for pair in (kernel, stride, padding, dilation))
    numbers = ", ".join(map(str, sizes))
    return f"\nstatic const snn_shape {name} = {{{numbers}, {pairs}, {groups}}};\n"
