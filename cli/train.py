"""`snntorch-stbp train`: train a network of the zoo, or go on with a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train import catalog, sources
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run.rundir import RunDir, check_name

from .again import NEGATED, option, text
from .group import command, json_option
from .output import make_reporter
from .train_options import OPTIONS, check_use, given_fields, off

# Options under which a run may go on with other values than it began with.
FREE = {
    "epochs", "device", "devices", "num_nodes", "workers", "data_dir", "download", "compile",
    "cuda_graphs", "save_memory", "checkpoint_activations", "select",
}  # fmt: skip

EXAMPLE = """\
snntorch-stbp train resnet18 --bits 4
snntorch-stbp train mnistnet --bits ternary --epochs 3
snntorch-stbp train mnistnet --dataset mnist --download
snntorch-stbp train --resume runs/resnet18-digits-w4-T2-1"""


@command(EXAMPLE, click.Argument(["model"], required=False), *OPTIONS, json_option())
def train(**values: Any) -> None:
    """Train MODEL (`snntorch-stbp models` lists them) and write the run into a folder.

    Options that are not given are as the recipe of the model and the data set says
    (`snntorch-stbp models MODEL`), or as the help says below. Widths are in bits; 32 is floating
    point everywhere.
    """
    out, resume = Path(values.pop("out")), values.pop("resume")
    quiet, as_json = values.pop("quiet"), values.pop("as_json")
    if quiet and as_json:
        raise UsageError("--quiet and --json exclude each other; give one of them.")
    given = given_fields(values)
    catalog.check_augmentations(given.get("augment", ()))
    if resume is None:
        run, config = None, new_config(given)
    else:
        run = RunDir.open(resume)
        if click.get_current_context().get_parameter_source("out") is ParameterSource.COMMANDLINE:
            raise UsageError(f"--resume goes on in '{resume}' itself: leave --out out.")
        config = _resumed_config(run, given)
    reporter = make_reporter(quiet, as_json)

    from .quiet import hush

    hush()
    from snntorch_stbp.train.loop import fit

    try:
        fit(config, out=out, reporter=reporter, resume=run)
    finally:
        reporter.close()


def new_config(given: dict[str, Any]) -> RunConfig:
    """The recipe with what was typed in its place."""
    given = sources.with_constants(given)
    model, dataset = given.pop("model", None), given.pop("dataset", "digits")
    if model is None:
        raise UsageError(
            "name the model to train, such as `snntorch-stbp train resnet18`;"
            " `snntorch-stbp models` lists them."
        )
    config = RunConfig.from_recipe(model, dataset, **given)
    check_use(given, [config])
    absent: dict[str, Any] = {name: None for name, value in given.items() if value is None}
    return replace(config, **absent)


def _resumed_config(run: RunDir, given: dict[str, Any]) -> RunConfig:
    """The configuration of the run, with the changes that a run may go on with."""
    check_name(run.path, "give it another")
    for name, value in given.items():
        stored = getattr(run.config, name)
        if (stored, value) == ("last", "best"):
            raise UsageError(
                f"'{run.path}' takes the last weights and has not kept the best: --select last"
                f" cannot change to --select best; leave that out, or begin a new run without"
                f" --resume."
            )
        if value != stored and name not in FREE:
            raise UsageError(
                f"'{run.path}' was begun with {_words(name, stored)}, which cannot change to"
                f" {_words(name, value)}; leave that out, or begin a new run without --resume."
            )
    done = run.epochs_done
    if given.get("epochs", done) < done:
        raise UsageError(
            f"'{run.path}' has {done} epochs already; give --epochs a higher number, or none."
        )
    return replace(run.config, **{name: given[name] for name in FREE & given.keys()})


def _words(name: str, value: Any) -> str:
    """A field and its value as they are typed."""
    if name == "model":
        return f"the model {value}"
    if isinstance(value, bool):
        return option(name) if value == (name not in NEGATED) else f"no {option(name)}"
    if name == "layer_bits":
        layers = ", ".join(f"{layer} {bits}" for layer, bits in value.items())
        return f"a --bits-file of {layers}" if value else "no --bits-file"
    if value is None and off(name) is None:
        return f"no {option(name)}"
    return f"{option(name)} {text(name, value)}"
