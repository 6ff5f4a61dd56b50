"""A network of integers, as plain data: what `lower` makes and every backend reads.

All arrays are NumPy `int64`. Of one stage, with `s` the spikes (0 or 1) or pixels of its sources:

    a    = sum of w * s                                   per branch; pooling, in front of the
                                                          weights or behind, a sum or a maximum
    y    = (sum over branches of m * a) << up, + c
    x    = clip((y + 2^(shift-1)) >> shift)               where a current is rounded (`shift > 0`)
    u    = v + (x << lift)                                the membrane potential, v[-1] = 0
    o    = 1 if u > theta[age] else 0                     age: steps since the last reset
    v'   = (beta * kept + round) >> leak                  kept: u after reset

(a delayed reset takes `theta` off `v'` in place of `u`)
`>>` is an arithmetic shift. A readout of currents is `y` (rounded, if it shifts), summed over time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
INPUT = "input"

REGISTER_BITS = "register_bits"
"""The setting of a network that says how many bits its integers may take, if not 24."""


@dataclass(frozen=True)
class IntPool:
    """A pooling.

    Attributes:
        kind: `"sum"`, to which padding adds nothing, or `"max"`, which leaves padding out.
        size, stride, dilation, padding: Height and width each; padding on either side.
    """

    kind: str
    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class IntBranch:
    """One term of an input current.

    Attributes:
        source: Name of the stage whose spikes it takes, or `INPUT`.
        name: Name of the layer with weights; of a shortcut, its source.
        multiplier: `m` per channel `[C]`, or `[1]`.
        weight: `[C, I, kh, kw]` of a convolution, `[C, I]` of a linear layer, `None` of a shortcut.
        weight_bits: Bits of one weight, with sign.
        pools: Poolings in front of the layer.
        flatten: Whether features are flattened in front of the layer.
        stride, padding, dilation: Of a convolution, height and width each.
        groups: Of a convolution.
        after: Poolings behind the layer, of its sums.
    """

    source: str
    name: str
    multiplier: Ints
    weight: Ints | None = None
    weight_bits: int = 1
    pools: tuple[IntPool, ...] = ()
    flatten: bool = False
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    after: tuple[IntPool, ...] = ()


@dataclass(frozen=True)
class IntNeuron:
    """A layer of neurons.

    Attributes:
        beta: Factor per channel `[C]` or `[1]`; the decay is `beta / 2^leak`.
        leak: Bits that the leak shifts out.
        rounds: Whether the leak rounds half up; else what it shifts out is zero.
        threshold: `theta`, `[ages, C]` or `[ages, 1]`; the last row also serves every later age.
        reset: `"zero"`, `"subtract"` (the first row of `threshold`), `"delayed"` (the same, after
            the leak) or `"none"`.
        membrane_bits: Bits of a quantized `u` on its grid, or `None`.
        coarse: A quantized `u` is a multiple of `2^coarse`.
        lift: Binary digits of `u` behind those of a rounded current.
    """

    beta: Ints
    leak: int
    rounds: bool
    threshold: Ints
    reset: str = "zero"
    membrane_bits: int | None = None
    coarse: int = 0
    lift: int = 0


@dataclass(frozen=True)
class IntStage:
    """A layer of neurons with the branches that drive it; a readout of currents has no neurons.

    Attributes:
        name: Name of the neuron module; of a readout, of its layer.
        branches: The terms of its input current.
        up: Binary digits of the membrane behind those of the current.
        bias: `c` per channel `[C]`.
        shift: Bits that are rounded off per channel `[C]`; all zero: nothing is rounded.
        act_bits: Bits that a rounded current is clipped to, or `None`.
        neuron: The neurons, or `None`.
        unit: What one step of `u` (of a readout: of the record) is in the trained network's units,
            per channel `[C]` or `[1]`.
        exact: Whether `u > theta` decides as real numbers would, given the same spikes.
    """

    name: str
    branches: tuple[IntBranch, ...]
    up: int
    bias: Ints
    shift: Ints
    act_bits: int | None
    neuron: IntNeuron | None
    unit: NDArray[np.float64]
    exact: bool


@dataclass(frozen=True)
class IntNetwork:
    """A network of integers.

    Attributes:
        stages: The stages, in an order in which they can be computed; the last gives the record.
        num_steps: Time steps `T`.
        input_bits: Bits of the unsigned integers that enter.
        input_scale: Value of one unit of the input.
        votes: Classes of a population vote over the last stage's spikes, or `None`.
        form: `"exact"` or `"simple"`, see `lower`.
        settings: Further words about how it was made, for files.
        clips: Whether training clipped its input to the range of these integers, too.
    """

    stages: tuple[IntStage, ...]
    num_steps: int
    input_bits: int
    input_scale: float
    votes: int | None
    form: str
    settings: dict[str, str] = field(default_factory=dict)
    clips: bool = True
