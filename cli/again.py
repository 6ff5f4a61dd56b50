"""A run's configuration as the command that asks for it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from snntorch_stbp.files import shell_words
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.recipes import recipe_values

from .train_options import off

NEGATED = {
    "per_channel": "--per-tensor",
    "nesterov": "--no-nesterov",
    "cuda_graphs": "--no-cuda-graphs",
}
"""Fields that are true where their flag is not given."""

NOT_TYPED = {"model", "dataset", "layer_bits", "split_seed", "version", "download"}
"""Fields that the command says otherwise, or that follow from others."""

STARTS = {"bits", "boundary_bits", "init_from", "frozen_aware", "fixed_point_aware"}
"""Fields that say how few bits begin."""


def option(name: str) -> str:
    """A field as the command line spells it."""
    return NEGATED.get(name, "--" + name.replace("_", "-"))


def text(name: str, value: Any) -> str:
    """The value of a field as it is typed."""
    if value is None:
        value = off(name) or 0
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def train_command(config: RunConfig, **instead: str) -> str:
    """`snntorch-stbp train` with all that differs from the recipe.

    Args:
        config: The configuration.
        instead: Options that take the place of those which say how few bits begin (`STARTS`).

    Raises:
        UsageError: If the model is of a package that is not installed.
    """
    starts = {"bits": config.bits, "init_from": config.init_from} if not instead else {}
    plain = {field.name: field.default for field in fields(config)} | recipe_values(
        config.model, config.dataset, config.recipe, epochs=config.epochs, **starts
    )
    plain |= {"bits": None, "recipe": "standard"}  # what is taken where nothing is typed
    words = ["snntorch-stbp", "train", config.model, "--dataset", config.dataset]
    left_out = NOT_TYPED | (STARTS if instead else set())
    if config.init_from or "init_from" in instead:
        left_out = left_out | {"init"}  # there are weights already
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        if name in left_out or value == plain[name]:
            continue
        if not isinstance(value, bool):
            words += [option(name), text(name, value)]
        elif value == (name not in NEGATED):
            words.append(option(name))
    if config.layer_bits and not instead:
        words += ["--bits-file", "FILE"]
    for name, word in instead.items():
        words += [option(name), word]
    return shell_words(words)
