r"""A network of integers as a QONNX graph: integer constants, `MultiThreshold`, no scales.

Per stage and step:

    a   = Conv | MatMul (s, w)                        integers; pooling is a Conv of ones or MaxPool
    y   = sum of Mul(a, m), Add c                     integers
    u   = Add(Mul(y, 2^k'), v)                        integers
    o   = MultiThreshold(u, theta + 1)                BINARY: fires at >=, so this is u > theta
    v'  = Mul(Sub(u, Mul(u, o)), beta)                integers

Where the leak rounds nothing, an `unrolled` graph has no shift to the right: at step `t` the
membrane is kept in units `2^(leak t)` finer than at step 0, so that a leak is a left shift of the
new current instead, and the thresholds are those of that unit. In a `step` graph, which is the same
at every step, and where the leak rounds, a `Quant` with scale 1 takes the floor.

Thresholds by age: `z_i` is 1 for neurons whose last reset is at least `i` steps ago, and
`o = o_0 + sum of z_i * (o_i - o_(i-1))`, `o_i` being the spike by the thresholds of age `i`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import StbpError
from ...lowering import FixedPointNet
from ...lowering.layers import IntBranch
from ...lowering.net import FixedStage
from ...lowering.ranges import FLOAT32, width
from ..array import Array
from .fixed_neurons import FixedNeurons, floor, lifts
from .frozen import Parts, integer_image
from .page import Page
from .sums import accumulated, convolved, pool_sum, pooled_sums


def _image(page: Page, net: FixedPointNet, name: str) -> str:
    """Integers, as hardware is fed.

    Raises:
        StbpError: If float32 tensors do not hold every integer of the network, or the reader has no
            counterpart of what the graph would hold.
    """
    if page.target.quantizers == "quant" and page.target.layout != "nchw":
        raise StbpError(
            "hls4ml reads no MultiThreshold: export the fixed-point network for generic or finn, "
            "or without --fixed-point."
        )
    rounds = any(s.stage.shift.any() or (s.neuron and s.neuron.rounds) for s in net.stages)
    if page.target.quantizers == "multithreshold" and (page.form == "step" or rounds):
        raise StbpError(
            "FINN has no floor: for target finn the fixed-point network is exported unrolled, and "
            "without anything that rounds (form exact, no quantized currents or membranes, no wide "
            "weights in residual blocks)."
        )
    for stage in net.stages:
        if stage.reach.largest > FLOAT32:
            raise StbpError(
                f"'{stage.stage.name}' needs {width(0, stage.reach.largest)} bits; a graph holds "
                f"its integers in float32, exact up to 24: lower it with bits=24, or use fewer "
                f"bits of weights and currents."
            )
    return integer_image(page, net, name)


def _current(page: Page, fixed: FixedStage, values: dict[str, str], t: int) -> str:
    """The input current of a stage; where leaks are left shifts, not yet shifted."""
    stage, writer = fixed.stage, page.writer
    name, size = stage.name, page.sizes[stage.name]

    def label(what: str) -> str:
        return page.name(name, what, f"t{t}")

    def constant(what: str, value: Any, fraction: int = 0) -> str:
        spread = page.per_channel(np.asarray(value, np.float64), size)
        return page.constant(name, what, t, spread, fraction)

    total: str | None = None
    for index, branch in enumerate(stage.branches):
        a = _sum(page, branch, index, name, values[branch.source], t)
        if (branch.multiplier != 1).any():
            m = constant(f"multiplier{index}", branch.multiplier)
            a = writer.binary("Mul", label(f"multiply{index}"), a, m)
        total = a if total is None else writer.binary("Add", label(f"add{index}"), total, a)
    assert total is not None
    if stage.up and not lifts(page, stage):
        total = writer.binary("Mul", label("scale_up"), total, constant("up", 2**stage.up))
    half = np.int64(1) << stage.shift >> 1
    if (stage.bias + half).any():
        total = writer.binary("Add", label("add_bias"), total, constant("bias", stage.bias + half))
    if not stage.shift.any():
        return total
    down = constant("down", 2.0**-stage.shift, int(stage.shift.max()))
    total = writer.binary("Mul", label("rescale"), total, down)
    reach = fixed.reach.current
    bits = stage.act_bits or width(reach.low - 1, reach.high + 1)
    return floor(page, label("current"), total, bits)


PARTS = Parts(_image, _current, FixedNeurons)
"""How `qonnx.build` writes a `FixedPointNet`."""


def _sum(page: Page, branch: IntBranch, index: int, stage: str, x: str, t: int) -> str:
    """Poolings and weights of a branch: its integer sums."""
    writer, size, where = page.writer, page.sizes[branch.source], f"t{t}"
    for number, pool in enumerate(branch.pools):
        label = page.name(stage, f"pool{index}" + (f"_{number}" if number else ""), where)
        x, size = pool_sum(page, pool, label, x, size)
    flattens = branch.flatten and len(size) == 3
    if flattens:
        flat, shape = page.name(stage, f"flatten{index}", where), (page.batch, int(np.prod(size)))
        x = writer.node("Flatten", flat, [x], f"{flat}_out", shape, writer.ranges[x], axis=1)
    if branch.weight is None:
        return x
    node, weight = page.name(branch.name, where), branch.weight
    values = accumulated(weight, writer.ranges[x])
    if weight.ndim == 4:
        w = _weights(page, branch, weight, t)
        summed, size = convolved(page, node, x, w, branch, weight.shape, size, values)
        return pooled_sums(page, branch, index, stage, summed, size, t)
    if flattens and page.target.layout != "nchw":
        weight = weight.reshape(-1, *size).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    w = _weights(page, branch, weight.T, t)
    return writer.node("MatMul", node, [x, w], f"{node}_out", page.shape(page.sizes[stage]), values)


def _weights(page: Page, branch: IntBranch, weight: Array, t: int) -> str:
    """Integer weights, a constant of the narrowest data type."""
    name = page.name(branch.name, "weight")
    if name not in page.writer.constants:
        datatype = f"INT{max(branch.weight_bits, 2)}"
        if branch.weight_bits == 1:
            datatype = "BIPOLAR"
        elif branch.weight_bits == 2 and np.abs(weight).max() <= 1:
            datatype = "TERNARY"
        page.writer.constant(name, weight, datatype=datatype)
    return name
