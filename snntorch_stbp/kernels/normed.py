"""Batch normalisation and the neuron behind it as one operation: on a CPU `normed.c`, on a CUDA
device the kernels of `cuda`.

Between the two lies a tensor of currents that nobody else needs. Here it is never written: what is
kept for the backward pass is what the normalisation keeps anyway, its input.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import compiled, native
from .agreement import agrees
from .layout import Layout
from .rule import LONGEST, Rule

_log = logging.getLogger(__name__)


class Fired(NamedTuple):
    """What `normalize_and_fire` returns: spikes, and statistics per channel in float64."""

    spikes: Tensor
    mean: Tensor
    variance: Tensor


def covers(x: Tensor, rule: Rule, added: bool, repeated: int) -> bool:
    """Whether `normalize_and_fire` can be had: Triton, or a compiler and a type it knows."""
    if x.device.type == "cuda":
        few = (repeated or len(x)) <= LONGEST
        return few and x.is_floating_point() and _on_cuda() is not None
    return (
        x.device.type == "cpu"
        and x.dtype in native.STORED
        and bool(_library(x, rule, added, repeated))
    )


def normalize_and_fire(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    eps: float,
    repeated: int = 0,
) -> Fired:
    """Spikes of neurons driven by `x`, normalised by its own statistics per channel, plus `added`.

    The current is `weight (x - mean) / sqrt(variance + eps) + bias`. It is not rounded to the type
    of `x`, so that in half precision spikes are those of a more exact current.

    Args:
        x: `[T, B, C, ...]`; `[B, C, ...]` if it is `repeated`.
        added: A second current `[T, B, C, ...]` in the type of `x`, not for `repeated` ones.
        weight: Gain of the normalisation, `[C]`, in float32 (float64 for `x` of float64).
        bias: What is added behind it, `[C]`, in the same type.
        beta: Decay of the neuron, one value or one per channel, in the same type.
        threshold: Its threshold, likewise.
        rule: Reset and surrogate.
        eps: Added to the variance.
        repeated: Number of steps at which `x` is presented; 0 for a sequence.

    Returns:
        Spikes `[T, B, C, ...]` in the type and memory layout of `x`, and the mean and the (biased)
        variance of each channel over all steps, which have no gradient. Differentiable once.
    """
    neuron = (beta, threshold, rule)
    operation = _NormalizeAndFire if x.device.type == "cpu" else _on_cuda()
    return Fired(*operation.apply(x, added, weight, bias, neuron, eps, repeated))


def prepare(
    x: Tensor, added: Tensor | None, statistics: tuple[Tensor, Tensor], *values: Any
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`normalize_and_fire` with known statistics; see `Prepared`."""
    if x.device.type == "cuda":
        from . import cuda_normed

        return cuda_normed.Prepared(x, added, statistics, *values)
    return Prepared(x, added, statistics, *values)


