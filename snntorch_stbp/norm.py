r"""Threshold-dependent batch normalisation (tdBN) and NeuNorm, over sequences `[T, B, C, ...]`.

tdBN (H. Zheng et al., "Going deeper with directly-trained larger spiking neural networks",
AAAI 2021, arXiv:2011.05280, equations 5 and 6) takes its statistics per channel over time, batch
and space together, and scales what it normalises to the threshold of the neuron behind it:

    y = gamma * (alpha * V_th * (x - mean) / sqrt(var + eps)) + delta
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sequence import repeat


class _Gain(nn.Module):
    """The factor `alpha * threshold`; a child module, so that it outlives a conversion.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` replaces a batch normalisation by a new module
    but hands its children over, and `normalize` finds the factor there.
    """

    def __init__(self, alpha: float, threshold: float) -> None:
        super().__init__()
        self.alpha, self.threshold = alpha, threshold

    @property
    def value(self) -> float:
        return self.alpha * self.threshold

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:.4g}, threshold={self.threshold:.4g}"


class _TDBatchNorm(nn.modules.batchnorm._BatchNorm):
    """tdBN over `[T, B, C, ...]`, shared by the three dimensionalities.

    Args:
        num_features: Number of channels `C`.
        alpha: Scale relative to the threshold: 1, or `1 / sqrt(2)` on each of two branches that
            are added before one neuron (a residual block).
        threshold: Threshold `V_th` of the neuron that follows, in units of the membrane potential.
        eps, momentum, affine, track_running_stats: As in `torch.nn.BatchNorm2d`; `weight` is
            gamma (initially 1), `bias` is delta (initially 0).

    Raises:
        ValueError: If the input has the wrong number of dimensions or channels, or if `alpha` or
            `threshold` is not positive and finite.
    """

    _spatial: tuple[int, ...]  # admissible numbers of spatial dimensions

    def __init__(
        self,
        num_features: int,
        alpha: float = 1.0,
        threshold: float = 0.4,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if not (0 < alpha < math.inf and 0 < threshold < math.inf):
            raise ValueError(
                f"tdBN needs positive, finite alpha and threshold, not {alpha} and {threshold}"
            )
        self.gain = _Gain(alpha, threshold)
        self.prepared: dict[Any, Any] | None = None  # what `fire` made of it, inside of `constant`

    @property
    def alpha(self) -> float:
        """Scale relative to the threshold."""
        return self.gain.alpha

    @property
    def threshold(self) -> float:
        """Threshold of the neuron that follows."""
        return self.gain.threshold

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a sequence `[T, B, C, ...]`; the shape stays."""
        self._check_input_dim(input)
        folded = self._normalize(input.flatten(0, 1), self._factor(), self.running_var)
        return folded.unflatten(0, input.shape[:2])

    def repeated(self, step: Tensor, steps: int) -> Tensor:
        """Normalise `step`, `[B, C, ...]`, as the sequence that presents it at all `steps`.

        Returns:
            The sequence `[T, B, C, ...]`, its running statistics updated as by `forward`; all steps
            are one tensor in memory if a step has more than one value per channel.
        """
        count = step.numel() // self.num_features
        if count < 2 or steps == 1:  # one value has no variance
            return self(repeat(step, steps))
        self._check_input_dim(step[None])
        factor, variance = self._factor(), self.running_var
        if variance is None or not self.training or not self.track_running_stats:
            return repeat(self._normalize(step, factor, variance), steps)
        of_step = variance.clone()
        result = self._normalize(step, factor, of_step)
        # The running variance averages unbiased estimates, `n / (n - 1)` of the variance of `n`
        # values. That of `T` times as many, equal values is the same, and the estimate smaller.
        ratio = steps * (count - 1) / (steps * count - 1)
        with torch.no_grad():
            kept = variance * (1 - factor)
            variance.copy_((of_step - kept) * ratio + kept)
        return repeat(result, steps)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Count statistics of a batch in the running ones, as `forward` does in training.

        Args:
            mean: Of each channel.
            variance: Of each channel, the squares divided by `count`.
            count: Values per channel, at least 2.
        """
        if not self.track_running_stats:
            return
        factor = self._factor()
        unbiased = variance * (count / (count - 1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None:
                running.mul_(1 - factor).add_(value.to(running.dtype), alpha=factor)

    def _factor(self) -> float:
        """The weight of this batch in the running statistics, in training counted as one more."""
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum

    def _normalize(self, x: Tensor, factor: float, running_var: Tensor | None) -> Tensor:
        """Normalise samples `[N, C, ...]`."""
        gain = self.gain.value
        if self.affine:
            weight = self.weight * gain
        else:  # beside halves in float32, as statistics are
            exact = torch.promote_types(x.dtype, torch.float32)
            weight = x.new_full((self.num_features,), gain, dtype=exact)
        known = not self.training or self.track_running_stats  # as in torch
        return F.batch_norm(
            x,
            self.running_mean if known else None,
            running_var if known else None,
            weight,
            self.bias,
            self.training or self.running_mean is None,
            factor,
            self.eps,
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() - 3 not in self._spatial or input.shape[2] != self.num_features:
            wanted = " or ".join(f"[T, B, {self.num_features}{', *' * n}]" for n in self._spatial)
            raise ValueError(
                f"{type(self).__name__} takes {wanted}, not the shape {tuple(input.shape)}"
            )


class TDBatchNorm1d(_TDBatchNorm, nn.BatchNorm1d):
    """tdBN over `[T, B, C]` or `[T, B, C, L]`."""

    _spatial = (0, 1)


class TDBatchNorm2d(_TDBatchNorm, nn.BatchNorm2d):
    """tdBN over `[T, B, C, H, W]`."""

    _spatial = (2,)


class TDBatchNorm3d(_TDBatchNorm, nn.BatchNorm3d):
    """tdBN over `[T, B, C, D, H, W]`."""

    _spatial = (3,)


for _cls in (TDBatchNorm1d, TDBatchNorm2d, TDBatchNorm3d):
    _cls.__doc__ = f"{_cls.__doc__}\n\n{(_TDBatchNorm.__doc__ or '').split(chr(10), 2)[2]}"


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply `norm` to a sequence `[T, B, C, ...]`, whichever kind of normalisation it is.

    The normalisations of this package take the sequence; any other module sees time folded into
    the batch. Where that is what `convert_sync_batchnorm` made of a tdBN, the factor
    `alpha * threshold`, which that conversion drops, is put back.
    """
    if isinstance(norm, (_TDBatchNorm, NeuNorm)):
        return norm(x)
    y = norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    gain = norm._modules.get("gain")
    if isinstance(gain, _Gain):
        y = y * gain.value
        if isinstance(norm.bias, Tensor):
            y = y + ((1 - gain.value) * norm.bias).reshape(-1, *[1] * (x.dim() - 3))
    return y


def normalize_repeated(norm: nn.Module, step: Tensor, steps: int) -> Tensor:
    """`normalize` of the sequence that presents `step`, `[B, C, ...]`, at all `steps`."""
    if isinstance(norm, _TDBatchNorm):
        return norm.repeated(step, steps)
    return normalize(norm, repeat(step, steps))


class NeuNorm(nn.Module):
    """Neuron normalisation (Wu 2019, equations 10 to 13): lateral inhibition across channels.

    An auxiliary leaky neuron at each position averages the spikes of all channels,

        a[t] = k * a[t-1] + (1 - k) / C * sum over c of o[t, c]

    and what it holds, weighted per channel and position, is taken from the spikes that the next
    layer sees: `y[t, c] = o[t, c] - w[c] * a[t]`.

    Args:
        num_features: Channels `C`.
        image_size: Height and width of the feature map, `(H, W)`.
        decay: `k`, in [0, 1).

    Shapes:
        input and output `[T, B, C, H, W]`; the input is spikes, the output is real.
    """

    def __init__(self, num_features: int, image_size: tuple[int, int], decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of NeuNorm lies in [0, 1), not {decay}")
        self.decay = decay
        self.weight = nn.Parameter(torch.full((num_features, *image_size), 0.1))

    def forward(self, spikes: Tensor) -> Tensor:
        """Subtract the auxiliary neurons' potential from `spikes`."""
        if spikes.shape[2:] != self.weight.shape:
            raise ValueError(
                f"NeuNorm takes [T, B, {', '.join(map(str, self.weight.shape))}], "
                f"not the shape {tuple(spikes.shape)}"
            )
        drive = (1 - self.decay) * spikes.mean(dim=2, keepdim=True)
        held, record = torch.zeros_like(drive[0]), []
        for step in drive.unbind(0):
            held = self.decay * held + step
            record.append(held)
        return spikes - self.weight * torch.stack(record)
