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

Readers without `MultiThreshold` get differences instead, see `compared`.

Thresholds by age: `z_i` is 1 for neurons whose last reset is at least `i` steps ago, and
`o = o_0 + sum of z_i * (o_i - o_(i-1))`, `o_i` being the spike by the thresholds of age `i`.
"""

from __future__ import annotations

import numpy as np

from ...errors import StbpError
from ...lowering import FixedPointNet
from ...lowering.layers import IntBranch, Ints, IntStage
from ...lowering.net import FixedStage
from ...lowering.ranges import FLOAT32, width
from ..array import Array
from .affine import affine, times
from .compared import ComparedNeurons
from .fixed_neurons import FixedNeurons, floor, lifts
from .frozen import Parts, integer_image
from .page import Page
from .sums import accumulated, convolved, pooled_sums
from .windows import pool_sum


def _image(page: Page, net: FixedPointNet, name: str) -> str:
    """Integers, as hardware is fed.

    Raises:
        StbpError: If float32 tensors do not hold every integer of the network, or the reader has no
            counterpart of what the graph would hold.
    """
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
    stage, name, shift = fixed.stage, fixed.stage.name, fixed.stage.shift
    up = 0 if lifts(page, stage) else stage.up
    bias = stage.bias + (np.int64(1) << shift >> 1)
    total: str | None = None
    for index, branch in enumerate(stage.branches):
        a, m = _sum(page, branch, index, name, values[branch.source], t), branch.multiplier
        if page.target.affine == "batchnorm":
            factor, offset = m * 2.0 ** (up - shift), bias * 2.0**-shift * (index == 0)
            if (factor != 1).any() or offset.any():
                what, digits = f"multiply{index}", int(shift.max())
                a = affine(page, name, what, t, a, factor, offset, digits)
        elif (m != 1).any():
            a = times(page, name, f"multiply{index}", t, a, f"multiplier{index}", m)
        if total is not None:
            a = page.writer.binary("Add", page.name(name, f"add{index}", f"t{t}"), total, a)
        total = a
    assert total is not None
    if page.target.affine == "integer":
        total = _scaled(page, stage, total, up, bias, t)
    if not shift.any():
        page.writer.state(total, page.writer.ranges[total])  # so that a reader knows its bits
        return total
    reach = fixed.reach.current
    bits = stage.act_bits or width(reach.low - 1, reach.high + 1)
    return floor(page, page.name(name, "current", f"t{t}"), total, bits)


def _scaled(page: Page, stage: IntStage, total: str, up: int, bias: Ints, t: int) -> str:
    """Shift the integer sums to the left, add the bias, and shift them to the right."""
    name, size = stage.name, page.sizes[stage.name]
    if up:
        total = times(page, name, "scale_up", t, total, "up", np.array(2.0**up))
    if bias.any():
        c = page.constant(name, "bias", t, page.per_channel(bias.astype(np.float64), size))
        total = page.writer.binary("Add", page.name(name, "add_bias", f"t{t}"), total, c)
    if not stage.shift.any():
        return total
    down = 2.0**-stage.shift
    return times(page, name, "rescale", t, total, "down", down, int(stage.shift.max()))


def _neurons(page: Page, fixed: FixedStage) -> FixedNeurons:
    """The neurons of a stage, as the reader compares."""
    kind = FixedNeurons if page.target.multithreshold else ComparedNeurons
    return kind(page, fixed)


PARTS = Parts(_image, _current, _neurons)
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
    if not page.target.shared:
        name = page.name(branch.name, "weight", f"t{t}")
    if name not in page.writer.constants:
        datatype = f"INT{max(branch.weight_bits, 2)}"
        if branch.weight_bits == 1:
            datatype = "BIPOLAR"
        elif branch.weight_bits == 2 and np.abs(weight).max() <= 1:
            datatype = "TERNARY"
        if weight.ndim == 4 and page.target.layout == "nhwc":
            weight = weight.transpose(0, 2, 3, 1)
        page.writer.constant(name, weight, datatype=datatype)
    return name
