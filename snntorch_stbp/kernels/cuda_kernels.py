# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="assignment, var-annotated"
"""The Triton kernels of the neuron, which `cuda` starts.

A program takes a block of neurons through all steps with their membrane potentials in registers
(in float32 for half-precision currents). The backward kernel computes the potentials again from the
currents before it walks back, so the forward kernel writes spikes and nothing else. On its way back
it asks for the gradients of steps ahead: no load may be moved in front of a store by the compiler,
which cannot know that they lie in different tensors, and every step would wait for its own.
Products and sums are not to be contracted, so that spikes are those of the plain loop.
"""

from __future__ import annotations

import triton
import triton.language as tl

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):  # tuples in kernels
    raise ImportError(f"the neuron's kernels need Triton 3.3 or later, not {triton.__version__}")


@triton.jit
def _derivative(v, CURVE: tl.constexpr, A: tl.constexpr, ROOT: tl.constexpr):
    """The surrogate derivative; for `ROOT` see `rule.py`."""
    if CURVE == "rectangular":
        h = tl.where(tl.abs(v) < A / 2, 1.0, 0.0).to(v.dtype) / A
    elif CURVE == "polynomial":
        h = tl.maximum(ROOT / 2 - A / 4 * tl.abs(v), 0.0)
    elif CURVE == "sigmoid":
        e = tl.exp(-tl.abs(v) / A)
        h = e / ((1 + e) * (1 + e)) / A
    elif CURVE == "gaussian":
        h = tl.exp(-v * v / (2 * A)) / ROOT
    elif CURVE == "fast_sigmoid":
        h = 1 / ((A * tl.abs(v) + 1) * (A * tl.abs(v) + 1))
    else:
        h = A / 2 / (1 + ROOT * v * (ROOT * v))
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
def _next(beta, kept, current, threshold, RESET: tl.constexpr):
    """The next membrane potential, of what was kept of the one before."""
    u = beta * kept + current
    if RESET == "delayed":
        u = u - (kept > threshold).to(u.dtype) * threshold
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
def lif_forward(
    x_ptr, beta_ptr, threshold_ptr, spikes_ptr, potential_ptr, added_ptr, scale_ptr, shift_ptr,
    n, x_step, channels, inner,
    T: tl.constexpr, BETAS: tl.constexpr, THRESHOLDS: tl.constexpr, RESET: tl.constexpr,
    MEMBRANE: tl.constexpr, NORMED: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of neurons: spikes, and membrane potentials if `MEMBRANE`."""
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
            u = _next(beta, u, current, threshold, RESET)
        elif RESET == "delayed":
            u = _next(beta, tl.zeros_like(u), u, threshold, RESET)
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
    if RESET == "delayed":
        u = _next(beta, tl.zeros_like(u), u, threshold, RESET)
    reads, us = (read,), (u,)
    d_spikes = ()  # of the last step first
    for i in tl.static_range(AHEAD):
        ahead = spikes_ptr + at + (T - 1 - i) * step
        d_spikes = d_spikes + (tl.load(ahead, mask=mask, other=0),)  # noqa: RUF005
    for t in tl.static_range(1, T):
        u = _kept(u, (u > threshold).to(beta.dtype), threshold, RESET)
        x, added = x_ptr + at + t * x_step, added_ptr + at + t * step
        read, current = _current(x, added, scale, shift, mask, NORMED, ADDED)
        u = _next(beta, u, current, threshold, RESET)
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
            elif RESET == "subtract" or RESET == "delayed":
                d_spike = d_spike - d_carried * threshold
        through = d_spike * _derivative(u - threshold - CENTRE, CURVE, A, ROOT)
        d_threshold -= through
        if RESET == "subtract" or RESET == "delayed":
            d_threshold -= d_carried * spike
        if RESET == "delayed":
            d_carried = beta * d_carried
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
        d_carried = d_u if RESET == "delayed" else beta * d_u
    if RESET == "delayed":  # what 0 is above was reset before the first step
        d_threshold -= d_carried * (tl.zeros_like(d_carried) > threshold).to(beta.dtype)
    if LEARN_BETA:
        tl.store(d_beta_ptr + at, d_beta, mask=mask)
    if LEARN_THRESHOLD:
        tl.store(d_threshold_ptr + at, d_threshold, mask=mask)
    return d_sum, d_product


@triton.jit
def lif_backward(
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
    """Gradients of one block of neurons; with `SUMS` of several, and sums over them."""
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
