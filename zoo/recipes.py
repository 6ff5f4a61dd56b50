"""How each network is trained on each data set: plain data, without torch.

A recipe is the sum of the rows that fit, from the general to the particular; later rows win.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .registry import info


@dataclass(frozen=True)
class Recipe:
    """One training run's settings; everything `train MODEL --dataset D` needs to know.

    Args:
        epochs: Passes over the training data.
        batch_size: Samples per optimizer step, over all devices.
        optimizer: `"adamw"`, `"adam"` or `"sgd"` (see `RunConfig` for its momentum).
        lr: Peak learning rate.
        weight_decay: Decay of the weights.
        warmup_epochs: Epochs of linear warm-up.
        schedule: `"cosine"` to zero, or `"constant"`.
        loss: Name in `losses.LOSSES`.
        readout: Readout of the network, as in `create`.
        augment: Names in `train.catalog.AUGMENTATIONS`, in order.
        label_smoothing: In [0, 1).
        image_size: Height and width that images are resized to; `None` keeps theirs.
        num_steps: Time steps `T`.
        beta, threshold: Of all neurons.
        surrogate: Name in `surrogate.CURVES`.
        clip_grad: Largest norm of the gradient; `None` for no limit.
    """

    epochs: int = 50
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup_epochs: int = 1
    schedule: str = "cosine"
    loss: str = "cross_entropy"
    readout: str = "current"
    augment: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    image_size: int | None = None
    num_steps: int = 2
    beta: float = 0.25
    threshold: float = 0.4
    surrogate: str = "rectangular"
    clip_grad: float | None = None


CHARACTERS: dict[str, Any] = {"epochs": 8, "augment": ("shift",)}
# Adam, 1e-3, cosine, batch 128, crop, flip and cutout are those of Deng 2022 (TET,
# arXiv:2202.11946) and its code; 200 epochs those of STBP-train-and-compression.
PHOTOS: dict[str, Any] = {
    "epochs": 200,
    "augment": ("crop", "flip", "cutout"),
    "label_smoothing": 0.1,
    "warmup_epochs": 5,
}
# Deng 2022 for CIFAR10-DVS: 150 epochs, frames of 48x48, T = 10, loss at every step, shifts and
# flips. Zheng 2021 (arXiv:2011.05280) also trains on DVS Gesture in frames of 32x32.
EVENTS: dict[str, Any] = {"num_steps": 10, "loss": "tet", "augment": ("shift",)}
WIDE_WITHOUT_NORM = ("cifarnet_neunorm", "vgg11", "vgg13", "vgg16", "vgg19")
SMALL_IMAGES = ("digits", "mnist", "fashionmnist", "npz")

# (model, family or "*", data set or "*") -> what differs from the rows before.
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    # 1,298 images of 8x8 pixels, where a shift costs more than it teaches.
    ("*", "digits"): {"epochs": 8, "batch_size": 64, "lr": 2e-3},
    ("*", "mnist"): CHARACTERS,
    ("*", "fashionmnist"): {"augment": ("shift", "flip")},
    ("*", "cifar10"): PHOTOS,
    ("*", "cifar100"): PHOTOS,
    ("*", "npz"): CHARACTERS,
    ("*", "folder"): PHOTOS,
    ("*", "nmnist"): {**EVENTS, "epochs": 30},
    ("*", "dvsgesture"): {**EVENTS, "epochs": 150, "batch_size": 16, "image_size": 32},
    ("*", "cifar10dvs"): {**EVENTS, "epochs": 150, "image_size": 48, "augment": ("shift", "flip")},
    # Five halvings need 32 pixels; images of 8x8 or 28x28 are enlarged.
    **{("vgg", name): {"image_size": 32} for name in SMALL_IMAGES},
    **{("resnet34", name): {"image_size": 32} for name in SMALL_IMAGES},
    # Without tdBN a step of 1e-3 is too large for the small weights of wide layers.
    **{(name, "*"): {"lr": 3e-4} for name in WIDE_WITHOUT_NORM},
    **{(name, "digits"): {"epochs": 40, "lr": 5e-3} for name in ("mnistnet", "mnistnet_bn")},
    **{
        (name, "digits"): {"epochs": 40, "lr": 5e-3, "image_size": 16}
        for name in ("nmnistnet", "nmnistnet_bn")
    },
}


def recipe(model: str, dataset: str) -> Recipe:
    """The recipe of `model` on `dataset`.

    Args:
        model: Name of a model.
        dataset: Name of a data set without its path ("digits", "npz", ...); one that the table
            does not know gets the general recipe.

    Raises:
        UsageError: If there is no such model.
    """
    family = info(model).family
    values: dict[str, Any] = {}
    for row in ("*", family, model):
        for column in ("*", dataset):
            values |= RECIPES.get((row, column), {})
    return Recipe(**values)
