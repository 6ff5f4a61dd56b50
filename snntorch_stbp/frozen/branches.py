"""Branches of a stage as integers: weight scales, normalisation, bias and poolings merged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import StbpError
from ..norm import _Gain, _TDBatchNorm
from ..rounded import quantized_weight, weight_bits
from .graph import Branch, count
from .grid import EXACT_BITS, round_ste

FLOAT_WEIGHT_BITS = 16
"""Most bits that the weights of a float network get on their grid."""


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
class Folded:
    """A branch as `scale * (weight (*) s) + bias`, not yet on grids."""

    weight: Tensor | None
    weight_scale: Tensor | None  # per channel, None for float weights
    bits: int
    scale: Tensor
    bias: Tensor
    inputs: Source  # integers, behind its poolings
    summed: int  # so many of its sums are added up behind it
    name: str

    def integers(self) -> FrozenBranch:
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
                top = FLOAT_WEIGHT_BITS - 2 - torch.floor(log2(flat.abs().amax(1)))
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


def fold_branch(
    branch: Branch, step: Tensor | float, source: Source, device: torch.device | None
) -> Folded:
    """Merge scales, normalisation and bias of one branch, of a stage on `device`."""
    unit, low, high = source.unit, source.low, source.high
    for pool in branch.pools:
        low, high, unit = low * count(pool), high * count(pool), unit / count(pool)
    inputs, summed = Source(unit, low, high), math.prod(count(pool) for pool in branch.after)
    if branch.layer is None:
        one = torch.ones(1, device=step.device if isinstance(step, Tensor) else device)
        return Folded(None, None, 1, one * unit / step, 0 * one, inputs, 1, branch.name)

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
    return Folded(weight, scale, bits, gain, bias / step, inputs, summed, branch.name)


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


def log2(x: Tensor) -> Tensor:
    """The logarithm of what may be zero."""
    return torch.log2(x.clamp(min=2.0**-60))
