"""The ways to keep a tensor for the backward pass: itself, as bits, or as a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE = 1024  # elements that are looked at before a whole tensor is
BLOCK = 131072  # elements packed at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Itself:
    """A tensor that is kept as it is, at the version it had."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, x: Tensor) -> Itself:
        """`x`, without its place in the graph."""
        return cls(x.detach(), x._version)

    def restored(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: If it was changed in place.
        """
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(self.tensor.shape)} that the backward pass needs was "
                f"changed in place."
            )
        return self.tensor


@dataclass(frozen=True)
class Bits:
    """Zeros and ones, eight to a byte."""

    packed: Tensor
    count: int
    dtype: torch.dtype

    @classmethod
    def of(cls, flat: Tensor, sure: bool = False) -> Bits | None:
        """The bits of `flat` `[N]`; `None` if it holds anything but 0 and 1, or lies elsewhere.

        Args:
            flat: On a CPU, or on a CUDA device, where nothing is looked at: a look would wait for
                all that the device was told to do before.
            sure: Whether it holds nothing but 0 and 1, as is known without a look.
        """
        if flat.device.type == "cuda":
            kernels = _on_cuda() if sure else None
            return None if kernels is None else cls(kernels.pack(flat), flat.numel(), flat.dtype)
        if flat.device.type != "cpu" or not (sure or _binary(flat[:SAMPLE])):
            return None
        packed = flat.new_empty(-(-flat.numel() // 8), dtype=torch.uint8)
        for start in range(0, flat.numel(), BLOCK):
            block = flat[start : start + BLOCK]
            if not (sure or _binary(block)):
                return None
            block = F.pad(block, (0, -block.numel() % 8))
            packed[start // 8 : (start + BLOCK) // 8] = _packed(block)
        return cls(packed, flat.numel(), flat.dtype)

    def restored(self) -> Tensor:
        """The zeros and ones again, `[N]`."""
        if self.packed.device.type == "cuda":
            flat: Tensor = _on_cuda().unpack(self.packed, self.count, self.dtype)
            return flat
        flat = _table().index_select(0, self.packed.int()).view(-1)
        return flat[: self.count].to(self.dtype)


@dataclass(frozen=True)
class Recipe:
    """How a tensor is computed again: a function and its arguments, tensors among them kept."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]

    def restored(self) -> Tensor:
        """The contents of the tensor in the order in which they lie in memory, `[N]`."""
        result = self.function(*map(restored, self.arguments))
        return result.as_strided((result.numel(),), (1,))


@dataclass(frozen=True)
class View:
    """A tensor over memory whose contents are kept as bits or as a recipe."""

    contents: Bits | Recipe
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def restored(self) -> Tensor:
        """The tensor, strides and all."""
        return self.contents.restored().as_strided(self.size, self.stride, self.offset)


def restored(kept: Any) -> Any:
    """The tensor that was kept; what is no kept tensor comes back as it is."""
    if not isinstance(kept, (Itself, View)):
        return kept
    with torch.no_grad():
        return kept.restored()


def _packed(flat: Tensor) -> Tensor:
    """Zeros and ones `[8 n]` as `n` bytes, the first as the lowest bit, as numbers."""
    values = torch.tensor([2.0**i for i in range(8)], device=flat.device)
    return torch.mv(flat.float().view(-1, 8), values)


def _binary(x: Tensor) -> bool:
    """Whether `x` holds nothing but 0 and 1: `x - x^2` is 0 for no other number."""
    if x.dtype == torch.uint8:
        return bool(x.max() <= 1)
    return torch.addcmul(x, x, x, value=-1).abs_().max().item() == 0


@cache
def _table() -> Tensor:
    """The eight bits of every byte as numbers, `[256, 8]`, on the CPU."""
    byte, bit = (torch.arange(count, device="cpu") for count in (256, 8))
    return (byte[:, None] >> bit & 1).float()


@cache
def _on_cuda() -> Any:
    """What packs and unpacks on a CUDA device, or `None` without Triton."""
    try:
        from ..kernels import cuda_bits
    except ImportError:
        return None
    return cuda_bits
