"""The memory of quantized weights."""

from __future__ import annotations

from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import rounded


def test_size_counts_every_parameter_at_its_bits() -> None:
    precision = stbp.Precision(4)
    net = nn.Sequential(precision.conv2d(1, 8, 3), nn.Flatten(), precision.linear(8, 2))
    assert rounded.size_in_bytes(net) == (8 * 9 + 16) * 0.5 + (8 + 2) * 4
