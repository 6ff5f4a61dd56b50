"""Augmentation: per sample, the same for all its time steps, from the generator alone."""

import math

import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torchvision.transforms.functional import InterpolationMode, rotate

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.catalog import AUGMENTATIONS
from snntorch_stbp.train.data import augment

ALL = tuple(AUGMENTATIONS)


def images(batch=16, channels=3, height=12, width=16):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def run(names, x, seed=1, **options):
    transform = augment.make(names, tuple(x.shape[-2:]))
    return transform(x, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("name", ALL)
def test_only_the_generator_decides(name):
    x = images()
    before = x.clone()
    state = torch.get_rng_state()
    first = run([name], x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run([name], x), first)
    assert not torch.equal(run([name], x, seed=2), first)
    assert torch.equal(x, before)


@pytest.mark.parametrize("names", [(n,) for n in ALL] + [ALL])
def test_shape_type_and_range_stay(names):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for scale in (1.0, 255.0):
            x = (images() * scale).to(dtype)
            y = run(names, x)
            assert y.shape == x.shape
            assert y.dtype == dtype
            assert y.min() >= 0
            assert y.max() <= x.max()


@pytest.mark.parametrize("names", [(n,) for n in ALL] + [ALL])
def test_samples_differ_but_time_steps_do_not(names):
    image = images(batch=1)
    frames = image.expand(4, 32, -1, -1, -1)
    y = run(names, frames)
    assert torch.equal(y, y[:1].expand_as(y))
    assert len({tuple(sample.flatten().tolist()) for sample in y[0]}) > 1
    assert torch.equal(y[0], run(names, frames[0]))


@pytest.mark.parametrize("names", [(n,) for n in ALL] + [ALL])
def test_ranks_together_do_what_one_process_does(names):
    x = images()
    shares = [run(names, part, rank=r, world_size=4) for r, part in enumerate(x.chunk(4))]
    assert torch.equal(torch.cat(shares), run(names, x))


def test_crop_translates_by_whole_pixels_with_zeros():
    x = images(batch=64, channels=2, height=32, width=32)
    y = run(["crop"], x)
    seen = set()
    for before, after in zip(x, y, strict=True):
        padded = torch.nn.functional.pad(before, [4] * 4)
        places = [(r, c) for r in range(9) for c in range(9)
                  if torch.equal(padded[:, r : r + 32, c : c + 32], after)]  # fmt: skip
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 30
    assert {r for r, _ in seen} == {c for _, c in seen} == set(range(9))


def test_flip_mirrors_about_half():
    x = images(batch=200, channels=1)
    y = run(["flip"], x)
    flipped = (y == x.flip(-1)).flatten(1).all(1)
    assert (flipped | (y == x).flatten(1).all(1)).all()
    assert 70 < int(flipped.sum()) < 130


def test_cutout_blanks_one_square():
    x = torch.ones(200, 2, 32, 32)
    y = run(["cutout"], x)
    for sample in y:
        hole = sample == 0
        assert torch.equal(hole[0], hole[1])
        rows, columns = hole[0].any(1), hole[0].any(0)
        assert torch.equal(hole[0], rows[:, None] & columns[None])
        assert 8 <= int(rows.sum()) <= 16
        assert 8 <= int(columns.sum()) <= 16
    assert (y == 0).any(0).all()


def test_rotation_equals_torchvisions():
    x = images(batch=4, channels=3, height=12, width=12)
    move = augment.Move(15.0, 0.0)
    y = move(x, lambda: torch.full((4,), 0.8))
    expected = rotate(x, -0.6 * 15, interpolation=InterpolationMode.BILINEAR)
    assert torch.allclose(y, expected, atol=1e-5)


def test_rotation_of_oblong_images_is_free_of_shear():
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 10:31] = 1  # a horizontal bar of length 21 about the centre
    y = augment.Move(90.0, 0.0)(x, lambda: torch.ones(1))
    assert torch.allclose(y[0, 0, :, 20], torch.ones(21), atol=1e-4)
    assert float(y.sum()) == pytest.approx(21, abs=1e-3)


def test_movements_are_those_of_torchs_own_grids():
    batch, height, width, amount = 6, 20, 28, 1 / 20
    x = images(batch=batch, channels=2, height=height, width=width)
    generator = torch.Generator()

    def draw(*shape):
        return torch.rand(batch, *shape, generator=generator)

    generator.manual_seed(3)
    y = augment.Move(30.0, 1 / 8, amount)(x, draw)
    generator.manual_seed(3)
    angle = (draw() * 2 - 1) * math.radians(30)
    down, right = (draw() * 2 - 1) / 4, (draw() * 2 - 1) / 4
    field = (draw(2, 5, 5) * 2 - 1) * 2 * amount
    field = interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    for n in range(batch):
        c, s = math.cos(angle[n]), math.sin(angle[n])
        theta = torch.tensor(
            [[c, s * height / width, right[n]], [-s * width / height, c, down[n]]]
        )[None]
        grid = affine_grid(theta, [1, 2, height, width], align_corners=False)
        grid = grid + field[n].permute(1, 2, 0)
        expected = grid_sample(x[n : n + 1], grid, align_corners=False)
        assert torch.allclose(y[n : n + 1], expected, atol=1e-4)


