"""The configuration of a run: everything that is needed to repeat it, as one JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from .. import __version__
from ..errors import StbpError, UsageError, suggest
from ..files import UNREADABLE
from . import bits_file, catalog
from .field_types import check_types
from .recipes import recipe_values, shares

Bits = int | Literal["ternary"] | None

CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adamw", "adam", "sgd", "muon"),
    "schedule": ("cosine", "constant"),
    "loss": ("cross_entropy", "tet", "mse_rate"),
    "readout": ("current", "rate", "population"),
    "surrogate": ("rectangular", "polynomial", "sigmoid", "gaussian", "fast_sigmoid", "atan"),
    "surrogate_centre": ("threshold", "zero"),
    "scale": ("float", "po2"),
    "weight_range": ("fitted", "learned", "max"),
    "init": ("threshold", "torch"),
    "recipe": ("standard", "seed"),
    "membrane_grid": ("uniform", "threshold"),
    "select": ("best", "last"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("32", "bf16-mixed", "16-mixed"),
}

_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 10_000_000),
    "devices": (1, 10_000),
    "num_nodes": (1, 10_000),
    "workers": (0, 1_000),
    "warmup_epochs": (0, 1_000_000),
    "refine_epochs": (0, 1_000_000),
    "seed": (0, 2**32 - 1),
    "split_seed": (0, 2**32 - 1),
    "beta": (0.0, 1.0),
    "momentum": (0.0, 0.9999),
    "ema": (0.5, 0.999999),
    "distill_weight": (0.0, 1.0),
    "mixup": (0.01, 100.0),
    "spike_rate_target": (0.0, 1.0),
    "clip_grad": (1e-12, 1e12),
    "image_size": (1, 65_536),
    "weight_decay": (0.0, 1e6),
    "label_smoothing": (0.0, 0.999),
    "val_fraction": (0.01, 0.9),
    "act_bits": (2, 16),
    "membrane_bits": (2, 16),
    "input_bits": (1, 8),
    "boundary_bits": (2, 8),
}


def _option(field: str) -> str:
    """A field as the command line spells it."""
    return "--" + field.replace("_", "-")


def _number(value: float) -> str:
    """A limit as it is typed: whole numbers have all their digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Any number of names, also where one or none is given by itself."""
    return (value,) if isinstance(value, str) else tuple(value or ())


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a run. Fields are named as the options of the command line."""

    model: str
    dataset: str
    bits: Bits
    steps: int
    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    weight_decay: float
    warmup_epochs: int
    schedule: str
    loss: str
    readout: str
    augment: tuple[str, ...]
    label_smoothing: float
    image_size: int | None
    beta: float
    threshold: float
    surrogate: str
    clip_grad: float | None
    act_bits: int | None = None
    membrane_bits: int | None = None
    membrane_grid: str = "uniform"
    input_bits: int | None = 8
    boundary_bits: int | None = None
    layer_bits: dict[str, int | str] = field(default_factory=dict)
    per_channel: bool = True
    scale: str = "float"
    seed: int = 0
    data_dir: str = "data"
    download: bool = False
    validate_on_test: bool = False
    val_fraction: float = 0.1
    select: str = "best"
    device: str = "auto"
    precision: str = "32"
    devices: int = 1
    num_nodes: int = 1
    workers: int = 0
    compile: bool = False
    cuda_graphs: bool = True
    init_from: str | None = None
    frozen_aware: bool = False
    fixed_point_aware: bool = False
    momentum: float = 0.9
    nesterov: bool = True
    ema: float | None = None
    surrogate_centre: str = "threshold"
    weight_range: str = "fitted"
    init: str = "threshold"
    recipe: str = "standard"
    teacher: tuple[str, ...] = ()
    distill_weight: float = 0.5
    temperature: float = 4.0
    mixup: float | None = None
    refine_epochs: int = 0
    learn_beta: bool = False
    learn_threshold: bool = False
    spike_rate_target: float | None = None
    spike_rate_weight: float = 1.0
    save_memory: bool = False
    checkpoint_activations: bool = False
    split_seed: int | None = None  # of what is held out, where that is not `seed`; see `sources`
    version: str = __version__

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(
                    f"{_option(name)} is one of {', '.join(choices)}, not '{value}'."
                    + suggest(str(value), choices)
                )
        catalog.check_augmentations(self.augment)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"{_number(low)} and {_number(high)}"
                raise UsageError(f"{_option(name)} lies between {limits}, not {value}.")
        for name in ("lr", "threshold", "temperature", "spike_rate_weight"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{_option(name)} is a positive number, not {value}.")
        if self.bits not in (None, "ternary") and self.bits not in range(1, 9):
            raise UsageError(
                f"--bits is 32 (fp32), 1 to 8, or 'ternary', not {self.bits!r}: "
                f"1 is binary, 2 to 8 are integers."
            )
        if self.weight_range != "fitted" and self.bits in (1, "ternary"):
            if (self.recipe, self.weight_range) == ("seed", "max"):  # which nobody typed
                raise UsageError(
                    f"--recipe seed is for weights of 2 bits and more, not for {self.bits}: give "
                    f"other --bits."
                )
            raise UsageError(
                f"--weight-range {self.weight_range} is for weights of 2 to 8 bits, not for "
                f"{self.bits}: use fitted."
            )
        bits_file.check(self.layer_bits)
        if self.membrane_grid == "threshold" and not 2 <= (self.membrane_bits or 32) <= 8:
            raise UsageError(
                f"a threshold grid of membranes has 2 to 8 bits, not {self.membrane_bits or 32}: "
                f"give --membrane-bits, or leave --membrane-grid out."
            )
        if self.membrane_bits is not None and self.learn_threshold:
            raise UsageError(
                "--learn-threshold moves thresholds away from the levels of --membrane-bits, which "
                "lie around the first ones: leave either out."
            )
        for name in ("frozen_aware", "fixed_point_aware"):
            if getattr(self, name) and self.init_from is None:
                raise UsageError(
                    f"{_option(name)} refines a trained network: name its run with --init-from."
                )
        if self.frozen_aware and self.fixed_point_aware:
            raise UsageError("--frozen-aware and --fixed-point-aware exclude each other; give one.")
        for name in ("save_memory", "checkpoint_activations"):
            if getattr(self, name) and self.compile:
                raise UsageError(
                    f"{_option(name)} does not reach into a compiled network: leave it or "
                    f"--compile out."
                )
        for name in ("compile", "checkpoint_activations", "frozen_aware", "fixed_point_aware"):
            if self.spike_rate_target is not None and getattr(self, name):
                raise UsageError(
                    f"--spike-rate-target watches the network's own neurons: leave it or "
                    f"{_option(name)} out."
                )
        if self.checkpoint_activations and (self.frozen_aware or self.fixed_point_aware):
            raise UsageError(
                "--checkpoint-activations is for the trained network's own blocks, not for "
                "training in the arithmetic of an export: use --save-memory."
            )

    @classmethod
    def from_recipe(
        cls, model: str, dataset: str, recipe: str | None = None, **overrides: Any
    ) -> RunConfig:
        """The recipe of `model` on `dataset`, with `overrides` that are not `None` in its place.

        Of fewer epochs than the recipe's its warm-up and its light end have their share. Weights of
        few bits (`recipes.LEARN_RANGES`) that start from another run learn their ranges.

        `recipe` is the name of a method in `zoo.METHODS`, by default `"standard"`.

        Raises:
            UsageError: For an unknown model, data set, recipe or option, or a value out of range.
        """
        unknown = set(overrides) - {f.name for f in fields(cls)}
        if unknown:
            raise UsageError(f"unknown option '{sorted(unknown)[0]}' of a run.")
        given = {k: v for k, v in overrides.items() if v is not None}
        values = recipe_values(model, dataset, recipe, **given) | given
        for name in ("augment", "teacher"):
            values[name] = _several(values.get(name))
        return cls(model=model, dataset=dataset, **values)

    def shortened(self, epochs: int) -> RunConfig:
        """The same in `epochs` epochs, of which warm-up and light end have their share."""
        warmup, refine = shares(self.warmup_epochs, self.refine_epochs, epochs, self.epochs)
        return replace(self, epochs=epochs, warmup_epochs=warmup, refine_epochs=refine)

    @property
    def quantized(self) -> bool:
        """Whether any weights have fewer than 32 bits."""
        return self.bits is not None or any(bits != 32 for bits in self.layer_bits.values())

    def at(self, epoch: int) -> RunConfig:
        """What holds in an epoch, counted from 1: the last `refine_epochs` are lightly augmented.

        What changes images strongly teaches much, but also a distribution that test images are not
        of (Z. He et al., "Data augmentation revisited", arXiv:1909.09148).
        """
        if epoch <= self.epochs - self.refine_epochs:
            return self
        light = (a for a in self.augment if catalog.parse_augmentation(a)[0] in catalog.LIGHT)
        return replace(self, augment=tuple(light), mixup=None)

    @property
    def held_out_seed(self) -> int:
        """The seed of what is held out."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def name(self) -> str:
        """The name of the run's folder, without its number."""
        bits = "mixed" if self.layer_bits else 32 if self.bits is None else self.bits
        return f"{self.model}-{catalog.run_name(self.dataset)}-w{bits}-T{self.steps}"

    def to_json(self) -> str:
        """All fields as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            StbpError: If the text is not the configuration of a run.
        """
        try:
            values = json.loads(text)
            values["augment"] = tuple(values["augment"])
            values["teacher"] = _several(values.get("teacher"))  # of one or none, earlier
            config = cls(**values)
            check_types(config)
            return config
        except (*UNREADABLE, AttributeError) as error:
            raise StbpError(f"this is not the configuration of a run ({error}).") from error
