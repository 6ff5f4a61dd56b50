"""What is kept, decided tensor by tensor as autograd asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from ..kernels import int8
from ..neuron import watchers
from .kept import Bits, Itself, Recipe, View, restored

SMALL = 4096  # tensors below this many elements are kept as they are
FAN_IN = 256  # convolutions of up to so many products per output are computed again
CONVOLUTIONS = (F.conv2d, int8.apply)
ADDITIONS = (torch.add, Tensor.add, Tensor.__add__)

_active: _Keeper | None = None


@contextmanager
def saving() -> Iterator[None]:
    """Keep as little as can be had at little cost of what is computed inside the `with` block.

    As `recomputing`; and the spikes of neurons are kept as one bit per element (on a CPU all that
    holds nothing but 0 and 1, whatever made it: what is not known is looked at), and what comes out
    of a convolution of at most 256 products per output (the first one, those of 1x1 in shortcuts)
    is computed again. The backward pass may run outside of the block. Its gradients are bit for bit
    those without it, as far as the device computes a convolution twice alike.

    Raises:
        RuntimeError: In the backward pass, if a tensor that it needs was changed in place.
    """
    with _kept_by(_Keeper(bits=True)):
        yield


@contextmanager
def recomputing() -> Iterator[None]:
    """Compute the outputs of batch normalisations again instead of keeping them.

    The same holds for the sum of such an output and another tensor, as in a residual block: the
    other one is kept in place of the sum. Inside of `saving` it changes nothing.

    Raises:
        RuntimeError: As `saving`.
    """
    if _active is not None:
        yield
        return
    with _kept_by(_Keeper(bits=False)):
        yield


@contextmanager
def _kept_by(keeper: _Keeper) -> Iterator[None]:
    global _active
    before, _active = _active, keeper
    if keeper.bits:
        watchers.append(keeper.mark)
    try:
        with saved_tensors_hooks(keeper.keep, restored), keeper:
            yield
    finally:
        _active = before
        if keeper.bits:
            watchers.remove(keeper.mark)
        keeper.known.clear()  # the backward pass holds what it needs


@dataclass(frozen=True)
class _Known:
    """How `count` elements of a memory, from `offset` on, can be kept at this version of it.

    `None` stands for bits that are not packed yet.
    """

    contents: Bits | Recipe | None
    offset: int
    count: int
    version: int

    def covers(self, x: Tensor) -> bool:
        start = x.storage_offset() - self.offset
        return self.version == x._version and bool(0 <= start <= self.count - x.numel())


class _Keeper(TorchFunctionMode):
    """Keeps tensors; sees normalisations, additions and convolutions as they are called.

    Args:
        bits: Keep spikes as bits, and compute small convolutions again.
    """

    def __init__(self, bits: bool) -> None:
        super().__init__()
        self.bits = bits
        self.known: dict[StorageWeakRef, _Known] = {}  # of memory that is still in use

    def keep(self, x: Tensor) -> Itself | View:
        """How `x` is kept; `restored` gives it back."""
        if not _dense(x):
            return Itself.of(x)
        storage = StorageWeakRef(x.untyped_storage())
        known = self.known.get(storage)
        known = known if known is not None and known.covers(x) else None
        contents = None if known is None else known.contents
        offset = int(x.storage_offset())
        if contents is None or known is None:
            flat = x.detach().as_strided((x.numel(),), (1,))
            contents = Bits.of(flat, sure=known is not None) if self.bits else None
            if contents is None:
                return Itself.of(x)
            known = _Known(contents, offset, x.numel(), x._version)
            self._remember(storage, known)
        return View(contents, tuple(x.shape), x.stride(), offset - known.offset)

    def mark(self, spikes: Tensor) -> None:
        """Note that `spikes` are 0 and 1."""
        if _dense(spikes):
            whole = _Known(None, int(spikes.storage_offset()), spikes.numel(), spikes._version)
            self._remember(StorageWeakRef(spikes.untyped_storage()), whole)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and note how its result is computed again where that is cheap."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.batch_norm:
            self._note(result, func, *_normalisation(*args, **kwargs))
        elif func in CONVOLUTIONS and self.bits and not kwargs and _small(*args[:2]):
            self._note(result, func, *args)
        elif func in ADDITIONS and len(args) == 2 and not kwargs and self._knows(*args):
            self._note(result, torch.add, *args)
        return result

    def _note(self, result: Tensor, function: Any, *arguments: Any) -> None:
        if not _whole(result):
            return
        kept = tuple(self.keep(a) if isinstance(a, Tensor) else a for a in arguments)
        known = _Known(Recipe(function, kept), 0, result.numel(), result._version)
        self._remember(StorageWeakRef(result.untyped_storage()), known)

    def _remember(self, storage: StorageWeakRef, known: _Known) -> None:
        self.known = {s: k for s, k in self.known.items() if not s.expired()}
        self.known[storage] = known

    def _knows(self, *terms: Any) -> bool:
        """Whether a term of a sum is computed again, so that no more is kept than for the sum."""
        storages = (StorageWeakRef(t.untyped_storage()) for t in terms if _dense(t))
        found = (self.known.get(storage) for storage in storages)
        return any(known is not None and isinstance(known.contents, Recipe) for known in found)


def _normalisation(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, ...]:
    """The arguments of `F.batch_norm` for the same result, without an update of statistics."""
    mean, var = (None, None) if training else (running_mean, running_var)
    return input, mean, var, weight, bias, training, 0.0, eps


def _small(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution has few products per output, all of them as they are written."""
    few = weight.dim() == 4 and weight[0].numel() <= FAN_IN
    return few and not torch.is_autocast_enabled(x.device.type)


def _dense(x: Any) -> bool:
    """Whether `x` is a tensor that is large, real or of bytes, and memory without gaps."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and (x.is_floating_point() or x.dtype == torch.uint8)
        and x.layout == torch.strided
        and x.numel() >= SMALL
        and x.numel() == 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    )


def _whole(x: Tensor) -> bool:
    """Whether `x` will get a gradient, and has all of its memory for itself."""
    return x.requires_grad and _dense(x) and x.untyped_storage().nbytes() == x.nbytes
