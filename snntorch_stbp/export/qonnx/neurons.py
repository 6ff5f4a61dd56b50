"""A layer of neurons at one step: membrane, spike, reset and leak."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ...frozen.neuron import FrozenNeuron
from .affine import times
from .page import Page, array
from .ranges import Range
from .writer import QONNX


def above(page: Page, stage: str, what: str, x: str, level: str, t: int) -> str:
    """1 where `x > level`, both integers: the positive part of their difference, clipped to a bit.

    Where float32 rounds the difference, it has the sign of the exact one.
    """
    over = page.writer.binary("Sub", page.name(stage, "over", f"t{t}"), x, level)
    return one_bit(page, stage, what, positive(page, stage, "relu", over, t), t)


def positive(page: Page, stage: str, what: str, x: str, t: int) -> str:
    """`x`, but 0 where it is negative."""
    writer, node = page.writer, page.name(stage, what, f"t{t}")
    values = Range(0, max(writer.ranges[x].high, 1))
    return writer.node("Relu", node, [x], f"{node}_out", writer.shapes[x], values)


def one_bit(page: Page, stage: str, what: str, x: str, t: int) -> str:
    """1 where the integer `x`, which is not negative, is not 0."""
    node = page.name(stage, what, f"t{t}")
    return page.writer.quant(node, x, f"{node}_out", 1, False)


class Stepwise(ABC):
    """The neurons of one stage, step after step.

    Args:
        page: The graph.
        name: Name of the stage.
        neuron: Its numbers.

    Attributes:
        state: The state that the next step finds, or `None` before the first one.
    """

    def __init__(self, page: Page, name: str, neuron: Any) -> None:
        self.page, self.name, self.neuron = page, name, neuron
        self.size = page.sizes[name]
        self.state: str | None = None

    @property
    def states(self) -> list[str]:
        """What the next step finds: nothing before the first one."""
        return [] if self.state is None else [self.state]

    def step(self, current: str, t: int) -> str:
        """The spikes of step `t` from its input current."""
        page, writer = self.page, self.page.writer
        if page.form == "step":
            state = page.name(self.name, "state_in")
            self.state = writer.input(state, page.shape(self.size), self._range())
        u = self._quantized(self._membrane(current, t), t)
        spike = self._spike(u, t)
        if page.form == "step" or t + 1 < page.steps:
            self.state = self._leak(u, spike, t)
        return spike

    def _label(self, what: str, t: int) -> str:
        return self.page.name(self.name, what, f"t{t}")

    @abstractmethod
    def _range(self) -> Range | None:
        """Of a state, where that is known."""

    @abstractmethod
    def _membrane(self, current: str, t: int) -> str:
        """The current plus the state, if there is one."""

    @abstractmethod
    def _quantized(self, u: str, t: int) -> str:
        """The membrane potential on its grid, if it has one."""

    @abstractmethod
    def _spike(self, u: str, t: int) -> str:
        """1 where a membrane potential is above the threshold."""

    @abstractmethod
    def _leak(self, u: str, spike: str, t: int) -> str:
        """The state that the next step finds."""


class Neurons(Stepwise):
    """Those of a frozen network: integers."""

    neuron: FrozenNeuron

    def _range(self) -> Range:
        return Range(*self.neuron.state)

    def _membrane(self, current: str, t: int) -> str:
        page, writer, state = self.page, self.page.writer, self.state
        if self.neuron.lift:
            factor = np.array(2.0**self.neuron.lift)
            current = times(page, self.name, "lifted", t, current, "lift", factor)
        if state is None:
            return current
        node = self._label("membrane", t)
        quantized = self.neuron.membrane_bits is not None
        if page.target.quantizers == "quant" or not quantized or state not in writer.inputs:
            u = writer.binary("Add", node, current, state)
        else:
            # FINN takes an addition between a graph's input and thresholds for one of a constant.
            zero = writer.constant(page.name(self.name, "zero"), 0.0)
            negated = writer.binary("Sub", self._label("negated", t), zero, state)
            u = writer.binary("Sub", node, current, negated)
        writer.ranges[u] = Range(*self.neuron.potential)
        return u

    def _spike(self, u: str, t: int) -> str:
        """1 where `u > theta`: the positive part of `u - theta`, clipped to one bit."""
        page, writer, size = self.page, self.page.writer, self.size
        theta = array(self.neuron.threshold)
        node = self._label("spike", t)
        if page.target.quantizers == "multithreshold":
            channels = size[0] if theta.size > 1 else 1
            levels = np.broadcast_to(theta.reshape(-1, 1) + 1, (channels, 1))
            layout = "NHWC" if len(size) == 3 else "NC"
            # FINN divides them by the scale of a quantized membrane, but keeps their data type.
            datatype = "FLOAT32" if self.neuron.coarse else None
            levels_name = writer.constant(f"{node}_levels", levels, datatype=datatype)
            return writer.node(
                "MultiThreshold", node, [u, levels_name],
                f"{node}_out", writer.shapes[u], Range(0, 1), QONNX,
                out_dtype="BINARY", data_layout=layout,
            )  # fmt: skip
        return above(page, self.name, "spike", u, self._threshold(t), t)

    def _threshold(self, t: int) -> str:
        theta = self.page.per_channel(array(self.neuron.threshold), self.size)
        return self.page.constant(self.name, "threshold", t, theta)

    def _taken_off(self, spike: str, t: int) -> str:
        """What a reset by subtraction takes off: the threshold, where neurons fired."""
        theta = array(self.neuron.threshold)
        return times(self.page, self.name, "fired", t, spike, "reset_by", theta)

    def _quantized(self, u: str, t: int) -> str:
        page, writer, neuron = self.page, self.page.writer, self.neuron
        if neuron.membrane_bits is None:
            return u
        node = self._label("membrane_quant", t)
        scale, shift = 2.0**neuron.coarse, 0.5 if neuron.coarse else 0.0
        if shift and page.target.quantizers == "quant":
            half = page.constant(self.name, "half", t, shift, fraction=1)
            u = writer.binary("Add", self._label("membrane_shift", t), u, half)
        u = page.quant(node, u, f"{node}_out", neuron.membrane_bits, scale, shift)
        top = 1 << (neuron.membrane_bits - 1 + neuron.coarse)
        writer.ranges[u] = Range(-top, top - (1 << neuron.coarse))
        return u

    def _leak(self, u: str, spike: str, t: int) -> str:
        page, writer, neuron = self.page, self.page.writer, self.neuron
        kept, top = u, int(array(neuron.threshold).max())
        if neuron.reset == "zero":
            fired = writer.binary("Mul", self._label("fired", t), u, spike)
            writer.ranges[fired] = Range(0, max(writer.ranges[u].high, 1))
            kept = writer.binary("Sub", self._label("reset", t), u, fired)
            writer.ranges[kept] = Range(writer.ranges[u].low, max(top, 0))
        elif neuron.reset == "subtract":
            fired = self._taken_off(spike, t)
            kept = writer.binary("Sub", self._label("reset", t), u, fired)
        delayed = neuron.reset == "delayed"
        digits = neuron.beta_digits
        beta = array(neuron.beta)
        decayed = times(page, self.name, "decay", t, kept, "beta", beta, digits)
        half = page.constant(self.name, "half_step", t, 2.0 ** -(digits + 1), fraction=digits + 1)
        shifted = writer.binary("Add", self._label("offset", t), decayed, half)
        bits = Range(min(neuron.leaked[0], -1), neuron.leaked[1]).bits
        node = self._label("state", t)
        out = page.name(self.name, "state_out") if page.form == "step" else f"{node}_out"
        quantized = page.quant(node, shifted, f"{node}_leaked" if delayed else out, bits)
        writer.ranges[quantized] = Range(*neuron.leaked)
        if not delayed:
            return quantized
        fired = self._taken_off(spike, t)
        state = writer.binary("Sub", self._label("reset", t), quantized, fired, out)
        writer.state(state, Range(*neuron.state))
        return state
