"""Batch normalisation and the neuron behind it on a CUDA device.

The kernels of `cuda` read what the normalisation reads, so that the currents are neither written
nor kept. Statistics and the way back through them are those of `cuda_moments` where it has them,
which is where channels lie side by side (channels-last), else torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..sequence import repeat
from . import cuda, cuda_moments
from .cuda_moments import Moments
from .layout import Layout
from .rule import Rule


class NormalizeAndFire(torch.autograd.Function):
    """As that of `normed`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor,
        neuron: tuple[Tensor, Tensor, Rule], eps: float, repeated: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Statistics, then spikes; keep the input."""
        beta, threshold, rule = neuron
        sequence = repeat(x, repeated) if repeated else x
        layout = Layout.of(sequence, len(weight))
        currents = layout.currents(sequence)
        sums = cuda.room_for_sums(currents, weight.dtype)
        if sums is None:
            found = _moments(x if repeated else x.flatten(0, 1), weight, bias, eps)
        else:
            found = cuda_moments.moments(_rows(currents, repeated), weight, bias, eps)
        normed = cuda.Normed(
            found.scale, found.shift, None if added is None else layout.flat(added), found.mean
        )
        beta, threshold = _aligned(beta), _aligned(threshold)
        fired, _ = cuda.forward(currents, beta, threshold, rule, False, normed)
        ctx.save_for_backward(x, added, weight, beta, threshold, *found)
        ctx.layout, ctx.rule, ctx.repeated, ctx.eps = layout, rule, repeated, eps
        ctx.set_materialize_grads(False)
        mean, variance = found.exact
        ctx.mark_non_differentiable(mean, variance)
        return layout.shaped(fired), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, spikes: Tensor | None, *_: Any) -> Any:
        """Through time and the surrogate, then through the normalisation."""
        if spikes is None:
            return (None,) * 7
        x, added, weight, beta, threshold = ctx.saved_tensors[:5]
        found = Moments(*ctx.saved_tensors[5:])
        layout, repeated = ctx.layout, bool(ctx.repeated)
        sequence = repeat(x, ctx.repeated) if repeated else x
        currents = layout.currents(sequence)
        sums = cuda.room_for_sums(currents, weight.dtype)
        normed = cuda.Normed(
            found.scale, found.shift, None if added is None else layout.flat(added), found.mean
        )
        d = cuda.backward(
            currents, beta, threshold, ctx.rule, layout.flat(spikes), None, (False, False),
            normed, total=repeated, sums=sums,
        )[0]  # fmt: skip
        if sums is None:
            d = layout.shaped(d)
            d_x, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
                d[0] if repeated else d.flatten(0, 1), x if repeated else x.flatten(0, 1),
                weight, None, None, found.mean, found.rate, True, ctx.eps, [True, True, True],
            )  # fmt: skip
            d_x = d_x if repeated else d_x.unflatten(0, x.shape[:2])
        else:
            d_x, d_weight, d_bias = cuda_moments.backward(
                _rows(d, False), _rows(currents, repeated), sums, found,
                keep=added is not None,
            )  # fmt: skip
            d, d_x = (layout.shaped(value.view_as(d)) for value in (d, d_x))
            d_x = d_x[0] if repeated else d_x
        return d_x, None if added is None else d, d_weight, d_bias, *[None] * 3


class Prepared:
    """As that of `normed`."""

    def __init__(
        self, x: Tensor, added: Tensor | None, statistics: tuple[Tensor, Tensor], weight: Tensor,
        bias: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, eps: float, repeated: int = 0,
    ) -> None:  # fmt: skip
        mean, variance = (value.double() for value in statistics)
        scale = weight.double() / (variance + eps).sqrt()
        self.scale, self.shift = scale.to(weight), (bias.double() - mean * scale).to(weight)
        self.beta, self.threshold, self.rule = _aligned(beta), _aligned(threshold), rule
        self.repeated = repeated

    def __call__(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The spikes, without a gradient."""
        sequence = repeat(x, self.repeated) if self.repeated else x
        layout = Layout.of(sequence, len(self.scale))
        normed = cuda.Normed(self.scale, self.shift, None if added is None else layout.flat(added))
        currents = layout.currents(sequence)
        fired, _ = cuda.forward(currents, self.beta, self.threshold, self.rule, False, normed)
        return layout.shaped(fired)


def _aligned(value: Tensor) -> Tensor:
    """One value, or one per channel of `[T, rows, C, inner]`."""
    return value.reshape([] if value.numel() == 1 else [-1, 1])


def _rows(currents: Tensor, repeated: int | bool) -> Tensor:
    """Currents `[T, rows, C, 1]`, or one step of them if it is repeated, as `[T * rows, C]`."""
    return (currents[:1] if repeated else currents).flatten(0, 1).squeeze(-1)


def _moments(samples: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Moments:
    """Those of samples in any layout, by torch."""
    mean, rate = torch.batch_norm_stats(samples, eps)
    scale = weight * rate.to(weight.dtype)
    variance = (rate.double() ** -2 - eps).clamp_(min=0)
    exact = torch.stack([mean.double(), variance])
    return Moments(mean, rate, scale, bias - mean.to(weight.dtype) * scale, exact)
