"""The neuron on a CUDA device: one Triton kernel per direction, one pass over memory each.

Importing this module needs Triton 3.3 or later.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .cuda_kernels import lif_backward, lif_forward
from .rule import Rule

# Neurons of a program: 8 a thread, which load 16 bytes of half precision at a time. Best of seven
# shapes measured on an H200, see benchmarks/RESULTS.md.
BLOCK = 1024
WARPS = 4
AHEAD = 4  # steps whose gradients are on their way while one is computed
# Of kernels that sum over what they walk through: programs on a multiprocessor, and time steps.
PROGRAMS = 8
LONGEST = 8


class Normed(NamedTuple):
    """What lies between the tensor that is read and the currents, per channel in float32.

    Args:
        scale, shift: The current is `scale x + shift`, `[C]`.
        added: A second current, as `x` lies, or `None`.
        mean: Of `x`, `[C]`, where sums over the gradient are wanted.
    """

    scale: Tensor
    shift: Tensor
    added: Tensor | None
    mean: Tensor | None = None


def forward(
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    membrane: bool,
    normed: Normed | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Spikes, and membrane potentials if `membrane`, of currents `[T, N]` or `[T, rows, C, n]`."""
    spikes = x.new_empty(x.shape)
    potential = x.new_empty(x.shape, dtype=beta.dtype) if membrane else None
    n = x[0].numel()
    with torch.cuda.device_of(x):
        lif_forward[(triton.cdiv(n, BLOCK),)](
            x, beta, threshold, spikes, spikes if potential is None else potential,
            *_pointers(x, normed), n, x.stride(0), *_channels(x), T=len(x), BETAS=beta.dim() > 0,
            THRESHOLDS=threshold.dim() > 0, RESET=rule.reset, MEMBRANE=membrane,
            **_kind(normed), BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return spikes, potential


def backward(
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    spikes: Tensor,
    potential: Tensor | None,
    learned: tuple[bool, bool],
    normed: Normed | None = None,
    total: bool = False,
    sums: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of currents, decay and threshold; the equations are those of `cpu.backward`.

    With `total` the gradient of currents is that of the one step, `[1, ...]`, which `x` repeats.
    With `sums`, those of `room_for_sums`, parts of sums over the gradient `d` of currents go there:
    per channel of `d`, and of `d (x - mean)` with the mean of `normed`.
    """
    current = x.new_empty((1 if total else len(x), *x.shape[1:]))
    learning = [torch.empty_like(x[0], dtype=beta.dtype) if wanted else None for wanted in learned]
    n, surrogate = x[0].numel(), rule.surrogate
    channels, inner = _channels(x)
    blocks = triton.cdiv(n, BLOCK)
    with torch.cuda.device_of(x):
        lif_backward[(blocks if sums is None else len(sums),)](
            x, beta, threshold, spikes, spikes if potential is None else potential,
            *_pointers(x, normed), x if normed is None or normed.mean is None else normed.mean,
            current, *(current if s is None else s for s in learning),
            current if sums is None else sums, n, x.stride(0), channels, inner, blocks, T=len(x),
            BETAS=beta.dim() > 0, THRESHOLDS=threshold.dim() > 0, RESET=rule.reset,
            DETACH=rule.detach_reset, CURVE=surrogate.curve, A=surrogate.parameter,
            ROOT=rule.root, CENTRE=surrogate.centre,
            MEMBRANE=potential is not None, LEARN_BETA=learned[0], LEARN_THRESHOLD=learned[1],
            **_kind(normed), TOTAL=total, SUMS=sums is not None,
            CHANNELS=1 if sums is None else channels, AHEAD=min(AHEAD, len(x)),
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    d_beta, d_threshold = (
        None if s is None else s.sum_to_size(value.shape)
        for s, value in zip(learning, (beta, threshold), strict=True)
    )
    return current, d_beta, d_threshold


def room_for_sums(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Where `backward` puts sums, `[programs, 2, C]`; `None` where it cannot make them.

    It can where channels of `x`, `[T, rows, C, inner]`, lie side by side and every block has whole
    rows of them, and where the steps leave registers for it.
    """
    channels, inner = _channels(x)
    if inner != 1 or channels == 1 or BLOCK % channels or len(x) > LONGEST:
        return None
    programs = min(triton.cdiv(x[0].numel(), BLOCK), PROGRAMS * processors(x.device))
    return x.new_empty(programs, 2, channels, dtype=dtype)


def processors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def _pointers(x: Tensor, normed: Normed | None) -> tuple[Tensor, Tensor, Tensor]:
    """Second current, scale and shift; where there are none, a tensor that is not read."""
    if normed is None:
        return x, x, x
    return x if normed.added is None else normed.added, normed.scale, normed.shift


def _kind(normed: Normed | None) -> dict[str, bool]:
    return {"NORMED": normed is not None, "ADDED": normed is not None and normed.added is not None}


def _channels(x: Tensor) -> tuple[int, int]:
    """Number of channels, and of neurons of one channel that lie side by side."""
    return (x.shape[2], x.shape[3]) if x.dim() == 4 else (1, 1)
