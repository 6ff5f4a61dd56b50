"""A layer of neurons on integers at one step: membrane, thresholds by age, reset and leak."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...lowering.layers import Ints, IntStage
from ...lowering.net import FixedStage
from ...lowering.ranges import width
from .affine import times
from .page import Page
from .ranges import Range
from .writer import QONNX


def lifts(page: Page, stage: IntStage) -> bool:
    """Whether leaks are left shifts of the current of later steps."""
    return page.form == "unrolled" and stage.neuron is not None and not stage.neuron.rounds


def floor(
    page: Page, node: str, x: str, bits: int, output: str | None = None, scale: int = 1
) -> str:
    """The floor on a grid of `scale`, clipped to signed `bits`; one bit would mean -1 and 1."""
    bits = max(bits, 2)
    return page.writer.quant(node, x, output or f"{node}_out", bits, True, scale, floor=True)


class FixedNeurons:
    """The neurons of one stage, step after step.

    Args:
        page: The graph.
        fixed: The stage; it has neurons.
    """

    def __init__(self, page: Page, fixed: FixedStage) -> None:
        assert fixed.neuron is not None
        self.page, self.stage, self.neuron = page, fixed.stage, fixed.neuron
        self.reach = fixed.reach.membrane
        self.size, self.lifts = page.sizes[self.stage.name], lifts(page, self.stage)
        self.state: str | None = None
        self.age: str | None = None  # steps since the last reset, where a tensor holds them
        self.older: list[str] = []  # unrolled: z_1, z_2, ... of the step before

    @property
    def states(self) -> list[str]:
        """What the next step finds."""
        return [state for state in (self.state, self.age) if state is not None]

    def step(self, current: str, t: int) -> str:
        """The spikes of step `t` from its input current."""
        page, writer, neuron = self.page, self.page.writer, self.neuron
        up = neuron.leak * t if self.lifts else self.stage.up
        u = current
        digits = up if self.lifts else neuron.lift
        if digits:
            up_by = np.array(2.0**digits)
            u = times(page, self.stage.name, "scale_up", t, u, f"up{t}", up_by)
        if page.form == "step":
            state = page.name(self.stage.name, "state_in")
            self.state = writer.input(state, page.shape(self.size), self._states())
        if self.state is not None:
            u = writer.binary("Add", self._label("membrane", t), u, self.state)
            coarser = self.stage.up - up
            if neuron.membrane_bits is None:
                low, high = self.reach.low, self.reach.high
                writer.ranges[u] = Range(low >> coarser, -(-high >> coarser))
        elif u == current and page.target.quantizers == "multithreshold":
            u = self._twice_negated(u, t)
        if neuron.membrane_bits is not None:
            u = self._quantized_membrane(u, neuron.membrane_bits, t)
        spike = self._spike(u, neuron.threshold >> (self.stage.up - up), t)
        if page.form == "step" or t + 1 < page.steps:
            self._leak(u, spike, t)
            self._grow_older(spike, t)
        return spike

    def _states(self) -> Range:
        """What the next step may find."""
        neuron, low, high = self.neuron, self.reach.low, self.reach.high
        if neuron.reset != "delayed":
            return Range(low, high)
        half, theta = (1 << neuron.leak >> 1) if neuron.rounds else 0, neuron.threshold[0]
        least, silent, most = (
            (neuron.beta * u + half) >> neuron.leak for u in (low, theta.clip(max=high), high)
        )
        return Range(
            int(np.minimum(least, -theta).min().clip(max=0)),
            int(np.maximum(silent, most - theta).max().clip(min=0)),
        )

    def _label(self, what: str, t: int) -> str:
        return self.page.name(self.stage.name, what, f"t{t}")

    def _constant(self, what: str, t: int, value: Any, fraction: int = 0) -> str:
        spread = self.page.per_channel(np.asarray(value, np.float64), self.size)
        return self.page.constant(self.stage.name, what, t, spread, fraction)

    def _twice_negated(self, u: str, t: int) -> str:
        """The same: FINN merges thresholds into the layer before them, even if others read it."""
        zero = self._constant("zero", t, 0)
        negated = self.page.writer.binary("Sub", self._label("negated", t), zero, u)
        return self.page.writer.binary("Sub", self._label("membrane", t), zero, negated)

    def _spike(self, u: str, theta: Ints, t: int) -> str:
        """The spike by the thresholds of each neuron's age."""
        if self.neuron.reset == "none" and self.page.form == "unrolled":
            return self._threshold("spike", u, theta[min(t, len(theta) - 1)], t)
        at_least = self._at_least(len(theta), t)
        if not at_least:
            return self._threshold("spike", u, theta[0], t)
        return self._by_age(u, theta[: len(at_least) + 1], at_least, t)

    def _by_age(self, u: str, theta: Ints, at_least: list[str], t: int) -> str:
        """The spike, where the thresholds `[ages, C]` are those of an age that `at_least` knows."""
        writer = self.page.writer
        by_age = [self._threshold(f"spike_age{i}", u, row, t) for i, row in enumerate(theta)]
        total = by_age[0]
        for i, z in enumerate(at_least, 1):
            change = writer.binary("Sub", self._label(f"change{i}", t), by_age[i], by_age[i - 1])
            change = writer.binary("Mul", self._label(f"older{i}", t), change, z)
            total = writer.binary("Add", self._label(f"select{i}", t), total, change)
            writer.ranges[total] = Range(0, 1)
        return self._threshold("spike", total, np.zeros(1, np.int64), t)

    def _threshold(self, what: str, x: str, theta: Ints, t: int) -> str:
        """1 where `x > theta`."""
        writer, node = self.page.writer, self._label(what, t)
        theta = theta[:1] if (theta == theta[0]).all() else theta
        levels = writer.constant(f"{node}_levels", theta.reshape(-1, 1) + 1)
        layout = "NC"
        if len(self.size) == 3:
            layout = "NCHW" if self.page.target.layout == "nchw" else "NHWC"
        return writer.node(
            "MultiThreshold", node, [x, levels], f"{node}_out", writer.shapes[x], Range(0, 1),
            QONNX, out_dtype="BINARY", data_layout=layout,
        )  # fmt: skip

    def _at_least(self, ages: int, t: int) -> list[str]:
        """`z_1, z_2, ...`: whether a neuron's last reset is at least that many steps ago."""
        if ages == 1 or self.page.form == "unrolled":
            return self.older[: ages - 1]
        self.age = self._age_in()
        return [
            self._threshold(f"older_than{i}", self.age, np.array([i - 1]), t)
            for i in range(1, ages)
        ]

    def _age_in(self) -> str:
        """The ages that the step before left, in the form `step`."""
        name, shape = self.page.name(self.stage.name, "age_in"), self.page.shape(self.size)
        return self.page.writer.input(name, shape, Range(0, self.page.steps))

    def _leak(self, u: str, spike: str, t: int) -> None:
        """The state that the next step finds."""
        page, writer, neuron = self.page, self.page.writer, self.neuron
        reach, theta, kept = writer.ranges[u], neuron.threshold, u
        if neuron.reset == "zero":
            fired = writer.binary("Mul", self._label("fired", t), u, spike)
            kept = writer.binary("Sub", self._label("reset", t), u, fired)
            writer.ranges[fired] = Range(min(reach.low, 0), max(reach.high, 1))
            most = min(reach.high, int(theta.max()))
            writer.ranges[kept] = Range(min(reach.low, 0), max(most, 0))
        elif neuron.reset in ("subtract", "delayed"):
            fired = times(page, self.stage.name, "fired", t, spike, "reset_by", theta[0])
        if neuron.reset == "subtract":
            kept = writer.binary("Sub", self._label("reset", t), u, fired)
        digits = 0 if self.lifts else neuron.leak
        if (neuron.beta != 2**digits).any():
            beta = neuron.beta * 2.0**-digits
            kept = times(page, self.stage.name, "decay", t, kept, "beta", beta, digits)
        if neuron.rounds and neuron.leak:
            half = self._constant("half", t, 0.5, 1)
            kept = writer.binary("Add", self._label("offset", t), kept, half)
        if self.lifts:
            self.state = kept
            return
        state = writer.ranges[kept]
        low, high = state.low >> state.fraction, state.high >> state.fraction
        out = page.name(self.stage.name, "state_out") if page.form == "step" else None
        bits, delayed = width(min(low, -1), high), neuron.reset == "delayed"
        self.state = floor(page, self._label("state", t), kept, bits, None if delayed else out)
        if delayed:
            self.state = writer.binary("Sub", self._label("reset", t), self.state, fired, out)
            writer.state(self.state, self._states())

    def _grow_older(self, spike: str, t: int) -> None:
        """The ages that the next step finds."""
        page, writer, neuron = self.page, self.page.writer, self.neuron
        if len(neuron.threshold) == 1 or (neuron.reset == "none" and page.form == "unrolled"):
            return
        one = self._constant("one", t, 1)
        silent = spike
        if neuron.reset == "zero":
            silent = writer.binary("Sub", self._label("silent", t), one, spike)
            writer.ranges[silent] = Range(0, 1)
        if page.form == "step":
            assert self.age is not None
            out = page.name(self.stage.name, "age_out")
            if neuron.reset == "none":
                self.age = writer.binary("Add", self._label("grow", t), self.age, one, out)
            else:
                older = writer.binary("Add", self._label("grow", t), self.age, one)
                self.age = writer.binary("Mul", self._label("age", t), older, silent, out)
            writer.state(self.age, Range(0, self.page.steps))
            return
        self.older = [silent] + [
            writer.binary("Mul", self._label(f"older_than{i}", t), silent, z)
            for i, z in enumerate(self.older, 2)
        ]

    def _quantized_membrane(self, u: str, bits: int, t: int) -> str:
        """The membrane on its trained grid."""
        writer, grid = self.page.writer, 2**self.neuron.coarse
        if grid > 1:
            half = self._constant("grid_half", t, grid // 2)
            u = writer.binary("Add", self._label("membrane_shift", t), u, half)
        u = floor(self.page, self._label("membrane_quant", t), u, bits, scale=grid)
        top = grid << (bits - 1)
        writer.ranges[u] = Range(-top, top - grid)
        return u
