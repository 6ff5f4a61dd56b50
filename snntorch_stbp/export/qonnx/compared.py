"""Neurons on integers for readers without `MultiThreshold`: a difference, `Relu`, one bit.

    o     = Quant1(Relu(Sub(u, theta)))              of integers, the same as u > theta

Of thresholds by age the neuron's own is found first, `z_i` being 1 for neurons whose last reset is
at least `i` steps ago: `theta = theta_0 + sum of z_i * (theta_i - theta_(i-1))`.
"""

from __future__ import annotations

import numpy as np

from ...errors import StbpError
from ...lowering.layers import Ints
from ...lowering.ranges import FLOAT32
from .affine import affine
from .fixed_neurons import FixedNeurons
from .neurons import above, one_bit, positive
from .ranges import Range


class ComparedNeurons(FixedNeurons):
    """The neurons of one stage, step after step, without `MultiThreshold`."""

    def _threshold(self, what: str, x: str, theta: Ints, t: int) -> str:
        level = self._constant("threshold", t, self._within(theta, x))
        return above(self.page, self.stage.name, what, x, level, t)

    def _by_age(self, u: str, theta: Ints, at_least: list[str], t: int) -> str:
        writer, theta = self.page.writer, self._within(theta, u)
        changes, offset, level = np.diff(theta, axis=0), theta[0], ""
        if np.abs(changes).max() > FLOAT32:
            raise StbpError(
                f"the thresholds of '{self.stage.name}' change with age by more than 24 bits: "
                f"export for another target, or lower it with form='simple', which has one."
            )
        for i, (z, change) in enumerate(zip(at_least, changes, strict=True), 1):
            term = affine(self.page, self.stage.name, f"older{i}", t, z, change, offset)
            level = (
                writer.binary("Add", self._label(f"select{i}", t), level, term) if level else term
            )
            writer.ranges[level] = Range(int(theta.min()), int(theta.max()))
            offset = np.zeros(1, np.int64)
        return above(self.page, self.stage.name, "spike", u, level, t)

    def _at_least(self, ages: int, t: int) -> list[str]:
        """Where an age, less 1 for each that was asked before, is not 0.

        One after the other: hls4ml's streams have seven readers at most.
        """
        if ages > 1 and self.page.form == "step":
            self.age = self._age_in()
        flags: list[str] = []
        if self.age is None:
            return flags
        page, name, rest = self.page, self.stage.name, self.age
        for i in range(1, ages if self.page.form == "step" else min(ages, t + 1)):
            if i > 1:
                one = self._constant(f"one{i}", t, 1)
                less = page.writer.binary("Sub", self._label(f"over{i}", t), rest, one)
                rest = positive(page, name, f"relu{i}", less, t)
            flags.append(one_bit(page, name, f"older_than{i}", rest, t))
        return flags

    def _grow_older(self, spike: str, t: int) -> None:
        writer, neuron = self.page.writer, self.neuron
        if len(neuron.threshold) == 1 or neuron.reset == "none":
            super()._grow_older(spike, t)
            return
        if self.age is None:
            minus, one = -np.ones(1), np.ones(1)
            self.age = affine(self.page, self.stage.name, "silent", t, spike, minus, one)
        else:
            older = writer.binary(
                "Add", self._label("grow", t), self.age, self._constant("one", t, 1)
            )
            lost = writer.binary("Mul", self._label("forgotten", t), older, spike)
            out = self.page.name(self.stage.name, "age_out") if self.page.form == "step" else None
            self.age = writer.binary("Sub", self._label("age", t), older, lost, out)
        writer.state(self.age, Range(0, self.page.steps))

    def _within(self, theta: Ints, x: str) -> Ints:
        """Thresholds that decide alike about `x`, of as many bits as `x`."""
        reach = self.page.writer.ranges[x]
        return theta.clip(reach.low - 1, reach.high)
