"""NeuNorm at one step: a leaky count of the spikes at each position, and what is subtracted."""

from __future__ import annotations

import numpy as np

from ...errors import StbpError
from ...frozen.inhibition import FrozenInhibition
from .page import Page, array
from .ranges import Range
from .targets import TARGETS
from .windows import convolution


class Inhibitor:
    """The NeuNorm behind one stage, step after step.

    Args:
        page: The graph.
        name: Name of what it subtracts.
        numbers: Its numbers.

    Attributes:
        state: The leaky count that the next step finds, or `None` before the first one.

    Raises:
        StbpError: If the target has no counterpart of it.
    """

    def __init__(self, page: Page, name: str, numbers: FrozenInhibition) -> None:
        if page.target != TARGETS["generic"]:
            raise StbpError(
                f"'{name}' (NeuNorm) has a weight per position, which only the target generic has: "
                f"leave out --target."
            )
        self.page, self.name, self.numbers = page, name, numbers
        self.channels, *self.positions = page.sizes[name]
        self.state: str | None = None

    @property
    def states(self) -> list[str]:
        """What the next step finds: nothing before the first one."""
        return [] if self.state is None else [self.state]

    def step(self, spikes: str, t: int) -> str:
        """What is subtracted from the spikes of step `t`, integers."""
        page, writer, numbers = self.page, self.page.writer, self.numbers
        size = (1, *self.positions)
        weight = page.name(self.name, "spike")
        if weight not in writer.constants:
            writer.constant(weight, np.full((1, self.channels, 1, 1), float(numbers.spike)))
        one, none = (1, 1), (0, 0)
        count = convolution(
            page, self._label("count", t), spikes, weight, one, one, none, one, 1, size,
            Range(0, self.channels * numbers.spike),
        )  # fmt: skip
        if page.form == "step":
            state = page.name(self.name, "state_in")
            self.state = writer.input(state, page.shape(size), Range(0, numbers.state))
        if self.state is not None:
            count = writer.binary("Add", self._label("held", t), count, self.state)
            writer.ranges[count] = Range(0, numbers.count)
        if page.form == "step" or t + 1 < page.steps:
            self.state = self._leak(count, t)
        return self._subtrahend(count, t)

    def _label(self, what: str, t: int) -> str:
        return self.page.name(self.name, what, f"t{t}")

    def _leak(self, count: str, t: int) -> str:
        """The count that the next step finds."""
        page, writer, digits = self.page, self.page.writer, self.numbers.decay_digits
        decay = page.constant(self.name, "decay", t, self.numbers.decay, fraction=digits)
        half = page.constant(self.name, "half_step", t, 2.0 ** -(digits + 1), fraction=digits + 1)
        decayed = writer.binary("Mul", self._label("decay", t), count, decay)
        shifted = writer.binary("Add", self._label("offset", t), decayed, half)
        values, node = Range(0, self.numbers.state), self._label("state", t)
        out = page.name(self.name, "state_out") if page.form == "step" else f"{node}_out"
        state = writer.quant(node, shifted, out, values.bits, False)
        writer.ranges[state] = values
        return state

    def _subtrahend(self, count: str, t: int) -> str:
        """The rounded product of the count and the weights of every neuron, by integers."""
        page, writer, digits = self.page, self.page.writer, self.numbers.fraction + 1
        integers = array(self.numbers.multiplier)[None] * 2.0**digits
        m = page.constant(self.name, "multiplier", t, integers)
        product = writer.binary("Mul", self._label("multiply", t), count, m)
        one = page.constant(self.name, "half", t, 1.0)
        shifted = writer.binary("Add", self._label("shift", t), product, one)
        scale = page.constant(self.name, "scale", t, 2.0**-digits, fraction=digits)
        scaled = writer.binary("Mul", self._label("unit", t), shifted, scale)
        node = self._label("quant", t)
        return writer.quant(node, scaled, f"{node}_out", self.numbers.bits, True)
