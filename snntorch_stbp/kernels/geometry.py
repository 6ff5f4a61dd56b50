"""Sizes of a layer of weights, and whether it pays to compute them in bytes."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn

LARGEST = 127
"""Largest magnitude of inputs and weights: AVX2 adds two products in 16 bits, which they fit."""
MOST_SUMMED = (2**31 - 1) // LARGEST**2
"""Products whose sum always fits 32 bits."""
PRODUCTS = 120
"""Products of every input, below which it does not pay to make it a byte."""
OUTPUTS = 512
"""Outputs of every weight, below which it does not pay to lay weights out for one pass."""


class Geometry(NamedTuple):
    """The last arguments of `F.conv2d`; height and width each."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def geometry_of(layer: nn.Conv2d) -> Geometry | None:
    """What `F.conv2d` is called with; `None` of other padding than as many zeros on either side."""
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        sums = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(total % 2 for total in sums):  # one more at the end than at the start
            return None
        padding = tuple(total // 2 for total in sums)
    # Brevitas' layers take "same" beside a stride, and then pad by what the image asks for.
    if layer.padding_mode != "zeros" or getattr(layer, "is_same_padded_strided", False):
        return None
    stride, dilation = layer.stride, layer.dilation
    return Geometry(stride, padding, dilation, layer.groups)  # type: ignore[arg-type]


def worth(weight: Tensor, geometry: Geometry | None) -> bool:
    """Whether there is enough to multiply, and no more than 32 bits hold the sums of."""
    if weight[0].numel() > MOST_SUMMED:
        return False
    if geometry is None:
        return len(weight) >= PRODUCTS
    products = len(weight) // geometry.groups * prod(weight.shape[2:])
    return products >= PRODUCTS * prod(geometry.stride)


def reaches(x: Tensor, weight: Tensor, geometry: Geometry | None) -> bool:
    """Whether the kernel fits the image, so that there is an output."""
    if geometry is None:
        return True
    sizes = zip(x.shape[2:], weight.shape[2:], geometry.padding, geometry.dilation, strict=True)
    return all(n + 2 * p > d * (k - 1) for n, k, p, d in sizes)


def outputs(x: Tensor, geometry: Geometry | None) -> float:
    """About how many outputs a weight has a part in."""
    return len(x) * prod(x.shape[2:]) / (1 if geometry is None else prod(geometry.stride))
