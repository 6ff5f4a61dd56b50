"""Batches in an order that the seed and the epoch alone decide."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ...errors import StbpError, UsageError
from .arrays import Samples


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a sequence of integers, e.g. `(seed, epoch, step)`.

    Keys that differ anywhere give unrelated streams; the global random states are not touched.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class GlobalBatches(Sampler[list[int]]):
    """The batches of one epoch, each rank's share of them.

    Args:
        order: int64 `[N]`, the samples in the order of this epoch.
        batch_size: samples in a global batch, over all ranks.
        start_step: number of global batches to skip.
        rank, world_size: which contiguous slice of each global batch is yielded.
        drop_last: leave out the last, smaller batch.
        in_step: leave out a last batch that is too small to give every rank a sample, so that
            all ranks take the same number of steps; else ranks without a share skip it.
    """

    def __init__(
        self,
        order: Tensor,
        batch_size: int,
        *,
        start_step: int,
        rank: int,
        world_size: int,
        drop_last: bool,
        in_step: bool,
    ) -> None:
        smallest = batch_size if drop_last else (world_size if in_step else 1)
        self.batches: list[list[int]] = []
        for batch in order.split(batch_size)[start_step:] if len(order) else ():
            begin, end = (len(batch) * r // world_size for r in (rank, rank + 1))
            if len(batch) >= smallest and end > begin:
                self.batches.append(batch[begin:end].tolist())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_fetched(batch: Any) -> Any:
    """Collate nothing: `__getitems__` returns whole batches."""
    return batch


class _Loader(DataLoader[tuple[Tensor, Tensor]]):
    """A loader whose workers leave Ctrl-C, which reaches all processes, to the one that trains."""

    def __iter__(self) -> Any:
        with _interrupts_held():
            return super().__iter__()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let SIGINT wait; processes that begin meanwhile never see it, however they are started."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_loader(
    dataset: Samples,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epoch: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    drop_last: bool,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches of one epoch, for one rank.

    The permutation depends on `seed` and `epoch` only: a resumed run sees the same batches, with
    any number of ranks the same global batches, and no global random state is read or changed.

    Args:
        dataset: fetched through `__getitems__`, a batch at a time.
        batch_size: samples in a global batch, over all ranks; a multiple of `world_size`.
        shuffle: True for training. False walks through the samples in order; with
            `drop_last=False` the ranks together then cover every sample exactly once.
        seed: decides the permutation, with the epoch.
        epoch: number of this epoch.
        start_step: global batches of this epoch that were done already.
        rank: which of the contiguous slices of every global batch this process takes.
        world_size: number of slices.
        workers: processes that fetch batches; 0 fetches in this one.
        drop_last: leave out a last batch that is smaller than the others. Without it, a last
            batch is shared as evenly as it goes; in training one with fewer samples than ranks
            is left out, so that the ranks keep in step.

    Returns:
        An iterable of `(x, y)`; its `len` is the number of steps left.

    Raises:
        UsageError: a batch size below 1, not divisible by `world_size`, or, in training, larger
            than the data set.
        StbpError: `start_step` lies beyond the end of the epoch.
    """
    size = len(dataset)
    _check(size, batch_size, shuffle, world_size)
    steps = size // batch_size if drop_last else -(-size // batch_size)
    if not 0 <= start_step <= steps:
        raise StbpError(
            f"Cannot go on at step {start_step} of an epoch of {steps} steps; "
            "the data or the batch size differ from those of the interrupted run."
        )
    order = (
        torch.randperm(size, generator=seeded_generator(seed, epoch))
        if shuffle
        else torch.arange(size)
    )
    batches = GlobalBatches(
        order,
        batch_size,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        in_step=shuffle,
    )
    return _Loader(
        dataset,  # type: ignore[arg-type]  # a map-style set by protocol, not by inheritance
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_fetched,
        # Without one, every pass draws a number from torch's global random state.
        generator=seeded_generator(seed, epoch),
    )


def check_shares(batch_size: int, world_size: int) -> None:
    """Refuse a batch that the ranks cannot share evenly.

    Raises:
        UsageError: If it is no multiple of `world_size`.
    """
    if batch_size % world_size:
        raise UsageError(
            f"A batch of {batch_size} cannot be shared by {world_size} processes evenly; "
            f"choose a multiple of {world_size}."
        )


def _check(size: int, batch_size: int, training: bool, world_size: int) -> None:
    """Refuse a batch size that `size` samples, or the ranks, cannot have."""
    if batch_size < 1:
        raise UsageError(f"The batch size must be at least 1, not {batch_size}.")
    check_shares(batch_size, world_size)
    if training and batch_size > size:
        raise UsageError(
            f"A batch of {batch_size} is larger than the {size} training samples; "
            f"choose a batch size of at most {size}."
        )
