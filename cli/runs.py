"""`snntorch-stbp runs`: the table of past runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from snntorch_stbp.train.run.rundir import RunDir, list_runs

from .group import command, json_option
from .text import Column, bits, percent, print_table, to_json

COLUMNS = (
    Column("run"),
    Column("model", spare=2),
    Column("data set", spare=3),
    Column("bits", right=True, spare=1),
    Column("T", right=True, spare=1),
    Column("epochs", right=True),
    Column("best val", right=True),
    Column("test", right=True),
    Column("status"),
)


@command(
    "snntorch-stbp runs\nsnntorch-stbp runs --out runs --json",
    click.Option(["--out"], metavar="DIR", default="runs", show_default=True,
                 help="Where the runs are."),
    json_option(),
)  # fmt: skip
def runs(out: str, as_json: bool) -> None:
    """List the runs in a folder, the latest last."""
    found = [summary(run) for run in list_runs(out)]
    if as_json:
        click.echo(to_json(found))
    elif found:
        print_table(COLUMNS, [_cells(row) for row in found])
    else:
        click.echo(f"No runs in '{out}' yet. Begin one: snntorch-stbp train resnet18 --bits 4")


def summary(run: RunDir) -> dict[str, Any]:
    """What there is to say about a run, as data."""
    history = run.history
    accuracy = (run.result or {}).get("test_accuracy")
    accuracies = [row["val_accuracy"] for row in history]
    counting = accuracies[-1:] if run.config.select == "last" else accuracies
    return {
        "run": str(run.path),
        "model": run.config.model,
        "dataset": run.config.dataset,
        "bits": run.config.bits,
        "steps": run.config.steps,
        "epochs_done": history[-1]["epoch"] if history else 0,
        "epochs": run.config.epochs,
        "best_val_accuracy": max(counting, default=None),
        "test_accuracy": accuracy if isinstance(accuracy, int | float) else None,
        "status": run.status,
        "config": asdict(run.config),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["run"],
        row["model"],
        row["dataset"],
        "mixed" if row["config"]["layer_bits"] else bits(row["bits"]),
        str(row["steps"]),
        f"{row['epochs_done']}/{row['epochs']}",
        percent(row["best_val_accuracy"]),
        percent(row["test_accuracy"]),
        row["status"],
    ]