class Prepared:
    """`normalize_and_fire` with known statistics, for inputs of one kind; here on a CPU.

    Args:
        x, added, repeated: An input of that kind: its type, its steps, whether a second one comes.
        statistics: Mean and variance per channel.
        weight, bias, beta, threshold, rule, eps: As of `normalize_and_fire`.
    """

    def __init__(
        self, x: Tensor, added: Tensor | None, statistics: tuple[Tensor, Tensor], weight: Tensor,
        bias: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, eps: float, repeated: int = 0,
    ) -> None:  # fmt: skip
        self.library = _library(x, rule, added is not None, repeated)
        self.channels, self.repeated = len(weight), repeated
        _, shape = self._shape(x)
        self.values = _tables(self.library, shape, statistics, weight, bias, beta, threshold, eps)

    def __call__(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The spikes, without a gradient."""
        layout, shape = self._shape(x)
        flat = layout.flat(x[None] if self.repeated else x)
        return layout.shaped(_fire(self.library, shape, layout, flat, added, self.values))

    def _shape(self, x: Tensor) -> tuple[Layout, native.Shape]:
        return _shape(x[None] if self.repeated else x, self.repeated or len(x), self.channels)


@cache
def _on_cuda() -> Any:
    """The operation on a CUDA device, or `None` without Triton, or where it does not work."""
    try:
        from .cuda_normed import NormalizeAndFire
    except ImportError as error:
        _log.debug("tdBN and neuron on CUDA are two: %s", error)
        return None
    return _trusted(NormalizeAndFire, "cuda")


def _trusted(operation: Any, device: str) -> Any:
    """`operation`, if it agrees with those it replaces; else `None`, and a warning."""
    try:
        problem = None if agrees(operation, device) else "results differ from torch's"
    except Exception as error:  # whatever a compiler or a driver raises
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return operation
    _log.warning("tdBN and neuron are computed one after the other on %s (%s)", device, problem)
    return None


class _NormalizeAndFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, neuron: Any,
        eps: float, repeated: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Statistics, then spikes; keep the input."""
        beta, threshold, rule = neuron
        ctx.save_for_backward(x, added)
        sequence = x[None] if repeated else x
        layout, shape = _shape(sequence, repeated or len(x), len(weight))
        flat = layout.flat(sequence)
        count = flat.numel() // len(weight)
        library = _library(x, rule, added is not None, repeated)

        found = flat.new_empty((len(weight), 2), dtype=torch.float64)
        _call(library.statistics, shape, flat, found)
        mean, variance = found.unbind(1)
        statistics = (mean, variance)
        values = _tables(library, shape, statistics, weight, bias, beta, threshold, eps)
        spikes = _fire(library, shape, layout, flat, added, values)

        ctx.shape, ctx.layout, ctx.rule, ctx.library = shape, layout, rule, library
        ctx.values, ctx.count = values, count
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, variance)
        return layout.shaped(spikes), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, spikes: Tensor | None, *_: Any) -> Any:
        """Through time and the surrogate as in `cpu.backward`, then through the statistics."""
        if spikes is None:
            return (None,) * 7
        x, added = ctx.saved_tensors
        layout, values = ctx.layout, ctx.values
        flat = layout.flat(x if x.dim() == spikes.dim() else x[None])
        others = None if added is None else layout.flat(added)
        sums = flat.new_empty((values.shape[1], 2), dtype=torch.float64)
        d = torch.empty_like(flat)
        _call(
            ctx.library.backward, ctx.shape, flat, others, values, layout.flat(spikes), d, sums,
            *compiled.numbers(ctx.rule),
        )  # fmt: skip
        scale, _, _, _, rate, offset = values.double()
        alone, times = sums.unbind(1)
        slope = -scale * rate * times / ctx.count
        level = -scale * (alone + offset * times) / ctx.count
        result = torch.empty_like(flat) if added is not None else d
        coefficients = torch.stack([scale, slope, level]).to(values.dtype)
        _call(ctx.library.settle, ctx.shape, flat, d, coefficients, result)
        d_x = layout.shaped(result)
        return (
            d_x if x.dim() == spikes.dim() else d_x[0],
            None if added is None else layout.shaped(d),
            times.to(values.dtype),
            alone.to(values.dtype),
            *[None] * 3,
        )


def _shape(sequence: Tensor, steps: int, channels: int) -> tuple[Layout, native.Shape]:
    """How `sequence` lies in memory, and what the C functions want to know of it."""
    layout = Layout.of(sequence, channels)
    neurons = math.prod(layout.view)
    return layout, native.Shape(steps, neurons, channels, layout.view[-1], torch.get_num_threads())


def _tables(
    library: Any, shape: native.Shape, statistics: tuple[Tensor, Tensor], weight: Tensor,
    bias: Tensor, beta: Tensor, threshold: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """The tables of `normed.c`, `[6, C]`."""
    values = weight.new_empty((6, len(weight)))
    mean, variance = (value.double() for value in statistics)
    rows = [v.contiguous() for v in (mean, variance, weight, bias, beta, threshold)]
    many = (float(v.numel() > 1) for v in (beta, threshold))
    _call(library.prepare, shape, *rows, values, *many, eps)
    return values


def _fire(
    library: Any, shape: native.Shape, layout: Layout, flat: Tensor, added: Tensor | None,
    values: Tensor,
) -> Tensor:  # fmt: skip
    """Spikes `[T, rows, C, inner]`."""
    others = None if added is None else layout.flat(added)
    spikes = flat.new_empty((shape.steps, *flat.shape[1:]))
    _call(library.forward, shape, flat, others, values, spikes)
    return spikes


def _library(x: Tensor, rule: Rule, added: bool, repeated: int) -> Any:
    return native.library(
        "normed",
        *compiled.defines(x, rule, repeated or len(x)),
        ("ADDED", int(added)),
        ("REPEATED", int(repeated > 0)),
    )


def _call(function: Any, shape: native.Shape, *arguments: Tensor | float | None) -> None:
    values = [
        ctypes.c_double(a) if isinstance(a, (int, float)) else native.pointer(a) for a in arguments
    ]
    if function(ctypes.byref(shape), *values):
        raise MemoryError("no memory for the state of a block of neurons")
