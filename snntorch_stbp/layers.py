"""Brevitas' layers, with another way to compute the same: spikes and whole weights in bytes."""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
from brevitas.quant_tensor import QuantTensor
from torch import Tensor

from .kernels import int8
from .kernels.geometry import Geometry, geometry_of


class _InBytes:
    """In front of a layer of Brevitas: spikes (and sums and averages of them) go to `int8`."""

    geometry: Geometry | None = None
    covered = True

    def inner_forward_impl(
        self, x: Tensor | QuantTensor, quant_weight: Tensor | QuantTensor, quant_bias: Tensor | None
    ) -> Any:
        """What `x`, `[N, C, ...]`, gives with weights that are rounded already."""
        scaled = isinstance(quant_weight, QuantTensor) and not isinstance(x, QuantTensor)
        if not (scaled and self.covered):
            return super().inner_forward_impl(x, quant_weight, quant_bias)  # type: ignore[misc]
        weight, scale = quant_weight.value, quant_weight.scale  # type: ignore[union-attr]
        return int8.apply(x, weight, scale, quant_bias, self.geometry)


class QuantConv2d(_InBytes, qnn.QuantConv2d):
    """`brevitas.nn.QuantConv2d`; on a CPU what enters as spikes is computed by `kernels.int8`."""

    @property
    def geometry(self) -> Geometry | None:  # type: ignore[override]
        """Stride, padding, dilation and groups, where `covered`."""
        return geometry_of(self)

    @property
    def covered(self) -> bool:  # type: ignore[override]
        """Whether it is padded by as many zeros on either side."""
        return self.geometry is not None


class QuantLinear(_InBytes, qnn.QuantLinear):
    """`brevitas.nn.QuantLinear`; on a CPU what enters as spikes is computed by `kernels.int8`."""
