"""Arithmetic in which sums of integers that fit float32's 24 bits come out exact, on any device.

What is set for that holds in all threads of the process: the first one that needs it sets it, the
last one puts back what was chosen before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import backends


class _Shared:
    """A setting of the process that is another one while any thread needs it.

    Args:
        change: Sets it on entry, and puts back what was there.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self.change, self.lock, self.users = change, threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.users == 0:
                self.changed = self.change()
                self.changed.__enter__()
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    self.changed.__exit__(None, None, None)


@contextmanager
def exact_sums(device: torch.device) -> Iterator[None]:
    """Convolutions and products of float32 integers are exact inside the `with` block.

    Fast modes are off that round: autocast, TF32 or bfloat16 products, and cuDNN, whose FFT and
    Winograd convolutions multiply numbers that are no integers any more.

    Args:
        device: Where the tensors are.
    """
    with torch.autocast(device.type, enabled=False), _cudnn_off(), full_precision():
        yield


def full_precision() -> AbstractContextManager[None]:
    """Convolutions and products of float32 keep its 24 bits: no TF32, which GPUs take by default.

    What a user chose holds again afterwards, by whichever of torch's two ways it was chosen.
    """
    return _full_precision()


@_Shared
@contextmanager
def _cudnn_off() -> Iterator[None]:
    enabled = backends.cudnn.enabled
    backends.cudnn.enabled = False
    try:
        yield
    finally:
        backends.cudnn.enabled = enabled


@_Shared
@contextmanager
def _full_precision() -> Iterator[None]:
    # Torch 2.9 has a setting for each operation beside the old ones; these raise when they are
    # read, and products when they are computed, where the two say different things.
    places: tuple[Any, ...] = ()
    if hasattr(backends.cudnn, "conv"):
        places = (
            backends.cuda.matmul, backends.mkldnn.matmul,  # type: ignore[attr-defined]
            backends.cudnn.conv, backends.mkldnn.conv,  # type: ignore[attr-defined]
        )  # fmt: skip
    chosen = [place.fp32_precision for place in places]
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # chosen by operation
        products = "highest"
    convolutions = None if places else backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    for place in places[2:]:
        place.fp32_precision = "ieee"
    if not places:
        backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        for place, value in zip(places, chosen, strict=True):
            place.fp32_precision = value
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
