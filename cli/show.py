"""`snntorch-stbp show`: one run in full."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import click

from snntorch_stbp.errors import UsageError
from snntorch_stbp.files import shell_words
from snntorch_stbp.train.run.rundir import RunDir

from .again import train_command
from .blocks import HEADING, epoch_line
from .group import command, json_option
from .params import Whole
from .runs import summary
from .text import clean, percent, to_json


@command(
    "snntorch-stbp show runs/resnet18-digits-w4-T2-1",
    click.Argument(["run"]),
    click.Option(["--last"], type=Whole(1), default=5, show_default=True,
                 help="How many of the last epochs to show."),
    json_option(),
)  # fmt: skip
def show(run: str, last: int, as_json: bool) -> None:
    """Show the configuration of RUN, its last epochs, its results, and what to type next."""
    folder = RunDir.open(run)
    facts = summary(folder)
    command_next = next_command(folder)
    if as_json:
        extra = {"history": folder.history, "result": folder.result, "next": command_next}
        click.echo(to_json(facts | extra))
        return
    click.secho(clean(folder.path), bold=True)
    for line in _settings(asdict(folder.config)):
        click.echo(line)
    rows = folder.history[-last:]
    if rows:
        click.secho(f"\n{HEADING}", bold=True)
    for row in rows:
        click.echo(epoch_line(row, folder.config.epochs))
    click.echo()
    for name, text in (
        ("status", f"{facts['status']}, {facts['epochs_done']} of {facts['epochs']} epochs"),
        ("best val", percent(facts["best_val_accuracy"])),
        ("test accuracy", percent(facts["test_accuracy"])),
        ("next", command_next),
    ):
        click.echo(f"{name:<16} {clean(text)}")


def next_command(run: RunDir) -> str:
    """The command that a user is likely to want next for this run."""
    path = shell_words([str(run.path)])
    if run.status == "finished":
        return f"snntorch-stbp evaluate {path}"
    config = run.config
    if run.status == "interrupted" and (run.path / "last.pt").is_file():
        return f"snntorch-stbp train --resume {path}"
    if run.status == "interrupted" and (run.path / "best.pt").is_file():  # all there is
        config = replace(config, init_from=str(run.path))
    if run.status == "diverged":
        config = replace(config, lr=float(f"{config.lr / 10:g}"))
    try:
        return train_command(config)
    except UsageError:  # of a package that is not installed here
        return f"snntorch-stbp train {config.model}"


def _settings(config: dict[str, Any]) -> list[str]:
    """Fields in two columns, as they are named in `config.json`."""
    by_layer = config.pop("layer_bits")
    longest = max(map(len, config))
    cells = [f"{name:<{longest}} {clean(_value(name, value))}" for name, value in config.items()]
    half = (len(cells) + 1) // 2
    width = max(map(len, cells[:half])) + 3
    right = [*cells[half:], ""]
    lines = [f"{cells[i]:<{width}}{right[i]}".rstrip() for i in range(half)]
    return lines + [
        f"{'bits of':<{longest}} {clean(f'{name}: {bits}')}" for name, bits in by_layer.items()
    ]


def _value(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if value is None and name in ("bits", "act_bits", "membrane_bits", "input_bits"):
        return "32 (float)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
