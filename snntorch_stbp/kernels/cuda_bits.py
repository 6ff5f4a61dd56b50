# mypy: allow-untyped-defs, allow-incomplete-defs
"""Zeros and ones as bits, eight to a byte, on a CUDA device: one pass over memory each way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BYTES = 512  # of a program
WARPS = 4


@triton.jit
def _pack(x_ptr, out_ptr, n, BYTES: tl.constexpr):
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    place = tl.arange(0, 8)[None, :]
    at = byte[:, None] * 8 + place
    ones = (tl.load(x_ptr + at, mask=at < n, other=0) != 0).to(tl.int32)
    tl.store(out_ptr + byte, tl.sum(ones << place, axis=1).to(tl.uint8), mask=byte * 8 < n)


@triton.jit
def _unpack(packed_ptr, out_ptr, n, BYTES: tl.constexpr):
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    place = tl.arange(0, 8)[None, :]
    at = byte[:, None] * 8 + place
    packed = tl.load(packed_ptr + byte, mask=byte * 8 < n, other=0).to(tl.int32)
    ones = ((packed[:, None] >> place) & 1).to(tl.float32)
    tl.store(out_ptr + at, ones.to(out_ptr.dtype.element_ty), mask=at < n)


def pack(flat: Tensor) -> Tensor:
    """Zeros and ones `[N]` as `ceil(N / 8)` bytes, the first as the lowest bit of its byte."""
    packed = flat.new_empty(triton.cdiv(flat.numel(), 8), dtype=torch.uint8)
    with torch.cuda.device_of(flat):
        _pack[(triton.cdiv(len(packed), BYTES),)](
            flat, packed, flat.numel(), BYTES=BYTES, num_warps=WARPS
        )
    return packed


def unpack(packed: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """The inverse of `pack`: the `count` zeros and ones that it was given."""
    flat = packed.new_empty(count, dtype=dtype)
    with torch.cuda.device_of(packed):
        _unpack[(triton.cdiv(len(packed), BYTES),)](
            packed, flat, count, BYTES=BYTES, num_warps=WARPS
        )
    return flat
