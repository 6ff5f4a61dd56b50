"""The integer sums of a branch: its poolings, its weights, its convolution or product."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ...errors import StbpError
from ...frozen.branches import FrozenBranch
from ...frozen.graph import Branch, inhibition
from ...lowering.layers import IntBranch, IntPool
from ...lowering.terms import geometry, int_pool
from ..array import Array
from ..shapes import padded, windows
from .page import Page, array
from .writer import CHANNELS_LAST, QONNX, Range


def branch_sum(
    page: Page, branch: Branch, frozen: FrozenBranch, index: int, stage: str, x: str, t: int
) -> str:
    """The sums of branch `index` of `stage` at step `t`, from the spikes (or pixels) `x`."""
    size, writer = page.sizes[branch.source], page.writer
    where = f"t{t}"
    for number, pool in enumerate(branch.pools):
        label = page.name(stage, f"pool{index}" + (f"_{number}" if number else ""), where)
        x, size = pool_sum(page, int_pool(pool), label, x, size)
    if branch.flatten and len(size) == 3:
        flat = page.name(stage, f"flatten{index}", where)
        shape = (page.batch, int(np.prod(size)))
        x = writer.node("Flatten", flat, [x], f"{flat}_out", shape, writer.ranges[x], axis=1)
    if frozen.weight is None:
        return x
    weight = array(frozen.weight)
    values = accumulated(weight, writer.ranges[x])
    node = page.name(branch.name, where)
    if isinstance(branch.layer, nn.Conv2d):
        integer = geometry(branch, np.ones(1, np.int64))
        summed, size = convolved(
            page, node, x, _weights(page, branch, frozen, weight, t), integer, weight.shape, size,
            values,
        )  # fmt: skip
        return pooled_sums(page, integer, index, stage, summed, size, t)
    if branch.flatten and len(size) == 3 and page.target.layout != "nchw":
        weight = weight.reshape(-1, *size).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    w = _weights(page, branch, frozen, weight.T, t)
    shape = (page.batch, len(weight))
    return writer.node("MatMul", node, [x, w], f"{node}_out", shape, values)


def _weights(page: Page, branch: Branch, frozen: FrozenBranch, weight: Array, t: int) -> str:
    """Integer weights behind a quantizer; every use has its own quantizer, as FINN wants."""
    name, writer = page.name(branch.name, "weight", f"t{t}"), page.writer
    shared = page.name(branch.name, "weight") if page.target.shared else f"{name}_integers"
    if weight.ndim == 4 and page.target.layout == "nhwc":
        weight = weight.transpose(0, 2, 3, 1)
    if branch.inhibits:  # the weights that spikes meet, unless these are on another grid
        same = page.name(branch.name.removesuffix(inhibition("")), "weight")
        if same in writer.constants and np.array_equal(writer.constants[same], weight):
            shared = same
    if shared not in writer.constants:
        writer.constant(shared, weight)
    if frozen.bits == 1:
        scale = writer.constant(f"{name}_scale", 1.0, datatype="FLOAT32")
        return writer.node(
            "BipolarQuant", name, [shared, scale], f"{name}_out", weight.shape, Range(-1, 1), QONNX
        )
    bits = max(frozen.bits, 2)
    return writer.quant(name, shared, f"{name}_out", bits, True, narrow=True)


def convolved(
    page: Page, node: str, x: str, weight: str, branch: IntBranch, shape: tuple[int, ...],
    size: tuple[int, ...], values: Range,
) -> tuple[str, tuple[int, ...]]:  # fmt: skip
    """The convolution of a branch with weights `[C, I, kh, kw]`, and the features behind it."""
    image = padded(size[1:], branch.padding)
    out = (shape[0], *windows(image, shape[2:], branch.stride, branch.dilation, node))
    y = convolution(
        page, node, x, weight, shape[2:], branch.stride, branch.padding, branch.dilation,
        branch.groups, out, values,
    )  # fmt: skip
    return y, out


def pooled_sums(
    page: Page, branch: IntBranch, index: int, stage: str, x: str, size: tuple[int, ...], t: int
) -> str:
    """The poolings that the currents of a branch go through, of its sums."""
    for number, pool in enumerate(branch.after):
        label = page.name(stage, f"pool{index}_after{number}", f"t{t}")
        x, size = pool_sum(page, pool, label, x, size)
    return x


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
    if page.target.maxima == "unsigned" and pool.dilation != (1, 1):
        raise StbpError(
            f"{page.target.reader} has no dilated maximum pooling, as '{node}' is: choose another "
            f"target."
        )
    if page.target.maxima == "unsigned" and pool.padding != (0, 0) and values.signed:
        raise StbpError(
            f"{page.target.reader} pads maxima with zeros, and '{node}' takes negative values: "
            f"pool spikes, pool without padding, or choose another target."
        )
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
    total, out = pool_sum(page, replace(pool, kind="sum"), f"{node}_sum", x, size)
    return writer.quant(node, total, f"{node}_out", 1, False), out


def accumulated(weight: Array, inputs: Range) -> Range:
    """Exact range of integer weights times inputs in a range that holds 0."""
    flat = weight.reshape(len(weight), -1)
    ends = flat * inputs.low, flat * inputs.high
    low, high = np.minimum(*ends).sum(1).min(), np.maximum(*ends).sum(1).max()
    return Range(int(min(low, 0)), int(max(high, 0)))
