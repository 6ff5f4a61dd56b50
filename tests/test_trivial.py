"""TrivialAugment, change by change, against torchvision on images of 256 levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torchvision.transforms import functional as reference
from torchvision.transforms.functional import InterpolationMode

from snntorch_stbp.train.data.trivial import CHANGES, Trivial

COUNT, SIDE = 40, 24


def photos(channels: int = 3) -> torch.Tensor:
    """Smooth random images of 256 levels, the brightest pixel white."""
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(COUNT, channels, 6, 6, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")
    levels = (large * 255).round().to(torch.uint8)
    levels[:, :, 0, 0] = 255
    return levels


def change(name: str, levels: torch.Tensor, strength: Any, up: bool = True) -> torch.Tensor:
    """Levels in which every image had the change `name`."""
    numbers: Iterator[torch.Tensor] = iter(
        [
            torch.full((COUNT,), (CHANGES.index(name) + 0.5) / len(CHANGES)),
            torch.as_tensor(strength, dtype=torch.float32).expand(COUNT),
            torch.full((COUNT,), 1.0 if up else 0.0),
        ]
    )
    return Trivial()(levels / 255, lambda: next(numbers)) * 255


def test_identity() -> None:
    levels = photos()
    assert torch.equal(change("identity", levels, 0.7), levels / 255 * 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_changes_without_strength(name: str, channels: int) -> None:
    levels = photos(channels)
    levels[:, :, 1:] = levels[:, :, 1:] // 2 + 20  # so that there is contrast to gain
    wanted = getattr(reference, name)(levels)
    assert (change(name, levels, 0.5) - wanted).abs().max() < 1.01
    assert (wanted.float() - levels).abs().mean() > 1


def test_equalize_leaves_what_has_one_level() -> None:
    levels = torch.full((COUNT, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    assert torch.equal(change("equalize", levels, 0.5), levels.float())
    assert torch.equal(change("autocontrast", levels, 0.5), levels.float())


@pytest.mark.parametrize(("strength", "bits"), [(0.1, 8), (0.3, 7), (0.5, 6), (0.7, 5), (0.99, 4)])
def test_posterize(strength: float, bits: int) -> None:
    levels = photos()
    wanted = reference.posterize(levels, bits)
    assert (change("posterize", levels, strength) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9])
def test_solarize(strength: float) -> None:
    levels = photos()
    wanted = reference.solarize(levels / 255, 1 - strength) * 255
    assert (change("solarize", levels, strength) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("brightness", reference.adjust_brightness),
        ("colour", reference.adjust_saturation),
        ("contrast", reference.adjust_contrast),
        ("sharpness", reference.adjust_sharpness),
    ],
)
def test_blends(name: str, function: Any, strength: float, up: bool) -> None:
    levels = photos()
    factor = 1 + 0.9 * strength * (1 if up else -1)
    wanted = function(levels / 255, factor) * 255
    assert (change(name, levels, strength, up) - wanted).abs().max() < 0.3  # 0.2989 is 0.299


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_moves(name: str, up: bool) -> None:
    levels, strength = photos(), 0.4
    amount = strength if up else -strength
    affine: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    pixels = amount * SIDE * 10 / 32
    if name.startswith("shear"):
        degrees = math.degrees(math.atan(0.3 * amount))
        affine["shear"] = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
    elif name.startswith("translate"):
        pixels = round(pixels)
        assert abs(pixels) == 3
        affine["translate"] = [-pixels, 0] if name == "translate_x" else [0, -pixels]
    else:
        affine["angle"] = 30 * amount
    wanted = reference.affine(levels / 255, interpolation=InterpolationMode.BILINEAR, **affine)
    found = change(name, levels, strength, up) / 255
    if name.startswith("shear"):  # which way is positive is a convention
        opposite = change(name, levels, strength, not up) / 255
        found = min((found, opposite), key=lambda image: float((image - wanted).abs().max()))
    assert (found - wanted).abs().max() < 1e-4


def test_every_image_has_a_change_of_its_own() -> None:
    levels = photos()
    choice = torch.arange(COUNT) % len(CHANGES)
    strength = torch.linspace(0.1, 0.9, COUNT)
    numbers = iter([(choice + 0.5) / len(CHANGES), strength, torch.ones(COUNT)])
    together = Trivial()(levels / 255, lambda: next(numbers)) * 255
    for index, name in enumerate(CHANGES):
        alone = change(name, levels, strength)
        mine = choice == index
        torch.testing.assert_close(together[mine], alone[mine])


def test_black_images_stay_black() -> None:
    levels = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.uint8)
    for name in CHANGES:
        assert not change(name, levels, 0.5).any()
