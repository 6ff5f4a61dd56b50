"""Batch normalisation in training and the neuron behind it on a CUDA device.

Statistics and their gradients are torch's; between them, the kernels of `cuda` read what the
normalisation reads, so that the currents are neither written nor kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..sequence import repeat
from . import cuda
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
        samples = x if repeated else x.flatten(0, 1)
        mean, rate = torch.batch_norm_stats(samples, eps)
        scale = weight * rate.to(weight.dtype)
        shift = bias - mean.to(weight.dtype) * scale
        sequence = repeat(x, repeated) if repeated else x
        layout = Layout.of(sequence, len(weight))
        normed = cuda.Normed(scale, shift, None if added is None else layout.flat(added))
        beta, threshold = (v.reshape([] if v.numel() == 1 else [-1, 1]) for v in (beta, threshold))
        fired, _ = cuda.forward(layout.currents(sequence), beta, threshold, rule, False, normed)
        ctx.save_for_backward(x, added, weight, scale, shift, mean, rate, beta, threshold)
        ctx.layout, ctx.rule, ctx.repeated, ctx.eps = layout, rule, repeated, eps
        ctx.set_materialize_grads(False)
        variance = (rate.double() ** -2 - eps).clamp_(min=0)
        mean = mean.double()
        ctx.mark_non_differentiable(mean, variance)
        return layout.shaped(fired), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, spikes: Tensor | None, *_: Any) -> Any:
        """Through time and the surrogate, then through the normalisation."""
        if spikes is None:
            return (None,) * 7
        x, added, weight, scale, shift, mean, rate, beta, threshold = ctx.saved_tensors
        layout, repeated = ctx.layout, bool(ctx.repeated)
        sequence = repeat(x, ctx.repeated) if repeated else x
        normed = cuda.Normed(scale, shift, None if added is None else layout.flat(added))
        gradients = cuda.backward(
            layout.currents(sequence), beta, threshold, ctx.rule, layout.flat(spikes), None,
            (False, False), normed, total=repeated,
        )  # fmt: skip
        d = layout.shaped(gradients[0])
        d_x, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            d[0] if repeated else d.flatten(0, 1), x if repeated else x.flatten(0, 1),
            weight, None, None, mean, rate, True, ctx.eps, [True, True, True],
        )  # fmt: skip
        return (
            d_x if repeated else d_x.unflatten(0, x.shape[:2]),
            None if added is None else d,
            d_weight,
            d_bias,
            *[None] * 3,
        )
