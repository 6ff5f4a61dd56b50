"""The unsigned integers that hardware is fed in place of real images."""

from __future__ import annotations

from torch import Tensor

from ..errors import StbpError, UsageError

BITS, SCALE = 8, 1 / 255
"""Of images whose quantization was no part of the network: 8 bits of [0, 1]."""


def check_samples(samples: Tensor) -> None:
    """Refuse samples that nothing can be compared on.

    Raises:
        UsageError: If there is none, they are no images, or a value is infinite or none.
    """
    if samples.dim() not in (4, 5) or not samples.numel():
        raise UsageError(
            f"samples are images [N, C, H, W] or frames [T, N, C, H, W], at least one, not "
            f"{list(samples.shape)}."
        )
    wrong = ~samples.isfinite()
    if wrong.any():
        index = int(wrong.nonzero()[:, samples.dim() - 4].min())
        raise UsageError(
            f"sample {index} is not finite, it holds {samples[wrong][0].item()}: export needs "
            f"real inputs, such as images in [0, 1]."
        )


def check_range(x: Tensor, bits: int = BITS, scale: float = SCALE) -> None:
    """Refuse images that these integers would clip, which training did not.

    Args:
        x: Images, any shape.
        bits: Bits of the integers.
        scale: Value of one unit.

    Raises:
        StbpError: If a value lies outside, by more than half a unit.
    """
    low, high = (float(end) for end in x.detach().aminmax())
    most = (2**bits - 1) * scale
    if low < -scale / 2 or high > most + scale / 2:
        raise StbpError(
            f"the input has values from {low:.4g} to {high:.4g}, but hardware is fed unsigned "
            f"integers, which stand for 0 to {most:.4g} where the network does not quantize its "
            f"input: scale images to that range (batch normalisation can do the rest), or train "
            f"with Precision(input_max=...).input_quant() in front (--input-bits)."
        )
