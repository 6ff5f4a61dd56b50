"""The command line: `snntorch-stbp COMMAND`, one file per command."""

from __future__ import annotations

from typing import Any

import click

from snntorch_stbp import __version__

from .group import LazyGroup, debug_option

COMMANDS = {
    "train": "Train a network of the zoo at a bit width on a data set.",
    "sweep": "Train a network at many bit widths and compare them.",
    "allocate": "Choose bits for each layer of a run, within a budget.",
    "finetune": "Refine a run in the arithmetic that its export computes.",
    "evaluate": "Measure a trained run on its test set or on other data.",
    "export": "Export a trained run to QONNX, verified spike by spike.",
    "verify": "Run an exported graph or folder again and compare it with its run.",
    "inspect": "Show what an exported graph holds, and draw it.",
    "models": "List the networks that can be trained.",
    "datasets": "List the data sets that can be trained on.",
    "runs": "List past runs with their results.",
    "show": "Show one run: configuration, last epochs, results.",
}


def _version(ctx: click.Context, _param: click.Parameter, wanted: Any) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"snntorch-stbp {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    example="snntorch-stbp train resnet18 --bits 4",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and leave.",
        ),
        debug_option(),
    ],
)
def main() -> None:
    """Train low-bit spiking neural networks by spatio-temporal backpropagation."""
