"""What the runs of a sweep say together: means over seeds, Pareto fronts, tables, a picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...files import atomic_write
from . import tradeoff


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        bits: Bits of weights; `None` is fp32.
        steps: Time steps `T`.
        seed: Its seed.
        accuracy: Test accuracy in [0, 1], or `None` if it, or what it starts from, diverged.
        size_kb: Size of the parameters at their bits.
        additions, multiplications: Operations per test image, see `report.Operations`.
        seconds: Time it took to train.
        run: Its folder, relative to the sweep's; empty if it was not begun.
    """

    bits: int | str | None
    steps: int
    seed: int
    accuracy: float | None
    size_kb: float
    additions: float
    multiplications: float
    seconds: float
    run: str


@dataclass(frozen=True)
class Row:
    """All seeds of one bit width and number of steps.

    Attributes:
        bits, steps: As in `Point`.
        mean: Mean test accuracy, or `None` if every run diverged.
        spread: Standard deviation over the seeds, 0 with one.
        seeds: Runs that finished.
        size_kb, additions: Means, or `None` if every run diverged.
        pareto: Whether no other row is as accurate with fewer additions.
        pareto_size: Whether no other row is as accurate with a smaller size.
        diverged: Runs that diverged, or whose start did.
    """

    bits: int | str | None
    steps: int
    mean: float | None
    spread: float
    seeds: int
    size_kb: float | None
    additions: float | None
    pareto: bool = False
    pareto_size: bool = False
    diverged: int = 0


def summarize(points: Sequence[Point]) -> list[Row]:
    """A row for each bit width and number of steps, in the order of the points."""
    rows = []
    for bits, steps in dict.fromkeys((p.bits, p.steps) for p in points):
        same = [p for p in points if (p.bits, p.steps) == (bits, steps)]
        done = [p for p in same if p.accuracy is not None]
        values = [p.accuracy for p in done if p.accuracy is not None]
        rows.append(
            Row(
                bits, steps,
                statistics.fmean(values) if values else None,
                statistics.stdev(values) if len(values) > 1 else 0.0,
                len(values),
                statistics.fmean(p.size_kb for p in done) if done else None,
                statistics.fmean(p.additions for p in done) if done else None,
                diverged=len(same) - len(done),
            )
        )  # fmt: skip
    return [
        replace(
            row,
            pareto=_on_front(row, rows, "additions"),
            pareto_size=_on_front(row, rows, "size_kb"),
        )
        for row in rows
    ]


def _on_front(row: Row, rows: Sequence[Row], cost: str) -> bool:
    """Whether no other row is at least as good in accuracy and in `cost`, and better in one."""
    if row.mean is None:
        return False
    own = (-row.mean, getattr(row, cost))
    others = [(-other.mean, getattr(other, cost)) for other in rows if other.mean is not None]
    return not any(o != own and o[0] <= own[0] and o[1] <= own[1] for o in others)


def markdown(rows: Sequence[Row], command: str) -> str:
    """The table of a sweep, with the command that makes it."""
    lines = [
        "| bits | T | test accuracy | seeds | size, KB | synaptic operations per image | Pareto |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        accuracy = "diverged"
        if row.mean is not None:
            accuracy = f"{100 * row.mean:.2f} %"
            accuracy += f" +- {100 * row.spread:.2f}" if row.seeds > 1 else ""
        lines.append(
            f"| {word(row.bits)} | {row.steps} | {accuracy} | {seeds(row)} | "
            f"{count(row.size_kb)} | {count(row.additions)} | {fronts(row)} |"
        )
    return f"`{command}`\n\n" + "\n".join(lines) + "\n"


def fronts(row: Row) -> str:
    """The costs in which a row is on the Pareto front."""
    return ", ".join(["size"] * row.pareto_size + ["operations"] * row.pareto)


def seeds(row: Row) -> str:
    """How many runs the mean is of, and of how many if some diverged."""
    return f"{row.seeds} of {row.seeds + row.diverged}" if row.diverged else str(row.seeds)


def count(value: float | None) -> str:
    """A whole number, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def word(bits: int | str | None) -> str:
    """A bit width as it is typed."""
    return "32" if bits is None else str(bits)


def save(points: Sequence[Point], rows: Sequence[Row], out: Path, command: str) -> list[Path]:
    """Write `sweep.csv` (a line per run), `summary.csv` (per row), `sweep.md` and `sweep.png`."""
    files = {
        "sweep.md": markdown(rows, command),
        "sweep.csv": _csv(Point, points),
        "summary.csv": _csv(Row, rows),
    }
    for name, content in files.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    picture = out / "sweep.png"
    tradeoff.plot([row for row in rows if row.mean is not None], picture)
    return [*(out / name for name in files), picture]


def _csv(kind: type, lines: Sequence[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(kind)]
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()
