"""The weights that layers of `Precision` compute with: their values, their bits, their memory."""

from __future__ import annotations

from typing import TypeGuard

import brevitas.nn as qnn
from torch import Tensor, nn


def quantized_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights that a layer computes with."""
    if isinstance(layer, (qnn.QuantConv2d, qnn.QuantLinear)):
        return layer.quant_weight().value
    return layer.weight


def rounds_weights(layer: nn.Module) -> TypeGuard[qnn.QuantConv2d | qnn.QuantLinear]:
    """Whether the layer rounds its weights in every pass."""
    return (
        isinstance(layer, (qnn.QuantConv2d, qnn.QuantLinear))
        and layer.weight_quant.is_quant_enabled
    )


def weight_bits(layer: nn.Module) -> int:
    """Bits of one weight of a layer in memory: 32 for float, 2 for ternary."""
    return int(layer.weight_quant.bit_width()) if rounds_weights(layer) else 32


def size_in_bytes(model: nn.Module) -> float:
    """Memory of all parameters at their bits: weights at theirs, the rest at 32."""
    weights = {
        id(layer.weight): weight_bits(layer)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    return sum(p.numel() * weights.get(id(p), 32) for p in model.parameters()) / 8
