"""Image folders: decoded once, exactly, and refused with the file's name."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snntorch_stbp.errors import StbpError
from snntorch_stbp.train.data import load
from snntorch_stbp.train.data.folder import load_folder

CIFAR10 = Path(__file__).parents[2] / "shared" / "data" / "cifar10_jpeg.tar.xz"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def colour(seed, height=5, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes, two training and one test image each."""
    for i, name in enumerate(("cat", "dog")):
        save(tmp_path / "train" / name / "1.png", colour(10 + i))
        save(tmp_path / "train" / name / "deeper" / "2.PNG", colour(20 + i))
        save(tmp_path / "test" / name / "1.png", colour(30 + i))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_pixels_and_labels(root):
    bundle = load(f"folder:{root}", data_dir=root, validate_on_test=True)
    assert (bundle.classes, bundle.channels, bundle.image_size) == (["cat", "dog"], 3, (5, 6))
    x, y = bundle.train.__getitems__([0, 1, 2, 3])
    expected = np.stack([colour(10), colour(20), colour(11), colour(21)]).transpose(0, 3, 1, 2)
    assert torch.equal(x, torch.from_numpy(expected).float() / 255)
    assert y.tolist() == [0, 0, 1, 1]
    assert bundle.test.labels.tolist() == [0, 1]
    assert str(root) in bundle.source


def test_what_lies_below_hidden_folders_is_no_image(root):
    save(root / "train" / "cat" / ".ipynb_checkpoints" / "1-checkpoint.png", colour(1))
    assert len(load(f"folder:{root}", data_dir=root, validate_on_test=True).train) == 4


def test_grey_stays_one_channel_and_joins_colour(root, tmp_path):
    grey = colour(1)[:, :, 0]
    for part in ("train", "test"):
        save(tmp_path / "grey" / part / "a" / "1.png", grey)
    parts = load_folder(tmp_path / "grey")
    assert torch.equal(parts.train[0][0][0], torch.from_numpy(grey).float() / 255)
    save(root / "train" / "dog" / "0.png", grey)
    image, _ = load_folder(root).train[2]
    assert torch.equal(image, (torch.from_numpy(grey).float() / 255).expand(3, -1, -1))


def test_transparency_and_palettes_become_colour(root):
    Image.fromarray(colour(5)).convert("RGBA").save(root / "test" / "cat" / "2.png")
    Image.fromarray(colour(6)).convert("P").save(root / "test" / "cat" / "3.gif", transparency=0)
    assert load_folder(root).test[1][0].shape == (3, 5, 6)


def test_threads_do_not_matter_and_a_second_load_shares_the_pixels(root):
    first = load_folder(root, threads=1).train
    again = load_folder(root, threads=4).train
    assert again.images is first.images
    save(root / "train" / "cat" / "1.png", colour(99))
    changed = load_folder(root).train
    assert changed.images is not first.images
    assert torch.equal(changed.images[1:], first.images[1:])


def test_different_sizes_need_an_image_size(root):
    odd = root / "test" / "dog" / "1.png"
    save(odd, colour(3, 9, 4))
    with pytest.raises(
        StbpError, match=r"differ in size: .* is 5x6, .*dog.1.png is 9x4 .*--image-s"
    ):
        load_folder(root)
    bundle = load(f"folder:{root}", data_dir=root, image_size=(8, 7), validate_on_test=True)
    assert bundle.image_size == (8, 7)
    assert bundle.test.__getitems__([0, 1])[0].shape == (2, 3, 8, 7)


def test_missing_pieces(root, tmp_path):
    with pytest.raises(StbpError, match=r"No such folder: .*absent.train; folder:PATH wants"):
        load_folder(tmp_path / "absent")
    (root / "test" / "bird").mkdir()
    with pytest.raises(StbpError, match=r"has the class 'bird', which .* cat, dog"):
        load_folder(root)
    (root / "train" / "bird").mkdir()
    with pytest.raises(StbpError, match=r"class folder .*train.bird holds no images"):
        load_folder(root)
    empty = tmp_path / "empty"
    for part in ("train", "test"):
        (empty / part).mkdir(parents=True)
    with pytest.raises(StbpError, match=r"empty.train holds no classes"):
        load_folder(empty)
    save(empty / "train" / "a" / "1.png", colour(0))
    (empty / "test" / "a").mkdir()
    with pytest.raises(StbpError, match=r"class folders in .*test hold no images"):
        load_folder(empty)


def test_unreadable_images_are_named(root):
    victim = root / "train" / "cat" / "1.png"
    whole = victim.read_bytes()
    for content in (b"nonsense", whole[:60], b""):
        victim.write_bytes(content)
        with pytest.raises(StbpError, match=r"cat.1.png cannot be read as an image"):
            load_folder(root)
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(victim)
    with pytest.raises(StbpError, match=r"cat.1.png has more than 8 bits a pixel"):
        load_folder(root)


def test_real_cifar10_images(tmp_path):
    if not CIFAR10.exists():
        pytest.skip(f"{CIFAR10} is missing")
    wanted = 0
    with tarfile.open(CIFAR10) as archive:
        for member in archive:
            if member.isfile():
                archive.extract(member, tmp_path, filter="data")
                wanted += 1
            if wanted == 200:
                break
    found = sorted((tmp_path / "cifar10").rglob("*.jpg"))
    # The archive holds part by part: move some of what came first to the other part.
    part = found[0].relative_to(tmp_path / "cifar10").parts[0]
    other = {"train": "test", "test": "train"}[part]
    for file in found[::2]:
        target = tmp_path / "cifar10" / other / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    bundle = load(f"folder:{tmp_path / 'cifar10'}", data_dir=tmp_path, val_fraction=0.25)
    assert (bundle.channels, bundle.image_size) == (3, (32, 32))
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 200
    x, _ = bundle.train.__getitems__(list(range(len(bundle.train))))
    assert 0.3 < float(x.mean()) < 0.7


def test_a_picture_that_would_start_a_program_is_none(root):
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    (root / "train" / "cat" / "1.png").write_bytes(head)
    with pytest.raises(StbpError, match=r"1\.png cannot be read as an image"):
        load(f"folder:{root}", data_dir=root)


def test_names_that_are_no_text(root):
    (root / "train" / "cat" / "1.png").rename(root / "train" / "cat" / "\udcff.png")
    assert len(load(f"folder:{root}", data_dir=root, validate_on_test=True).train) == 4


def test_a_home_that_is_nobody_s_is_not_found(root):
    with pytest.raises(StbpError, match="~nobody-of-this-name/images"):
        load("folder:~nobody-of-this-name/images", data_dir=root)
