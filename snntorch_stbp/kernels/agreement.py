"""A kernel compared with the operations that it replaces, on the device where it is to run."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ..surrogate import rectangular
from .rule import Rule

SPIKES = 0.01  # share that rounding may move across the threshold
GRADIENTS = 0.05  # relative, in the Euclidean norm: one spike that rounding moved


@torch.inference_mode(False)
@torch.enable_grad()
def agrees(operation: Any, device: str) -> bool:
    """Whether an operation such as that of `normed` does what normalisation and neuron do in turn.

    In both memory layouts, which may take different kernels.

    Args:
        operation: `torch.autograd.Function` of `x, added, weight, bias, neuron, eps, repeated`.
        device: Where to try it.

    Raises:
        Exception: Whatever `operation` raises.
    """
    from . import integrate

    cpu: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}  # whatever else is the default
    generator = torch.Generator().manual_seed(0)
    shape, channels = (3, 4, 8, 5, 5), 8
    x, given = (torch.randn(shape, generator=generator, **cpu) for _ in range(2))
    weight = torch.rand(channels, generator=generator, **cpu) + 0.5
    bias, beta, threshold = (
        torch.full(s, v, **cpu) for s, v in (([8], 0.0), ([], 0.25), ([], 0.4))
    )
    rule = Rule(rectangular())

    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        lying = x.flatten(0, 1).to(memory_format=layout).unflatten(0, shape[:2])
        leaves = [v.to(device).requires_grad_() for v in (lying, weight, bias)]
        neuron = (beta.to(device), threshold.to(device), rule)
        fired = operation.apply(leaves[0], None, *leaves[1:], neuron, 1e-5, 0)[0]
        found.append((fired, *torch.autograd.grad(fired, leaves, given.to(device))))

    leaves = [v.requires_grad_() for v in (x, weight, bias)]
    current = functional.batch_norm(x.flatten(0, 1), None, None, weight, bias, training=True)
    expected, _ = integrate(current.view(shape), beta, threshold, rule)
    wanted = torch.autograd.grad(expected, leaves, given)

    for fired, *gradients in found:
        moved = float((fired.cpu() != expected).double().mean())
        errors = [
            float((g.cpu() - w).norm() / w.norm()) for g, w in zip(gradients, wanted, strict=True)
        ]
        if not (moved < SPIKES and max(errors) < GRADIENTS):
            return False
    return True
