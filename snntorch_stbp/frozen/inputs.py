"""Real inputs of a network for hardware, and the unsigned integers that take their place.

Of images they are `[N, C, H, W]`, or frames `[T, N, C, H, W]`, one per time step; of features
`[N, F]`, or `[T, N, F]`.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import StbpError, UsageError
from ..kernels.geometry import Geometry
from ..looking import recorded

Module = TypeVar("Module", bound=nn.Module)

BITS, SCALE = 8, 1 / 255
"""Of inputs whose quantization was no part of the network: 8 bits of [0, 1]."""


def in_time(x: Any) -> bool:
    """Whether an array or tensor of inputs holds one for every time step, the steps first."""
    return x.ndim in (3, 5)


def steps(x: Any) -> int | None:
    """How many time steps inputs hold; `None` where they are the same at all."""
    return len(x) if in_time(x) else None


def check_steps(x: Any, num_steps: int) -> None:
    """Refuse frames that are more or fewer than the steps of a network.

    Raises:
        UsageError: If they are.
    """
    if in_time(x) and len(x) != num_steps:
        raise UsageError(f"samples have {len(x)} frames, the network {num_steps} steps.")


def batch_axis(x: Any) -> int:
    """The dimension of the samples."""
    return 1 if in_time(x) else 0


def size(x: Any) -> tuple[int, ...]:
    """Of one sample at one step: `(C, H, W)` or `(F,)`."""
    return tuple(x.shape[batch_axis(x) + 1 :])


def on_cpu(model: Module, samples: Tensor) -> tuple[Module, Tensor]:
    """A network and its samples where files are made of them: copies, if they lie elsewhere."""
    if all(value.is_cpu for value in chain(model.parameters(), model.buffers())):
        return model, samples.cpu()
    return deepcopy(model).cpu(), samples.cpu()


def check_samples(samples: Tensor) -> None:
    """Refuse samples that nothing can be compared on.

    Raises:
        UsageError: If there is none, they have other dimensions, or a value is infinite or none.
    """
    if samples.dim() not in (2, 3, 4, 5) or not samples.numel():
        raise UsageError(
            f"samples are images [N, C, H, W] or frames [T, N, C, H, W], of features [N, F] or "
            f"[T, N, F], at least one, not {list(samples.shape)}."
        )
    wrong = ~samples.isfinite()
    if wrong.any():
        index = int(wrong.nonzero()[:, batch_axis(samples)].min())
        raise UsageError(
            f"sample {index} is not finite, it holds {samples[wrong][0].item()}: export needs "
            f"real inputs, such as images in [0, 1]."
        )


def check_numbers(x: Tensor) -> None:
    """Refuse inputs in which a value is none, which clipping to integers would hide.

    Those on an accelerator are not looked at: a look would wait for it.

    Raises:
        StbpError: If there is one.
    """
    if x.is_cpu and not recorded() and bool(x.detach().isnan().any()):
        raise StbpError("the input holds values that are no numbers (nan).")


def check_fit(x: Tensor, weight: Tensor, geometry: Geometry | None, name: str) -> None:
    """Refuse what a layer does not take, of images of another size or with other channels.

    Args:
        x: What enters it, `[N, C, H, W]` or `[N, F]`.
        weight: Its weights.
        geometry: Of a convolution; `None` of a linear layer.
        name: The layer's.

    Raises:
        UsageError: If it takes another number of channels or features.
    """
    wanted = weight.shape[1] * (1 if geometry is None else geometry.groups)
    if x.dim() != weight.dim() or x.shape[1] != wanted:
        what = "values" if geometry is None else "channels of images"
        raise UsageError(
            f"'{name}' takes {wanted} {what}, and of this input it would get the shape "
            f"{list(x.shape)}: give inputs of the size that the network was trained on."
        )


def check_range(x: Tensor, bits: int = BITS, scale: float = SCALE) -> None:
    """Refuse inputs that these integers would clip, which training did not.

    Args:
        x: Inputs, any shape.
        bits: Bits of the integers.
        scale: Value of one unit.

    Raises:
        StbpError: If a value lies outside, by more than half a unit, or is none.
    """
    if not x.numel():
        return
    low, high = (float(end) for end in x.detach().aminmax())
    most = (2**bits - 1) * scale
    if not (low >= -scale / 2 and high <= most + scale / 2):  # nor of numbers that are none
        raise StbpError(
            f"the input has values from {low:.4g} to {high:.4g}, but hardware is fed unsigned "
            f"integers, which stand for 0 to {most:.4g} where the network does not quantize its "
            f"input: scale inputs to that range (batch normalisation can do the rest), or train "
            f"with Precision(input_max=...).input_quant() in front (--input-bits)."
        )
