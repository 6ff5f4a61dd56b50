r"""NeuNorm in deployment arithmetic: one more leaky count of spikes, and a product per neuron.

NeuNorm subtracts `w[c] a[t]` from the spikes of channel `c`, where `a` is a leaky mean of the
spikes of all channels at one position. In integers, with `A` in units of `2^-g` spikes and the
subtrahend `z` in units of `2^-f`:

    A[t] = round(k A[t-1] + 2^-(d+1)) + 2^g sum over c of o[t, c]      k a multiple of 2^-d
    z[t, c] = clip(round(m[c] A[t] + 2^-(F+1)))                        m a multiple of 2^-F

What is rounded never lies half way between two integers. By linearity the next layer is applied to
`o` and to `z`, two branches of one current, each of which has sums of integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StbpError
from ..norm import NeuNorm
from .branches import Source
from .fold import Settings
from .grid import EXACT_BITS, on_grid, round_ste
from .neuron import BETA_DIGITS, digits_needed

BITS = 10
"""Bits of `z`, with its sign, where the sums of the next layer leave room for as many."""

FEWEST_BITS = 4
COUNT_BITS = 11
"""Bits of `A`, where its channels and steps do not need more."""


@dataclass(frozen=True)
class FrozenInhibition:
    """NeuNorm behind one stage.

    Attributes:
        decay: `k`, a multiple of `2^-decay_digits`.
        decay_digits: `d`.
        spike: What one spike adds to `A`, `2^g`.
        multiplier: `m [C, H, W]`, multiples of `2^-fraction`.
        fraction: `F`.
        bits: Bits of `z`, with sign.
        unit_digits: `f`.
        state: Largest `round(k A[t-1] + 2^-(d+1))` that can occur.
        count: Largest `A`.
    """

    decay: float
    decay_digits: int
    spike: int
    multiplier: Tensor
    fraction: int
    bits: int
    unit_digits: int
    state: int
    count: int

    @property
    def source(self) -> Source:
        """What a branch takes that subtracts it."""
        top = 2 ** (self.bits - 1)
        return Source(-(2.0**-self.unit_digits), -top, top - 1)

    def subtrahend(self, spikes: Tensor) -> Tensor:
        """`z [T, B, C, H, W]`, integers, of spikes `[T, B, C, H, W]`."""
        top = 2 ** (self.bits - 1)
        offset, half = 2.0 ** -(self.decay_digits + 1), 2.0 ** -(self.fraction + 1)
        counted, record = None, []
        for added in spikes.sum(2, keepdim=True).unbind(0):
            kept = 0.0 if counted is None else round_ste(self.decay * counted + offset)
            counted = kept + self.spike * added
            record.append(counted)
        return round_ste(self.multiplier * torch.stack(record) + half).clamp(-top, top - 1)


def freeze_inhibition(
    norm: NeuNorm, num_steps: int, weight_sum: float, settings: Settings, name: str
) -> FrozenInhibition:
    """The arithmetic of `norm` over `num_steps` steps.

    Args:
        norm: The normalisation.
        num_steps: Time steps `T`.
        weight_sum: Largest sum of the magnitudes of the integer weights of one output of the
            layers behind it; 0 where these choose their grid themselves.
        settings: Widths.
        name: Of the stage, for errors.

    Raises:
        StbpError: If sums behind it would need more bits than float32 holds exactly.
    """
    decay = round(norm.decay * 2**BETA_DIGITS) / 2**BETA_DIGITS
    digits = digits_needed(torch.tensor(decay, device="cpu"))
    channels = norm.weight.shape[0]
    most = channels * sum(decay**step for step in range(num_steps))
    spike = 2 ** max(0, COUNT_BITS - 1 - math.ceil(math.log2(most)))
    state = count = 0
    for step in range(num_steps):
        state = math.ceil(decay * count + 0.5) if step else 0
        count = state + spike * channels
    bits = BITS
    if weight_sum > 0:
        bits = min(BITS, EXACT_BITS - math.ceil(math.log2(weight_sum)))
    if bits < FEWEST_BITS:
        raise StbpError(
            f"NeuNorm behind '{name}' leaves the sums of the next layer more than {EXACT_BITS} "
            f"bits: use fewer weight bits."
        )
    real = norm.weight * ((1 - norm.decay) / (channels * spike))
    largest = max(real.detach().abs().max().item(), 2.0**-60)
    unit_digits = math.floor(math.log2((2 ** (bits - 1) - 1) / (largest * count)))
    unit_digits = min(unit_digits, 40)
    scaled = largest * 2.0**unit_digits
    fraction = settings.multiplier_bits - 2 - math.floor(math.log2(scaled))
    room = EXACT_BITS - 2 - math.ceil(math.log2(scaled * count + 1))
    fraction = max(0, min(fraction, room))
    multiplier = on_grid(real * 2.0**unit_digits, fraction)
    return FrozenInhibition(
        decay, digits, spike, multiplier, fraction, bits, unit_digits, state, count
    )