def test_shift_is_a_translation_by_up_to_an_eighth():
    x = torch.zeros(300, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1
    y = run(["shift"], x)
    weight = y.sum((1, 2, 3))
    assert torch.allclose(weight, torch.full((300,), 64.0), atol=1e-3)
    place = torch.arange(32.0)
    for dim in (2, 3):
        centre = (y.sum((1, 5 - dim)) * place).sum(1) / weight
        assert (centre - 15.5).abs().max() <= 4.001
        assert centre.min() < 13
        assert centre.max() > 18


def test_elastic_deformations_are_smooth_and_small():
    size = 40
    inside = torch.arange(1.0, size + 1)
    ramps = torch.stack([inside[None].expand(size, size), inside[:, None].expand(size, size)])
    y = run(["elastic"], ramps.expand(50, 2, size, size))
    moved = (y - ramps)[..., 8:-8, 8:-8]  # of a ramp, what it moves by
    assert moved.abs().max() < 1.6 * size / 10  # bicubic curves overshoot
    assert moved.std(0).min() > 0.5
    assert moved.diff(dim=-1).abs().max() < 1  # no folds
    assert moved.diff(dim=-2).abs().max() < 1
    assert moved.mean((1, 2, 3)).std() > 0.1  # every sample in its own way


@pytest.mark.parametrize("pixels", [1, 2.5])
def test_elastic_deformations_have_an_amount(pixels):
    size = 40
    ramp = torch.arange(1.0, size + 1).expand(50, 1, size, size)
    whole, part = (
        (run([name], ramp) - ramp)[..., 8:-8, 8:-8] for name in ("elastic", f"elastic:{pixels}")
    )
    assert (part - whole * pixels / (size / 14)).abs().max() < 1e-4


def test_one_elastic_deformation_in_thousands_folds():
    """By torch's own bicubic interpolation: the determinant of the map from pixel to place."""
    side, count = 28, 20_000
    shares = []
    for largest in (augment.ELASTIC, 1.25 * augment.ELASTIC):
        folding = 0
        for _ in range(count // 2000):
            points = (2 * torch.rand(2000, 2, augment.POINTS, augment.POINTS) - 1) * largest * side
            field = interpolate(points, (side, side), mode="bicubic", align_corners=True)
            across, down = field.diff(dim=3)[:, :, :-1], field.diff(dim=2)[..., :-1]
            area = (1 + across[:, 0]) * (1 + down[:, 1]) - across[:, 1] * down[:, 0]
            folding += int((area <= 0).flatten(1).any(1).sum())
        shares.append(folding / count)
    assert 1 / 5000 < shares[0] < 1 / 1000
    assert 1 / 20 < shares[1] < 1 / 10


def test_elastic_deformations_that_fold_often_are_refused():
    augment.make(["elastic:2"], 28)
    for side in range(8, 300):
        augment.make(["elastic"], side)
    with pytest.raises(
        UsageError, match=r"elastic:2\.5 folds too many images of 28 .* up to 2 pixels"
    ):
        augment.make(["elastic:2.5"], 28)


def test_movements_are_interpolated_once():
    assert len(augment.make(["flip", "rotate", "elastic", "shift"], 8).transforms) == 2


def test_no_names_change_nothing():
    x = images()
    assert run([], x) is x


def test_unknown_names_are_usage_errors():
    for wrong in ("crop:0", "crop:-1", "shift:nan", "rotate:", "cutout:1e9", "crop:2:3"):
        with pytest.raises(UsageError, match=rf"The amount of '{wrong}' is a .*number of "):
            augment.make([wrong], 32)
    with pytest.raises(UsageError, match=r"Unknown augmentation 'flipp'.*Did you mean 'flip'"):
        augment.make(["crop", "flipp"], 32)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(H, W\) = \(32, 32\), not \[16, 3, 12, 16\]"):
        augment.make(["flip"], 32)(images(), torch.Generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_devices_agree(name):
    x = images()
    assert torch.allclose(run([name], x.cuda()).cpu(), run([name], x), atol=1e-5)


def test_amounts_are_pixels_and_degrees() -> None:
    (crop,) = augment.make(["crop:2"], 28).transforms
    (cutout,) = augment.make(["cutout:6"], 28).transforms
    (move,) = augment.make(["rotate:5", "shift:1.4"], (28, 56)).transforms
    assert (crop.padding, cutout.side) == (2, 6)  # type: ignore[attr-defined]
    assert (move.degrees, move.shift) == (5.0, pytest.approx(0.05))  # type: ignore[attr-defined]
    x = torch.zeros(64, 1, 28, 28)
    x[..., 14, 14] = 1.0
    y = augment.make(["crop:2"], 28)(x, torch.Generator().manual_seed(0))
    rows, columns = y[:, 0].flatten(1).argmax(1) // 28, y[:, 0].flatten(1).argmax(1) % 28
    assert set(rows.tolist()) == set(columns.tolist()) == {12, 13, 14, 15, 16}
