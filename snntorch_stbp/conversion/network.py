"""The network of one step, as it was read off a forward pass: operations, and how time goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Op:
    """An operation of one step.

    Attributes:
        kind: `"input"`, `"module"`, `"neuron"`, `"relu"` or `"add"`.
        name: Name of the module; of a function, the function's.
        inputs: Places of its operands in `Network.ops`.
        module: What computes it, but for an input and an addition.
    """

    kind: str
    name: str
    inputs: tuple[int, ...] = ()
    module: nn.Module | None = None


@dataclass
class Network:
    """The operations of one step, in an order in which they can be computed.

    Attributes:
        ops: The operations.
        output: Place of the record in `ops`.
        steps: Steps of the loop that was followed, or `None` where the forward pass has none.
        frames: Whether the input is a sequence, of which each step takes its frame.
        fresh: A neuron that the forward pass gives a new membrane potential, if any.
    """

    ops: list[Op] = field(default_factory=list)
    output: int = 0
    steps: int | None = None
    frames: bool = False
    fresh: str | None = None
