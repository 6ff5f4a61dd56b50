"""What a recipe of the zoo says of one run: plain values, before they are a configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .. import zoo
from . import catalog

LEARN_RANGES = (2,)
"""Bits at which ranges that are learned were seen to pay in training that starts from another run;
see `docs/accuracy.md`. They start where that run has them, or where fitted ones are."""


def shares(warmup: int, refine: int, epochs: int, whole: int) -> tuple[int, int]:
    """Epochs of warm-up, rounded up, and of the light end, rounded down, in `epochs` of `whole`.

    Warm-up leaves at least one epoch to learn in.
    """
    epochs = min(epochs, whole)
    return min(-(-warmup * epochs // whole), epochs - 1), refine * epochs // whole


def recipe_values(
    model: str, dataset: str, recipe: str | None = None, **given: Any
) -> dict[str, Any]:
    """What the recipe of `model` on `dataset` says of a run of which `given` fields are known.

    Raises:
        UsageError: For an unknown model, data set or recipe.
    """
    zoo.info(model)
    name, _ = catalog.parse(dataset)
    recipe, bits = recipe or "standard", given.get("bits")
    values = asdict(zoo.recipe(model, name, recipe, bits)) | {"recipe": recipe, "bits": bits}
    values["steps"] = values.pop("num_steps")
    epochs, whole = given.get("epochs"), values["epochs"]
    if isinstance(epochs, int) and epochs > 0:
        values["warmup_epochs"], values["refine_epochs"] = shares(
            values["warmup_epochs"], values["refine_epochs"], epochs, whole
        )
    starts = given.get("init_from") and bits in LEARN_RANGES
    if starts and values["weight_range"] == "fitted":
        values["weight_range"] = "learned"
    return values
