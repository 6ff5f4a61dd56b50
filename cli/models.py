"""`snntorch-stbp models`: the networks of the zoo, and the recipes of one of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from snntorch_stbp import zoo
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.catalog import DATASETS

from .group import command, json_option
from .params import BitsType
from .text import Column, print_table, to_json

MODELS = (
    Column("model"),
    Column("parameters", right=True),
    Column("layers", right=True),
    Column("input", right=True),
    Column("pixels", right=True),
    Column("paper"),
    Column("description", spare=1),
    Column("reference", spare=2),
)
RECIPES = (
    Column("data set"),
    Column("pixels", right=True),
    Column("steps", right=True),
    Column("epochs", right=True),
    Column("batch", right=True),
    Column("optimizer", spare=1),
    Column("lr", right=True, spare=2),
    Column("loss"),
    Column("augmentation"),
)


EXAMPLE = """\
snntorch-stbp models
snntorch-stbp models resnet18
snntorch-stbp models mnistnet_bn --bits 1"""


@command(
    EXAMPLE,
    click.Argument(["model"], required=False),
    click.Option(["--bits"], type=BitsType(1, 8, ternary=True),
                 help="The recipes of MODEL for weights of so many bits; default: 32."),
    json_option(),
)  # fmt: skip
def models(model: str | None, bits: int | str | None, as_json: bool) -> None:
    """List the networks that can be trained, or the recipes of one MODEL.

    Parameters are counted for 10 classes (trainable ones, at any bit width); layers are those
    with weights. `pixels` is the least height and width.
    """
    if bits is not None and model is None:
        raise UsageError("--bits chooses among the recipes of one model: name the model, too.")
    names = zoo.list_models() if model is None else [zoo.info(model).name]
    rows = [_describe(name, None if bits == 32 else bits) for name in names]
    if as_json:
        click.echo(to_json(rows if model is None else rows[0]))
    elif model is None:
        print_table(MODELS, [_model_cells(row) for row in rows])
        click.echo("\nEach has a recipe for each data set: snntorch-stbp models MODEL")
    else:
        _print_one(rows[0])


def _describe(name: str, bits: int | str | None) -> dict[str, Any]:
    """Everything about one model, as data."""
    info = zoo.info(name)
    reference = next((key for key in DATASETS if name.startswith(key)), "cifar10")
    channels, size = DATASETS[reference].channels or 3, DATASETS[reference].size or (32, 32)
    parameters, layers = _count(info, channels, size)
    return {
        "name": name,
        "parameters": parameters,
        "layers": layers,
        "input": [channels, *size],
        "min_size": info.min_size,
        "description": info.description,
        "paper": info.paper,
        "recipes": {key: asdict(zoo.recipe(name, key, bits=bits)) for key in DATASETS},
    }


def _count(
    info: zoo.ModelInfo, channels: int, size: tuple[int, int]
) -> tuple[int, int] | tuple[None, None]:
    """Build the network; count its parameters and its layers with weights.

    One of another package may want images of another size: then it is not counted.
    """
    from .quiet import hush

    hush()
    from torch import nn

    try:
        net = zoo.create(info.name, in_channels=channels, image_size=size)
    except StbpError:
        if info.builder is None:
            raise
        return None, None
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(p.numel() for p in net.parameters() if p.requires_grad), len(layers)


def _model_cells(row: dict[str, Any]) -> list[str]:
    paper, _, reference = row["paper"].partition(", ")
    return [
        row["name"],
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        "-" if row["layers"] is None else str(row["layers"]),
        "x".join(map(str, row["input"])),
        str(row["min_size"]),
        paper,
        row["description"],
        reference,
    ]


def _print_one(row: dict[str, Any]) -> None:
    size, least = "x".join(map(str, row["input"])), row["min_size"]
    click.secho(f"{row['name']}: {row['description']}", bold=True)
    if row["paper"]:
        click.echo(row["paper"])
    if row["parameters"] is not None:
        counts = f"{row['parameters']:,} parameters in {row['layers']} layers"
        click.echo(f"{counts} (10 classes, {size})")
    click.echo(f"images of at least {least}x{least} pixels\n")
    cells = []
    for dataset, recipe in row["recipes"].items():
        mixed = [f"mixup {recipe['mixup']:g}"] if recipe["mixup"] else []
        cells.append(
            [
                dataset,
                str(recipe["image_size"] or "own"),
                str(recipe["num_steps"]),
                str(recipe["epochs"]),
                str(recipe["batch_size"]),
                recipe["optimizer"],
                f"{recipe['lr']:g}",
                recipe["loss"],
                ", ".join([*recipe["augment"], *mixed]) or "-",
            ]
        )
    print_table(RECIPES, cells)
