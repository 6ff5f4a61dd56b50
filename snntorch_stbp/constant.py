"""A network whose parameters stay as they are: what follows from them alone is computed once.

In evaluation the same weights are rounded in every pass, and the same statistics made into the same
tables. Where images come one at a time that is some of the time they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn

from .kernels import int8
from .layers import QuantConv2d, QuantLinear
from .norm import _TDBatchNorm
from .rounded import rounds_weights


@contextmanager
def constant(net: nn.Module) -> Iterator[None]:
    """Inside the block quantized layers of `net` round their weights once, and `fire` is prepared.

    Results are those without it, but for the last digits of sums that are computed in bytes
    (`kernels.int8`) only where weights are laid out for many passes. For evaluation: parameters and
    statistics must not change inside the block, and weights get no gradient. Blocks may be nested.

    Args:
        net: Any network; the layers of `Precision` in it round their weights.
    """
    quantized, prepared = list[Any](), list[_TDBatchNorm]()
    try:
        for layer in net.modules():
            if rounds_weights(layer) and "forward" not in vars(layer.weight_quant):
                with torch.no_grad():
                    rounded = layer.quant_weight()
                quantized.append(layer.weight_quant)
                quantized[-1].forward = lambda _, rounded=rounded: rounded
                if _rounds_only_weights(layer):
                    quantized.append(layer)
                    quantized[-1].forward = partial(
                        _compute, layer, rounded, _packed(layer, rounded)
                    )
            if isinstance(layer, _TDBatchNorm) and layer.prepared is None:
                prepared.append(layer)
                layer.prepared = {}
        yield
    finally:
        for changed in quantized:
            del changed.forward
        for norm in prepared:
            norm.prepared = None


def _rounds_only_weights(layer: qnn.QuantConv2d | qnn.QuantLinear) -> bool:
    others = (layer.input_quant, layer.output_quant, layer.bias_quant)
    return not layer.return_quant_tensor and not any(q.is_quant_enabled for q in others)


def _packed(layer: qnn.QuantConv2d | qnn.QuantLinear, rounded: QuantTensor) -> int8.Packed | None:
    """The rounded weights laid out for spikes as bytes, where they can be."""
    if not (isinstance(layer, (QuantConv2d, QuantLinear)) and layer.covered):
        return None
    return int8.pack(rounded.value, rounded.scale, layer.geometry)


def _compute(
    layer: qnn.QuantConv2d | qnn.QuantLinear, rounded: QuantTensor, packed: int8.Packed | None,
    x: Tensor | QuantTensor,
) -> Tensor:  # fmt: skip
    """What the layer does, without the tenth of a millisecond that Brevitas spends around it."""
    value, weight = x.value if isinstance(x, QuantTensor) else x, rounded.value
    if packed is not None:
        return int8.apply(value, weight, rounded.scale, layer.bias, layer.geometry, packed)
    result: Tensor = layer.inner_forward_impl(value, weight, layer.bias)
    return result
