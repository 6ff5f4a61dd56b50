"""Bit growth: the exact range of every register of a network of integers, from its weights.

Worst cases hold for any input at all; they are reached by some input in one layer taken alone. From
the range follows the width of the register that holds it, and whether containers are exact: float32
holds integers up to `2^24`, int32 up to `2^31`. Ranges are Python's integers, in arrays of objects:
those of a network that does not fit are of any width.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .layers import INPUT, IntBranch, IntNetwork, IntNeuron, Ints, IntStage

FLOAT32 = 1 << 24
INT32 = 1 << 31


@dataclass(frozen=True)
class Span:
    """Smallest and largest value of a register, over all channels."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits that hold it: two's complement, or unsigned without negative values."""
        return width(self.low, self.high)

    def __or__(self, other: Span) -> Span:
        return Span(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class StageRange:
    """Ranges of one stage.

    Attributes:
        accumulators: `a` of each branch.
        current: `x` (before it is rounded and clipped: `y`).
        membrane: `u`; of a readout, its sum over time.
        threshold: `theta`.
        largest: Largest magnitude of any intermediate, products and shifts included.
    """

    accumulators: tuple[Span, ...]
    current: Span
    membrane: Span
    threshold: Span
    largest: int


def width(low: int, high: int) -> int:
    """Bits of a two's complement (without negative values: unsigned) integer in a range."""
    if low < 0:
        return 1 + max(high.bit_length(), (-low - 1).bit_length())
    return max(high.bit_length(), 1)


def ranges(net: IntNetwork) -> dict[str, StageRange]:
    """The ranges of every stage, by name."""
    return {stage.name: stage_range(stage, net.num_steps, net.input_bits) for stage in net.stages}


def stage_range(stage: IntStage, num_steps: int, input_bits: int) -> StageRange:
    """The ranges of one stage over `num_steps` steps."""
    parts = [branch_range(branch, input_bits) for branch in stage.branches]
    low, high, largest = current_range(stage, parts)
    y = span(low, high)
    accumulators = tuple(span(*part) for part in parts)
    if stage.shift.any():  # rounded half up, as the current is
        shift = stage.shift.astype(object)
        low, high = ((end + (1 << shift >> 1)) >> shift for end in (low, high))
    if stage.neuron is None:
        last_low, last_high = low * num_steps, high * num_steps  # and of all sums before
        total = span(np.minimum(low, last_low), np.maximum(high, last_high))
        return StageRange(accumulators, y, total, Span(0, 0), max(largest, _top(total)))
    if stage.act_bits is not None:
        top = 1 << (stage.act_bits - 1)
        low, high = np.clip(low, -top, top - 1), np.clip(high, -top, top - 1)
    u_low, u_high, product = membrane_range(stage.neuron, low, high, num_steps)
    theta = stage.neuron.threshold
    largest = max(largest, product, _top(span(u_low, u_high)), _top(span(theta, theta)))
    return StageRange(accumulators, y, span(u_low, u_high), span(theta, theta), largest)


def branch_range(branch: IntBranch, input_bits: int) -> tuple[Ints, Ints]:
    """Smallest and largest `a` per channel; every partial sum lies between them."""
    high = (1 << input_bits) - 1 if branch.source == INPUT else 1
    for pool in branch.pools:
        high *= prod(pool.size) if pool.kind == "sum" else 1
    if branch.weight is None:
        return np.zeros(1, np.int64), np.full(1, high)
    high *= prod(prod(pool.size) for pool in branch.after if pool.kind == "sum")
    flat = branch.weight.reshape(len(branch.weight), -1)
    return flat.clip(max=0).sum(1) * high, flat.clip(min=0).sum(1) * high


def current_range(stage: IntStage, parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints, int]:
    """Smallest and largest `y` per channel, and the largest magnitude on the way there."""
    low = high = np.zeros(1, object)
    largest, bias = 0, stage.bias.astype(object)
    for branch, (least, most) in zip(stage.branches, parts, strict=True):
        factor = branch.multiplier.astype(object)
        ends = np.stack(np.broadcast_arrays(least * factor, most * factor))
        low, high = low + ends.min(0).clip(max=0), high + ends.max(0).clip(min=0)
        largest = max(largest, int(-least.min()), int(most.max()))
    low, high = (low << stage.up) + bias, (high << stage.up) + bias
    half = 1 << stage.shift.astype(object) >> 1
    sums = np.maximum(np.abs(low), np.abs(high)) + np.abs(bias) + half
    largest = max(largest, int(sums.max()))
    return low, high, largest


def membrane_range(
    neuron: IntNeuron, low: Ints, high: Ints, num_steps: int
) -> tuple[Ints, Ints, int]:
    """Smallest and largest `u` per channel over time, and the largest magnitude on the way.

    Args:
        neuron: The neurons.
        low: Smallest current `x` per channel.
        high: Largest current `x` per channel.
        num_steps: Time steps.
    """
    v_low = v_high = np.zeros(1, object)
    low, high = low.astype(object) << neuron.lift, high.astype(object) << neuron.lift
    u_low, u_high = low, high
    beta, thresholds = neuron.beta.astype(object), neuron.threshold.astype(object)
    theta = thresholds.max(0)
    half = (1 << neuron.leak >> 1) if neuron.rounds else 0
    product = 0
    for _ in range(num_steps):
        least, most = v_low + low, v_high + high
        if neuron.membrane_bits is not None:
            grid, levels = 1 << neuron.coarse, 1 << (neuron.membrane_bits - 1)
            product = max(product, _top(span(least, most)) + grid)
            least, most = (
                np.clip((end + (grid >> 1)) >> neuron.coarse, -levels, levels - 1) * grid
                for end in (least, most)
            )
        u_low, u_high = np.minimum(u_low, least), np.maximum(u_high, most)
        least = np.minimum(least, 0)
        if neuron.reset == "zero":
            most = np.minimum(most, theta.clip(min=0))
        elif neuron.reset == "subtract":
            most = np.maximum(np.minimum(most, theta), most - thresholds[0])
        most = np.maximum(most, 0)
        ends = np.stack(np.broadcast_arrays(beta * least, beta * most)) + half
        product = max(product, int(np.abs(ends).max()))
        v_low, v_high = ends[0] >> neuron.leak, ends[1] >> neuron.leak
        if neuron.reset == "delayed":
            silent = np.minimum(v_high, (beta * theta + half) >> neuron.leak)
            v_low = np.minimum(v_low, -theta)
            v_high = np.maximum(silent, v_high - theta).clip(min=0)
    return u_low, u_high, product


def span(low: Ints, high: Ints) -> Span:
    """The span over all channels."""
    return Span(int(low.min()), int(high.max()))


def _top(both: Span) -> int:
    return max(abs(both.low), abs(both.high))
