"""The forms a graph takes, and the readers it is written for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["unrolled", "step"]


@dataclass(frozen=True)
class Target:
    """How a graph is written for one reader; what it computes is the same for all.

    Attributes:
        layout: `"nchw"`; `"nhwc"` with QONNX's channels-last convolutions; `"nhwc_transposed"`
            with ONNX convolutions between transpositions.
        affine: Multipliers and biases as integer `Mul` and `Add` before one scaling, or as
            `"batchnorm"` nodes per channel.
        separator: Between the parts of a name.
        shared: Whether the steps share constants.
        quantizers: QONNX's `Quant`, or FINN's `MultiThreshold`, which is the same function.
        multithreshold: Whether it reads `MultiThreshold` at all.
        reader: What messages call it.
        groups, dilation: Whether its convolutions may be dilated, and have other groups than one or
            one per channel.
        maxima: Windows of maximum pooling: any; not dilated, and padded only of spikes and pixels;
            or side by side without padding.
    """

    layout: Literal["nchw", "nhwc", "nhwc_transposed"] = "nchw"
    affine: Literal["integer", "batchnorm"] = "integer"
    separator: str = "/"
    shared: bool = True
    quantizers: Literal["quant", "multithreshold"] = "quant"
    multithreshold: bool = True
    reader: str = "QONNX"
    groups: bool = True
    dilation: bool = True
    maxima: Literal["any", "unsigned", "apart"] = "any"


TARGETS = {
    "generic": Target(),
    "finn": Target(
        layout="nhwc_transposed", quantizers="multithreshold", reader="FINN", groups=False,
        maxima="unsigned",
    ),
    "hls4ml": Target(
        layout="nhwc", affine="batchnorm", separator="_", shared=False, multithreshold=False,
        reader="hls4ml", groups=False, dilation=False, maxima="apart",
    ),
}  # fmt: skip
