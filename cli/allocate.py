"""`snntorch-stbp allocate`: how many bits each layer needs, within a budget."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.files import claim
from snntorch_stbp.train import bits_file
from snntorch_stbp.train.config import CHOICES
from snntorch_stbp.train.run.rundir import RunDir

from .again import train_command
from .group import command, json_option
from .params import BitsType, Listed, Real, Whole
from .text import Column, percent, print_table, to_json

EXAMPLE = """\
snntorch-stbp allocate runs/resnet18-digits-w32-T2-1 --bits-budget 3
snntorch-stbp allocate runs/mnistnet-digits-w8-T2-1 --bits-budget 2 --choices 1,4"""


@command(
    EXAMPLE,
    click.Argument(["run"]),
    click.Option(["--bits-budget", "budget"], type=Real(1, 8), required=True,
                 help="Most bits of a weight, on average over all weights."),
    click.Option(["--choices"], type=Listed(BitsType(1, 8, ternary=True, floating=False)),
                 default="2,3,4,6,8", show_default=True, help="Bits to choose from."),
    click.Option(["--output"], metavar="FILE", help="The file of bits; default: RUN/bits.json."),
    click.Option(["--force"], is_flag=True, help="Replace an existing file."),
    click.Option(["--checkpoint"], type=click.Choice(["best", "last"]), default="best",
                 show_default=True, help="The best epoch by validation, or the last one."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    click.Option(["--batch-size"], type=Whole(1), help="Images per step."),
    click.Option(["--device"], type=click.Choice(CHOICES["device"]), default="auto",
                 show_default=True),
    json_option(),
)  # fmt: skip
def allocate(run: str, budget: float, output: str | None, as_json: bool, **options: Any) -> None:
    """Choose bits for each layer of RUN and write them for `train --bits-file`.

    The weights of one layer at a time get each choice of bits, and the growth of the loss is
    measured on the data that the run held out, without training; then the bits are chosen whose
    growths have the least sum within the budget. RUN is best one with 32 or 8 bits. That layers
    add up, and rank after training as before it, is an assumption: compare with `train --bits`.
    """
    folder = RunDir.open(run)
    path = Path(output) if output else folder.path / "bits.json"
    claim([path], options.pop("force"))

    from .quiet import hush

    hush()
    from snntorch_stbp.train.allocate import allocate as choose

    def progress(done: int, of: int) -> None:
        click.echo(f"\rmeasured {done} of {of}", nl=done == of, err=True)

    shown = not as_json and sys.stderr.isatty()
    found = choose(folder, budget, progress=progress if shown else None, **options)
    bits_file.write(path, found.bits)
    following = train_command(folder.config, bits_file=str(path), init_from=str(folder.path))
    if as_json:
        click.echo(to_json({**asdict(found), "file": str(path), "next": following}))
        return
    choices = options["choices"]
    print_table(
        (Column("layer"), Column("weights", right=True),
         *(Column(_name(choice), right=True, spare=1) for choice in choices),
         Column("chosen", right=True)),
        [
            [layer.name, f"{layer.weights:,}", *(f"{layer.growth[c]:+.4f}" for c in choices),
             str(found.bits[layer.name])]
            for layer in found.layers
        ],
    )  # fmt: skip
    click.echo(
        f"\ngrowth of the loss, one layer at a time, on {found.images:,} images: {found.source}\n"
        f"as trained       loss {found.trained['loss']:.4f}, {percent(found.trained['accuracy'])}\n"
        f"all chosen bits  loss {found.allocated['loss']:.4f}, "
        f"{percent(found.allocated['accuracy'])}, without training\n"
        f"mean bits        {found.mean_bits:.3f} of {budget:g}\n"
        f"written          {path}\n"
        f"next: {following}"
    )


def _name(choice: Any) -> str:
    return choice if choice == "ternary" else f"{choice} bit{'' if choice == 1 else 's'}"
