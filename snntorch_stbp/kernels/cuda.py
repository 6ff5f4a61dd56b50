# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="assignment, var-annotated"
"""The neuron on a CUDA device: one Triton kernel per direction, one pass over memory each.

A program takes a block of neurons through all steps with their membrane potentials in registers
(in float32 for half-precision currents). The backward kernel computes the potentials again from the
currents before it walks back, so the forward kernel writes spikes and nothing else. On its way back
it asks for the gradients of steps ahead: no load may be moved in front of a store by the compiler,
which cannot know that they lie in different tensors, and every step would wait for its own.
Products and sums are not contracted, so that spikes are those of the plain loop.

Importing this module needs Triton 3.3 or later (tuples in kernels).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rule import Rule

# Neurons of a program: 8 a thread, which load 16 bytes of half precision at a time. Best of seven
# shapes measured on an H200, see benchmarks/RESULTS.md.
BLOCK = 1024
WARPS = 4
AHEAD = 4  # steps whose gradients are on their way while one is computed
# Of kernels that sum over what they walk through: programs on a multiprocessor, and time steps.
PROGRAMS = 8
LONGEST = 8
if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError(f"the neuron's kernels need Triton 3.3 or later, not {triton.__version__}")


@triton.jit
def _derivative(v, CURVE: tl.constexpr, A: tl.constexpr, ROOT: tl.constexpr):
    """The surrogate derivative; `ROOT` is sqrt(A), for the Gaussian sqrt(2 pi A)."""
    if CURVE == "rectangular":
        h = tl.where(tl.abs(v) < A / 2, 1.0, 0.0).to(v.dtype) / A
    elif CURVE == "polynomial":
        h = tl.maximum(ROOT / 2 - A / 4 * tl.abs(v), 0.0)
    elif CURVE == "sigmoid":
        e = tl.exp(-tl.abs(v) / A)
        h = e / ((1 + e) * (1 + e)) / A
    else:
        h = tl.exp(-v * v / (2 * A)) / ROOT
    return h


@triton.jit
def _kept(u, spike, threshold, RESET: tl.constexpr):
    """The membrane potential that goes on to the next step."""
    if RESET == "zero":
        u = u - spike * u
    elif RESET == "subtract":
        u = u - spike * threshold
    return u


@triton.jit
def _current(x, added, scale, shift, mask, NORMED: tl.constexpr, ADDED: tl.constexpr):
    """What lies at `x`, and the input currents of that step: normalised or not, plus others."""
    read = tl.load(x, mask=mask, other=0)
    current = read.to(scale.dtype)
    if NORMED:
        current = current * scale + shift
    if ADDED:
        current += tl.load(added, mask=mask, other=0).to(scale.dtype)
    return read, current


@triton.jit
def _forward(
    x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr, scale_ptr, shift_ptr,
    n, x_step, channels, inner,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    MEMBRANE: tl.constexpr, NORMED: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    step = tl.full([], n, tl.int64)  # T * n may be beyond 32 bits
    x_step = tl.full([], x_step, tl.int64)  # n, or 0 for one step that is repeated
    channel = (at // inner) % channels
    beta = tl.load(beta_ptr + channel) if BETAS else tl.load(beta_ptr)
    threshold = tl.load(threshold_ptr + channel) if THRESHOLDS else tl.load(threshold_ptr)
    scale, shift = beta, beta
    if NORMED:
        scale, shift = tl.load(scale_ptr + channel), tl.load(shift_ptr + channel)
    _, u = _current(x_ptr + at, added_ptr + at, scale, shift, mask, NORMED, ADDED)
    for t in tl.static_range(T):
        if t > 0:
            x, added = x_ptr + at + t * x_step, added_ptr + at + t * step
            _, current = _current(x, added, scale, shift, mask, NORMED, ADDED)
            u = beta * u + current
        spike = (u > threshold).to(beta.dtype)
        tl.store(spikes_ptr + at + t * step, spike.to(spikes_ptr.dtype.element_ty), mask=mask)
        if MEMBRANE:
            tl.store(potential_ptr + at + t * step, u, mask=mask)
        u = _kept(u, spike, threshold, RESET)


@triton.jit
def _block_backward(
    block, x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr, scale_ptr,
    shift_ptr, mean_ptr, current_ptr, d_beta_ptr, d_threshold_ptr, n, x_step, channels, inner,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    DETACH: tl.constexpr, CURVE: tl.constexpr, A: tl.constexpr, ROOT: tl.constexpr,
    CENTRE: tl.constexpr,
    MEMBRANE: tl.constexpr, LEARN_BETA: tl.constexpr, LEARN_THRESHOLD: tl.constexpr,
    NORMED: tl.constexpr, ADDED: tl.constexpr, TOTAL: tl.constexpr, SUMS: tl.constexpr,
    AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of neurons; sums over its steps of `d` and of `d (x - mean)`, `d` at currents."""
    at = tl.full([], block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    step = tl.full([], n, tl.int64)  # T * n may be beyond 32 bits
    x_step = tl.full([], x_step, tl.int64)  # n, or 0 for one step that is repeated
    channel = (at // inner) % channels
    beta = tl.load(beta_ptr + channel) if BETAS else tl.load(beta_ptr)
    threshold = tl.load(threshold_ptr + channel) if THRESHOLDS else tl.load(threshold_ptr)
    scale, shift, mean = beta, beta, beta
    if NORMED:
        scale, shift = tl.load(scale_ptr + channel), tl.load(shift_ptr + channel)
    if SUMS:
        mean = tl.load(mean_ptr + channel)
    read, u = _current(x_ptr + at, added_ptr + at, scale, shift, mask, NORMED, ADDED)
    reads, us = (read,), (u,)
    d_spikes = ()  # of the last step first
    for i in tl.static_range(AHEAD):
        ahead = spikes_ptr + at + (T - 1 - i) * step
        d_spikes = d_spikes + (tl.load(ahead, mask=mask, other=0),)  # noqa: RUF005
    for t in tl.static_range(1, T):
        u = _kept(u, (u > threshold).to(beta.dtype), threshold, RESET)
        x, added = x_ptr + at + t * x_step, added_ptr + at + t * step
        read, current = _current(x, added, scale, shift, mask, NORMED, ADDED)
        u = beta * u + current
        reads, us = reads + (read,), us + (u,)  # noqa: RUF005  (no unpacking in Triton)
    d_carried = tl.zeros([BLOCK], beta.dtype)
    d_beta = tl.zeros([BLOCK], beta.dtype)
    d_threshold = tl.zeros([BLOCK], beta.dtype)
    total = tl.zeros([BLOCK], beta.dtype)  # of all steps, which share one current if TOTAL
    d_sum, d_product = total, total
    for t in tl.static_range(T - 1, -1, -1):
        u = us[t]
        spike = (u > threshold).to(beta.dtype)
        if t >= AHEAD:
            ahead = spikes_ptr + at + (t - AHEAD) * step
            d_spikes = d_spikes + (tl.load(ahead, mask=mask, other=0),)  # noqa: RUF005
        d_spike = d_spikes[T - 1 - t].to(beta.dtype)
        if not DETACH:
            if RESET == "zero":
                d_spike = d_spike - d_carried * u
            elif RESET == "subtract":
                d_spike = d_spike - d_carried * threshold
        through = d_spike * _derivative(u - threshold - CENTRE, CURVE, A, ROOT)
        d_threshold -= through
        if RESET == "subtract":
            d_threshold -= d_carried * spike
        if RESET == "zero":
            d_carried = d_carried - d_carried * spike
        d_u = d_carried + through
        if MEMBRANE:
            d_u += tl.load(potential_ptr + at + t * step, mask=mask, other=0).to(beta.dtype)
        total = total + d_u if TOTAL else d_u
        if not TOTAL or t == 0:
            out = current_ptr + at + (0 if TOTAL else t * step)
            tl.store(out, total.to(current_ptr.dtype.element_ty), mask=mask)
            if SUMS:
                d_sum += total
                d_product += total * (reads[t].to(beta.dtype) - mean)
        if t > 0:
            before = us[t - 1]
            fired = (before > threshold).to(beta.dtype)
            d_beta += d_u * _kept(before, fired, threshold, RESET)
        d_carried = beta * d_u
    if LEARN_BETA:
        tl.store(d_beta_ptr + at, d_beta, mask=mask)
    if LEARN_THRESHOLD:
        tl.store(d_threshold_ptr + at, d_threshold, mask=mask)
    return d_sum, d_product


@triton.jit
def _backward(
    x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr, scale_ptr, shift_ptr,
    mean_ptr, current_ptr, d_beta_ptr, d_threshold_ptr, sums_ptr,
    n, x_step, channels, inner, blocks,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    DETACH: tl.constexpr, CURVE: tl.constexpr, A: tl.constexpr, ROOT: tl.constexpr,
    CENTRE: tl.constexpr,
    MEMBRANE: tl.constexpr, LEARN_BETA: tl.constexpr, LEARN_THRESHOLD: tl.constexpr,
    NORMED: tl.constexpr, ADDED: tl.constexpr, TOTAL: tl.constexpr, SUMS: tl.constexpr,
    CHANNELS: tl.constexpr, AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if SUMS:  # few programs, whose blocks have their channels at the same places
        d_sum = tl.zeros([BLOCK], mean_ptr.dtype.element_ty)
        d_product = d_sum
        for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
            more, product = _block_backward(
                block, x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr,
                scale_ptr, shift_ptr, mean_ptr, current_ptr, d_beta_ptr, d_threshold_ptr,
                n, x_step, channels, inner, T, BETAS, THRESHOLDS, RESET, DETACH, CURVE, A, ROOT,
                CENTRE, MEMBRANE, LEARN_BETA, LEARN_THRESHOLD, NORMED, ADDED, TOTAL, SUMS,
                AHEAD, BLOCK,
            )  # fmt: skip
            d_sum += more
            d_product += product
        out = sums_ptr + tl.program_id(0) * 2 * CHANNELS + tl.arange(0, CHANNELS)
        tl.store(out, tl.sum(tl.reshape(d_sum, [BLOCK // CHANNELS, CHANNELS]), axis=0))
        d_product = tl.reshape(d_product, [BLOCK // CHANNELS, CHANNELS])
        tl.store(out + CHANNELS, tl.sum(d_product, axis=0))
    else:
        _block_backward(
            tl.program_id(0), x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr,
            scale_ptr, shift_ptr, mean_ptr, current_ptr, d_beta_ptr, d_threshold_ptr,
            n, x_step, channels, inner, T, BETAS, THRESHOLDS, RESET, DETACH, CURVE, A, ROOT,
            CENTRE, MEMBRANE, LEARN_BETA, LEARN_THRESHOLD, NORMED, ADDED, TOTAL, SUMS,
            AHEAD, BLOCK,
        )  # fmt: skip


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
        _forward[(triton.cdiv(n, BLOCK),)](
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
        _backward[(blocks if sums is None else len(sums),)](
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
