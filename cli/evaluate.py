"""`snntorch-stbp evaluate`: measure a trained run."""

from __future__ import annotations

from typing import Any

import click

from snntorch_stbp.train import catalog
from snntorch_stbp.train.config import CHOICES
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .group import command, json_option
from .params import BitsType, Listed, Real, Whole
from .text import Column, counter, duration, percent, print_table, to_json

EXAMPLE = """\
snntorch-stbp evaluate runs/mnistnet-digits-w32-T2-1
snntorch-stbp evaluate runs/mnistnet-digits-w32-T2-1 --split val --checkpoint last
snntorch-stbp evaluate runs/resnet18-digits-w4-T4-1 --early-exit 0.5,0.7,0.9"""


@command(
    EXAMPLE,
    click.Argument(["run"]),
    click.Option(["--dataset"], metavar="NAME",
                 help="Other data than those of the run, with the same classes."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    click.Option(["--split"], type=click.Choice(["test", "val"]), default="test",
                 show_default=True, help="The test set, or the held-out part of training."),
    click.Option(["--checkpoint"], type=click.Choice(["best", "last"]), default="best",
                 show_default=True, help="The best epoch by validation, or the last one."),
    click.Option(["--batch-size"], type=Whole(1), help="Images per step."),
    click.Option(["--device"], type=click.Choice(CHOICES["device"]), default="auto",
                 show_default=True),
    click.Option(["--frozen"], is_flag=True,
                 help="Measure in the arithmetic that is exported, and what it changes."),
    click.Option(["--act-bits"], type=BitsType(8, 12, floating=False),
                 help="With --frozen: bits of input currents that training left float."),
    click.Option(["--fixed-point"], is_flag=True,
                 help="Measure as the network of integers, and what that changes."),
    click.Option(["--early-exit"], metavar="P,...", type=Listed(Real(0, 1)), default=(),
                 help="Accuracy and mean steps if samples stop once a class has probability P."),
    click.Option(["--arithmetic"], type=click.Choice(["exact", "simple"]),
                 help="With --fixed-point: exact (default), or simple: one threshold."),
    click.Option(["--register-bits"], type=BitsType(24, 31, floating=False), default=24,
                 show_default=True, help="With --fixed-point: widest integers."),
    json_option(),
)  # fmt: skip
def evaluate(run: str, as_json: bool, **options: Any) -> None:
    """Measure the accuracy of RUN, the folder of a training run."""
    folder = RunDir.open(run)
    if options["dataset"] is not None:
        catalog.parse(options["dataset"])

    from .quiet import hush

    hush()
    from snntorch_stbp.train.evaluate import evaluate as measure_run

    reporter = Reporter() if as_json else _Counter()
    result = measure_run(folder, reporter=reporter, **options)
    if as_json:
        click.echo(to_json(result))
        return
    correct = round(result["accuracy"] * result["images"])
    kind = "test" if result["split"] == "test" else "validation"
    lines = {
        "run": f"{folder.path}, {result['checkpoint']} checkpoint (epoch {result['epoch']})",
        "data": f"{result['dataset']}, {result['source']}",
        f"{kind} accuracy": f"{percent(result['accuracy'])} ({correct:,} of {result['images']:,})",
        "loss": f"{result['loss']:.4f}",
        "spike rate": f"{result['spike_rate']:.3f} spikes per neuron and step",
        **_frozen_lines(result),
        "took": duration(result["seconds"]),
    }
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        click.echo(f"{name:<{width}}{text}")
    if "early_exit" in result:
        click.echo()
        print_table(
            [Column("stop at", True), Column("accuracy", True), Column("mean steps", True)],
            [
                [f"{row['confidence']:g}", percent(row["accuracy"]), f"{row['mean_steps']:.2f}"]
                for row in result["early_exit"]
            ],
        )


class _Counter(Reporter):
    """Counts images on a terminal."""

    def __init__(self) -> None:
        self.tell = counter("image")

    def evaluated(self, done: int, total: int) -> None:
        self.tell(done, total)


def _frozen_lines(result: dict[str, Any]) -> dict[str, str]:
    """What deployment arithmetic changed, if that was measured."""
    if "trained_accuracy" not in result:
        return {}
    return {
        "as trained": percent(result["trained_accuracy"]),
        "differing": f"{percent(result['predictions_differ'])} of predictions, "
        f"{percent(result['spikes_differ'])} of spikes",
    }
