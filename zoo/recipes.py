"""How each network is trained on each data set: plain data, without torch.

A recipe is the sum of the rows that fit, from the general to the particular; later rows win.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snntorch_stbp.errors import UsageError, suggest

from .registry import info


@dataclass(frozen=True)
class Recipe:
    """One training run's settings; everything `train MODEL --dataset D` needs to know.

    Args:
        epochs: Passes over the training data.
        batch_size: Samples per optimizer step, over all devices.
        optimizer: `"adamw"`, `"adam"`, `"sgd"` or `"muon"`.
        momentum, nesterov: Of `"sgd"`.
        lr: Peak learning rate.
        weight_decay: Decay of the weights.
        warmup_epochs: Epochs of linear warm-up.
        schedule: `"cosine"` to zero, or `"constant"`.
        loss: Name in `losses.LOSSES`.
        readout: Readout of the network, as in `create`.
        augment: Names in `train.catalog.AUGMENTATIONS`, in order.
        label_smoothing: In [0, 1).
        mixup: `alpha` of mixup, or `None` for none.
        image_size: Height and width that images are resized to; `None` keeps theirs.
        num_steps: Time steps `T`.
        beta, threshold: Of all neurons.
        surrogate: Name in `surrogate.CURVES`.
        clip_grad: Largest norm of the gradient; `None` for no limit.
        surrogate_centre: `"threshold"`, or `"zero"` for a membrane potential of 0.
        per_channel, weight_range: Scales of quantized weights, as in `Precision`.
        init: Initial weights, as in `create`.
        ema: Decay of the moving average of the weights; `None` for none.
        refine_epochs: The last epochs, without strong augmentation; see `RunConfig.at`.
        val_fraction: Part of the training data that is held out.
        select: `"best"` on what is held out, or `"last"`: the epoch whose weights count.
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
    mixup: float | None = None
    image_size: int | None = None
    num_steps: int = 2
    beta: float = 0.25
    threshold: float = 0.4
    surrogate: str = "rectangular"
    clip_grad: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    surrogate_centre: str = "threshold"
    per_channel: bool = True
    weight_range: str = "fitted"
    init: str = "threshold"
    ema: float | None = None
    refine_epochs: int = 0
    val_fraction: float = 0.1
    select: str = "best"


CHARACTERS: dict[str, Any] = {"epochs": 8, "augment": ("shift",)}
# The loss at every step, crop and flip are those of Deng 2022 (TET, arXiv:2202.11946); 200 epochs
# those of STBP-train-and-compression. In place of Deng's cutout, TrivialAugment with a light end
# and mixup; in place of Adam, Muon with strong decay: they taught more (docs/accuracy.md, "On few
# images" to "Muon and weight decay"), and with Muon ResNet-18 learned several times as fast.
PHOTOS: dict[str, Any] = {
    "epochs": 200,
    "optimizer": "muon",
    "lr": 5e-3,
    "weight_decay": 0.2,
    "warmup_epochs": 1,
    "loss": "tet",
    "refine_epochs": 20,
    "augment": ("crop", "flip", "trivial"),
    "mixup": 0.2,
    "label_smoothing": 0.1,
}
# What the table of docs/accuracy.md was trained with.
MNIST: dict[str, Any] = {
    "epochs": 40, "batch_size": 256, "lr": 0.016, "loss": "tet", "augment": ("crop:2",),
    "ema": 0.998, "val_fraction": 0.02, "select": "last",
}  # fmt: skip
MNIST_STRONG: dict[str, Any] = {
    "epochs": 50, "refine_epochs": 8, "augment": ("crop:2", "elastic:1"), "label_smoothing": 0.1,
    "weight_decay": 0.05,
}  # fmt: skip
# Deng 2022 for CIFAR10-DVS: 150 epochs, frames of 48x48, T = 10, loss at every step, shifts and
# flips. Zheng 2021 (arXiv:2011.05280) also trains on DVS Gesture in frames of 32x32.
EVENTS: dict[str, Any] = {"num_steps": 10, "loss": "tet", "augment": ("shift",)}
WIDE_WITHOUT_NORM = ("cifarnet_neunorm", "vgg11", "vgg13", "vgg16", "vgg19")
PHOTO_SETS = ("cifar10", "cifar100", "folder")
SMALL_IMAGES = ("digits", "mnist", "fashionmnist", "npz")

