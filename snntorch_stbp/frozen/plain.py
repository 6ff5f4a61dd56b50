"""A stage of a trained network in plain torch operations, from what was read of it alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..neuron import Leaky
from ..rounded import quantized_weight
from .branches import affine
from .graph import Branch, Pool, Stage
from .neuron import per_channel


def current(stage: Stage, values: dict[str, Tensor]) -> Tensor:
    """The input current `[T, B, C, ...]`."""
    total: Tensor | None = None
    for branch in stage.branches:
        term = _term(branch, values[branch.value])
        total = term if total is None else total + term
    assert total is not None
    return total


def _term(branch: Branch, value: Tensor) -> Tensor:
    x = value.flatten(0, 1)
    for pool in branch.pools:
        x = _pooled(pool, x)
    if branch.quantizer is not None:
        x = branch.quantizer(x)
        x = getattr(x, "value", x)
    x, layer = x.flatten(1) if branch.flatten else x, branch.layer
    if layer is not None:
        weight, bias = quantized_weight(layer), None if branch.inhibits else layer.bias
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, weight, bias, *(branch.geometry or ()))
        else:
            x = F.linear(x, weight, bias)
        if branch.norm is not None:
            gain, shift = affine(branch.norm, len(weight), x.device, x.dtype)
            spread = (-1, *[1] * (x.dim() - 2))
            x = x * gain.reshape(spread) + (0 if branch.inhibits else shift.reshape(spread))
    for pool in branch.after:
        x = _pooled(pool, x)
    return x.unflatten(0, value.shape[:2])


def _pooled(pool: Pool, x: Tensor) -> Tensor:
    if isinstance(pool, nn.AvgPool2d):
        return F.avg_pool2d(x, pool.kernel_size, pool.stride, pool.padding)
    return F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.dilation)


def spikes(neuron: Leaky, current: Tensor) -> Tensor:
    """What neurons of these numbers, one or one per channel, make of `current [T, B, C, ...]`."""
    x = current if neuron.current_quant is None else neuron.current_quant(current)
    beta, theta = (per_channel(value, x)[0] for value in neuron.values(x.dtype))
    kept, late = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    record = []
    for step in x.unbind(0):
        u = beta * kept + step
        if neuron.reset_rule == "delayed":
            u = u - late * theta
        if neuron.state_quant is not None:
            u = neuron.state_quant(u)
        late = (u > theta).to(u.dtype)
        kept = {"zero": u - late * u, "subtract": u - late * theta}.get(neuron.reset_rule, u)
        record.append(late)
    return torch.stack(record)
