"""What a diagram is made of: boxes, lines with arrows, texts that fit, a legend; in inches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

WIDTH, HEIGHT, MARGIN = 2.6, 0.68, 0.3  # of a box, and at the left and right of a page
LINE, STATE, CONNECTOR = "#444444", "#b4561a", "connector"
DASHES = (0, (3, 2))


@dataclass
class Box:
    """A box.

    Attributes:
        kind: Its kind, a key of the legend.
        title: The first line.
        lines: Further lines.
        note: What leaves it: data type and shape.
        sources: Keys of the boxes that it takes data from.
        companion: The state that it keeps from step to step.
    """

    kind: str
    title: str
    lines: tuple[str, ...] = ()
    note: str = ""
    sources: list[str] = field(default_factory=list)
    companion: Box | None = None


def put_box(axes: Any, box: Box, x: float, y: float, colours: dict[str, str]) -> None:
    """A box with its texts, its upper edge at `y`, its middle at `x`."""
    from matplotlib.patches import Circle, FancyBboxPatch

    if box.kind == CONNECTOR:
        axes.add_patch(Circle((x, y + HEIGHT / 2), 0.16, fc="white", ec=LINE, lw=1, zorder=2))
        put_text(axes, x, y + HEIGHT / 2, box.title, 8.5, weight="bold")
        return
    shape = "round,pad=0,rounding_size=0.07"
    corner = (x - WIDTH / 2, y)
    axes.add_patch(
        FancyBboxPatch(
            corner, WIDTH, HEIGHT, boxstyle=shape, fc=colours[box.kind], ec=LINE, lw=0.8, zorder=2
        )
    )
    lines = [line for line in box.lines if line]
    for index, line in enumerate([box.title, *lines]):
        size, bold = (8.5, True) if index == 0 else (7.5, False)
        place = y + HEIGHT / 2 + (index - len(lines) / 2) * 0.19
        weight = "bold" if bold else "normal"
        put_text(axes, x, place, _fitted(line, size, bold), size, weight=weight)


def put_line(
    axes: Any, points: list[tuple[float, float]], colour: str = LINE, style: Any = "-"
) -> None:
    """A line through points, with an arrow at its end."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=colour, lw=1, ls=style, solid_joinstyle="round", zorder=1)
    (x0, y0), (x1, y1) = points[-2:]
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = 0.09 * (x1 - x0) / length, 0.09 * (y1 - y0) / length
    head = [
        (x1, y1),
        (x1 - dx - dy / 2.5, y1 - dy + dx / 2.5),
        (x1 - dx + dy / 2.5, y1 - dy - dx / 2.5),
    ]
    axes.fill(*zip(*head, strict=True), color=colour, lw=0, zorder=3)


def legend_rows(
    entries: Iterable[tuple[str, str]], width: float, states: bool
) -> list[list[tuple[float, str, str]]]:
    """Place of each entry: rows of x, text, colour; no colour for the dashed line."""
    rows: list[list[tuple[float, str, str]]] = [[]]
    x = MARGIN
    for text, colour in [*entries, *[("state, to the next step", "")] * states]:
        needs = 0.4 + text_width(text, 8) + 0.2
        if x + needs > width and rows[-1]:
            rows.append([])
            x = MARGIN
        rows[-1].append((x, text, colour))
        x += needs
    return rows


def paint_legend(axes: Any, rows: list[list[tuple[float, str, str]]]) -> None:
    """The legend, from the rows of `legend_rows`."""
    from matplotlib.patches import Rectangle

    for index, row in enumerate(rows):
        y = 0.82 + 0.27 * index
        for x, text, colour in row:
            if colour:
                axes.add_patch(Rectangle((x, y - 0.08), 0.3, 0.16, fc=colour, ec=LINE, lw=0.8))
            else:
                put_line(axes, [(x, y), (x + 0.3, y)], STATE, DASHES)
            put_text(axes, x + 0.37, y, text, 8, ha="left")


def put_text(axes: Any, x: float, y: float, text: str, size: float, **options: Any) -> None:
    """A text, its middle at `y` and (but for other `options`) at `x`."""
    options = {"ha": "center", **options}
    axes.text(x, y, text, fontsize=size, va="center", parse_math=False, zorder=4, **options)


@lru_cache(4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of a text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def _fitted(text: str, size: float, bold: bool) -> str:
    """Text that fits into a box, its middle left out if need be."""
    room, half = WIDTH - 0.16, len(text) // 2
    short = text
    while text_width(short, size, bold) > room and half > 1:
        half -= 1
        short = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
    return short
