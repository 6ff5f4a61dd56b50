"""Digits and torchvision's sets: real formats, official splits, nothing fetched unasked."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.catalog import DATASETS
from snntorch_stbp.train.data import load


def everything(part):
    return part.__getitems__(list(range(len(part))))


def test_digits_are_scikit_learns(tmp_path):
    bundle = load("digits", data_dir=tmp_path)
    info = DATASETS["digits"]
    assert len(bundle.train) + len(bundle.val) == info.train
    assert len(bundle.test) == info.test
    assert (bundle.channels, bundle.image_size) == (info.channels, info.size)
    assert bundle.classes == [str(i) for i in range(10)]
    raw = load_digits()
    pixels = np.rint(raw.images * 255 / 16).reshape(-1, 64).astype(int)
    known = {(tuple(p), int(t)) for p, t in zip(pixels, raw.target, strict=True)}
    for part in (bundle.train, bundle.val, bundle.test):
        x, y = everything(part)
        assert x.min() == 0
        assert x.max() == 1
        rows = (x * 255).round().long().flatten(1).tolist()
        assert all((tuple(r), t) in known for r, t in zip(rows, y.tolist(), strict=True))


def test_test_part_does_not_depend_on_the_seed_but_validation_does(tmp_path):
    one, two = (load("digits", data_dir=tmp_path, seed=seed) for seed in (0, 1))
    assert torch.equal(everything(one.test)[0], everything(two.test)[0])
    assert not torch.equal(one.val.index, two.val.index)
    parts = torch.cat([one.train.index, one.val.index, one.test.index])
    assert sorted(parts.tolist()) == list(range(1797))
    shares = torch.bincount(one.test.labels).float() / torch.bincount(one.train.all_labels)
    assert (shares - 0.2).abs().max() < 0.01


def test_validating_on_the_test_set_holds_nothing_out(tmp_path):
    bundle = load("digits", data_dir=tmp_path, validate_on_test=True)
    assert bundle.val is bundle.test
    assert len(bundle.train) == DATASETS["digits"].train
    assert bundle.val_name == "test set"
    assert load("digits", data_dir=tmp_path, val_fraction=0.25).val_name == (
        "held-out 25 % of train"
    )


def test_images_are_resized_once_to_uint8(tmp_path):
    bundle = load("digits", data_dir=tmp_path, image_size=32)
    assert bundle.image_size == (32, 32)
    assert bundle.train.images.dtype == torch.uint8
    assert bundle.train.images is bundle.test.images
    small = everything(load("digits", data_dir=tmp_path).test)[0]
    big = everything(bundle.test)[0]
    assert (small.mean((1, 2, 3)) - big.mean((1, 2, 3))).abs().max() < 0.02
    with pytest.raises(UsageError, match=r"image size must be at least 1 pixel, not 0"):
        load("digits", data_dir=tmp_path, image_size=0)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_idx_files_are_read(tmp_path, name, folder):
    random = np.random.default_rng(0)
    raw = tmp_path / folder / "raw"
    images = {p: random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
              for p, n in (("train", 40), ("t10k", 20))}  # fmt: skip
    for part, pixels in images.items():
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(len(pixels)) % 10).astype(np.uint8))
    bundle = load(name, data_dir=tmp_path, validate_on_test=True)
    x, y = everything(bundle.train)
    assert torch.equal(x, torch.from_numpy(images["train"]).unsqueeze(1).float() / 255)
    assert y.tolist() == [i % 10 for i in range(40)]
    assert len(bundle.test) == 20
    assert len(bundle.classes) == 10
    (raw / "train-images-idx3-ubyte").write_bytes(b"short")
    with pytest.raises(StbpError, match=rf"{name} in .*raw is incomplete or damaged.*--download"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "key", "meta"),
    [("cifar10", "CIFAR10", b"labels", "label_names"),
     ("cifar100", "CIFAR100", b"fine_labels", "fine_label_names")],
)  # fmt: skip
def test_cifar_batches_are_read(tmp_path, monkeypatch, name, kind, key, meta):
    base = getattr(datasets, kind)
    folder = tmp_path / base.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    first = None

    def write(file, content):
        data = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(file):
        nonlocal first
        pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        first = pixels if first is None else first
        return [file, write(file, {"data": pixels, key.decode(): list(range(10))})]

    for which in ("train_list", "test_list"):
        monkeypatch.setattr(base, which, [batch(file) for file, _ in getattr(base, which)])
    names = [f"class {i}" for i in range(10)]
    digest = write(base.meta["filename"], {meta: names})
    monkeypatch.setattr(base, "meta", base.meta | {"md5": digest})

    bundle = load(name, data_dir=tmp_path, validate_on_test=True)
    assert (bundle.classes, bundle.channels, bundle.image_size) == (names, 3, (32, 32))
    x, y = bundle.train.__getitems__(list(range(10)))
    expected = torch.from_numpy(first).reshape(10, 3, 32, 32).float() / 255
    assert torch.equal(x, expected)
    assert y.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "cifar10", "cifar100"])
def test_missing_sets_say_where_and_how(tmp_path, name):
    with pytest.raises(StbpError, match=r"was not found: looked for .*; add --download") as caught:
        load(name, data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_download_is_attempted_on_request_and_its_failure_told(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    with pytest.raises(StbpError, match=r"Could not download mnist into .*: no route to host"):
        load("mnist", data_dir=tmp_path, download=True)
