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
import torch

from ..errors import StbpError
from ..lowering import FixedPointNet
from ..lowering.layers import INPUT, IntBranch, IntNeuron, Ints, IntStage
from ..lowering.ranges import FLOAT32, width
from .names import Names
from .writer import QONNX, Range, Writer

RECORD = "record"


class FixedBuilder:
    """Writes one graph.

    Args:
        net: The network of integers.
        sample: One input, `[1, C, H, W]` or frames `[T, 1, C, H, W]`; its shape counts.
        form: `"unrolled"` or `"step"`.
        batch: Static batch size.

    Raises:
        StbpError: If float32 tensors do not hold every integer of the network.
    """

    def __init__(self, net: FixedPointNet, sample: torch.Tensor, form: str, batch: int) -> None:
        for name, reach in net.ranges.items():
            if reach.largest > FLOAT32:
                raise StbpError(
                    f"'{name}' needs {width(0, reach.largest)} bits; a graph holds its integers in "
                    f"float32, exact up to 24: lower it with bits=24."
                )
        self.net, self.integers, self.form, self.batch = net, net.integers, form, batch
        self.frames = sample.dim() == 5
        self.steps = sample.shape[0] if self.frames else net.num_steps
        record: dict[str, torch.Tensor] = {}
        final = net(sample, record)
        self.sizes = {INPUT: tuple(sample.shape[-3:])}
        for stage in self.integers.stages:
            self.sizes[stage.name] = tuple(record.get(stage.name, final).shape[2:])
        self.writer = Writer()
        self.values: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.ages: dict[str, list[str]] = {}  # z_1, z_2, ... of each stage at this step
        self.spikes: dict[str, list[str]] = {}
        self.static: dict[str, str] = {}

    def write(self) -> None:
        """All steps of the form."""
        total: str | None = None
        for t in range(self.steps if self.form == "unrolled" else 1):
            self._input(t)
            out = ""
            for stage in self.integers.stages:
                out = self._stage(stage, t)
            last = f"{self.integers.stages[-1].name}/sum/t{t}"
            total = out if total is None else self.writer.binary("Add", last, total, out)
        assert total is not None
        self._record(total)
        if self.form == "step":
            self.writer.outputs += self.states.values()
        for name, shape in self.writer.shapes.items():
            if len(shape) == 4 and name not in self.writer.constants:
                self.writer.layouts[name] = "NCHW"

    def names(self) -> Names:
        """What a verifier must know of the graph."""
        inputs = [n for n in self.writer.inputs if n != "image"] if self.form == "step" else []
        outputs = zip(inputs, self.states.values(), strict=True) if inputs else ()
        return Names(
            form=self.form, steps=self.steps, batch=self.batch, frames=self.frames,
            channels_last=False, separator="/", spikes=self.spikes,
            states={i: (o, self.writer.shapes[i]) for i, o in outputs},
        )  # fmt: skip

    def _input(self, t: int) -> None:
        if self.frames and self.form == "unrolled":
            name = f"image/t{t}"
        elif t == 0:
            name = "image"
        else:
            return
        top = 2**self.integers.input_bits - 1
        shape = (self.batch, *self.sizes[INPUT])
        self.values[INPUT] = self.writer.input(name, shape, Range(0, top))

    def _constant(self, name: str, value: Any, size: tuple[int, ...], fraction: int = 0) -> str:
        """One value per channel (or one for all) that broadcasts over a tensor of `size`."""
        array = np.asarray(value, np.float64)
        array = array.reshape(()) if array.size == 1 else array
        if array.size > 1 and len(size) == 3:
            array = array.reshape(1, -1, 1, 1)
        if name in self.writer.constants:
            return name
        return self.writer.constant(name, array, fraction)

    def _stage(self, stage: IntStage, t: int) -> str:
        x = self.static.get(stage.name) or self._current(stage, t)
        if not self.frames and all(b.source == INPUT for b in stage.branches):
            self.static[stage.name] = x
        return x if stage.neuron is None else self._neuron(stage, stage.neuron, x, t)

    # -- the input current

    def _current(self, stage: IntStage, t: int) -> str:
        name, size, writer = stage.name, self.sizes[stage.name], self.writer
        total: str | None = None
        for index, branch in enumerate(stage.branches):
            a = self._accumulate(branch, index, name, t)
            if (branch.multiplier != 1).any():
                m = self._constant(f"{name}/multiplier{index}", branch.multiplier, size)
                a = writer.binary("Mul", f"{name}/multiply{index}/t{t}", a, m)
            total = (
                a if total is None else writer.binary("Add", f"{name}/add{index}/t{t}", total, a)
            )
        assert total is not None
        reach = self.net.ranges[name].current
        if stage.up and not self._lifts(stage):
            up = self._constant(f"{name}/up", 2**stage.up, size)
            total = writer.binary("Mul", f"{name}/scale_up/t{t}", total, up)
        half = np.int64(1) << stage.shift >> 1
        if (stage.bias + half).any():
            c = self._constant(f"{name}/bias", stage.bias + half, size)
            total = writer.binary("Add", f"{name}/add_bias/t{t}", total, c)
        if not stage.shift.any():
            return total
        digits = int(stage.shift.max())
        down = self._constant(f"{name}/down", 2.0**-stage.shift, size, digits)
        total = writer.binary("Mul", f"{name}/scale_down/t{t}", total, down)
        bits = stage.act_bits or width(reach.low - 1, reach.high + 1)
        return self._floor(f"{name}/current/t{t}", total, bits)

    def _accumulate(self, branch: IntBranch, index: int, stage: str, t: int) -> str:
        x, size, writer = self.values[branch.source], self.sizes[branch.source], self.writer
        for number, pool in enumerate(branch.pools):
            node = f"{stage}/pool{index}" + (f"_{number}" if number else "") + f"/t{t}"
            reach = [(k - 1) * d + 1 for k, d in zip(pool.size, pool.dilation, strict=True)]
            spatial = zip(size[1:], reach, pool.stride, strict=True)
            size = (size[0], *((n - r) // s + 1 for n, r, s in spatial))
            geometry: dict[str, Any] = {
                "kernel_shape": list(pool.size), "strides": list(pool.stride),
                "pads": [0, 0, 0, 0], "dilations": list(pool.dilation),
            }  # fmt: skip
            values, inputs = writer.ranges[x], [x]
            if pool.kind == "sum":
                values = Range(0, values.high * pool.size[0] * pool.size[1])
                ones = np.ones((size[0], 1, *pool.size))
                inputs.append(writer.constant(f"{node}/weight", ones, datatype="BINARY"))
                geometry["group"] = size[0]
            operator = "Conv" if pool.kind == "sum" else "MaxPool"
            shape = (self.batch, *size)
            x = writer.node(operator, node, inputs, f"{node}_out", shape, values, **geometry)
        if branch.flatten and len(size) == 3:
            node, shape = f"{stage}/flatten{index}/t{t}", (self.batch, int(np.prod(size)))
            x = writer.node("Flatten", node, [x], f"{node}_out", shape, writer.ranges[x], axis=1)
        if branch.weight is None:
            return x
        return self._weights(branch, branch.weight, x, self.sizes[stage], t)

    def _weights(
        self, branch: IntBranch, weight: Ints, x: str, size: tuple[int, ...], t: int
    ) -> str:
        writer, name = self.writer, f"{branch.name}/weight"
        if name not in writer.constants:
            array = weight if weight.ndim == 4 else weight.T
            binary = branch.weight_bits == 1 and (np.abs(weight) == 1).all()
            datatype = "BIPOLAR" if binary else f"INT{max(branch.weight_bits, 2)}"
            if branch.weight_bits == 2 and np.abs(weight).max() <= 1:
                datatype = "TERNARY"
            writer.constant(name, array, datatype=datatype)
        flat = weight.reshape(len(weight), -1)
        high = writer.ranges[x].high
        values = Range(
            int(flat.clip(max=0).sum(1).min()) * high, int(flat.clip(min=0).sum(1).max()) * high
        )
        node = f"{branch.name}/t{t}"
        if weight.ndim == 2:
            shape = (self.batch, len(weight))
            return writer.node("MatMul", node, [x, name], f"{node}_out", shape, values)
        return writer.node(
            "Conv", node, [x, name], f"{node}_out", (self.batch, *size), values,
            kernel_shape=list(weight.shape[2:]), strides=list(branch.stride),
            pads=[*branch.padding, *branch.padding], dilations=list(branch.dilation),
            group=branch.groups,
        )  # fmt: skip

    # -- neurons

    def _lifts(self, stage: IntStage) -> bool:
        """Whether leaks are left shifts of the current of later steps."""
        neuron = stage.neuron
        return self.form == "unrolled" and neuron is not None and not neuron.rounds

    def _neuron(self, stage: IntStage, neuron: IntNeuron, x: str, t: int) -> str:
        name, size, writer = stage.name, self.sizes[stage.name], self.writer
        reach = self.net.ranges[name].membrane
        up = neuron.leak * t if self._lifts(stage) else stage.up
        if self._lifts(stage) and up:
            factor = self._constant(f"{name}/up/t{t}", 2**up, size)
            x = writer.binary("Mul", f"{name}/scale_up/t{t}", x, factor)
        if self.form == "step":
            shape = (self.batch, *size)
            self.states[name] = writer.input(
                f"{name}/state_in", shape, Range(reach.low, reach.high)
            )
        u = x
        if name in self.states:
            u = writer.binary("Add", f"{name}/membrane/t{t}", x, self.states[name])
            coarser = stage.up - up
            writer.ranges[u] = Range(reach.low >> coarser, -(-reach.high >> coarser))
        if neuron.membrane_bits is not None:
            u = self._quantized_membrane(stage, neuron, u, t)
        spike = self._spike(stage, neuron, u, neuron.threshold >> (stage.up - up), t)
        self.values[name] = spike
        self.spikes.setdefault(name, []).append(spike)
        if self.form == "step" or t + 1 < self.steps:
            self._leak(stage, neuron, u, spike, t)
        return spike

    def _spike(self, stage: IntStage, neuron: IntNeuron, u: str, theta: Ints, t: int) -> str:
        """The spike by the thresholds of each neuron's age."""
        name, writer = stage.name, self.writer
        node = f"{name}/spike/t{t}"
        if neuron.reset == "none" and len(theta) > 1 and self.form == "unrolled":
            return self._threshold(node, u, theta[min(t, len(theta) - 1)], f"{name}/threshold/t{t}")
        at_least = self._at_least(stage, len(theta), t)
        shared = f"{name}/threshold/t{t}" if self._lifts(stage) else f"{name}/threshold"
        if not at_least:
            return self._threshold(node, u, theta[0], shared)
        by_age = [
            self._threshold(f"{name}/spike_age{i}/t{t}", u, row, f"{shared}/age{i}")
            for i, row in enumerate(theta[: len(at_least) + 1])
        ]
        total = by_age[0]
        for i, z in enumerate(at_least, 1):
            change = writer.binary("Sub", f"{name}/change{i}/t{t}", by_age[i], by_age[i - 1])
            change = writer.binary("Mul", f"{name}/older{i}/t{t}", change, z)
            total = writer.binary("Add", f"{name}/select{i}/t{t}", total, change)
            writer.ranges[total] = Range(0, 1)
        return self._threshold(node, total, np.zeros(1, np.int64), "one")

    def _threshold(self, node: str, u: str, theta: Ints, levels: str) -> str:
        """1 where `u > theta`."""
        writer = self.writer
        theta = theta[:1] if (theta == theta[0]).all() else theta
        if levels not in writer.constants:
            writer.constant(levels, theta.reshape(-1, 1) + 1)
        layout = "NCHW" if len(writer.shapes[u]) == 4 else "NC"
        return writer.node(
            "MultiThreshold", node, [u, levels], f"{node}_out", writer.shapes[u], Range(0, 1),
            QONNX, out_dtype="BINARY", data_layout=layout,
        )  # fmt: skip

    def _at_least(self, stage: IntStage, ages: int, t: int) -> list[str]:
        """`z_1, z_2, ...`: whether a neuron's last reset is at least that many steps ago."""
        name = stage.name
        if ages == 1:
            return []
        if self.form == "unrolled":
            return self.ages.get(name, [])[: ages - 1]
        shape = (self.batch, *self.sizes[name])
        age = self.writer.input(f"{name}/age_in", shape, Range(0, self.steps))
        self.states[f"{name}/age"] = age
        return [
            self._threshold(f"{name}/older_than{i}", age, np.array([i - 1]), f"age{i}")
            for i in range(1, ages)
        ]

    def _leak(self, stage: IntStage, neuron: IntNeuron, u: str, spike: str, t: int) -> None:
        """The states that the next step finds."""
        name, size, writer = stage.name, self.sizes[stage.name], self.writer
        reach, theta = writer.ranges[u], neuron.threshold
        kept = u
        if neuron.reset == "zero":
            fired = writer.binary("Mul", f"{name}/fired/t{t}", u, spike)
            kept = writer.binary("Sub", f"{name}/reset/t{t}", u, fired)
            writer.ranges[fired] = Range(min(reach.low, 0), max(reach.high, 1))
            writer.ranges[kept] = Range(
                min(reach.low, 0), max(min(reach.high, int(theta.max())), 0)
            )
        elif neuron.reset == "subtract":
            th = self._constant(f"{name}/reset_by", theta[0], size)
            fired = writer.binary("Mul", f"{name}/fired/t{t}", spike, th)
            kept = writer.binary("Sub", f"{name}/reset/t{t}", u, fired)
        out = f"{name}/state_out" if self.form == "step" else f"{name}/state/t{t}_out"
        lifts = self._lifts(stage)
        digits = 0 if lifts else neuron.leak
        if (neuron.beta != 2**digits).any():
            factor = neuron.beta * 2.0**-digits
            beta = self._constant(f"{name}/beta", factor, size, digits)
            kept = writer.binary("Mul", f"{name}/leak/t{t}", kept, beta)
        if neuron.rounds and neuron.leak:
            half = self._constant("half", 0.5, size, 1)
            kept = writer.binary("Add", f"{name}/leak_half/t{t}", kept, half)
        if lifts:
            self.states[name] = kept
        else:
            state = writer.ranges[kept]
            low, high = state.low >> state.fraction, state.high >> state.fraction
            bits = width(min(low, -1), high)
            self.states[name] = self._floor(f"{name}/state/t{t}", kept, bits, out)
        self._grow_older(stage, neuron, spike, t)

    def _grow_older(self, stage: IntStage, neuron: IntNeuron, spike: str, t: int) -> None:
        """The ages that the next step finds."""
        name, writer = stage.name, self.writer
        if len(neuron.threshold) == 1 or (neuron.reset == "none" and self.form == "unrolled"):
            return
        one = self._constant("unit", 1, ())
        if self.form == "step":
            older = writer.binary("Add", f"{name}/grow", self.states[f"{name}/age"], one)
            if neuron.reset == "none":
                writer.rename(older, f"{name}/age_out")
            else:
                silent = writer.binary("Sub", f"{name}/silent", one, spike)
                writer.binary("Mul", f"{name}/age", older, silent, f"{name}/age_out")
            self.states[f"{name}/age"] = f"{name}/age_out"
            return
        silent = writer.binary("Sub", f"{name}/silent/t{t}", one, spike)
        writer.ranges[silent] = Range(0, 1)
        before = self.ages.get(name, [])
        self.ages[name] = [silent] + [
            writer.binary("Mul", f"{name}/older_than{i}/t{t}", silent, z)
            for i, z in enumerate(before, 2)
        ]

    def _quantized_membrane(self, stage: IntStage, neuron: IntNeuron, u: str, t: int) -> str:
        name, size, writer = stage.name, self.sizes[stage.name], self.writer
        grid = 2**neuron.coarse
        if grid > 1:
            half = self._constant(f"{name}/grid_half", grid // 2, size)
            u = writer.binary("Add", f"{name}/membrane_shift/t{t}", u, half)
        assert neuron.membrane_bits is not None
        node = f"{name}/membrane_quant/t{t}"
        u = self._floor(node, u, neuron.membrane_bits, scale=grid)
        top = grid << (neuron.membrane_bits - 1)
        writer.ranges[u] = Range(-top, top - grid)
        return u

    def _floor(
        self, node: str, x: str, bits: int, output: str | None = None, scale: int = 1
    ) -> str:
        """The floor on a grid of `scale`, clipped to signed `bits`."""
        return self.writer.quant(node, x, output or f"{node}_out", bits, True, scale, floor=True)

    def _record(self, total: str) -> None:
        """Name the result; count the votes of a population."""
        writer, votes = self.writer, self.integers.votes
        if votes is None:
            writer.rename(total, RECORD)
            self.spikes = {
                stage: [RECORD if n == total else n for n in names]
                for stage, names in self.spikes.items()
            }
        else:
            neurons = writer.shapes[total][1]
            groups = np.kron(np.eye(votes), np.ones((neurons // votes, 1)))
            w = writer.constant("vote_weight", groups, datatype="BINARY")
            values = Range(0, writer.ranges[total].high * (neurons // votes))
            writer.node("MatMul", "vote", [total, w], RECORD, (self.batch, votes), values)
        writer.outputs = [RECORD, *(name for name in writer.outputs if name != RECORD)]
