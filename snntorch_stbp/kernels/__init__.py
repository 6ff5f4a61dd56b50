"""The neuron over a whole sequence as one differentiable operation with a hand-written backward.

`integrate` computes what the plain loop of `snntorch_stbp.Leaky` computes: of finite currents the
same spikes bit for bit, and the same gradient. It keeps one tensor for the backward pass, its own
input; membrane potentials are computed again from it. On a CPU `compiled` is a loop of machine code
per direction; `cpu` needs no compiler, and walks through the sequence by torch operations on blocks
that stay in the processor's cache. `cuda` is one Triton kernel per direction. `normed` and
`cuda_normed` are the same behind a normalisation (`snntorch_stbp.fire`), whose statistics on a GPU
are `cuda_moments`; `integers` is the neuron of `lowering`, and `int8` the layers in front of
neurons, where weights are quantized.

    with kernels.backend("loop"): ...        the plain loop of `Leaky`, for comparison
    SNNTORCH_STBP_KERNELS=loop python ...    the same for a whole process
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from ..looking import recorded
from ..sequence import is_repeated, repeat
from ..surrogate import Surrogate
from . import compiled, cpu
from .layout import Layout, per_channel
from .rule import LONGEST, Rule

__all__ = ["BACKENDS", "Rule", "backend", "compiles", "covers", "integrate"]

BACKENDS = ("compiled", "fused", "loop")
VARIABLE = "SNNTORCH_STBP_KERNELS"
FLOATS = {torch.float32, torch.float64, torch.bfloat16, torch.float16}


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(
            f"unknown backend {name!r} of the neuron: choose one of {', '.join(BACKENDS)}"
        )
    return name


def _at_import() -> str:
    try:
        return _checked(os.environ.get(VARIABLE) or "compiled")
    except ValueError as error:
        raise UsageError(f"{VARIABLE}: {error}.") from error


_backend = _at_import()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute neurons by `name` inside the `with` block, in all threads of the process.

    Args:
        name: `"compiled"`, the kernels wherever they cover the neuron, on a CPU machine code where
            the machine has a C compiler (half a second, once for each kind of neuron); `"fused"`,
            the same, but without a compiler; `"loop"`, the plain loop of torch operations. The
            environment variable SNNTORCH_STBP_KERNELS sets what holds outside of any block; it is
            read once, at import.

    Raises:
        ValueError: For an unknown name.
    """
    global _backend
    before, _backend = _backend, _checked(name)
    try:
        yield
    finally:
        _backend = before


def compiles() -> bool:
    """Whether what is computed on a CPU is to be compiled, where it can be."""
    return _backend == "compiled"


def covers(x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: Any) -> bool:
    """Whether `integrate` computes this neuron; where not, the plain loop does.

    It does for real tensors on a CPU, or of up to `LONGEST` steps on a CUDA device with Triton,
    `beta` and `threshold` of one value or one per channel, and the surrogates of this package.
    Under `torch.compile` the loop is left to the compiler, which fuses it on its own.
    """
    return (
        _backend != "loop"
        and type(x) is Tensor
        and x.dtype in FLOATS
        and x.numel() > 0
        and isinstance(spike_grad, Surrogate)
        and (beta.numel() == 1 or per_channel(beta, x))
        and (threshold.numel() == 1 or per_channel(threshold, x))
        and (x.is_cpu or len(x) <= LONGEST)
        and not recorded()
        and _device(x) is not None
    )


def integrate(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool = False
) -> tuple[Tensor, Tensor]:
    """Spikes (and membrane potentials before reset) of a sequence of input currents.

    Args:
        x: Currents `[T, B, ...]`. Half precision is integrated in float32.
        beta: Decay in [0, 1], one value or one per channel (aligned with `[B, C, ...]`).
        threshold: Threshold; shapes as `beta`.
        rule: Reset and surrogate.
        membrane: Return the membrane potential too.

    Returns:
        Spikes in the type and memory layout of `x`, and the membrane potential `u[t]` (float32
        for half-precision `x`) if `membrane`, else `None`.
        Of finite currents the spikes are bit for bit those of the plain loop. The operation is
        differentiable once; `backend("loop")` has second derivatives.
    """
    spikes, potential = _Integrate.apply(x, _flat(beta), _flat(threshold), rule, membrane)
    return spikes, potential


def _flat(value: Tensor) -> Tensor:
    return (
        value
        if value.dim() == 0
        else value.reshape([] if value.numel() == 1 else [-1]).contiguous()
    )


def _device(x: Tensor) -> Any:
    """The module that computes on the device of `x`, if one does."""
    if x.is_cpu:
        return compiled if compiles() else cpu
    return _triton() if x.is_cuda else None


@cache
def _triton() -> Any:
    """The Triton kernels, or `None` where Triton is not installed or too old."""
    try:
        from . import cuda
    except ImportError as error:
        logging.getLogger(__name__).debug("neurons on CUDA take the plain loop: %s", error)
        return None
    return cuda


class _Integrate(torch.autograd.Function):
    """The sequence as one operation; see `integrate`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Integrate and fire; keep the input."""
        layout = Layout.of(x, max(beta.numel(), threshold.numel()))
        # One step of a repeated sequence, which is a dense piece of memory as others are.
        ctx.save_for_backward(x[0] if is_repeated(x) else x, beta, threshold)
        ctx.steps = x.shape[0]
        ctx.layout, ctx.rule, ctx.kernels = layout, rule, _device(x)
        ctx.set_materialize_grads(False)
        spikes, potential = ctx.kernels.forward(
            layout.currents(x), layout.value(beta), layout.value(threshold), rule, membrane
        )
        return layout.shaped(spikes), layout.shaped(potential) if membrane else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, spikes: Tensor | None, potential: Tensor | None = None) -> Any:
        """Backpropagation through time, through space and, unless detached, through the reset."""
        x, beta, threshold = ctx.saved_tensors
        layout: Layout = ctx.layout
        if x.dim() < len(layout.inverse):
            x = repeat(x, ctx.steps)
        gradients = ctx.kernels.backward(
            layout.currents(x),
            layout.value(beta),
            layout.value(threshold),
            ctx.rule,
            layout.flat(torch.zeros_like(x) if spikes is None else spikes),
            None if potential is None else layout.flat(potential),
            ctx.needs_input_grad[1:3],
        )
        current, *values = gradients
        values = [
            None if v is None else v.reshape(beta.shape if i == 0 else threshold.shape)
            for i, v in enumerate(values)
        ]
        return layout.shaped(current), *values, None, None
