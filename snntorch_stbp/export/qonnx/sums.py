"""The integer sums of a branch: its poolings, its weights, its convolution or product."""

from __future__ import annotations

import numpy as np
from torch import nn

from ...frozen.branches import FrozenBranch
from ...frozen.graph import Branch, inhibition
from ...lowering.layers import IntBranch
from ...lowering.terms import geometry, int_pool
from ..array import Array
from ..shapes import padded, windows
from .page import Page, array
from .ranges import Range
from .windows import convolution, pool_sum
from .writer import QONNX


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


def accumulated(weight: Array, inputs: Range) -> Range:
    """Exact range of integer weights times inputs in a range that holds 0."""
    flat = weight.reshape(len(weight), -1)
    ends = flat * inputs.low, flat * inputs.high
    low, high = np.minimum(*ends).sum(1).min(), np.maximum(*ends).sum(1).max()
    return Range(int(min(low, 0)), int(max(high, 0)))
