r"""The numbers of deployment arithmetic, folded from the modules of a trained network.

Of each branch of a stage only integers remain, `a = sum w s` over integer weights `w` and spikes
(or 8-bit pixels) `s`, and per channel one multiplier and one bias on a dyadic grid:

    x = clip(round(sum over branches of m_b * a_b + c))

is the input current in units of a step `delta`: an integer of `act_bits`. Normalisation, weight
scales, pooling counts and the step are all merged into `m` and `c`. Every `m_b` is a multiple of
`2^-F` and `c` an odd multiple of `2^-(F+1)`, with `F` chosen, per channel, such that the largest
sum that can occur stays below `2^24` of the latter: float32 holds each of these numbers exactly,
whatever order a library adds them in; and the sum never lies half way between two integers, so
that no library's way to round ties matters.

Roundings are straight-through: gradients pass, so the same code serves training in this arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..activation import NUDGE, HalfUpQuant
from ..errors import StbpError
from .branches import SPIKES, FrozenBranch, Source, fold_branch, log2
from .graph import Stage
from .grid import EXACT_BITS, off_grid, on_grid

CURRENT_STEPS = 4
"""Range of an unquantized current on either side, in thresholds."""

SLIGHT = 2.0**-8
"""An error of multipliers that is left: less than a step of thresholds of 128 steps."""


@dataclass(frozen=True)
class Settings:
    """Widths of deployment arithmetic.

    Args:
        act_bits: Bits of input currents where training did not quantize them.
        multiplier_bits: Most significant bits of a multiplier, with sign.
    """

    act_bits: int = 10
    multiplier_bits: int = 12

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("act_bits", self.act_bits, 4, 12),
            ("multiplier_bits", self.multiplier_bits, 4, 16),
        ):
            if not (isinstance(value, int) and low <= value <= high):
                raise ValueError(f"{name} of a frozen network is {low} to {high}, not {value!r}")


@dataclass(frozen=True)
class FrozenCurrent:
    """The input current of a stage.

    Attributes:
        branches: Its branches.
        bias: `c` per channel `[C]`, an odd multiple of `2^-(F+1)`.
        fraction: `F` per channel `[C]`, binary digits behind the point.
        largest: Largest magnitude of `x` before it is clipped, per channel `[C]`.
        gain: All of it is so many times the trained current, per channel `[C]` or `[1]`; neurons
            have their thresholds times that. Of wide weights a multiplier keeps few digits beside
            the sum; a threshold keeps them.
    """

    branches: tuple[FrozenBranch, ...]
    bias: Tensor
    fraction: Tensor
    largest: Tensor
    gain: Tensor


def fold_current(
    stage: Stage,
    step: Tensor | float,
    sources: Mapping[str, Source],
    settings: Settings,
) -> FrozenCurrent:
    """Fold the branches of `stage` into integers, multipliers and a bias, in units of `step`.

    Args:
        stage: The stage.
        step: `delta`, scalar.
        sources: What its branches take, by `Branch.value`; `SPIKES` for those not among them.
        settings: Widths.

    Raises:
        StbpError: If an accumulator needs more bits than float32 holds exactly.
    """
    there = next((b.layer.weight.device for b in stage.branches if b.layer is not None), None)
    folded = [fold_branch(b, step, sources.get(b.value, SPIKES), there) for b in stage.branches]
    bias = torch.stack(torch.broadcast_tensors(*(f.bias for f in folded))).sum(0)
    quantizer = None if stage.neuron is None else stage.neuron.current_quant
    nudge = NUDGE if isinstance(quantizer, HalfUpQuant) else 0.0  # of a step, as in training
    bias = bias + nudge
    parts = [f.integers() for f in folded]

    scales = stage.neuron is not None and not stage.quantized  # thresholds follow a gain
    with torch.no_grad():
        total = 2 * bias.abs() + sum(p.largest * p.multiplier.abs() for p in parts) + 1
        room = EXACT_BITS - 1 - torch.ceil(torch.log2(total))
        wanted = [_digits(p.multiplier, settings.multiplier_bits) for p in parts]
        fraction = torch.stack(torch.broadcast_tensors(*wanted)).amax(0)
        fraction = torch.minimum(fraction.clamp(min=0), room)
        while True:  # rounding may have made the largest multipliers larger
            digits = [torch.minimum(d, fraction) for d in wanted]
            gain = _gain(parts, digits) if scales else torch.ones_like(fraction[:1])
            rounded = [on_grid(p.multiplier * gain, d) for p, d in zip(parts, digits, strict=True)]
            reach = [p.largest * m.abs() for p, m in zip(parts, rounded, strict=True)]
            total = 2 * (bias * gain).abs() + sum(reach) + 1  # without the bias, and with it
            over = total * torch.exp2(fraction) > 2 ** (EXACT_BITS - 1)
            if not over.any():
                break
            fraction = fraction - over.to(fraction.dtype)
        if fraction.min() < 0:
            raise StbpError(
                f"the input current of '{stage.name}' needs more than {EXACT_BITS} bits: use "
                f"fewer weight bits."
            )
    branches = tuple(
        FrozenBranch(p.weight, p.bits, on_grid(p.multiplier * gain, d), p.largest)
        for p, d in zip(parts, digits, strict=True)
    )
    bias, total = off_grid(bias * gain, fraction), total.expand_as(fraction)
    if quantizer is not None and len(parts) == 1 and parts[0].weight is None:
        branches = (_as_counted(parts[0], branches[0], digits[0], bias, nudge),)
    return FrozenCurrent(branches, bias, fraction, total, gain)


def _as_counted(
    real: FrozenBranch, frozen: FrozenBranch, digits: Tensor, bias: Tensor, nudge: float
) -> FrozenBranch:
    """A branch of pooled spikes whose every count gives the level that training rounded it to.

    There are few counts, and a learned range may leave one of them at the border of two levels: of
    the multipliers near the nearest one, the first that does so.
    """
    with torch.no_grad():
        counts = torch.arange(min(int(real.largest.max()), 4096) + 1, device=bias.device).double()
        levels = (counts * real.multiplier.double() + nudge).round()
        for step in (0, -1, 1, -2, 2):
            near = frozen.multiplier.detach() + step * torch.exp2(-digits)
            if torch.equal((counts * near.double() + bias.double()).round(), levels):
                off = near - frozen.multiplier.detach()
                return replace(frozen, multiplier=frozen.multiplier + off)
    return frozen


def _gain(parts: Sequence[FrozenBranch], digits: Sequence[Tensor]) -> Tensor:
    """By what rounding changes the multiplier of the branch that counts most, per channel."""

    def stacked(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*values))

    most = stacked(p.largest * p.multiplier.abs() for p in parts).argmax(0, keepdim=True)
    real = stacked(p.multiplier for p in parts).gather(0, most)[0]
    gain = on_grid(real, stacked(digits).gather(0, most)[0]) / real
    gain = torch.where((gain > 0.5) & (gain < 2), gain, 1.0)  # dead channels have none
    return gain if (gain - 1).abs().max() > SLIGHT else torch.ones_like(gain[:1])


def _digits(multiplier: Tensor, bits: int) -> Tensor:
    """Digits behind the point of a multiplier with `bits` significant bits, one for its sign."""
    return bits - 2 - torch.floor(log2(multiplier.abs()))
