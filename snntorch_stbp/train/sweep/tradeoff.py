"""The picture of a sweep: accuracy against size and against operations, with the Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .summary import Row

WIDE = 10
"""Costs that span this factor or more are drawn on a logarithmic axis."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write the `picture` as a PNG."""
    with atomic_write(path) as file:
        picture(rows).savefig(file, format="png", dpi=120)


def picture(rows: Sequence[Row]) -> Figure:
    """Accuracy against size and against synaptic operations; a Pareto front is a line.

    Args:
        rows: With a `mean` each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    _panel(panels[0], rows, "size_kb", "pareto_size", "size of the parameters, KB")
    _panel(panels[1], rows, "additions", "pareto", "synaptic operations per image")
    panels[0].set_ylabel("test accuracy, %")
    if len({row.steps for row in rows}) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return figure


def _panel(axes: Any, rows: Sequence[Row], field: str, front: str, label: str) -> None:
    """Accuracy against `field`; rows where `front` is set are joined by a line."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    for steps in dict.fromkeys(row.steps for row in rows):
        part = [row for row in rows if row.steps == steps]
        axes.errorbar(
            [getattr(r, field) for r in part], [100 * (r.mean or 0) for r in part],
            [100 * r.spread for r in part], fmt="o", capsize=3, label=f"T = {steps}",
        )  # fmt: skip
    line = sorted((getattr(r, field), 100 * (r.mean or 0)) for r in rows if getattr(r, front))
    axes.plot([x for x, _ in line], [y for _, y in line], color="0.6", lw=1, zorder=0)
    for row in rows:
        at = (getattr(row, field), 100 * (row.mean or 0))
        bits = "32" if row.bits is None else str(row.bits)
        axes.annotate(bits, at, xytext=(6, 5), textcoords="offset points", size=8)
    costs = [getattr(row, field) for row in rows]
    if costs and max(costs) >= WIDE * min(costs) > 0:
        axes.set_xscale("log")
        few = max(costs) < WIDE**2 * min(costs)  # decades alone would be one or two labels
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if few else (1,), numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter() if field == "additions" else "{x:,.0f}")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.margins(x=0.2, y=0.12)
