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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..activation import NUDGE, HalfUpQuant
from ..errors import StbpError
from ..norm import _Gain, _TDBatchNorm
from ..rounded import quantized_weight, weight_bits
from .graph import Branch, Stage, count

EXACT_BITS = 24
"""Bits of the significand of a float32: integers up to 2^24 are exact."""

CURRENT_STEPS = 4
"""Range of an unquantized current on either side, in thresholds."""

SLIGHT = 2.0**-8
"""An error of multipliers that is left: less than a step of thresholds of 128 steps."""

FLOAT_WEIGHT_BITS = 16
"""Most bits that the weights of a float network get on their grid."""


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
            if not low <= value <= high:
                raise ValueError(f"{name} of a frozen network is {low} to {high}, not {value}")


@dataclass(frozen=True)
class Source:
    """What a branch takes: integers from `low` to `high`, each worth `unit`."""

    unit: float = 1.0
    low: int = 0
    high: int = 1


SPIKES = Source()


@dataclass(frozen=True)
class FrozenBranch:
    """A branch in integers.

    Attributes:
        weight: Integer weights in a float tensor, or `None` for a shortcut.
        bits: Bits of one weight, with sign.
        multiplier: `m` per channel `[C]`, or `[1]` for a shortcut.
        largest: Largest magnitude of the accumulator per channel.
    """

    weight: Tensor | None
    bits: int
    multiplier: Tensor
    largest: Tensor


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


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


def on_grid(x: Tensor, fraction: Tensor) -> Tensor:
    """Round `x` to multiples of `2^-fraction`."""
    scale = torch.exp2(fraction)
    return round_ste(x * scale) / scale


def off_grid(x: Tensor, fraction: Tensor) -> Tensor:
    """Move `x` half way between two multiples of `2^-fraction`, the nearest."""
    scale = torch.exp2(fraction)
    middle = (torch.floor(x * scale) + 0.5) / scale
    return x + (middle - x).detach()


def fold_current(
    stage: Stage,
    step: Tensor | float,
    sources: Mapping[str, Source],
    settings: Settings,
    scales: bool = False,
) -> FrozenCurrent:
    """Fold the branches of `stage` into integers, multipliers and a bias, in units of `step`.

    Args:
        stage: The stage.
        step: `delta`, scalar.
        sources: What its branches take, by `Branch.value`; `SPIKES` for those not among them.
        settings: Widths.
        scales: Whether thresholds can follow a `gain`, which is 1 otherwise.

    Raises:
        StbpError: If an accumulator needs more bits than float32 holds exactly.
    """
    folded = [_fold(branch, step, sources.get(branch.value, SPIKES)) for branch in stage.branches]
    bias = torch.stack(torch.broadcast_tensors(*(f.bias for f in folded))).sum(0)
    quantizer = None if stage.neuron is None else stage.neuron.current_quant
    nudge = NUDGE if isinstance(quantizer, HalfUpQuant) else 0.0  # of a step, as in training
    bias = bias + nudge
    parts = [f.integers(settings) for f in folded]

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
    real = torch.stack(torch.broadcast_tensors(*(p.multiplier for p in parts)))
    rounded = torch.stack(
        torch.broadcast_tensors(
            *(on_grid(p.multiplier, d) for p, d in zip(parts, digits, strict=True))
        )
    )
    reach = torch.stack(torch.broadcast_tensors(*(p.largest * p.multiplier.abs() for p in parts)))
    most = reach.argmax(0, keepdim=True)
    gain = (rounded / real).gather(0, most)[0]
    gain = torch.where((gain > 0.5) & (gain < 2), gain, 1.0)  # dead channels have none
    return gain if (gain - 1).abs().max() > SLIGHT else torch.ones_like(gain[:1])


