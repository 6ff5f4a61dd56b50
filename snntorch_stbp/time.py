"""Time: layers without state over whole sequences, coding of still images, population votes."""

from __future__ import annotations

from typing import Any

import snntorch as snn
from snntorch import spikegen
from torch import Tensor, nn

from .looking import recorded
from .norm import NeuNorm, _TDBatchNorm, normalize, normalize_repeated
from .sequence import is_repeated, repeat

# Layers that make the same of the same input, and whose result for one sample is all they do.
_PURE = (
    nn.modules.conv._ConvNd, nn.Linear, nn.Flatten,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd,
)  # fmt: skip
_KNOWN = ("torch", "brevitas", __name__.partition(".")[0])  # where nothing is drawn in them


class TimeDistributed(nn.Module):
    """A layer without state over `[T, B, ...]`: time is folded into the batch, the layer runs once.

    A convolution, linear layer, pooling or flattening of a sequence of one image (see
    `DirectCoding`) computes one step, and the result is presented at every step. One of a class of
    its own, or with a forward hook of its own, computes all steps: it may draw numbers.

    Args:
        layer: Any stateless module (or `nn.Sequential` of them) over a batch `[N, ...]`.
        norm: A normalisation of the result: one of this package (tdBN, NeuNorm), which sees the
            sequence, or a batch normalisation of torch, which sees time folded into the batch.

    Shapes:
        input `[T, B, ...]`; output `[T, B, ...]` with what `layer` makes of one sample.

    Raises:
        TypeError: If `layer` is no module, or holds a spiking neuron or a normalisation over
            sequences: those need the steps in order; when it runs, if `layer` returns anything but
            one tensor.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(f"TimeDistributed takes a layer, a torch.nn.Module, not {layer!r}")
        for name, module in layer.named_modules():
            if isinstance(module, (snn.SpikingNeuron, TimeDistributed, _TDBatchNorm, NeuNorm)):
                raise TypeError(
                    f"TimeDistributed folds time into the batch, but {type(module).__name__} "
                    f"{f'({name}) ' if name else ''}needs the sequence [T, B, ...]: put it behind, "
                    f"not inside"
                )
        self.layer = layer
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, then the normalisation, to the sequence `x`."""
        if x.dim() < 2:
            raise ValueError(
                f"TimeDistributed takes a sequence [T, B, ...], not the shape {tuple(x.shape)}"
            )
        return self.normalized(*self.projected(x))

    def projected(self, x: Tensor) -> tuple[Tensor, int]:
        """What `layer` makes of the sequence `x`: a sequence, and 0.

        If every step of it is the same one: that step, and the number of steps.
        """
        if is_repeated(x) and _pure(self.layer):
            return self._one_tensor(self.layer(x[0])), len(x)
        return self._one_tensor(self.layer(x.flatten(0, 1))).unflatten(0, x.shape[:2]), 0

    def _one_tensor(self, y: Any) -> Tensor:
        if isinstance(y, Tensor):
            return y
        raise TypeError(
            f"TimeDistributed takes layers that return one tensor [N, ...], but "
            f"{type(self.layer).__name__} returns a {type(y).__name__}"
        )

    def normalized(self, y: Tensor, repeats: int) -> Tensor:
        """What `forward` makes of the result of `projected`."""
        if self.norm is None:
            return repeat(y, repeats) if repeats else y
        return normalize_repeated(self.norm, y, repeats) if repeats else normalize(self.norm, y)


def _pure(layer: nn.Module) -> bool:
    """Whether `layer` makes the same of the same input: by its class, and whatever hooks it has."""
    hooks = (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values())
    places = (type(layer).__module__, *(getattr(hook, "__module__", "") for hook in hooks))
    return isinstance(layer, _PURE) and all(p.partition(".")[0] in _KNOWN for p in places)


