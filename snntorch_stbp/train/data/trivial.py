"""TrivialAugment: one random change of random strength to every image, a whole batch at a time.

S. G. Müller and F. Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation",
ICCV 2021, arXiv:2103.10158, with the changes and strengths of RandAugment (E. D. Cubuk et al.,
arXiv:1909.13719) that the paper calls the RA space.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "colour", "contrast", "sharpness")
CHANGES = ("identity", *MOVES, *BLENDS, "autocontrast", "equalize", "posterize", "solarize")
SHEAR = 0.3
TRANSLATE = 10 / 32  # of the image's side
ROTATE = math.radians(30)
BLEND = 0.9  # either way
BITS = 4  # that posterize takes at most, of 8


class Trivial:
    """The transform; see the module."""

    def __call__(self, x: Tensor, draw: Callable[..., Tensor], steps: int = 1) -> Tensor:
        """Change images.

        Args:
            x: `[B, steps * channels, H, W]`, no less than 0; the largest value of each is white.
            draw: As of `augment`.
            steps: Frames of a sample, all of which are changed alike.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        change = (draw() * len(CHANGES)).long().repeat_interleave(steps)
        strength = draw().to(wide.dtype)
        signed = torch.where(draw() < 0.5, -strength, strength).repeat_interleave(steps)
        strength = strength.repeat_interleave(steps)
        white = wide.amax(dim=(1, 2, 3), keepdim=True)
        image = wide / white.clamp(min=torch.finfo(wide.dtype).tiny)
        image = image.unflatten(1, (steps, -1)).flatten(0, 1)
        changed = _blended(_moved(image, change, signed), change, signed)
        for name, result in (
            ("autocontrast", autocontrast(image)),
            ("equalize", equalize(image)),
            ("posterize", posterize(image, strength)),
            ("solarize", solarize(image, strength)),
        ):
            changed = torch.where(_is(change, name), result, changed)
        changed = changed.clamp(0, 1).view_as(x) * white
        return torch.where(_is(change[::steps], "identity"), x, changed.to(x.dtype))


def autocontrast(image: Tensor) -> Tensor:
    """Stretch every channel from black to white; one of a single value stays."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp(min=1e-6), image)


def equalize(image: Tensor) -> Tensor:
    """Make all of the 256 levels of a channel equally frequent, as Pillow's `ImageOps` does."""
    level = (image * 255).round().long().flatten(2)
    counts = image.new_zeros(*level.shape[:2], 256)
    counts.scatter_add_(2, level, torch.ones_like(level, dtype=counts.dtype))
    below = counts.cumsum(2) - counts
    last = counts.gather(2, level.amax(2, keepdim=True))  # of the highest level that occurs
    width = ((level.shape[2] - last) / 255).floor()
    table = ((below + (width / 2).floor()) / width.clamp(min=1)).floor().clamp(max=255)
    equal = table.gather(2, level).view_as(image) / 255
    return torch.where((width > 0)[..., None], equal, image)


def posterize(image: Tensor, strength: Tensor) -> Tensor:
    """Clear the lowest of 8 bits of every pixel, up to `BITS` of them."""
    width = 2.0 ** (strength * (BITS + 1)).floor().clamp(max=BITS)[:, None, None, None]
    return ((image * 255).round() / width).floor() * width / 255


def solarize(image: Tensor, strength: Tensor) -> Tensor:
    """Invert pixels of at least `1 - strength`."""
    return torch.where(image >= 1 - strength[:, None, None, None], 1 - image, image)


def grey(image: Tensor) -> Tensor:
    """Luminance `[B, 1, H, W]` of three channels (ITU-R BT.601); of others the mean."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    red, green, blue = image.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def smooth(image: Tensor) -> Tensor:
    """Pillow's filter `SMOOTH`, which leaves the border as it is."""
    kernel = image.new_ones(image.shape[1], 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    result = image.clone()
    result[..., 1:-1, 1:-1] = functional.conv2d(image, kernel / 13, groups=image.shape[1])
    return result


def _moved(image: Tensor, change: Tensor, amount: Tensor) -> Tensor:
    """Shear, translate and rotate where `change` says so, with black from outside."""
    height, width = image.shape[-2:]
    shear_x, shear_y, right, down, turn = (
        torch.where(change == CHANGES.index(name), amount, 0.0) for name in MOVES
    )
    cos, sin = (turn * ROTATE).cos(), (turn * ROTATE).sin()
    ratio = height / width  # grid coordinates run from -1 to 1 in both directions
    theta = torch.stack(
        [
            torch.stack([cos, (sin + shear_x * SHEAR) * ratio, right * 2 * TRANSLATE], dim=-1),
            torch.stack([(shear_y * SHEAR - sin) / ratio, cos, down * 2 * TRANSLATE], dim=-1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, align_corners=False)
    still = (change < CHANGES.index(MOVES[0])) | (change > CHANGES.index(MOVES[-1]))
    return torch.where(still[:, None, None, None], image, moved)


def _blended(image: Tensor, change: Tensor, amount: Tensor) -> Tensor:
    """Take images away from, or towards, black, their grey, its mean, or a smooth copy."""
    luminance = grey(image)
    others = {
        "brightness": torch.zeros_like(luminance),
        "colour": luminance,
        "contrast": luminance.mean((2, 3), keepdim=True),
        "sharpness": smooth(image),
    }
    result = image
    for name, other in others.items():
        factor = 1 + BLEND * amount[:, None, None, None]
        result = torch.where(_is(change, name), other + factor * (image - other), result)
    return result


def _is(change: Tensor, name: str) -> Tensor:
    return (change == CHANGES.index(name))[:, None, None, None]
