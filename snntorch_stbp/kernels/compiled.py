"""The neuron on a CPU through `torch.compile`: one loop of machine code per direction.

Compiling takes seconds for every number of steps, so nothing here is used unless asked for. Where
there is no C++ compiler, or it fails, `cpu` computes instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import cpu
from .rule import Rule

_log = logging.getLogger(__name__)
_failed = False  # after one failure nothing is compiled any more


@cache
def _compiler() -> str | None:
    """Path of the C++ compiler that inductor would call."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    path = shutil.which(os.environ.get("CXX") or default)
    if path is None:
        _log.debug("no C++ compiler: neurons are not compiled")
    return path


def forward(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
) -> tuple[Tensor, Tensor | None]:
    """As `cpu.forward`."""
    result = _run(_forward, (rule, len(x), membrane), x, beta, threshold)
    return cpu.forward(x, beta, threshold, rule, membrane) if result is None else result


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
    key = (rule, len(x), potential is not None, learned)
    result = _run(_backward, key, x, beta, threshold, spikes, potential)
    if result is None:
        return cpu.backward(x, beta, threshold, rule, spikes, potential, learned)
    current, d_beta, d_threshold = result
    return (
        current,
        None if d_beta is None else d_beta.sum_to_size(beta.shape),
        None if d_threshold is None else d_threshold.sum_to_size(threshold.shape),
    )


def _run(make: Callable[..., Callable[..., Any]], key: tuple[Any, ...], *tensors: Any) -> Any:
    """Call the compiled function, or return `None` where nothing can be compiled."""
    global _failed
    if _failed or _compiler() is None:
        return None
    tensors = tuple(None if t is None else t.detach() for t in tensors)
    try:
        with torch.no_grad():
            return _compile(make, key)(*tensors)
    except Exception as error:
        _failed = True
        _log.debug("compiling the neuron failed, no neuron is compiled from now on: %s", error)
        return None


@cache
def _compile(make: Callable[..., Callable[..., Any]], key: tuple[Any, ...]) -> Callable[..., Any]:
    function: Any = make(*key)
    # torch.compile counts recompilations per code object: each variant gets its own.
    function = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        closure=function.__closure__,
    )
    return torch.compile(function, fullgraph=True, dynamic=True)


def _kept(u: Tensor, spike: Tensor, threshold: Tensor, rule: Rule) -> Tensor:
    if rule.reset == "zero":
        return u - spike * u
    return u - spike * threshold if rule.reset == "subtract" else u


def _walk(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, steps: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Membrane potentials, spikes and what is kept after reset, step by step."""
    us: list[Tensor] = []
    fired: list[Tensor] = []
    kept: list[Tensor] = []
    for t in range(steps):
        current = x[t].to(beta.dtype)
        u = beta * kept[-1] + current if kept else current
        spike = (u > threshold).to(beta.dtype)
        us.append(u)
        fired.append(spike)
        kept.append(_kept(u, spike, threshold, rule))
    return us, fired, kept


def _forward(rule: Rule, steps: int, membrane: bool) -> Callable[..., Any]:
    def forward(x: Tensor, beta: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor | None]:
        us, fired, _ = _walk(x, beta, threshold, rule, steps)
        return torch.stack(fired).to(x.dtype), torch.stack(us) if membrane else None

    return forward


def _backward(
    rule: Rule, steps: int, membrane: bool, learned: tuple[bool, bool]
) -> Callable[..., Any]:
    def backward(
        x: Tensor, beta: Tensor, threshold: Tensor, spikes: Tensor, potential: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        us, fired, kept = _walk(x, beta, threshold, rule, steps)
        gradients: list[Tensor] = []
        d_beta = d_threshold = d_carried = torch.zeros_like(us[0])
        for t in reversed(range(steps)):
            d_spike = spikes[t].to(beta.dtype)
            if not rule.detach_reset and rule.reset != "none":
                d_spike = d_spike - d_carried * (us[t] if rule.reset == "zero" else threshold)
            through = d_spike * rule.surrogate.derivative(us[t] - threshold)
            d_threshold = d_threshold - through
            if rule.reset == "subtract":
                d_threshold = d_threshold - d_carried * fired[t]
            if rule.reset == "zero":
                d_carried = d_carried - d_carried * fired[t]
            d_u = through + d_carried
            if membrane and potential is not None:
                d_u = d_u + potential[t]
            gradients.insert(0, d_u.to(x.dtype))
            if t > 0:
                d_beta = d_beta + d_u * kept[t - 1]
            d_carried = d_u * beta
        return (
            torch.stack(gradients),
            d_beta if learned[0] else None,
            d_threshold if learned[1] else None,
        )

    return backward
