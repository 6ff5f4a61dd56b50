"""The neuron on a CPU: plain torch operations in place, on blocks that stay in the cache.

Step by step over whole tensors, every operation would go through main memory. Here a block of
neurons is taken through all steps before the next block begins; what leaves the cache is the
spikes, or the gradient of the input. `benchmarks/RESULTS.md` has what block sizes cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..surrogate import Surrogate
from .rule import Rule

BLOCK = 131072  # neurons; two threads share an operation only from 65536 elements on


def forward(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
) -> tuple[Tensor, Tensor | None]:
    """Spikes, and membrane potentials if `membrane`, of currents `[T, rows, ...]`."""
    spikes = x.new_empty(x.shape)
    potential = x.new_empty(x.shape, dtype=beta.dtype) if membrane else None
    (workspace,) = _workspace(x, beta.dtype, 1)
    for rows in _blocks(x):
        u = workspace[: rows.stop - rows.start]
        for t in range(len(x)):
            spike = spikes[t, rows]
            if t == 0:
                u.copy_(x[0, rows])
            else:
                u.mul_(beta).add_(x[t, rows])
            if rule.reset == "delayed":
                _subtract(u, spikes[t - 1, rows] if t > 0 else threshold < 0, threshold)
            torch.gt(u, threshold, out=spike)
            if potential is not None:
                potential[t, rows] = u
            if t < len(x) - 1:
                _reset(u, spike, threshold, rule)
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
    """Gradients of currents, decay and threshold from those of spikes and membrane potentials.

    With `u[t] = beta c[t-1] + x[t]`, `o[t] = [u[t] > threshold]`, `c[t] = reset(u[t], o[t])` and
    `h` the surrogate derivative at `u[t] - threshold`, all gradients of the loss:

        do[t] = spikes[t] + dc[t] dc/do
        du[t] = potential[t] + dc[t] dc/du + do[t] h[t]
        dc[t-1] = beta du[t]        dbeta = sum du[t] c[t-1]        dthreshold = -sum do[t] h[t]

    and `-dc[t] o[t]` in `dthreshold` for reset by subtraction. Where that is delayed,
    `u[t] = beta c[t-1] - threshold o[t-1] + x[t]`, and `du[t+1]` takes the place of `dc[t]` in
    `do[t]` and in `dthreshold`.
    """
    last = len(x) - 1
    through_reset = rule.reset != "none" and not rule.detach_reset
    current = x.new_empty(x.shape)
    d_beta = torch.zeros_like(beta) if learned[0] else None
    d_threshold = torch.zeros_like(threshold) if learned[1] else None
    workspace = _workspace(x, beta.dtype, 2 * len(x) + 2)
    for rows in _blocks(x):
        d_carried, scratch, *buffers = workspace[:, : rows.stop - rows.start]
        u, fired = buffers[: len(x)], buffers[len(x) :]
        _membrane(x[:, rows], beta, threshold, rule, u, fired, d_carried)
        for t in range(last, -1, -1):
            d_u = _derivative(torch.sub(u[t], threshold, out=scratch), rule.surrogate)
            d_spike = spikes[t, rows]
            if t < last and through_reset:
                # The slot of u[t + 1], which is not needed any more, takes the product.
                kept = u[t] if rule.reset == "zero" else threshold
                d_spike = torch.sub(d_spike, torch.mul(d_carried, kept, out=u[t + 1]), out=u[t + 1])
            d_u.mul_(d_spike)
            if d_threshold is not None:
                d_threshold -= d_u.sum_to_size(d_threshold.shape)
                if t < last and rule.reset in ("subtract", "delayed"):
                    d_threshold -= (d_carried * fired[t]).sum_to_size(d_threshold.shape)
            if t < last:
                if rule.reset == "zero":
                    d_carried.sub_(torch.mul(d_carried, fired[t], out=u[t + 1]))
                if rule.reset == "delayed":
                    d_carried.mul_(beta)
                d_u.add_(d_carried)
            if potential is not None:
                d_u.add_(potential[t, rows])
            current[t, rows] = d_u
            if t > 0:
                if d_beta is not None:
                    before = _reset(u[t - 1].clone(), fired[t - 1], threshold, rule)
                    d_beta += (d_u * before).sum_to_size(d_beta.shape)
                if rule.reset == "delayed":
                    d_carried.copy_(d_u)
                else:
                    torch.mul(d_u, beta, out=d_carried)
            elif d_threshold is not None and rule.reset == "delayed":
                d_threshold -= (d_u * (threshold < 0)).sum_to_size(d_threshold.shape)
    return current, d_beta, d_threshold


def _derivative(v: Tensor, surrogate: Surrogate) -> Tensor:
    """The surrogate derivative at `v`, which may be overwritten."""
    if surrogate.curve != "rectangular":
        return surrogate.derivative(v)
    if surrogate.centre:
        v.sub_(surrogate.centre)
    v.abs_().lt_(surrogate.parameter / 2)
    return v if surrogate.parameter == 1 else v.div_(surrogate.parameter)


def _membrane(
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    u: list[Tensor],
    fired: list[Tensor],
    carried: Tensor,
) -> None:
    """Fill `u` with the membrane potentials before reset and `fired` with the spikes of a block."""
    for t in range(len(x)):
        if t == 0:
            u[0].copy_(x[0])
        else:
            torch.mul(carried, beta, out=u[t]).add_(x[t])
        if rule.reset == "delayed":
            _subtract(u[t], fired[t - 1] if t > 0 else threshold < 0, threshold)
        torch.gt(u[t], threshold, out=fired[t])
        if t < len(x) - 1:
            _reset(carried.copy_(u[t]), fired[t], threshold, rule)


def _reset(u: Tensor, spike: Tensor, threshold: Tensor, rule: Rule) -> Tensor:
    """Reset `u` in place where it fired."""
    if rule.reset == "zero":
        return u.sub_(u * spike)
    if rule.reset == "subtract":
        return _subtract(u, spike, threshold)
    return u


def _subtract(u: Tensor, spike: Tensor, threshold: Tensor) -> Tensor:
    """Subtract the threshold from `u` in place where `spike`."""
    return u.sub_(spike.to(u.dtype) * threshold)


def _rows(x: Tensor) -> int:
    """Rows of `x`, `[T, rows, ...]`, that make a block of about `BLOCK` neurons."""
    return min(max(1, BLOCK * x.shape[1] // x[0].numel()), x.shape[1])


def _blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the rows of `x`, a block each."""
    for start in range(0, x.shape[1], _rows(x)):
        yield slice(start, min(start + _rows(x), x.shape[1]))


def _workspace(x: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """Uninitialised memory for `count` blocks of `x`, which one block after the other reuses."""
    return x.new_empty((count, _rows(x), *x.shape[2:]), dtype=dtype)
