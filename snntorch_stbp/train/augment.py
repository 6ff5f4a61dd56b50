"""Random augmentation of whole batches, on the device they are on.

Every sample gets its own transform, the same for all time steps and channels. The numbers are drawn
on the CPU from the generator that is given, so that a step can be repeated exactly, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .catalog import check_augmentations
from .data import upload

# A uniform number in [0, 1) for each of n samples, on the images' device.
Draw = Callable[[], Tensor]
# Transforms [B, channels, H, W].
Transform = Callable[[Tensor, Draw], Tensor]

MAX_DEGREES = 15.0
SHIFT = 1 / 8


class Augment:
    """Transforms applied in turn; see `make`."""

    def __init__(self, transforms: Sequence[Transform], image_size: tuple[int, int]) -> None:
        self.transforms = list(transforms)
        self.image_size = image_size

    def __call__(
        self, x: Tensor, generator: torch.Generator, rank: int = 0, world_size: int = 1
    ) -> Tensor:
        """Augment a batch.

        Args:
            x: floating point images `[B, C, H, W]` or frames `[T, B, C, H, W]`, no less than 0.
            generator: on the CPU; the only source of randomness.
            rank: which part of the batch `x` is, where processes hold equal, contiguous parts
                of one batch. With the same generator everywhere, samples are then transformed
                as they would be in one process.
            world_size: number of such parts.

        Returns:
            A tensor like `x`, with values between 0 and the largest of `x`.
        """
        if tuple(x.shape[-2:]) != self.image_size or x.ndim not in (4, 5):
            raise ValueError(
                f"expected [B, C, H, W] or [T, B, C, H, W] with (H, W) = {self.image_size}, "
                f"not {list(x.shape)}"
            )
        if not self.transforms:
            return x
        batch = x.shape[-4]

        def draw() -> Tensor:
            numbers = torch.rand(batch * world_size, generator=generator)
            return upload(numbers[rank * batch : (rank + 1) * batch], x.device)

        # Time joins the channels, as all of them are transformed alike.
        folded = x if x.ndim == 4 else x.transpose(0, 1).flatten(1, 2)
        for transform in self.transforms:
            folded = transform(folded, draw)
        return folded if x.ndim == 4 else folded.unflatten(1, (x.shape[0], -1)).transpose(0, 1)


def make(names: Sequence[str], image_size: int | tuple[int, int]) -> Augment:
    """An augmentation from names of `catalog.AUGMENTATIONS`, applied in this order.

    "shift" and "rotate" together are one movement and interpolated once, where the first of them
    stands.

    Args:
        names: any of "crop", "shift", "rotate", "flip", "cutout"; none leaves batches as they are.
        image_size: side, or (height, width), of the images to come.

    Returns:
        A callable `(x, generator) -> x`.

    Raises:
        UsageError: a name is unknown.
    """
    check_augmentations(names)
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    transforms: list[Transform] = []
    moves = [name for name in names if name in ("shift", "rotate")]
    for name in dict.fromkeys(names):
        if name == "crop":
            transforms.append(Crop(max(1, min(size) // 8)))
        elif name == "flip":
            transforms.append(flip)
        elif name == "cutout":
            transforms.append(Cutout(max(1, min(size) // 2)))
        elif name == moves[0]:
            transforms.append(
                Move(
                    MAX_DEGREES if "rotate" in moves else 0.0,
                    SHIFT if "shift" in moves else 0.0,
                )
            )
    return Augment(transforms, (size[0], size[1]))


def flip(x: Tensor, draw: Draw) -> Tensor:
    """Mirror left and right with probability 1/2."""
    return torch.where(draw()[:, None, None, None] < 0.5, x.flip(-1), x)


class Crop:
    """Pad with `padding` zeros on every side and cut out a window of the old size anywhere."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Crop images `[B, channels, H, W]`."""
        batch, channels, height, width = x.shape
        padded = functional.pad(x, [self.padding] * 4)
        places = 2 * self.padding + 1
        rows = (draw() * places).long()[:, None] + torch.arange(height, device=x.device)
        columns = (draw() * places).long()[:, None] + torch.arange(width, device=x.device)
        return padded[
            torch.arange(batch, device=x.device)[:, None, None, None],
            torch.arange(channels, device=x.device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


class Cutout:
    """Zero a square of `side` pixels whose centre is any pixel; it may reach beyond the image."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Blank squares in images `[B, channels, H, W]`."""
        hit = [self._covered(draw(), n) for n in x.shape[-2:]]
        return x.masked_fill((hit[0][:, :, None] & hit[1][:, None, :])[:, None], 0)

    def _covered(self, number: Tensor, length: int) -> Tensor:
        """Which of `length` rows (or columns) the square covers, bool `[B, length]`."""
        start = (number * length).long()[:, None] - self.side // 2
        place = torch.arange(length, device=number.device)
        return (place >= start) & (place < start + self.side)


class Move:
    """Rotate about the centre, then translate; bilinear, with zeros from outside.

    Args:
        degrees: largest angle, either way.
        shift: largest translation, either way, as a share of the height and of the width.
    """

    def __init__(self, degrees: float, shift: float) -> None:
        self.degrees = degrees
        self.shift = shift

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Move images `[B, channels, H, W]`."""
        height, width = x.shape[-2:]
        angle = (draw() * 2 - 1) * math.radians(self.degrees)
        # Grid coordinates run from -1 to 1: a whole image is 2 long.
        down, right = ((draw() * 2 - 1) * 2 * self.shift for _ in range(2))
        cos, sin = angle.cos(), angle.sin()
        # Where each output pixel comes from; the aspect ratio keeps rotations free of shear.
        theta = torch.stack(
            [
                torch.stack([cos, sin * (height / width), right], dim=-1),
                torch.stack([-sin * (width / height), cos, down], dim=-1),
            ],
            dim=1,
        )
        # Half precision has too few bits for coordinates, so the grid is at least float32.
        wide = torch.promote_types(x.dtype, torch.float32)
        grid = functional.affine_grid(theta.to(wide), list(x.shape), align_corners=False)
        moved = functional.grid_sample(x.to(wide), grid, align_corners=False).to(x.dtype)
        # Interpolation may overshoot the sample's own range by one rounding.
        return moved.clamp(x.new_zeros(()), x.amax(dim=(1, 2, 3), keepdim=True))
