"""Images, or frames, that live in memory as 8-bit numbers and leave it as batches of floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

_RESIZE_CHUNK = 1024  # images turned to float at a time


class Samples(Protocol):
    """What loaders and splits need of a data set."""

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 `[N]`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]: ...

    def subset(self, indices: Tensor) -> Samples:
        """The samples at `indices` (int64 `[M]`), sharing storage with this set."""


def drawn(dataset: Samples, count: int) -> Samples:
    """At most `count` samples in random order, the same ones every time.

    The first ones of a data set may all be of one class.
    """
    generator = torch.Generator().manual_seed(0)
    return dataset.subset(torch.randperm(len(dataset), generator=generator)[:count])


def examples(dataset: Samples, count: int) -> Tensor:
    """What `drawn` gives as one batch, `[B, C, H, W]` or `[T, B, C, H, W]`, without the labels."""
    part = drawn(dataset, count)
    return part.__getitems__(list(range(len(part))))[0]


@dataclass(frozen=True)
class Parts:
    """A data set as its authors split it, before a validation part is taken from `train`.

    Attributes:
        train, test: the two parts.
        classes: names of the classes, in the order of the labels.
        source: one line that says where the data came from.
        input_max: largest value that a sample can hold.
    """

    train: Samples
    test: Samples
    classes: list[str]
    source: str
    input_max: float = 1.0


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; work that a GPU was given before goes on meanwhile."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, one byte a value, or frames, one a time step.

    Args:
        images: uint8 `[N, C, H, W]`, or frames `[N, T, C, H, W]`.
        labels: int64 `[N]`.
        index: int64 `[M]`, the rows that belong to this set (all by default). Subsets share the
            images and differ in their index.
        counts: whether they count events, and stay what they are.

    Images and labels may lie on a GPU; batches then are made there.

    A sample is a float32 image `[C, H, W]`, exactly pixel / 255 (or the count), or frames
    `[T, C, H, W]`, and its label; a list of indices fetches the batch `[B, C, H, W]`, or
    `[T, B, C, H, W]`, and `[B]` at once.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        counts: bool = False,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim not in (4, 5):
            raise TypeError(
                "images must be a uint8 tensor [N, C, H, W] or [N, T, C, H, W], "
                f"not {images.dtype} of shape {list(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise TypeError(
                f"labels must be an int64 tensor [{len(images)}], "
                f"not {labels.dtype} of shape {list(labels.shape)}"
            )
        self.images = images
        self.all_labels = labels
        self.index = torch.arange(len(labels)) if index is None else index
        self.counts = counts
        # A GPU multiplies by the inverse of a number, but divides by a tensor.
        self._top = torch.full((), 1.0 if counts else 255.0, device=images.device)

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 `[N]`."""
        return self.all_labels[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.index[index]
        return self.images[row].to(torch.float32).div_(self._top), self.all_labels[row]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self.index[torch.as_tensor(indices, dtype=torch.int64)]
        rows = upload(rows, self.images.device)
        x = self.images[rows]
        x = x if x.ndim == 4 else x.transpose(0, 1).contiguous()
        return x.to(torch.float32).div_(self._top), self.all_labels[rows]

    def subset(self, indices: Tensor) -> ArrayDataset:
        """The samples at `indices` (int64 `[M]`), sharing the images with this set."""
        return self.sharing(self.images, self.index[indices])

    def to(self, device: torch.device) -> ArrayDataset:
        """The same set with images and labels on `device`."""
        labels = self.all_labels.to(device)
        return ArrayDataset(self.images.to(device), labels, self.index, self.counts)

    def resized(self, size: tuple[int, int]) -> ArrayDataset:
        """The same set with images of `size` (height, width); see `resize`."""
        whole = self.images if self.images.ndim == 4 else self.images.flatten(0, 1)
        return self.sharing(resize(whole, size).unflatten(0, self.images.shape[:-3]), self.index)

    def sharing(self, images: Tensor, index: Tensor) -> ArrayDataset:
        """This set's labels with other images of theirs, at `index`."""
        return ArrayDataset(images, self.all_labels.to(images.device), index, self.counts)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 images `[N, C, H, W]` by antialiased bilinear interpolation, rounded to uint8.

    Args:
        images: uint8 `[N, C, H, W]`.
        size: (height, width) wanted.

    Returns:
        uint8 `[N, C, height, width]`; `images` itself where the size is right already.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    out = torch.empty((*images.shape[:2], *size), dtype=torch.uint8)
    for start in range(0, len(images), _RESIZE_CHUNK):
        chunk = images[start : start + _RESIZE_CHUNK].to(torch.float32)
        chunk = interpolate(chunk, size, mode="bilinear", antialias=True)
        out[start : start + _RESIZE_CHUNK] = chunk.round_().clamp_(0, 255).to(torch.uint8)
    return out
