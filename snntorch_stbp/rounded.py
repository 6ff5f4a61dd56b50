"""The weights that layers of `Precision` compute with: their values, their bits, their memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import brevitas.nn as qnn
import torch
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn


def quantized_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights that a layer computes with."""
    if isinstance(layer, (qnn.QuantConv2d, qnn.QuantLinear)):
        return layer.quant_weight().value
    return layer.weight


def _rounds(layer: nn.Module) -> TypeGuard[qnn.QuantConv2d | qnn.QuantLinear]:
    """Whether the layer rounds its weights in every pass."""
    return (
        isinstance(layer, (qnn.QuantConv2d, qnn.QuantLinear))
        and layer.weight_quant.is_quant_enabled
    )


def weight_bits(layer: nn.Module) -> int:
    """Bits of one weight of a layer in memory: 32 for float, 2 for ternary."""
    return int(layer.weight_quant.bit_width()) if _rounds(layer) else 32


@contextmanager
def rounded_once(net: nn.Module) -> Iterator[None]:
    """Inside the block quantized layers of `net` compute with weights rounded at its start.

    For evaluation, where rounding them in every pass is the same again. What happens to the
    weights inside the block has no effect in it, and they get no gradient.

    Args:
        net: Any network; the layers of `Precision` in it round their weights.
    """
    held: list[Any] = []
    try:
        for layer in net.modules():
            if _rounds(layer) and "forward" not in vars(layer.weight_quant):
                with torch.no_grad():
                    rounded = layer.quant_weight()
                held.append(layer.weight_quant)
                held[-1].forward = lambda _, rounded=rounded: rounded
                if _rounds_only_weights(layer):
                    held.append(layer)
                    held[-1].forward = partial(_compute, layer, rounded.value)
        yield
    finally:
        for changed in held:
            del changed.forward


def _rounds_only_weights(layer: qnn.QuantConv2d | qnn.QuantLinear) -> bool:
    others = (layer.input_quant, layer.output_quant, layer.bias_quant)
    return not layer.return_quant_tensor and not any(q.is_quant_enabled for q in others)


def _compute(
    layer: qnn.QuantConv2d | qnn.QuantLinear, weight: Tensor, x: Tensor | QuantTensor
) -> Tensor:
    """What the layer does, without the tenth of a millisecond that Brevitas spends around it."""
    value = x.value if isinstance(x, QuantTensor) else x
    result: Tensor = layer.inner_forward_impl(value, weight, layer.bias)
    return result


def size_in_bytes(model: nn.Module) -> float:
    """Memory of all parameters at their bits: weights at theirs, the rest at 32."""
    weights = {
        id(layer.weight): weight_bits(layer)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    return sum(p.numel() * weights.get(id(p), 32) for p in model.parameters()) / 8
