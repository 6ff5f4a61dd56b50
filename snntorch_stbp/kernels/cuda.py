# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="assignment"
"""The neuron on a CUDA device: one Triton kernel per direction, one pass over memory each.

A program takes a block of neurons through all steps with their membrane potentials in registers
(in float32 for half-precision currents). The backward kernel computes the potentials again from the
currents before it walks back, so the forward kernel writes spikes and nothing else. Products and
sums are not contracted, so that spikes are those of the plain loop.

Importing this module needs Triton 3.3 or later (tuples in kernels).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rule import Rule

# Neurons of a program: 8 a thread, which load 16 bytes of half precision at a time. Best of seven
# shapes measured on an H200, see benchmarks/RESULTS.md.
BLOCK = 1024
WARPS = 4
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
def _forward(
    x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, n, x_step, channels, inner,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    MEMBRANE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    step = tl.full([], n, tl.int64)  # T * n may be beyond 32 bits
    x_step = tl.full([], x_step, tl.int64)  # n, or 0 for one step that is repeated
    channel = (at // inner) % channels
    beta = tl.load(beta_ptr + channel) if BETAS else tl.load(beta_ptr)
    threshold = tl.load(threshold_ptr + channel) if THRESHOLDS else tl.load(threshold_ptr)
    u = tl.load(x_ptr + at, mask=mask, other=0).to(beta.dtype)
    for t in tl.static_range(T):
        if t > 0:
            u = beta * u + tl.load(x_ptr + at + t * x_step, mask=mask, other=0).to(beta.dtype)
        spike = (u > threshold).to(beta.dtype)
        tl.store(spikes_ptr + at + t * step, spike.to(spikes_ptr.dtype.element_ty), mask=mask)
        if MEMBRANE:
            tl.store(potential_ptr + at + t * step, u, mask=mask)
        u = _kept(u, spike, threshold, RESET)


@triton.jit
def _backward(
    x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, current_ptr,
    d_beta_ptr, d_threshold_ptr, n, x_step, channels, inner,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    DETACH: tl.constexpr, CURVE: tl.constexpr, A: tl.constexpr, ROOT: tl.constexpr,
    CENTRE: tl.constexpr,
    MEMBRANE: tl.constexpr, LEARN_BETA: tl.constexpr, LEARN_THRESHOLD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    step = tl.full([], n, tl.int64)  # T * n may be beyond 32 bits
    x_step = tl.full([], x_step, tl.int64)  # n, or 0 for one step that is repeated
    channel = (at // inner) % channels
    beta = tl.load(beta_ptr + channel) if BETAS else tl.load(beta_ptr)
    threshold = tl.load(threshold_ptr + channel) if THRESHOLDS else tl.load(threshold_ptr)
    u = tl.load(x_ptr + at, mask=mask, other=0).to(beta.dtype)
    us = (u,)
    for t in tl.static_range(1, T):
        u = _kept(u, (u > threshold).to(beta.dtype), threshold, RESET)
        u = beta * u + tl.load(x_ptr + at + t * x_step, mask=mask, other=0).to(beta.dtype)
        us = us + (u,)  # noqa: RUF005  (no unpacking in Triton)
    d_carried = tl.zeros([BLOCK], beta.dtype)
    d_beta = tl.zeros([BLOCK], beta.dtype)
    d_threshold = tl.zeros([BLOCK], beta.dtype)
    for t in tl.static_range(T - 1, -1, -1):
        u = us[t]
        spike = (u > threshold).to(beta.dtype)
        d_spike = tl.load(spikes_ptr + at + t * step, mask=mask, other=0).to(beta.dtype)
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
        tl.store(current_ptr + at + t * step, d_u.to(current_ptr.dtype.element_ty), mask=mask)
        if t > 0:
            before = us[t - 1]
            fired = (before > threshold).to(beta.dtype)
            d_beta += d_u * _kept(before, fired, threshold, RESET)
        d_carried = beta * d_u
    if LEARN_BETA:
        tl.store(d_beta_ptr + at, d_beta, mask=mask)
    if LEARN_THRESHOLD:
        tl.store(d_threshold_ptr + at, d_threshold, mask=mask)


def forward(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
) -> tuple[Tensor, Tensor | None]:
    """Spikes, and membrane potentials if `membrane`, of currents `[T, N]` or `[T, rows, C, n]`."""
    spikes = x.new_empty(x.shape)
    potential = x.new_empty(x.shape, dtype=beta.dtype) if membrane else None
    n = x[0].numel()
    with torch.cuda.device_of(x):
        _forward[(triton.cdiv(n, BLOCK),)](
            x, beta, threshold, spikes, spikes if potential is None else potential,
            n, x.stride(0), *_channels(x), T=len(x), BETAS=beta.dim() > 0,
            THRESHOLDS=threshold.dim() > 0, RESET=rule.reset, MEMBRANE=membrane, BLOCK=BLOCK,
            num_warps=WARPS, enable_fp_fusion=False,
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
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of currents, decay and threshold; the equations are those of `cpu.backward`."""
    current = x.new_empty(x.shape)
    sums = [torch.empty_like(x[0], dtype=beta.dtype) if wanted else None for wanted in learned]
    n, surrogate = x[0].numel(), rule.surrogate
    with torch.cuda.device_of(x):
        _backward[(triton.cdiv(n, BLOCK),)](
            x, beta, threshold, spikes, spikes if potential is None else potential, current,
            *(current if s is None else s for s in sums), n, x.stride(0), *_channels(x), T=len(x),
            BETAS=beta.dim() > 0, THRESHOLDS=threshold.dim() > 0, RESET=rule.reset,
            DETACH=rule.detach_reset, CURVE=surrogate.curve, A=surrogate.parameter,
            ROOT=rule.root, CENTRE=surrogate.centre,
            MEMBRANE=potential is not None, LEARN_BETA=learned[0], LEARN_THRESHOLD=learned[1],
            BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    d_beta, d_threshold = (
        None if s is None else s.sum_to_size(value.shape)
        for s, value in zip(sums, (beta, threshold), strict=True)
    )
    return current, d_beta, d_threshold


def _channels(x: Tensor) -> tuple[int, int]:
    """Number of channels, and of neurons of one channel that lie side by side."""
    return (x.shape[2], x.shape[3]) if x.dim() == 4 else (1, 1)
