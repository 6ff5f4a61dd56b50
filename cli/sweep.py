"""`snntorch-stbp sweep`: train one model at many bit widths, and compare."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train import catalog
from snntorch_stbp.train.config import CHOICES
from snntorch_stbp.train.sweep import Row, plan, word

from .group import Option, command, json_option
from .output import ClosableReporter, make_reporter
from .params import BitsType, Listed, Real, Whole
from .text import Column, percent, print_table, to_json

EXAMPLE = """\
snntorch-stbp sweep mnistnet --bits 32,8,4,2,ternary,1 --seeds 3
snntorch-stbp sweep resnet18 --dataset cifar10 --bits 32,4 --steps 1,2,4"""

COLUMNS = (
    Column("bits", right=True),
    Column("T", right=True),
    Column("test accuracy", right=True),
    Column("seeds", right=True),
    Column("size, KB", right=True),
    Column("synaptic operations", right=True, spare=1),
    Column("front"),
)

OPTIONS = [
    Option(["--bits"], type=Listed(BitsType(1, 8, ternary=True)), default="32,8,4,2,ternary,1",
           show_default=True, help="Widths of the weights."),
    Option(["--steps"], type=Listed(Whole(1, "T")), help="Time steps; default: as the recipe."),
    Option(["--seeds"], type=Whole(1), default=1, show_default=True,
           help="Runs of each, with seeds 0, 1, ..."),
    Option(["--dataset"], metavar="NAME", default="digits", show_default=True,
           help="As of `train`."),
    Option(["--data-dir"], metavar="DIR", help="Folder of downloaded data sets."),
    Option(["--download"], is_flag=True, help="Fetch a missing data set."),
    Option(["--recipe"], type=click.Choice(CHOICES["recipe"]), help="As of `train`."),
    Option(["--epochs"], type=Whole(1), help="Passes over the data; default: as the recipe."),
    Option(["--lr"], type=Real(0, above=True), help="Highest learning rate."),
    Option(["--device"], type=click.Choice(CHOICES["device"]), metavar="KIND",
           help="auto (default), cpu, cuda or mps."),
    Option(["--out"], metavar="DIR", help="The sweep's folder; default: sweeps/MODEL-DATASET."),
]  # fmt: skip


@command(EXAMPLE, click.Argument(["model"]), *OPTIONS, json_option())
def sweep(model: str, as_json: bool, **options: Any) -> None:
    """Train MODEL at many bit widths and write one table and one picture of all runs.

    The same command goes on with a sweep that was interrupted, and adds to one that is finished.
    """
    bits = [None if width == 32 else width for width in options["bits"]]
    given = {
        name: options[name]
        for name in ("data_dir", "download", "recipe", "epochs", "lr", "device")
        if options[name] not in (None, False)
    }
    dataset = options["dataset"]
    configs = plan(model, dataset, bits, options["steps"] or [None], options["seeds"], **given)
    name = f"{model}-{catalog.run_name(dataset)}"
    out = Path(options["out"] or Path("sweeps") / name)
    if out.is_file():
        raise UsageError(f"'{out}' is a file; name a folder with --out.")
    reporter = ClosableReporter() if as_json else make_reporter(quiet=False, as_json=False)

    from .quiet import hush

    hush()
    from snntorch_stbp.train.sweep import run_all, save, summarize

    def notice(text: str) -> None:
        click.secho(f"\n{text}", bold=True, err=as_json)

    try:
        points = run_all(configs, out, reporter, notice)
    finally:
        reporter.close()
    rows = summarize(points)
    files = save(points, rows, out, _command(model, options))
    if as_json:
        click.echo(to_json([row.__dict__ for row in rows]))
        return
    click.echo()
    print_table(COLUMNS, [_cells(row) for row in rows])
    click.echo(f"\nwritten: {', '.join(str(file) for file in files)}")


def _cells(row: Row) -> list[str]:
    accuracy = "diverged" if row.mean is None else percent(row.mean)
    if row.seeds > 1:
        accuracy += f" +- {100 * row.spread:.2f}"
    return [
        word(row.bits), str(row.steps), accuracy, str(row.seeds), f"{row.size_kb:,.0f}",
        f"{row.additions:,.0f}", "yes" if row.pareto else "",
    ]  # fmt: skip


def _command(model: str, options: dict[str, Any]) -> str:
    """The command that makes this table."""
    parts = ["snntorch-stbp", "sweep", model]
    for option in OPTIONS:
        name = str(option.name)
        value = options[name]
        if value in (None, False) or name in ("data_dir", "device", "out", "download"):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts += [f"--{name}", text]
    return shlex.join(parts)