@dataclass(frozen=True)
class _Folded:
    """A branch as `scale * (weight (*) s) + bias`, not yet on grids."""

    weight: Tensor | None
    weight_scale: Tensor | None  # per channel, None for float weights
    bits: int
    scale: Tensor
    bias: Tensor
    inputs: Source  # integers, behind its poolings
    summed: int  # so many of its sums are added up behind it
    name: str

    def integers(self, settings: Settings) -> FrozenBranch:
        """The same with integer weights; float weights take the scale into them."""
        if self.weight is None:
            largest = torch.full_like(self.scale, float(max(self.inputs.high, -self.inputs.low)))
            return FrozenBranch(None, 1, self.scale, largest)
        shape = (-1, *[1] * (self.weight.dim() - 1))
        if self.weight_scale is not None:
            scale = self.weight_scale.reshape(-1).expand(len(self.weight)).detach()
            weight = self.weight / scale.reshape(shape)
            weight = weight + (weight.round() - weight).detach()
            multiplier = self.scale * scale
            bits = self.bits
        else:
            real = self.weight * self.scale.reshape(shape)
            with torch.no_grad():
                flat = real.flatten(1)
                top = FLOAT_WEIGHT_BITS - 2 - torch.floor(_log2(flat.abs().amax(1)))
                total = self.summed * _largest(flat, self.inputs) + self.bias.abs() + 1
                room = EXACT_BITS - 2 - torch.ceil(torch.log2(total))
                fraction = torch.minimum(top, room).clamp(max=30)
            weight = round_ste(real * torch.exp2(fraction).reshape(shape))
            multiplier = torch.exp2(-fraction)
            bits = 1 + math.ceil(math.log2(weight.detach().abs().max().item() + 1))
        largest = self.summed * _largest(weight.detach().flatten(1), self.inputs)
        if largest.max() >= 2**EXACT_BITS:
            raise StbpError(
                f"the accumulator of '{self.name}' reaches {largest.max().item():.3g}, more than "
                f"the 2^{EXACT_BITS} that float32 holds exactly: use fewer weight bits."
            )
        return FrozenBranch(weight, bits, multiplier, largest)


def _fold(branch: Branch, step: Tensor | float, source: Source) -> _Folded:
    """Merge scales, normalisation and bias of one branch."""
    unit, low, high = source.unit, source.low, source.high
    for pool in branch.pools:
        low, high, unit = low * count(pool), high * count(pool), unit / count(pool)
    inputs, summed = Source(unit, low, high), math.prod(count(pool) for pool in branch.after)
    if branch.layer is None:
        one = torch.ones(1, device=step.device if isinstance(step, Tensor) else None)
        return _Folded(None, None, 1, one * unit / step, 0 * one, inputs, 1, branch.name)

    layer, channels = branch.layer, branch.layer.weight.shape[0]
    gain, shift = affine(branch.norm, channels, layer.weight.device)
    bias = shift if layer.bias is None else shift + gain * layer.bias
    if branch.inhibits:
        bias = 0 * bias  # it is that of the branch of spikes
    bits, weight = weight_bits(layer), quantized_weight(layer)
    scale = layer.quant_weight().scale if bits < 32 else None  # type: ignore[operator]
    if branch.after:  # the largest current is to be that of the largest sum
        signs = torch.where(gain < 0, -1.0, 1.0)
        weight = weight * signs.reshape(-1, *[1] * (weight.dim() - 1))
        gain = gain * signs
    gain = gain * unit / summed / step
    return _Folded(weight, scale, bits, gain, bias / step, inputs, summed, branch.name)


def weight_sum(layer: nn.Conv2d | nn.Linear) -> float:
    """Largest sum of the integer weights of one output, in magnitude; 0 for float weights."""
    if weight_bits(layer) == 32:
        return 0.0
    weight = layer.quant_weight()  # type: ignore[operator]
    integers = (weight.value.detach() / weight.scale.detach()).round().abs()
    return float(integers.flatten(1).sum(1).max())


def affine(
    norm: nn.modules.batchnorm._BatchNorm | None,
    channels: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """A normalisation in evaluation mode as `gain * x + shift` per channel."""
    if norm is None:
        one = torch.ones(channels, device=device, dtype=dtype)
        return one, 0 * one
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    td = norm.gain if isinstance(norm, _TDBatchNorm) else norm._modules.get("gain")
    if isinstance(td, _Gain):
        gain = gain * td.value
    shift = -gain * norm.running_mean
    if norm.affine:
        gain, shift = norm.weight * gain, norm.weight * shift + norm.bias
    return gain, shift


def _largest(weight: Tensor, inputs: Source) -> Tensor:
    """Largest magnitude of any partial sum of `weight [C, N]` times integers of a source."""
    ends = weight * inputs.low, weight * inputs.high
    positive = torch.maximum(*ends).clamp(min=0).sum(1)
    negative = (-torch.minimum(*ends)).clamp(min=0).sum(1)
    return torch.maximum(positive, negative)


def _log2(x: Tensor) -> Tensor:
    return torch.log2(x.clamp(min=2.0**-60))


def _digits(multiplier: Tensor, bits: int) -> Tensor:
    """Digits behind the point of a multiplier with `bits` significant bits, one for its sign."""
    return bits - 2 - torch.floor(_log2(multiplier.abs()))
