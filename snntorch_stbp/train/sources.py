"""The runs that a run starts or learns from, which must not have seen what it holds out.

Otherwise its accuracy on held-out images, which also chooses its best epoch, is that of images that
its weights were fitted to. (The test set is the same for all runs, and none is trained on it.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import StbpError, UsageError
from ..files import expanded
from .catalog import parse
from .config import RunConfig
from .run.rundir import RunDir

NETWORK = (
    "bits", "layer_bits", "boundary_bits", "act_bits", "membrane_bits", "input_bits", "steps",
)  # fmt: skip
"""Fields that make another network of the same weights."""

CONSTANTS = ("beta", "threshold")
"""Fields that come with the weights."""


def inherit(config: RunConfig) -> RunConfig:
    """The configuration with `split_seed` such that the images held out are those of its source.

    The source is the run that it starts from, or else its teachers, if these held out the same. A
    `split_seed` that is set stays; so does all where the data set is another one. Runs that cannot
    be read are passed over: they are refused where their weights are needed.
    """
    if config.split_seed is not None or config.validate_on_test:
        return config
    for paths in ([config.init_from] if config.init_from else [], config.teacher):
        seeds = {
            source.held_out_seed
            for source in (run.config for run in map(_opened, paths) if run)
            if _same_data(source, config) and not source.validate_on_test
        }
        if len(seeds) == 1:
            seed = seeds.pop()
            return config if seed == config.seed else replace(config, split_seed=seed)
    return config


def with_constants(given: dict[str, Any]) -> dict[str, Any]:
    """Fields that were typed, with the constants of neurons that an `init_from` run brings along.

    They are in its weights; a configuration with others would not say what is trained.

    Raises:
        UsageError: If others were typed.
    """
    run = _opened(given["init_from"]) if given.get("init_from") else None
    if run is None:  # refused where its weights are needed
        return dict(given)
    own = {name: getattr(run.config, name) for name in CONSTANTS}
    for name, value in own.items():
        if given.get(name) not in (None, value):
            raise UsageError(
                f"the neurons of '{run.path}' come with its weights, with a {name} of {value:g}: "
                f"leave --{name} out, or --init-from."
            )
    return given | own


def seen(config: RunConfig, sizes: Sequence[int] = ()) -> list[str]:
    """A sentence for each run behind this one that was trained on what this one holds out.

    Those are the run that it starts from, its teachers, and in turn theirs, as far as they can
    still be read. `sizes` are the training samples of each class; they tell whether a smaller
    fraction is a part of a larger one.
    """
    if config.validate_on_test:
        return []
    told, known = list[str](), set[str]()
    waiting = deque(_parents(config))
    while waiting:
        run = _opened(waiting.popleft())
        if run is None or (place := str(run.path.resolve())) in known:
            continue
        known.add(place)
        if difference := _difference(run.config, config, sizes):
            told.append(
                f"'{run.path}' was trained on images that this run holds out ({difference}): "
                f"accuracies on them are too high."
            )
        else:
            waiting.extend(_parents(run.config))
    return told


def notices(config: RunConfig, sizes: Sequence[int] = ()) -> list[str]:
    """What there is to say of the runs behind this one: `seen`, and what else differs."""
    run = _opened(config.init_from) if config.init_from else None
    return seen(config, sizes) + ([] if run is None else _differences(run, config))


def _differences(run: RunDir, config: RunConfig) -> list[str]:
    """A sentence each for options that make another network than that of `run`, or that do nothing.

    The constants of neurons come with the weights.
    """
    told = []
    differing = [n for n in NETWORK if getattr(run.config, n) != getattr(config, n)]
    if differing and (config.frozen_aware or config.fixed_point_aware):
        theirs, ours = (" and ".join(_word(c, n) for n in differing) for c in (run.config, config))
        told.append(
            f"'{run.path}' was trained with {theirs}, and is refined here with {ours}, which is "
            f"another network; `snntorch-stbp finetune` keeps all of a run."
        )
    for name in CONSTANTS:
        if getattr(run.config, name) != getattr(config, name):
            told.append(
                f"the {name} of '{run.path}' comes with its weights: {_word(config, name)} "
                f"changes nothing."
            )
    return told


def _word(config: RunConfig, name: str) -> str:
    """A field as it is typed."""
    value = getattr(config, name)
    if name == "layer_bits":
        return "a --bits-file" if value else "no --bits-file"
    return f"--{name.replace('_', '-')} {32 if value is None else value}"


def _parents(config: RunConfig) -> Sequence[str]:
    return [*([config.init_from] if config.init_from else []), *config.teacher]


def _opened(path: str) -> RunDir | None:
    try:
        return RunDir.open(path)
    except StbpError:
        return None


def _same_data(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs have the same data set, however its path is written."""
    (name, path), (other_name, other_path) = (parse(c.dataset) for c in (one, other))
    if name != other_name or path is None or other_path is None:
        return (name, path) == (other_name, other_path)
    return expanded(path).resolve() == expanded(other_path).resolve()


def _difference(source: RunConfig, config: RunConfig, sizes: Sequence[int]) -> str:
    """By what images that `config` holds out were not by `source`; empty if all were."""
    if not _same_data(source, config):
        return ""
    theirs, ours = f"{100 * source.val_fraction:g} %", f"{100 * config.val_fraction:g} %"
    if source.validate_on_test:
        theirs = "none"
    elif source.held_out_seed != config.held_out_seed:
        theirs, ours = (f"those of seed {c.held_out_seed}" for c in (source, config))
    elif _contains(source.val_fraction, config.val_fraction, sizes):
        return ""
    return f"it held out {theirs}, this run {ours}"


def _contains(larger: float, smaller: float, sizes: Sequence[int]) -> bool:
    """Whether of every class what one fraction holds out is a part of what the other does."""
    from .data.split import shares

    each = zip(shares(sizes, smaller), shares(sizes, larger), strict=True)
    return smaller <= larger and all(ours <= theirs for ours, theirs in each)
