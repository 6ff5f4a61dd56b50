"""What distinguishes one neuron's dynamics from another's, apart from numbers that are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..surrogate import Surrogate


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
        """The square root in the derivative: of the width `a`, for the Gaussian of `2 pi a`."""
        a = self.surrogate.parameter
        return math.sqrt(2 * math.pi * a if self.surrogate.curve == "gaussian" else a)
