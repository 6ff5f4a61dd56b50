"""What distinguishes one neuron's dynamics from another's, apart from numbers that are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..surrogate import Surrogate

LONGEST = 32
"""Time steps that a kernel on a GPU takes: it is compiled for each number of them, with all in
registers, for 100 in minutes and with most of them spilled. Longer sequences take the loop."""


@dataclass(frozen=True)
class Rule:
    """Reset and surrogate of a neuron.

    Args:
        surrogate: Spike function.
        reset: `"zero"`, `"subtract"`, `"delayed"` (by subtraction after the leak) or `"none"`.
        detach_reset: Keep the gradient out of the reset path.
    """

    surrogate: Surrogate
    reset: str = "zero"
    detach_reset: bool = False

    @property
    def root(self) -> float:
        """What the derivative needs beside the parameter `a`.

        The square root of `a`, for the Gaussian that of `2 pi a`; for the arc tangent `pi / 2 a`.
        """
        a = self.surrogate.parameter
        if self.surrogate.curve == "atan":
            return math.pi / 2 * a
        return math.sqrt(2 * math.pi * a if self.surrogate.curve == "gaussian" else a)
