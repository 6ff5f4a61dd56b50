"""A factor and an offset per channel: `Mul` and `Add` of constants, or one `BatchNormalization`.

hls4ml gets the latter. Constants that it finds beside a `Mul` or `Add` it moves through the
additions behind them, and stumbles where a factor is 0 or two are the same.
"""

from __future__ import annotations

import numpy as np

from ..array import Array
from .page import Page
from .ranges import Range
from .writer import CHANNELS_LAST


def affine(
    page: Page, stage: str, what: str, t: int, x: str, factor: Array, offset: Array, digits: int = 0
) -> str:
    """`factor * x + offset`, both per channel `[C]` or `[1]` and multiples of `2^-digits`."""
    writer, size = page.writer, page.sizes[stage]
    node = page.name(stage, what, f"t{t}")
    reach = writer.ranges[x]
    ends = factor * reach.low * 2.0**-reach.fraction, factor * reach.high * 2.0**-reach.fraction
    fraction = digits + reach.fraction
    low = (np.minimum(*ends) + offset).min() * 2.0**fraction
    high = (np.maximum(*ends) + offset).max() * 2.0**fraction
    parameters = [
        page.constant(stage, f"{what}_{key}", t, np.broadcast_to(value, size[0]), grid)
        for key, value, grid in (
            ("gamma", factor, digits),
            ("beta", offset, digits),
            ("mean", np.zeros(1), 0),
            ("var", np.ones(1), 0),
        )
    ]
    domain = CHANNELS_LAST if len(size) == 3 and page.target.layout == "nhwc" else ""
    return writer.node(
        "BatchNormalization", node, [x, *parameters], f"{node}_out", writer.shapes[x],
        Range(int(low), int(high), fraction), domain, epsilon=0.0,
    )  # fmt: skip


def times(
    page: Page, stage: str, what: str, t: int, x: str, constant: str, factor: Array, digits: int = 0
) -> str:
    """`factor * x`, as the reader wants it; `constant` is the factor's name, if it has one."""
    if page.target.affine == "batchnorm":
        return affine(page, stage, what, t, x, factor, np.zeros(1), digits)
    spread = page.per_channel(np.asarray(factor, np.float64), page.sizes[stage])
    c = page.constant(stage, constant, t, spread, digits)
    return page.writer.binary("Mul", page.name(stage, what, f"t{t}"), x, c)
