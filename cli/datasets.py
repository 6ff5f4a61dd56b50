"""`snntorch-stbp datasets`: what can be trained on, and where it comes from."""

from __future__ import annotations

from dataclasses import asdict

import click

from snntorch_stbp.train.catalog import AUGMENTATIONS, DATASETS, DatasetInfo

from .group import command, json_option
from .text import Column, paragraph, print_table, terminal_width, to_json

COLUMNS = (
    Column("data set"),
    Column("kind"),
    Column("classes", right=True),
    Column("input", right=True),
    Column("train", right=True),
    Column("test", right=True),
    Column("licence"),
)


@command(
    "snntorch-stbp datasets\nsnntorch-stbp train mnistnet --dataset digits --epochs 2",
    json_option(),
)
def datasets(as_json: bool) -> None:
    """List the data sets that `--dataset` takes, and the augmentations of `--augment`."""
    if as_json:
        click.echo(to_json([{**asdict(info), "takes_path": info.takes_path}
                            for info in DATASETS.values()]))  # fmt: skip
        return
    print_table(COLUMNS, [_row(info) for info in DATASETS.values()])
    click.echo()
    for info in DATASETS.values():
        text = f"{info.source}; {info.note}"
        for line in paragraph(_name(info), text, 14, terminal_width()):
            click.echo(line)
    click.echo("\nAugmentations for `train --augment`:\n")
    for name, kind in AUGMENTATIONS.items():
        form = f"; {name}:N for N {kind.amount}" if kind.amount else ""
        for line in paragraph(name, kind.note + form, 14, terminal_width()):
            click.echo(line)


def _name(info: DatasetInfo) -> str:
    return f"{info.name}:PATH" if info.takes_path else info.name


def _row(info: DatasetInfo) -> list[str]:
    size = "x".join(map(str, (info.channels, *info.size))) if info.size else "-"
    numbers = ["-" if number is None else f"{number:,}" for number in (info.train, info.test)]
    return [_name(info), info.kind, str(info.classes or "-"), size, *numbers, info.licence]
