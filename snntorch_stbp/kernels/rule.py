"""What distinguishes one neuron's dynamics from another's, apart from numbers that are learned."""

from __future__ import annotations

from dataclasses import dataclass

from ..surrogate import Surrogate


@dataclass(frozen=True)
class Rule:
    """Reset and surrogate of a neuron.

    Args:
        surrogate: Spike function.
        reset: `"zero"`, `"subtract"` or `"none"`.
        detach_reset: Keep the gradient out of the reset path.
    """

    surrogate: Surrogate
    reset: str = "zero"
    detach_reset: bool = False