class _Coding(nn.Module):
    """A still batch `[B, C, H, W]` (or `[B, F]`) -> a sequence; sequences pass through.

    Args:
        num_steps: Number of time steps `T`, at least 1.
        still_dims: Dimensions of a still batch: 4 for images, 2 for features.
        any_length: Let sequences of other lengths pass, too; `num_steps` is that of still batches.

    Raises:
        ValueError: If `num_steps` is no whole number from 1, or a sequence of another length comes
            in.
    """

    any_length = False

    def __init__(self, num_steps: int, still_dims: int = 4, any_length: bool = False) -> None:
        super().__init__()
        if not isinstance(num_steps, int) or isinstance(num_steps, bool):
            raise ValueError(f"num_steps is a whole number of time steps, not {num_steps!r}")
        if num_steps < 1:
            raise ValueError(f"a network runs for at least 1 time step, not {num_steps}")
        self.num_steps, self.still_dims = num_steps, still_dims
        self.any_length = any_length

    def forward(self, x: Tensor) -> Tensor:
        """Return the sequence `[T, B, ...]` of `x`."""
        if x.dim() == self.still_dims:
            return self.encode(x)
        steps = x.shape[0] if x.dim() == self.still_dims + 1 else 0
        if steps != self.num_steps and not (steps and self.any_length):
            wanted = "at least 1 step" if self.any_length else f"{self.num_steps} steps"
            raise ValueError(
                f"expected a still batch of {self.still_dims} dimensions or a sequence of "
                f"{wanted}, not the shape {tuple(x.shape)}"
            )
        return x

    def encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"num_steps={self.num_steps}" + (", any_length=True" if self.any_length else "")


class DirectCoding(_Coding):
    """Present the same image at every step (Wu 2019's encoding layer learns the spikes)."""

    def encode(self, x: Tensor) -> Tensor:
        """`[B, ...]` -> `[T, B, ...]`, without copying."""
        return repeat(x, self.num_steps)


class RateCoding(_Coding):
    """Bernoulli spikes whose probability is the intensity in [0, 1] (`snntorch.spikegen.rate`)."""

    def encode(self, x: Tensor) -> Tensor:
        """`[B, ...]` -> random spikes `[T, B, ...]`."""
        _check_intensities(self, x)
        return spikegen.rate(x, num_steps=self.num_steps)


class LatencyCoding(_Coding):
    """One spike per input, the earlier the brighter (`snntorch.spikegen.latency`, linear)."""

    def encode(self, x: Tensor) -> Tensor:
        """`[B, ...]` -> spikes `[T, B, ...]`, at most one per input."""
        _check_intensities(self, x)
        return spikegen.latency(x, num_steps=self.num_steps, linear=True, normalize=True)


def _check_intensities(coding: _Coding, x: Tensor) -> None:
    """Refuse what is no intensity: integers, which are counts or pixels, and NaN."""
    if not x.is_floating_point():
        raise ValueError(
            f"{type(coding).__name__} takes intensities in [0, 1], of floating point, not "
            f"{str(x.dtype)[6:]}: give pixels as x / 255"
        )
    if x.is_cpu and not recorded() and bool(x.isnan().any()):  # elsewhere a look would wait
        raise ValueError(f"{type(coding).__name__} takes intensities in [0, 1], not nan")


class PopulationVote(nn.Module):
    """Each class is the mean of its own group of output neurons (Wu 2019, section on decoding).

    Args:
        num_classes: Number of classes; the neurons are split into as many equal groups.

    Shapes:
        `[T, B, K * num_classes]` -> `[T, B, num_classes]`.

    Raises:
        ValueError: If there are no classes, or the neurons are no multiple of them.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"PopulationVote is for at least 1 class, not {num_classes}")
        self.num_classes = num_classes

    def forward(self, record: Tensor) -> Tensor:
        """Mean over each class's neurons."""
        neurons = record.shape[-1]
        if neurons % self.num_classes:
            raise ValueError(
                f"PopulationVote({self.num_classes}) takes a multiple of {self.num_classes} "
                f"neurons, not {neurons}"
            )
        return record.unflatten(-1, (self.num_classes, -1)).mean(-1)


def readout(record: Tensor) -> Tensor:
    """Scores `[B, classes]` of a record `[T, B, classes]`: its mean over time.

    Of spikes this is the firing rate; of currents it is the accumulated current over `T`.
    """
    return record.mean(0)
