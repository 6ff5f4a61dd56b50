"""How numbers and tables are written on the terminal."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

GAP = "  "


def clean(text: Any) -> str:
    """Text from a file in one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] as `97.78 %`, or a dash."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f} %"


def bits(width: int | str | None) -> str:
    """A bit width as a word: `4`, `ternary`, `fp32`."""
    return "fp32" if width is None else str(width)


def duration(seconds: float) -> str:
    """Seconds as `41 s`, `3 min 12 s`, `2 h 05 min`."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock(seconds: float) -> str:
    """Seconds as `0:07`, `12:30`, `1:02:30`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02d}" if hours else f"{rest // 60}"
    return f"{hours}:{minutes}:{rest % 60:02d}" if hours else f"{minutes}:{rest % 60:02d}"


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that `stream` (stdout) is, or None where it is none."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def to_json(data: Any) -> str:
    """One line of JSON; numbers that JSON lacks (NaN, infinities) become null."""
    return json.dumps(_finite(data), default=str)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def paragraph(label: str, text: str, indent: int, width: int | None) -> list[str]:
    """Lines of `text` behind a label, wrapped to `width` columns with a hanging indent.

    The text itself has 20 columns, where the terminal has fewer.
    """
    lines = textwrap.wrap(
        text, max(20, (width or 10_000) - indent), break_long_words=False, break_on_hyphens=False
    )
    return [f"{label if i == 0 else '':<{indent}}{line}" for i, line in enumerate(lines)]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: Its heading.
        right: Whether it is aligned to the right, as numbers are.
        spare: 0 keeps the column; of the others, the highest goes first on a narrow terminal.
    """

    title: str
    right: bool = False
    spare: int = 0


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """Lay out a table, two spaces between columns, the heading first.

    Args:
        columns: What each column is.
        rows: One text per column, cleaned here.
        width: Columns of the terminal; spare columns are left out until the table fits.
    """
    keep = list(range(len(columns)))
    rows = [[clean(cell) for cell in row] for row in rows]
    widths = [
        max(len(column.title), *(len(row[i]) for row in rows), 0)
        for i, column in enumerate(columns)
    ]
    while width is not None and sum(widths[i] + len(GAP) for i in keep) - len(GAP) > width:
        spare = max(keep, key=lambda i: columns[i].spare)
        if columns[spare].spare == 0:
            break
        keep.remove(spare)
    lines = [[column.title for column in columns], *rows]
    return [
        GAP.join(
            f"{line[i]:>{widths[i]}}" if columns[i].right else f"{line[i]:<{widths[i]}}"
            for i in keep
        ).rstrip()
        for line in lines
    ]


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose heading is bold on a terminal."""
    heading, *lines = table(columns, rows, terminal_width())
    click.secho(heading, bold=True)
    for line in lines:
        click.echo(line)


def counter(what: str) -> Callable[[int, int], None]:
    """What tells on a terminal how many of how many are done."""

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what} {done:,} of {total:,}", nl=done == total, err=True)

    return tell
