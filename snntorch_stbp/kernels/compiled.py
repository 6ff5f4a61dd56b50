"""The neuron on a CPU as machine code: `neuron.c`, a library for each kind of neuron.

Where `native` cannot compile it `cpu` computes instead, with the same spikes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import surrogate
from . import cpu, native
from .rule import Rule

RESETS = {"none": 0, "zero": 1, "subtract": 2, "delayed": 3}
CURVES = {name: number for number, name in enumerate(surrogate.CURVES)}


MOST_AT_ONCE = 20  # steps whose membrane potentials are kept in registers; 32 were too many


@cache
def _at_once(steps: int) -> int:
    """The largest divisor of `steps` that is not above that."""
    return max(n for n in range(1, MOST_AT_ONCE + 1) if steps % n == 0)


def defines(x: Tensor, rule: Rule, steps: int) -> tuple[tuple[str, int], ...]:
    """What `neuron.h` wants to be defined."""
    return (
        ("STEPS", _at_once(steps)),
        ("STORED", native.STORED[x.dtype]),
        ("RESET", RESETS[rule.reset]),
        ("DETACH", int(rule.detach_reset)),
        ("CURVE", CURVES[rule.surrogate.curve]),
    )


def numbers(rule: Rule) -> tuple[float, float, float]:
    """What the surrogate derivative in `neuron.h` needs: width, root and centre."""
    return rule.surrogate.parameter, rule.root, rule.surrogate.centre


class _Sequence(ctypes.Structure):
    """`sequence` of neuron.c."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("steps", "n", "x_step", "channels", "inner", "betas", "thresholds", "threads")
    ]


def forward(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
) -> tuple[Tensor, Tensor | None]:
    """As `cpu.forward`."""
    library = _library(x, beta, rule, membrane, learned=False)
    if library is None:
        return cpu.forward(x, beta, threshold, rule, membrane)
    spikes = x.new_empty(x.shape)
    potential = x.new_empty(x.shape, dtype=beta.dtype) if membrane else None
    _call(library, "forward", x, beta, threshold, (x, beta, threshold, spikes, potential))
    return spikes, potential


def backward(
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    spikes: Tensor,
    potential: Tensor | None,
    learned: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `cpu.backward`."""
    library = _library(x, beta, rule, potential is not None, any(learned))
    if library is None:
        return cpu.backward(x, beta, threshold, rule, spikes, potential, learned)
    current = x.new_empty(x.shape)
    sums = [x.new_empty(x.shape[1:], dtype=beta.dtype) if any(learned) else None for _ in learned]
    tensors = (x, beta, threshold, spikes, potential, current, *sums)
    _call(library, "backward", x, beta, threshold, tensors, *numbers(rule))
    d_beta, d_threshold = (
        s.sum_to_size(value.shape) if wanted and s is not None else None
        for s, value, wanted in zip(sums, (beta, threshold), learned, strict=True)
    )
    return current, d_beta, d_threshold


def _library(
    x: Tensor, beta: Tensor, rule: Rule, membrane: bool, learned: bool
) -> ctypes.CDLL | None:
    """The library for one kind of neuron, or `None` where there is none."""
    if x.dtype not in native.STORED or beta.dtype != torch.promote_types(x.dtype, torch.float32):
        return None
    return native.library(
        "neuron",
        *defines(x, rule, x.shape[0]),
        ("MEMBRANE", int(membrane)),
        ("LEARNED", int(learned)),
    )


def _call(
    library: ctypes.CDLL,
    name: str,
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    tensors: Sequence[Tensor | None],
    *values: float,
) -> None:
    """Call a function of `library` with the shape of `x`, `tensors`, which are contiguous (but for
    an `x` of one repeated step), and `values`.
    """
    function = _function(library, name, len(tensors), len(values))
    sequence = _sequence(
        x.shape, x.stride(0), beta.numel(), threshold.numel(), torch.get_num_threads()
    )
    pointers = [None if t is None else t.data_ptr() for t in tensors]
    if function(sequence, *pointers, *values):
        raise MemoryError("no memory for the state of a block of neurons")


@cache
def _function(library: ctypes.CDLL, name: str, pointers: int, values: int) -> Any:
    """A function that takes a sequence, pointers and numbers as Python has them: without objects of
    `ctypes` made for each, a call from cold caches took a fifth less.
    """
    function = getattr(library, name)
    function.argtypes = [ctypes.POINTER(_Sequence), *[ctypes.c_void_p] * pointers]
    function.argtypes += [ctypes.c_double] * values
    return function


@lru_cache(maxsize=1024)
def _sequence(shape: torch.Size, x_step: int, betas: int, thresholds: int, threads: int) -> Any:
    """`_Sequence` of a sequence, made once for all that are alike."""
    channels, inner = shape[2:] if len(shape) == 4 else (1, 1)
    n = math.prod(shape[1:])
    return ctypes.pointer(
        _Sequence(shape[0], n, x_step, channels, inner, betas, thresholds, threads)
    )
