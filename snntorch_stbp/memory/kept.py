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
GATHER = sum(2 ** (56 - 7 * j) for j in range(8))
BLOCK_ON_GPU = 2**24  # few blocks, each of which the processor waits for


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
    def of(cls, flat: Tensor) -> Bits | None:
        """The bits of `flat` `[N]`, or `None` if it holds anything but 0 and 1."""
        if not _binary(flat[:SAMPLE]):
            return None
        packed = flat.new_empty(-(-flat.numel() // 8), dtype=torch.uint8)
        on_cpu = flat.device.type == "cpu"
        size, pack = (BLOCK, _by_product) if on_cpu else (BLOCK_ON_GPU, _by_multiplication)
        for start in range(0, flat.numel(), size):
            block = flat[start : start + size]
            if not _binary(block):
                return None
            block = F.pad(block, (0, -block.numel() % 8))
            packed[start // 8 : (start + size) // 8] = pack(block)
        return cls(packed, flat.numel(), flat.dtype)

    def restored(self) -> Tensor:
        """The zeros and ones again, `[N]`."""
        flat = _table(self.packed.device).index_select(0, self.packed.int()).view(-1)
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


def _by_product(flat: Tensor) -> Tensor:
    """Zeros and ones `[8 n]` as `n` bytes, the first as the lowest bit; fast on CPUs."""
    return torch.mv(flat.float().view(-1, 8), torch.tensor([2.0**i for i in range(8)]))


def _by_multiplication(flat: Tensor) -> Tensor:
    """The same where a product of tall matrices is slow.

    Eight bytes of 0 or 1 are one number, `sum of b[i] 2^(8 i)`; times `sum of 2^(56 - 7 j)` it has
    `b[i]` at bit `56 + i`, and no two terms of the product at one bit.
    """
    return (flat.to(torch.uint8).view(torch.int64) * GATHER >> 56) & 255


def _binary(x: Tensor) -> bool:
    """Whether `x` holds nothing but 0 and 1: `x - x^2` is 0 for no other number."""
    return torch.addcmul(x, x, x, value=-1).abs_().max().item() == 0


@cache
def _table(device: torch.device) -> Tensor:
    """The eight bits of every byte as numbers, `[256, 8]`."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)
    return (bits & 1).float()
