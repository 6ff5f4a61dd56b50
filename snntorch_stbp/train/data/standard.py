"""The standard image sets: scikit-learn's digits, and torchvision's MNIST and CIFAR families."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import StbpError
from .arrays import ArrayDataset, Parts
from .split import every_fifth

# Class in torchvision.datasets, and what it looks for under data_dir.
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashionmnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}


def load_digits() -> Parts:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, embedded in its wheel.

    Values 0 to 16 are stored as uint8 round(255 v / 16). Every fifth image of each class is test,
    whatever the seed.
    """
    from sklearn.datasets import load_digits as read

    raw = read()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    whole = ArrayDataset(images, torch.from_numpy(raw.target.astype(np.int64)))
    train, test = every_fifth(whole.labels)
    return Parts(
        whole.subset(train),
        whole.subset(test),
        [str(digit) for digit in raw.target_names],
        "1,797 real images of 8x8 pixels embedded in scikit-learn",
    )


def load_torchvision(name: str, data_dir: Path, *, download: bool = False) -> Parts:
    """MNIST, FashionMNIST, CIFAR-10 or CIFAR-100 with its official split.

    Args:
        name: "mnist", "fashionmnist", "cifar10" or "cifar100".
        data_dir: torchvision's root folder.
        download: whether to fetch what is missing; nothing is ever fetched without it.

    Raises:
        StbpError: the files are missing or damaged, or cannot be fetched.
    """
    from torchvision import datasets

    kind, folder = _TORCHVISION[name]
    place = data_dir / folder
    try:
        with warnings.catch_warnings():
            # CIFAR's pickles were written with a dtype form that numpy 2.4 deprecates.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align", category=Warning)
            train, test = (
                getattr(datasets, kind)(root=str(data_dir), train=part, download=download)
                for part in (True, False)
            )
    except Exception as error:  # torchvision raises many kinds for missing and damaged files
        if download:
            reason = " ".join(str(error).split())
            raise StbpError(f"Could not download {name} into {data_dir}: {reason}") from error
        if place.exists():
            raise StbpError(
                f"Data set {name} in {place} is incomplete or damaged; delete that folder and "
                "add --download to fetch it again."
            ) from error
        raise StbpError(
            f"Data set {name} was not found: looked for {place}; add --download to fetch it, "
            "or point --data-dir to where it is."
        ) from error
    return Parts(
        ArrayDataset(_pixels(train.data), torch.as_tensor(train.targets)),
        ArrayDataset(_pixels(test.data), torch.as_tensor(test.targets)),
        [c.split(" - ")[0] for c in train.classes],
        f"torchvision {kind} in {place}",
    )


def _pixels(data: Tensor | np.ndarray) -> Tensor:
    """uint8 `[N, H, W]` or `[N, H, W, C]` as torchvision keeps it, to `[N, C, H, W]`."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
