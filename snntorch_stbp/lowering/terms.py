"""The branches of a stage as integers, and the unit that they share.

A branch contributes `g * a` to the input current, `g` merging weight scale, normalisation, pooling
count and pixel scale. In units of `g` per channel the current is the integer `a` itself; a negative
`g` changes the signs of that channel's weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..frozen.branches import affine
from ..frozen.graph import Branch, Stage, count, pair
from ..rounded import quantized_weight, weight_bits
from .layers import INPUT, IntBranch, IntPool, Ints, IntStage
from .ranges import branch_range, stage_range

Reals = NDArray[np.float64]

FLOAT_WEIGHT_BITS = 16
"""Most bits that the weights of a float network get on their grid."""

TINY = 1e-30
"""In place of 0, where a logarithm is taken."""

CANDIDATES = 64
"""Divisors that are tried to bring branches to a common unit."""

LOUD = 2.5
"""A shift of more than 2 thresholds fires at every step, whatever the reset, as this one does."""

FEW_STEPS, FEWEST_STEPS, MOST_STEPS = 2.0**4, 2.0**8, 2.0**14
"""Steps of a threshold where the shift is all that comes in: if it always fires or never does; else
as many as other channels have, within limits."""


@dataclass(frozen=True)
class Budget:
    """What a stage must fit.

    Attributes:
        num_steps: Time steps `T`.
        input_bits: Bits of the network's unsigned input.
        input_scale: Value of one unit of it.
        bits: Magnitudes stay within `2^bits`: 24 for float32, 31 for int32.
        multiplier_bits: Most bits of a multiplier, with sign.
    """

    num_steps: int
    input_bits: int
    input_scale: float
    bits: int
    multiplier_bits: int

    def needs(self, stage: IntStage) -> int:
        """Bits that hold the largest magnitude of any intermediate of `stage`."""
        largest = stage_range(stage, self.num_steps, self.input_bits).largest
        return (largest - 1).bit_length()

    def fits(self, stage: IntStage) -> bool:
        """Whether `stage` stays within the bits."""
        return self.needs(stage) <= self.bits


@dataclass(frozen=True)
class Term:
    """A branch as `gain * a + shift`; `integer` has the signs of `gain` inside.

    Its multiplier is 1, and 0 where `gain` is: there `a` adds nothing, or too little to count.
    """

    integer: IntBranch
    gain: Reals
    shift: Reals


def terms(
    stage: Stage,
    budget: Budget,
    float_bits: int = FLOAT_WEIGHT_BITS,
    dyadic: bool = False,
    least: Reals | float = 0.0,
) -> list[Term]:
    """The branches of `stage` with integer weights.

    Weights of a float layer are put on a grid of that many bits: one for each channel, or, if
    `dyadic`, one for all, normalisation included, of which the gain is a power of two. Channels
    whose largest current is `least` or less get the gain 0; so do all whose weights are 0.
    """
    return [_term(branch, budget, float_bits, dyadic, least) for branch in stage.branches]


@torch.no_grad()
def _term(
    branch: Branch, budget: Budget, float_bits: int, dyadic: bool, least: Reals | float
) -> Term:
    unit = budget.input_scale if branch.source == INPUT else 1.0
    for pool in (*branch.pools, *branch.after):
        unit /= count(pool)
    integer = geometry(branch, np.ones(1, np.int64))
    if branch.layer is None:
        return Term(integer, np.array([unit]), np.zeros(1))
    layer, channels = branch.layer, len(branch.layer.weight)
    gain, shift = affine(branch.norm, channels, layer.weight.device, torch.float64)
    if layer.bias is not None:
        shift = shift + gain * layer.bias
    weight = quantized_weight(layer).double().cpu().numpy()
    bits = weight_bits(layer)
    by_channel = (-1, *[1] * (weight.ndim - 1))
    if bits == 32 and dyadic:
        weight = weight * (gain.cpu().numpy() * unit).reshape(by_channel)
        step = 2.0 ** math.ceil(math.log2(max(np.abs(weight).max(), TINY) / _top(float_bits)))
        integer = replace(
            integer, weight=np.rint(weight / step).astype(np.int64), weight_bits=float_bits
        )
        return Term(integer, np.full(channels, step), shift.cpu().numpy())
    if bits < 32:
        scale = layer.quant_weight().scale.double().reshape(-1).cpu().numpy()  # type: ignore[operator]
    else:
        bits = float_bits
        largest = np.abs(weight.reshape(channels, -1)).max(1)
        scale = np.where(largest > 0, largest, 1.0) / _top(bits)
    g = gain.cpu().numpy() * unit * np.broadcast_to(scale, channels)
    steps = np.rint(weight / scale.reshape(by_channel)).astype(np.int64)
    signs = np.where(g < 0, -1, 1).reshape(by_channel)
    integer = replace(integer, weight=steps * signs, weight_bits=bits)
    low, high = branch_range(integer, budget.input_bits)
    g = np.where(np.abs(g) * np.maximum(-low, high) > least, g, 0.0)
    if not g.all():
        integer = replace(integer, multiplier=(g != 0).astype(np.int64))
    return Term(integer, g, shift.cpu().numpy())


def _top(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def geometry(branch: Branch, multiplier: Ints) -> IntBranch:
    """A branch without its weights."""
    result = IntBranch(
        branch.source, branch.name, multiplier, pools=tuple(int_pool(p) for p in branch.pools),
        flatten=branch.flatten,
    )  # fmt: skip
    if branch.geometry is None:
        return result
    after = tuple(int_pool(p) for p in branch.after)
    return replace(result, after=after, **branch.geometry._asdict())


def int_pool(pool: nn.AvgPool2d | nn.MaxPool2d) -> IntPool:
    """A pooling of integers: an average becomes a sum."""
    size, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    if isinstance(pool, nn.AvgPool2d):
        return IntPool("sum", size, stride, padding=padding)
    return IntPool("max", size, stride, pair(pool.dilation), padding)


def join(parts: list[Term], budget: Budget, room: float) -> tuple[tuple[IntBranch, ...], Reals]:
    """Bring the branches of one sum to a common unit per channel.

    A single branch is its own unit. Of several, the one that can contribute most gets the
    multiplier `d`, the others `round(d * ratio)`; of many `d` that keep the sum below `room` and
    the multipliers within their bits, the one with the least error is taken.

    Returns:
        The branches with their multipliers, and the unit per channel.
    """
    if len(parts) == 1:
        unit = np.abs(parts[0].gain)
        return (parts[0].integer,), np.where(unit > 0, unit, 1.0)
    gains = np.stack(np.broadcast_arrays(*(part.gain for part in parts)))
    spans = [branch_range(part.integer, budget.input_bits) for part in parts]
    tops = np.stack(np.broadcast_arrays(*(np.maximum(-low, high) for low, high in spans)))
    tops = np.broadcast_to(tops, gains.shape)
    dominant = np.argmax(np.abs(gains) * tops, 0)
    columns = np.arange(gains.shape[1])
    unit = np.abs(gains[dominant, columns])
    unit = np.where(unit > 0, unit, 1.0)
    ratio = np.abs(gains) / unit  # nothing but zeros in channels where nothing comes in
    cap = 2 ** (budget.multiplier_bits - 1) - 1
    most = np.minimum(cap / ratio.max(0).clip(min=TINY), room / (ratio * tops).sum(0).clip(min=1))
    if most.min() < 1:
        return (), unit
    best = np.full(len(unit), np.inf)
    chosen = np.zeros(gains.shape)
    divisor = np.ones(len(unit))
    for part in np.linspace(0.5, 1, CANDIDATES):  # every smaller divisor has a multiple there
        d = np.maximum(np.floor(most * part), 1)
        whole = np.rint(ratio * d)
        error = (tops * np.abs(ratio - whole / d)).sum(0)
        better = error < best
        best = np.where(better, error, best)
        chosen, divisor = np.where(better, whole, chosen), np.where(better, d, divisor)
    common = np.gcd.reduce(np.vstack([chosen, divisor]).astype(np.int64))
    chosen, divisor = chosen / common, divisor / common
    branches = []
    for term, multiplier, gain in zip(parts, chosen, gains, strict=True):
        sign = np.where(gain < 0, -1, 1) if term.integer.weight is None else 1
        branches.append(replace(term.integer, multiplier=(multiplier * sign).astype(np.int64)))
    return tuple(branches), unit / divisor


def of_shifts(
    branches: tuple[IntBranch, ...], unit: Reals, shift: Reals, threshold: Reals, fraction: int
) -> tuple[Reals, Reals]:
    """Units and shifts, those of channels which nothing comes in by replaced.

    Such a channel has no unit of its own. It gets one of as many steps as others have, so that it
    takes no bits from them, and few where it fires at every step or at none.
    """
    own = ~np.any(np.stack(np.broadcast_arrays(unit, *(b.multiplier for b in branches)))[1:], 0)
    threshold = np.broadcast_to(threshold, unit.shape)
    size = np.abs(threshold)
    own &= size > 0
    if not own.any():
        return unit, shift
    others = np.median((size / unit)[~own]) * 2.0**fraction if not own.all() else MOST_STEPS
    steps = 2.0 ** np.rint(np.log2(np.clip(others, FEWEST_STEPS, MOST_STEPS)))
    always, never = (own & (threshold > 0) & side for side in (shift > 2 * size, shift <= 0))
    shift = np.where(always, LOUD * size, np.where(never, 0.0, shift))
    steps = np.where(always | never, FEW_STEPS, steps)
    return np.where(own, size / steps * 2.0**fraction, unit), shift