# (model, family or "*", data set or "*") -> what differs from the rows before; a third entry, the
# bits of weights, narrows a row.
RECIPES: dict[tuple[Any, ...], dict[str, Any]] = {
    # 1,298 images of 8x8 pixels, where a shift costs more than it teaches.
    ("*", "digits"): {"epochs": 8, "batch_size": 64, "lr": 2e-3},
    ("*", "mnist"): CHARACTERS,
    ("*", "fashionmnist"): {"augment": ("shift", "flip")},
    **{("*", name): PHOTOS for name in PHOTO_SETS},
    ("*", "npz"): CHARACTERS,
    ("*", "nmnist"): {**EVENTS, "epochs": 30},
    ("*", "dvsgesture"): {**EVENTS, "epochs": 150, "batch_size": 16, "image_size": 32},
    ("*", "cifar10dvs"): {**EVENTS, "epochs": 150, "image_size": 48, "augment": ("shift", "flip")},
    **{("resnet", name): {"batch_size": 256} for name in PHOTO_SETS},
    # Five halvings need 32 pixels; images of 8x8 or 28x28 are enlarged.
    **{("vgg", name): {"image_size": 32} for name in SMALL_IMAGES},
    **{("resnet34", name): {"image_size": 32} for name in SMALL_IMAGES},
    # Without tdBN AdamW's step of 1e-3 is too large for the small weights of wide layers.
    **{(name, "*"): {"lr": 3e-4} for name in WIDE_WITHOUT_NORM},
    **{(net, name): {"lr": PHOTOS["lr"]} for net in WIDE_WITHOUT_NORM for name in PHOTO_SETS},
    **{(name, "digits"): {"epochs": 40, "lr": 5e-3} for name in ("mnistnet", "mnistnet_bn")},
    ("mnistnet_bn", "mnist"): MNIST,
    **{("mnistnet_bn", "mnist", bits): MNIST_STRONG for bits in (None, 4)},
    ("mnistnet_bn", "mnist", 1): {"epochs": 30, "lr": 8e-3},
    **{
        (name, "digits"): {"epochs": 40, "lr": 5e-3, "image_size": 16}
        for name in ("nmnistnet", "nmnistnet_bn")
    },
}

# What main.py of STBP-train-and-compression does at its defaults: its optimizer is given no
# momentum, and its cosine schedule is never stepped. Every image is mirrored at random there.
SEED: dict[str, Any] = {
    "epochs": 200, "batch_size": 64, "optimizer": "sgd", "momentum": 0.0, "nesterov": False,
    "lr": 1e-3, "weight_decay": 0.0, "warmup_epochs": 0, "schedule": "constant",
    "loss": "cross_entropy", "label_smoothing": 0.0, "mixup": None, "readout": "rate",
    "augment": ("flip",),
    "num_steps": 2, "beta": 0.25, "threshold": 0.4, "clip_grad": None,
    "surrogate": "rectangular", "surrogate_centre": "zero",
    "per_channel": False, "weight_range": "max", "init": "torch",
    "ema": None, "refine_epochs": 0, "val_fraction": 0.1, "select": "best",
}  # fmt: skip
SEED_PHOTOS: dict[str, Any] = {"augment": ("flip", "crop")}

METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "standard": {},
    "seed": {"*": SEED} | dict.fromkeys(PHOTO_SETS, SEED_PHOTOS),
}
"""Ways to train by name -> data set or "*" -> what they set in place of the rows above."""


def recipe(
    model: str, dataset: str, method: str = "standard", bits: int | str | None = None
) -> Recipe:
    """The recipe of `model` on `dataset`.

    Args:
        model: Name of a model.
        dataset: Name of a data set without its path ("digits", "npz", ...); one that the table
            does not know gets the general recipe.
        method: Name in `METHODS`.
        bits: Of weights: `None` (floating point), 1 to 8 or `"ternary"`.

    Raises:
        UsageError: If there is no such model or method.
    """
    if method not in METHODS:
        raise UsageError(
            f"There is no recipe '{method}': choose one of {', '.join(METHODS)}."
            + suggest(method, METHODS)
        )
    family = info(model).family
    values: dict[str, Any] = {}
    for row in ("*", family, model):
        for column in ("*", dataset):
            values |= RECIPES.get((row, column), {}) | RECIPES.get((row, column, bits), {})
    for column in ("*", dataset):
        values |= METHODS[method].get(column, {})
    return Recipe(**values)
