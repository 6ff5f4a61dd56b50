"""`export --fixed-point`: what the network of integers needs, and what lowering changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from lightning_fabric import Fabric

from snntorch_stbp.errors import UsageError
from snntorch_stbp.export.bundle import check_free
from snntorch_stbp.lowering import FixedPointNet
from snntorch_stbp.lowering.ranges import Span
from snntorch_stbp.lowering.report import LayerReport, report
from snntorch_stbp.train.data import drawn, examples
from snntorch_stbp.train.evaluate import Trained, lowered
from snntorch_stbp.train.measure import compare
from snntorch_stbp.train.run.rundir import RunDir

from .export_text import DEFAULTS, command_line, counts, facts
from .text import Column, counter, percent, print_table, to_json

OBSERVED = 100
"""Test samples whose ranges are reported."""
MEASURED = 1000
"""Test samples at most that say what lowering changed; `evaluate --fixed-point` takes all."""

COLUMNS = (
    Column("layer"),
    Column("weight", right=True),
    Column("sum", right=True),
    Column("worst .. seen", spare=2),
    Column("times", right=True, spare=1),
    Column("membrane", right=True),
    Column("worst .. seen", spare=3),
    Column("fraction", right=True),
    Column("thresholds", right=True),
)


@dataclass(frozen=True)
class FixedPoint:
    """A lowered run.

    Attributes:
        net: The network of integers.
        rows: What each layer needs.
        accuracy: Of the integers, on test images.
        trained_accuracy: Of the trained network.
        images: How many test images that were.
        all_images: How many there are.
        predictions_differ, spikes_differ: Shares that differ between the two.
    """

    net: FixedPointNet
    rows: list[LayerReport]
    accuracy: float
    trained_accuracy: float
    images: int
    all_images: int
    predictions_differ: float
    spikes_differ: float

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "form": self.net.integers.form,
            "accuracy": self.accuracy,
            "trained_accuracy": self.trained_accuracy,
            "images": self.images,
            "predictions_differ": self.predictions_differ,
            "spikes_differ": self.spikes_differ,
            "layers": [
                asdict(row)
                | {"accumulator_bits": row.accumulator.bits, "membrane_bits": row.membrane.bits}
                for row in self.rows
            ],
        }

    def _images(self) -> str:
        if self.images == self.all_images:
            return f"{self.images:,} test images"
        return f"{self.images:,} of {self.all_images:,} test images; `evaluate` takes all"

    def print(self) -> None:
        """A table of the layers, and what lowering changed."""
        click.echo()
        print_table(COLUMNS, [_row(row) for row in self.rows])
        click.echo(
            "\nBits of weights, sums, multipliers (times) and membranes; fraction: digits of these"
            "\nbehind the point; thresholds per channel; * rounded in lowering.\n"
        )
        click.echo(
            f"{'accuracy':<10}{percent(self.accuracy)}, as trained "
            f"{percent(self.trained_accuracy)} ({self._images()})"
        )
        click.echo(
            f"{'differing':<10}{percent(self.predictions_differ)} of predictions, "
            f"{_share(self.spikes_differ)} of spikes"
        )


GRAPHS = ("form", "target", "batch")
"""Options of graphs, which say nothing of a folder."""


def export_folder(folder: RunDir, run: str, as_json: bool, options: dict[str, Any]) -> None:
    """`--format folder` and `--format c`: the network of integers of a run as files.

    Raises:
        UsageError: Without --fixed-point, for options of graphs, or for a path that exists.
        StbpError: If the network cannot be lowered, or the files do not compute it.
    """
    kind = options["format"]
    if not options["fixed_point"]:
        raise UsageError(f"--format {kind} writes integers: it needs --fixed-point.")
    for name in GRAPHS:
        if options[name] != DEFAULTS[name]:
            raise UsageError(f"--{name} is for graphs: --format {kind} goes without it.")
    from snntorch_stbp.export.c99 import to_c99
    from snntorch_stbp.export.folder import to_folder
    from snntorch_stbp.train.evaluate import load_trained

    path = Path(options["output"] or folder.path / "export" / f"fixed-point-{kind}")
    check_free(path, options["force"])
    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    samples = examples(trained.bundle.test, options["verify"])
    fixed = measured(trained, options["arithmetic"] or "exact")
    said = facts(folder, trained.config)
    if kind == "c":
        del said["train"]  # JSON, which is no reading in a comment
    write = to_c99 if kind == "c" else to_folder
    bundle = write(
        fixed.net, samples, path, force=options["force"],
        metadata={**said, "command": command_line(run, options)},
    )  # fmt: skip
    if as_json:
        result = {
            "files": [str(file) for file in bundle.files],
            "format": kind,
            **counts(bundle.agreement),
            "compiled": bundle.compiled,
            "fixed_point": fixed.facts(),
        }
        click.echo(to_json(result))
        return
    click.echo(f"{'folder':<10}{bundle.path} ({len(bundle.files)} files)")
    where = "NumPy, read again" if kind == "folder" else "C"
    if kind == "c" and not bundle.compiled:
        where = "NumPy; not compiled, since there is no C compiler here"
    seen = bundle.agreement
    click.echo(
        f"{'verified':<10}{seen.spikes:,} spikes and {seen.scores:,} scores of {seen.samples} "
        f"test samples in {where}: all equal"
    )
    fixed.print()


def measured(trained: Trained, form: Any) -> FixedPoint:
    """Lower the network of a run and compare the two on images of its test set."""
    test, config, model = trained.bundle.test, trained.config, trained.model
    part, net = drawn(test, MEASURED), lowered(trained, form)
    observed = examples(test, OBSERVED)
    fabric = Fabric(accelerator="cpu", devices=1)
    found = compare(fabric, model, net, config, part, config.batch_size, tell=counter("test image"))
    return FixedPoint(
        net, report(net, observed), found["accuracy"], found["trained_accuracy"], found["images"],
        len(test), found["predictions_differ"], found["spikes_differ"],
    )  # fmt: skip


def _row(row: LayerReport) -> list[str]:
    return [
        row.name + ("" if row.exact else "*"),
        str(row.weight_bits or "-"),
        str(row.accumulator.bits),
        _spans(row.accumulator, row.accumulator_seen),
        str(row.multiplier_bits or "-"),
        str(row.membrane.bits),
        _spans(row.membrane, row.membrane_seen),
        str(row.fraction),
        str(row.ages or "-"),
    ]


def _spans(worst: Span, seen: Span) -> str:
    return f"{worst.low}:{worst.high} .. {seen.low}:{seen.high}"


def _share(value: float) -> str:
    """A share that may be tiny."""
    return f"{value:.1e}" if 0 < value < 5e-5 else percent(value)
