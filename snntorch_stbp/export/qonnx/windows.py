"""Windows over images, as a reader has them: convolutions, sums and maxima.

Readers differ in layout, and in what windows their hardware knows; what one has not is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import StbpError
from ...lowering.layers import IntPool
from ..shapes import padded, windows
from .page import Page
from .ranges import Range
from .writer import CHANNELS_LAST


def convolution(
    page: Page, node: str, x: str, weight: str, kernel: tuple[int, ...], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int], groups: int, size: tuple[int, ...],
    values: Range,
) -> str:  # fmt: skip
    """A convolution, in the layout of the target."""
    writer = page.writer
    _check_convolution(page, node, groups, (writer.shapes[x], size[0]), dilation)
    attributes: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
    if page.target.layout != "nhwc_transposed":
        domain = CHANNELS_LAST if page.target.layout == "nhwc" else ""
        return writer.node(
            "Conv", node, [x, weight], f"{node}_out", page.shape(size), values, domain,
            **attributes,
        )  # fmt: skip
    return _transposed(page, "Conv", node, [x, weight], size, values, attributes)


def _check_convolution(
    page: Page, node: str, groups: int, io: tuple[tuple[int, ...], int], dilation: tuple[int, int]
) -> None:
    """Refuse what the reader has not; `io` are the shape of the input and channels behind."""
    target, (shape, outputs) = page.target, io
    channels = shape[1] if target.layout == "nchw" else shape[-1]
    if groups > 1 and not (groups == channels == outputs or target.groups):
        raise StbpError(
            f"{target.reader} has convolutions of 1 group, or channel by channel; '{node}' has "
            f"{groups} groups, {channels} channels in and {outputs} out: choose another target."
        )
    if dilation != (1, 1) and not target.dilation:
        raise StbpError(
            f"{target.reader} has no dilated convolutions, as '{node}' is: choose another target."
        )


def _transposed(
    page: Page, operator: str, node: str, inputs: list[str], size: tuple[int, ...], values: Range,
    attributes: dict[str, Any],
) -> str:  # fmt: skip
    """A node of ONNX, channels first, between transpositions of its first input and its output."""
    writer, (x, *others) = page.writer, inputs
    b, h, w, c = writer.shapes[x]
    first = writer.node(
        "Transpose", f"{node}_nchw", [x], f"{node}_nchw_out", (b, c, h, w), writer.ranges[x],
        perm=[0, 3, 1, 2],
    )  # fmt: skip
    y = writer.node(
        operator, node, [first, *others], f"{node}_out", (b, *size), values, **attributes
    )
    return writer.node(
        "Transpose", f"{node}_nhwc", [y], f"{node}_nhwc_out", page.shape(size), values,
        perm=[0, 2, 3, 1],
    )  # fmt: skip


def pool_sum(
    page: Page, pool: IntPool, node: str, x: str, size: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
    """A sum, by a depthwise convolution of ones, or a maximum; and the features behind it."""
    image = padded(size[1:], pool.padding)
    out = (size[0], *windows(image, pool.size, pool.stride, pool.dilation, node))
    writer, values = page.writer, page.writer.ranges[x]
    if pool.kind == "sum":
        ones = np.ones((size[0], 1, *pool.size))
        if page.target.layout == "nhwc":
            ones = ones.transpose(0, 2, 3, 1)
        w = writer.constant(f"{node}_weight", ones, datatype="BINARY")
        number = pool.size[0] * pool.size[1]
        total = Range(values.low * number, values.high * number)
        y = convolution(
            page, node, x, w, pool.size, pool.stride, pool.padding, (1, 1), size[0], out, total
        )
        return y, out
    if page.target.maxima == "apart" and not _apart(pool):
        return _any_spike(page, pool, node, x, size)
    if page.target.maxima == "unsigned":
        _check_maxima(page, pool, node, x)
    attributes: dict[str, Any] = {
        "kernel_shape": list(pool.size),
        "strides": list(pool.stride),
        "pads": [*pool.padding, *pool.padding],
        "dilations": list(pool.dilation),
    }
    if page.target.layout == "nhwc_transposed":
        return _transposed(page, "MaxPool", node, [x], out, values, attributes), out
    domain = CHANNELS_LAST if page.target.layout == "nhwc" else ""
    y = writer.node(
        "MaxPool", node, [x], f"{node}_out", page.shape(out), values, domain, **attributes
    )
    return y, out


def _apart(pool: IntPool) -> bool:
    """Whether its windows lie side by side, without padding."""
    return pool.size == pool.stride and pool.padding == (0, 0) and pool.dilation == (1, 1)


def _check_maxima(page: Page, pool: IntPool, node: str, x: str) -> None:
    """Refuse windows that FINN has not: it pads with the least value of the type that it infers."""
    reader, writer = page.target.reader, page.writer
    if pool.dilation != (1, 1):
        raise StbpError(
            f"{reader} has no dilated maximum pooling, as '{node}' is: choose another target."
        )
    unsigned = writer.ranges[x] == Range(0, 1) or x in writer.inputs
    if pool.padding != (0, 0) and not unsigned:
        raise StbpError(
            f"{reader} pads maxima with zeros, those of spikes or pixels, which '{node}' does not "
            f"take: pool spikes, pool without padding, or choose another target."
        )


def _any_spike(
    page: Page, pool: IntPool, node: str, x: str, size: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
    """The maxima of spikes as their sums, clipped to one bit.

    Raises:
        StbpError: If `x` are no spikes.
    """
    writer = page.writer
    if writer.ranges[x] != Range(0, 1) or pool.dilation != (1, 1):
        raise StbpError(
            f"{page.target.reader} takes maxima of spikes, or of windows side by side without "
            f"padding; '{node}' is neither: choose another target or other windows."
        )
    total, out = pool_sum(page, replace(pool, kind="sum"), node, x, size)
    label, step = node.rsplit(f"{page.target.separator}t", 1)
    clipped = page.name(label, "any", f"t{step}")
    return writer.quant(clipped, total, f"{clipped}_out", 1, False), out
