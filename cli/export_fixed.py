"""`export --fixed-point`: what the network of integers needs, and what lowering changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.export.bundle import check_free
from snntorch_stbp.lowering import FixedPointNet
from snntorch_stbp.lowering.ranges import Span
from snntorch_stbp.lowering.report import LayerReport, report
from snntorch_stbp.train.data import examples
from snntorch_stbp.train.evaluate import Trained, lowered
from snntorch_stbp.train.run.rundir import RunDir

from .export_change import Change, changed
from .export_text import command_line, counts, facts
from .text import Column, print_table, to_json

OBSERVED = 100
"""Test samples whose ranges are reported."""

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
        change: What lowering changed.
    """

    net: FixedPointNet
    rows: list[LayerReport]
    change: Change

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "form": self.net.integers.form,
            **self.change.facts(),
            "layers": [
                asdict(row)
                | {"accumulator_bits": row.accumulator.bits, "membrane_bits": row.membrane.bits}
                for row in self.rows
            ],
        }

    def print(self) -> None:
        """A table of the layers, and what lowering changed."""
        click.echo()
        print_table(COLUMNS, [_row(row) for row in self.rows])
        click.echo(
            "\nBits of weights, sums, multipliers (times) and membranes; fraction: digits of these"
            "\nbehind the point; thresholds per channel; * rounded in lowering.\n"
        )
        self.change.print()


def export_folder(folder: RunDir, run: str, as_json: bool, options: dict[str, Any]) -> None:
    """`--format folder` and `--format c`: the network of integers of a run as files.

    Raises:
        UsageError: For a path that exists.
        StbpError: If the network cannot be lowered, or the files do not compute it.
    """
    kind = options["format"]
    from snntorch_stbp.export import c99
    from snntorch_stbp.export import folder as plain
    from snntorch_stbp.train.evaluate import load_trained

    path = Path(options["output"] or folder.path / "export" / f"fixed-point-{kind}")
    writer = c99 if kind == "c" else plain
    check_free(path, options["force"], writer.WROTE)
    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    samples = examples(trained.bundle.test, options["verify"])
    fixed = measured(trained, options["arithmetic"] or "exact", options["register_bits"])
    said = facts(folder, trained.config, options["checkpoint"])
    if kind == "c":
        del said["train"]  # JSON, which is no reading in a comment
    write = c99.to_c99 if kind == "c" else plain.to_folder
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


def measured(trained: Trained, form: Any, bits: int = 24) -> FixedPoint:
    """Lower the network of a run and compare the two on images of its test set."""
    net = lowered(trained, form, bits)
    rows = report(net, examples(trained.bundle.test, OBSERVED))
    return FixedPoint(net, rows, changed(trained, net))


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
