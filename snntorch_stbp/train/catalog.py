"""The data sets and augmentations by name: pure data, read without importing torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError, suggest
from ..files import expanded


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded.

    Attributes:
        name: what `--dataset` takes; sets that live in the user's files take `name:PATH`.
        kind: "image" (batches `[B, C, H, W]`) or "event" (frames `[T, B, 2, H, W]`).
        classes, channels, size, train, test: number of classes, of channels, `(height, width)`,
            number of training and of test samples; None where the user's files decide.
        source: where the data come from.
        licence: terms under which their authors publish them, where they state any.
        note: one line on how they are found or split.
    """

    name: str
    kind: Literal["image", "event"]
    classes: int | None
    channels: int | None
    size: tuple[int, int] | None
    train: int | None
    test: int | None
    source: str
    licence: str
    note: str

    @property
    def takes_path(self) -> bool:
        """Whether the name is followed by `:PATH`."""
        return self.classes is None


_DOWNLOAD = "looked for under --data-dir; --download fetches it"
_TONIC = "through tonic (extra 'events'), frames by time bins; " + _DOWNLOAD

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "digits", "image", 10, 1, (8, 8), 1442, 355,
            "scikit-learn's load_digits (UCI optical recognition of handwritten digits)",
            "CC BY 4.0", "embedded; every fifth image of each class is test",
        ),
        DatasetInfo(
            "mnist", "image", 10, 1, (28, 28), 60000, 10000,
            "torchvision MNIST (LeCun, Cortes, Burges)", "CC BY-SA 3.0", _DOWNLOAD,
        ),
        DatasetInfo(
            "fashionmnist", "image", 10, 1, (28, 28), 60000, 10000,
            "torchvision FashionMNIST (Xiao 2017, arXiv 1708.07747)", "MIT", _DOWNLOAD,
        ),
        DatasetInfo(
            "cifar10", "image", 10, 3, (32, 32), 50000, 10000,
            "torchvision CIFAR10 (Krizhevsky 2009)", "none stated", _DOWNLOAD,
        ),
        DatasetInfo(
            "cifar100", "image", 100, 3, (32, 32), 50000, 10000,
            "torchvision CIFAR100 (Krizhevsky 2009)", "none stated", _DOWNLOAD,
        ),
        DatasetInfo(
            "nmnist", "event", 10, 2, (34, 34), 60000, 10000,
            "N-MNIST (Orchard 2015)", "CC BY-SA 4.0", _TONIC,
        ),
        DatasetInfo(
            "dvsgesture", "event", 11, 2, (128, 128), 1077, 264,
            "IBM DVS Gesture (Amir 2017)", "CC BY 4.0",
            "IBM's own files (1,176 and 288 gestures) in DvsGesture, or " + _TONIC,
        ),
        DatasetInfo(
            "cifar10dvs", "event", 10, 2, (128, 128), 9000, 1000,
            "CIFAR10-DVS (Li 2017)", "CC BY 4.0",
            "no official split: the first 90 % of each class train, the rest test; " + _TONIC,
        ),
        DatasetInfo(
            "folder", "image", None, None, None, None, None,
            "your image folder", "yours", "folder:PATH with train/CLASS/* and test/CLASS/*",
        ),
        DatasetInfo(
            "npz", "image", None, None, None, None, None,
            "your numpy arrays", "yours",
            "npz:FILE with x_train, y_train, x_test, y_test; also frames [N, T, C, H, W]",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """One kind of random change.

    Args:
        note: What it does to an image, at the amount that a plain name means.
        amount: What `NAME:AMOUNT` is measured in; `None` where there is none to give.
        whole: Whether amounts are whole numbers.
    """

    note: str
    amount: str | None = None
    whole: bool = False


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(
        "pad with zeros by an eighth of the image (4 pixels at 32x32), crop a random window",
        "pixels", whole=True,
    ),
    "shift": Augmentation(
        "translate by up to an eighth of the image in any direction, between pixels too", "pixels"
    ),
    "rotate": Augmentation("rotate by up to 15 degrees either way", "degrees"),
    "elastic": Augmentation(
        "deform smoothly, by up to a 14th of the image either way, folds are rare (Simard 2003)",
        "pixels",
    ),
    "flip": Augmentation("mirror left and right, half of the time"),
    "cutout": Augmentation(
        "blank a random square of half the image's side (DeVries 2017, arXiv 1708.04552)",
        "pixels", whole=True,
    ),
    "trivial": Augmentation(
        "one of 14 changes of shape or colour, of any strength (TrivialAugment, arXiv 2103.10158)"
    ),
}  # fmt: skip

LIGHT = ("crop", "flip")
"""Augmentations that stay in `refine_epochs`: their images might have been taken so."""


def parse(spec: str) -> tuple[str, str | None]:
    """Split what `--dataset` was given into a name of `DATASETS` and a path.

    Args:
        spec: a name ("digits"), or a name and a path ("npz:data/mnist.npz", "folder:images").

    Returns:
        The name, and the path of "npz" and "folder" (None for every other data set).

    Raises:
        UsageError: the name is unknown, or a path is missing or not expected.
    """
    name, colon, path = spec.partition(":")
    if name not in DATASETS:
        names = [n + ":PATH" if i.takes_path else n for n, i in DATASETS.items()]
        hint = suggest(name, DATASETS)
        if name.endswith(".npz"):
            hint = f" Did you mean 'npz:{spec}'?"
        raise UsageError(f"Unknown data set '{spec}'; choose one of {', '.join(names)}.{hint}")
    if DATASETS[name].takes_path:
        if not path:
            raise UsageError(f"Data set '{name}' needs a path: {DATASETS[name].note}.")
        return name, path
    if colon:
        raise UsageError(
            f"Data set '{name}' takes no path, but '{spec}' gives one; write '{name}'."
        )
    return name, None


def run_name(spec: str) -> str:
    """A short name for run folders, of letters, digits and underscores only.

    `npz:../x/mnist.npz` becomes `npz_mnist`, `folder:/d/cifar10` becomes `folder_cifar10`.
    """
    name, path = parse(spec)
    if path is None:
        return name
    place = expanded(path).resolve()
    stem = place.stem if name == "npz" else place.name
    safe = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:40].strip("_")
    return f"{name}_{safe}" if safe else name


def parse_augmentation(spec: str) -> tuple[str, float | None]:
    """Split `NAME` or `NAME:AMOUNT` into a name of `AUGMENTATIONS` and the amount.

    Raises:
        UsageError: The name is unknown, or has no amount, or the amount is no number above 0.
    """
    name, colon, text = spec.partition(":")
    if name not in AUGMENTATIONS:
        raise UsageError(
            f"Unknown augmentation '{spec}'; choose among {', '.join(AUGMENTATIONS)}."
            f"{suggest(name, AUGMENTATIONS)}"
        )
    if not colon:
        return name, None
    kind = AUGMENTATIONS[name]
    if kind.amount is None:
        raise UsageError(f"Augmentation '{name}' takes no amount, but '{spec}' gives one.")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1000 or (kind.whole and value != int(value)):
        number = "a whole number" if kind.whole else "a number"
        raise UsageError(
            f"The amount of '{spec}' is {number} of {kind.amount} above 0, such as {name}:2."
        )
    return name, value


def check_augmentations(specs: Iterable[str]) -> None:
    """Raise UsageError unless all are known, each with an amount that it takes."""
    for spec in specs:
        parse_augmentation(spec)
