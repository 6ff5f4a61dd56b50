"""Random augmentation of whole batches, on the device they are on.

Every sample gets its own transform, the same for all time steps and channels. The numbers are drawn
on the CPU from the generator that is given, so that a step can be repeated exactly, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import UsageError
from ..catalog import parse_augmentation
from . import upload
from .trivial import Trivial

# Uniform numbers in [0, 1) for each of n samples, on the images' device: [n], or [n, *shape].
Draw = Callable[..., Tensor]
# Transforms [B, channels, H, W].
Transform = Callable[[Tensor, Draw], Tensor]

MAX_DEGREES = 15.0
SHIFT = 1 / 8
ELASTIC = 1 / 14  # one field in 2,000 folds back, in a few pixels; of a quarter more, one in 14
POINTS = 5  # a side, of the net that an elastic deformation pulls at


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

        def draw(*shape: int) -> Tensor:
            numbers = torch.rand(batch * world_size, *shape, generator=generator)
            return upload(numbers[rank * batch : (rank + 1) * batch], x.device)

        # Time joins the channels, as all of them are transformed alike.
        folded = x if x.ndim == 4 else x.transpose(0, 1).flatten(1, 2)
        steps = 1 if x.ndim == 4 else x.shape[0]
        for transform in self.transforms:
            if isinstance(transform, Trivial):  # which has to know which channels are colours
                folded = transform(folded, draw, steps)
            else:
                folded = transform(folded, draw)
        return folded if x.ndim == 4 else folded.unflatten(1, (x.shape[0], -1)).transpose(0, 1)


def make(names: Sequence[str], image_size: int | tuple[int, int]) -> Augment:
    """An augmentation from names of `catalog.AUGMENTATIONS`, applied in this order.

    "shift", "rotate" and "elastic" together are one movement and interpolated once, where the first
    of them stands.

    Args:
        names: any of "crop", "shift", "rotate", "elastic", "flip", "cutout", "trivial", where there
            is an amount also as "crop:2"; none leaves batches as they are.
        image_size: side, or (height, width), of the images to come.

    Returns:
        A callable `(x, generator) -> x`.

    Raises:
        UsageError: a name or an amount is wrong.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    side = min(height, width)
    amounts = dict(map(parse_augmentation, names))
    for name in ("crop", "shift", "cutout"):
        amount = amounts.get(name)
        if amount is not None and amount >= side:
            raise UsageError(
                f"{name}:{amount:g} leaves nothing of images of {side} pixels: give less than "
                f"{side}, or {name} alone."
            )
    transforms: list[Transform] = []
    moves = [name for name in amounts if name in ("shift", "rotate", "elastic")]
    for name, amount in amounts.items():
        if name == "crop":
            transforms.append(Crop(int(amount or max(1, side // 8))))
        elif name == "flip":
            transforms.append(flip)
        elif name == "trivial":
            transforms.append(Trivial())
        elif name == "cutout":
            transforms.append(Cutout(int(amount or max(1, side // 2))))
        elif name == moves[0]:
            degrees = (amounts["rotate"] or MAX_DEGREES) if "rotate" in moves else 0.0
            pixels = amounts.get("shift")
            shift = (pixels / side if pixels else SHIFT) if "shift" in moves else 0.0
            transforms.append(Move(degrees, shift, _elastic(amounts, side)))
    return Augment(transforms, (height, width))


def _elastic(amounts: Mapping[str, float | None], side: int) -> float:
    """The largest displacement of an elastic deformation as a share of the image's side."""
    if "elastic" not in amounts:
        return 0.0
    pixels = amounts["elastic"]
    if pixels is None:
        return ELASTIC
    if pixels / side > ELASTIC:
        raise UsageError(
            f"elastic:{pixels:g} folds too many images of {side} pixels: give up to "
            f"{ELASTIC * side:.3g} pixels, or elastic alone, which is that."
        )
    return pixels / side


def flip(x: Tensor, draw: Draw) -> Tensor:
    """Mirror left and right with probability 1/2."""
    return torch.where(draw()[:, None, None, None] < 0.5, x.flip(-1), x)


class Crop:
    """Pad with `padding` zeros on every side and cut out a window of the old size anywhere."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Crop images `[B, channels, H, W]`."""
        padded = functional.pad(x, [self.padding] * 4)
        windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)  # a view of all of them
        places = 2 * self.padding + 1
        down, right = (draw() * places).long(), (draw() * places).long()
        return windows[torch.arange(len(x), device=x.device), :, down, right]


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
    """Deform, rotate about the centre, translate; bilinear, with zeros from outside.

    Elastic deformations (P. Simard et al., "Best practices for convolutional neural networks
    applied to visual document analysis", ICDAR 2003) are smooth fields of displacements: random
    ones at a net of points, and bicubic interpolation between them (O. Ronneberger et al., U-Net,
    arXiv:1505.04597).

    Args:
        degrees: largest angle, either way.
        shift: largest translation, either way, as a share of the height and of the width.
        elastic: largest displacement of a point of the net, in each direction, as such a share.
    """

    def __init__(self, degrees: float, shift: float, elastic: float = 0.0) -> None:
        self.degrees = degrees
        self.shift = shift
        self.elastic = elastic

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Move images `[B, channels, H, W]`."""
        height, width = x.shape[-2:]
        angle = (draw() * 2 - 1) * math.radians(self.degrees)
        # Grid coordinates run from -1 to 1: a whole image is 2 long.
        down, right = ((draw() * 2 - 1) * 2 * self.shift for _ in range(2))
        # Half precision has too few bits for coordinates, so the grid is at least float32.
        wide = torch.promote_types(x.dtype, torch.float32)
        angle, down, right = angle.to(wide), down.to(wide), right.to(wide)
        cos, sin = angle.cos(), angle.sin()
        # Where each output pixel comes from; the aspect ratio keeps rotations free of shear.
        along = torch.stack([cos, -sin * (width / height)], dim=-1)[:, None, None]
        across = torch.stack([sin * (height / width), cos], dim=-1)[:, None, None]
        centre = torch.stack([right, down], dim=-1)[:, None, None]
        grid = _centres(width, angle)[:, None] * along + (
            _centres(height, angle)[:, None, None] * across + centre
        )
        if self.elastic:
            points = (draw(2, POINTS, POINTS).to(wide) * 2 - 1) * 2 * self.elastic
            rows, columns = (_bicubic(length, points) for length in (height, width))
            grid = grid + torch.einsum("hi,bcij,wj->bhwc", rows, points, columns)
        moved = functional.grid_sample(x.to(wide), grid, align_corners=False).to(x.dtype)
        # Interpolation may overshoot the sample's own range by one rounding.
        return moved.clamp(x.new_zeros(()), x.amax(dim=(1, 2, 3), keepdim=True))


def _centres(length: int, like: Tensor) -> Tensor:
    """The coordinates of `length` pixels in a row, of which the borders are -1 and 1."""
    places = torch.arange(length, dtype=like.dtype, device=like.device)
    return (2 * places + 1) / length - 1


def _bicubic(length: int, points: Tensor) -> Tensor:
    """Weights `[length, points]` of the points of a net at the pixels of a row or a column.

    To interpolate between rows and between columns are two small matrix products, much faster than
    torch's kernel for images.
    """
    net = torch.eye(POINTS, dtype=points.dtype, device=points.device)
    size = (length, POINTS)
    weights = functional.interpolate(net[None, None], size, mode="bicubic", align_corners=True)
    return weights[0, 0]
