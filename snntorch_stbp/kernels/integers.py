"""Neurons on integers as one operation on a CPU, `integers.c`, from the sums of their inputs on."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import compiled, native
from .layout import Layout


@dataclass(frozen=True)
class IntegerRule:
    """How neurons on integers compute, apart from their numbers per channel.

    Attributes:
        reset: `"zero"`, `"subtract"`, `"delayed"` or `"none"`.
        ages: Thresholds of a neuron, by the steps since its last reset.
        rounds: Whether currents are rounded.
        act_top: Currents are clipped to `[-act_top, act_top - 1]`; 0 for not at all.
        lift: Multiplies them then.
        grid: A potential is a multiple of it, if `levels`.
        levels: Potentials are `grid` times `-levels` to `levels - 1`; 0 for any.
        leaks: Whether what the leak leaves is rounded down.
        leak_half: Added before it is.
    """

    reset: str
    ages: int
    rounds: bool
    act_top: int
    lift: int
    grid: int
    levels: int
    leaks: bool
    leak_half: float


class _Rule(ctypes.Structure):
    """`rule` of integers.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("branches", "repeated", "rounds", "ages", "leaks")),
        *((name, ctypes.c_double) for name in ("act_top", "lift", "grid", "levels", "leak_half")),
    ]


def covers(sums: Sequence[Tensor], rule: IntegerRule) -> bool:
    """Whether `fire` can be had: one or two branches on a CPU, alike, and a compiler."""
    first = sums[0]
    return (
        len(sums) <= 2
        and all(a.shape == first.shape and a.dtype == first.dtype for a in sums)
        and first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and _library(first, rule) is not None
    )


def fire(
    sums: Sequence[Tensor], tables: Tensor, rule: IntegerRule, steps: int, membranes: bool
) -> tuple[Tensor, Tensor | None]:
    """Spikes, and if wanted membrane potentials, of neurons driven by sums.

    Args:
        sums: Of each branch, integers `[T, B, C, ...]`; `[1, B, C, ...]` where all steps are alike.
        tables: In the type of `sums`, `[rows, C]`: bias; what is added before, and the factor by
            which, currents are rounded; decay; a multiplier per branch; thresholds by age.
        rule: What else there is to know about the neurons.
        steps: Time steps `T`.
        membranes: Whether membrane potentials are wanted.

    Returns:
        Two tensors `[T, B, C, ...]` in the type and memory layout of the first of `sums`.
    """
    first, channels = sums[0], tables.shape[1]
    layout = Layout.of(first, channels)
    flat = [layout.flat(a) for a in sums]
    inner = flat[0].shape[3] if channels > 1 else flat[0].shape[1]
    shape = native.Shape(steps, flat[0][0].numel(), channels, inner, torch.get_num_threads())
    settings = _Rule(
        len(sums), len(first) == 1, rule.rounds, rule.ages, rule.leaks,
        rule.act_top, rule.lift, rule.grid, rule.levels, rule.leak_half,
    )  # fmt: skip
    spikes = first.new_empty((steps, *flat[0].shape[1:]))
    potentials = torch.empty_like(spikes) if membranes else None
    added, tables = flat[1] if len(flat) > 1 else None, tables.contiguous()
    pointers = map(native.pointer, (flat[0], added, tables, spikes, potentials))
    library = _library(first, rule)
    assert library is not None  # see `covers`
    if library.forward(ctypes.byref(shape), ctypes.byref(settings), *pointers):
        raise MemoryError("no memory for the state of a block of neurons")
    return layout.shaped(spikes), None if potentials is None else layout.shaped(potentials)


def _library(x: Tensor, rule: IntegerRule) -> ctypes.CDLL | None:
    reset = compiled.RESETS[rule.reset]
    return native.library("integers", ("STORED", native.STORED[x.dtype]), ("RESET", reset))
