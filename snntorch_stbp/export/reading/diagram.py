"""A diagram of boxes: levels from top to bottom, lines that cross no box, and a legend.

A box stands below all that it takes data from. Data that skips levels runs in lanes at the left; a
box's companion stands at its right. A tall diagram goes on in further columns, where a single
tensor crosses: circles with the same number are the same tensor.
"""

from __future__ import annotations

import math
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

from .marks import (
    CONNECTOR,
    DASHES,
    HEIGHT,
    MARGIN,
    STATE,
    WIDTH,
    Box,
    legend_rows,
    paint_legend,
    put_box,
    put_line,
    put_text,
    text_width,
)

GAP, LABEL, ENTRY, TRACK, LANE = 0.62, 0.28, 0.2, 0.11, 0.16  # inches
ROWS = 13  # of a column, about


def paint(boxes: dict[str, Box], title: str, subtitle: str, legend: dict[str, str]) -> Any:
    """Draw boxes as a matplotlib figure.

    Args:
        boxes: The boxes by key.
        title: First line of the page.
        subtitle: Second line, may be empty.
        legend: Kind of box -> colour, in the order of the legend.

    Raises:
        graphlib.CycleError: If boxes take data from each other in a circle.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, left = [], MARGIN
    for part in _columns(boxes):
        columns.append(column := _Column(part, left))
        left = column.right + 0.35
    width = max(left - 0.35 + MARGIN, text_width(title, 12, True) + 2 * MARGIN, 5.5)
    width = max(width, text_width(subtitle, 8.5) + 2 * MARGIN)
    kinds = {b.kind for b in boxes.values()} | {
        b.companion.kind for b in boxes.values() if b.companion
    }
    entries = [(kind, colour) for kind, colour in legend.items() if kind in kinds]
    rows = legend_rows(entries, width, any(box.companion for box in boxes.values()))
    top = 0.75 + 0.27 * len(rows)
    height = top + max(column.bottom for column in columns) + 0.2
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    put_text(axes, MARGIN, 0.3, title, 12, weight="bold", ha="left")
    put_text(axes, MARGIN, 0.55, subtitle, 8.5, ha="left")
    paint_legend(axes, rows)
    for column in columns:
        column.paint(axes, legend, top)
    return figure


# -- columns of the page


def _levels(boxes: dict[str, Box]) -> dict[str, int]:
    """A level for each box: below its sources, and as near to its targets as can be."""
    order = list(TopologicalSorter({key: box.sources for key, box in boxes.items()}).static_order())
    level: dict[str, int] = {}
    for key in order:
        level[key] = max((level[source] + 1 for source in boxes[key].sources), default=0)
    nearest: dict[str, int] = {}
    for key in reversed(order):
        level[key] = nearest.get(key, level[key])
        for source in boxes[key].sources:
            nearest[source] = min(nearest.get(source, level[key] - 1), level[key] - 1)
    return level


def _columns(boxes: dict[str, Box]) -> list[dict[str, Box]]:
    """Cut a tall diagram where a single tensor crosses, with a circle at both ends."""
    level = _levels(boxes)
    count = max(level.values()) + 1
    crossing = {}
    for cut in range(2, count - 1):
        above = {
            s for k, b in boxes.items() if level[k] >= cut for s in b.sources if level[s] < cut
        }
        if len(above) == 1:
            crossing[cut] = above.pop()
    number = max(1, min(math.ceil(count / ROWS), round(math.sqrt(count / 4))))
    edges = [0]
    for left in range(number, 1, -1):
        ideal = edges[-1] + (count - edges[-1]) / left
        cuts = [cut for cut in crossing if cut > edges[-1] + 2]
        if cuts:
            # Between layers, where that is near.
            off = {c: abs(c - ideal) + 4 * (boxes[crossing[c]].companion is None) for c in cuts}
            edges.append(min(off, key=off.__getitem__))
    parts = []
    for index, (start, end) in enumerate(zip(edges, [*edges[1:], count], strict=True)):
        inside = {key for key in boxes if start <= level[key] < end}
        entry = f"{CONNECTOR}:{index}"
        part = (
            {}
            if index == 0
            else {entry: Box(CONNECTOR, str(index), note=boxes[crossing[start]].note)}
        )
        for key in boxes:
            if key in inside:
                sources = [s if s in inside else entry for s in boxes[key].sources]
                part[key] = replace(boxes[key], sources=list(dict.fromkeys(sources)))
        if end < count:
            source = crossing[end] if crossing[end] in inside else entry
            part[f"{CONNECTOR}:{index + 1}"] = Box(CONNECTOR, str(index + 1), sources=[source])
        parts.append(part)
    return parts


class _Column:
    """Boxes of one column of the page: where they stand, and the lines between them."""

    def __init__(self, boxes: dict[str, Box], left: float) -> None:
        self.boxes, self.level = boxes, _levels(boxes)
        self.count = max(self.level.values()) + 1
        self.targets: dict[str, list[str]] = {key: [] for key in boxes}
        for key, box in boxes.items():
            for source in box.sources:
                self.targets[source].append(key)
        slots = self._slots()
        self.lanes = self._lanes()
        used = max(self.lanes.values(), default=-1) + 1
        first = left + used * LANE + (0.1 if used else 0)
        self.left = first
        self.x = {key: first + WIDTH / 2 + slot * (WIDTH + GAP) for key, slot in slots.items()}
        widest = max(slot + (boxes[key].companion is not None) for key, slot in slots.items())
        self.right = first + (widest + 1) * (WIDTH + GAP) - GAP
        self.tracks = self._tracks()
        self.y = [0.0]
        for level in range(self.count):
            gap = LABEL + TRACK * len(self.tracks[level]) + ENTRY
            self.y.append(self.y[-1] + HEIGHT + gap)
        self.bottom = self.y[-1]

    def _slots(self) -> dict[str, int]:
        """Boxes of a level side by side, each below a source where that is free."""
        slots: dict[str, int] = {}
        for level in range(self.count):
            taken: set[int] = set()
            keys = [key for key in self.boxes if self.level[key] == level]
            above = {
                key: [slots[s] for s in self.boxes[key].sources if self.level[s] == level - 1]
                for key in keys
            }
            for key in sorted(keys, key=lambda k: min(above[k], default=math.inf)):
                slot, wide = min(above[key], default=0), self.boxes[key].companion is not None
                while slot in taken or (wide and slot + 1 in taken):
                    slot += 1
                taken |= {slot, slot + wide}
                slots[key] = slot
        return slots

    def _lanes(self) -> dict[str, int]:
        """Lanes of the boxes whose data skips levels, counted from the boxes to the left."""
        lanes: dict[str, int] = {}
        spans: list[tuple[int, int, int]] = []
        for key in sorted(self.boxes, key=lambda k: self.level[k]):
            start = self.level[key]
            end = max((self.level[t] for t in self.targets[key]), default=start)
            if end > start + 1:
                lane = 0
                while any(n == lane and start <= b and a <= end for a, b, n in spans):
                    lane += 1
                lanes[key] = lane
                spans.append((start, end, lane))
        return lanes

    def _tracks(self) -> list[dict[str, int]]:
        """For the gap below each level: heights of the horizontal lines, one for each source."""
        tracks: list[dict[str, int]] = [{} for _ in range(self.count)]
        for key, targets in self.targets.items():
            for target in targets:
                start, end = self.level[key], self.level[target]
                if end > start + 1:
                    for gap in (start, end - 1):
                        tracks[gap].setdefault(key, len(tracks[gap]))
                elif self._port(key, target) != self.x[key]:
                    tracks[start].setdefault(key, len(tracks[start]))
        return tracks

    def _lane(self, key: str) -> float:
        return self.left - 0.1 - self.lanes[key] * LANE

    def _port(self, key: str, target: str) -> float:
        """Where data of a box goes into another one: straight, or beside the straight line."""
        middle = self.x[target]
        places: dict[str, float] = {}
        for source in self.boxes[target].sources:
            near = self.level[target] == self.level[source] + 1
            places[source] = (self.x[source] if near else self._lane(source)) - middle
        if abs(places[key]) < 1e-6:
            return middle
        side = math.copysign(1, places[key])
        same = [s for s, place in places.items() if place * side > 1e-6]
        order = sorted(same, key=lambda s: abs(places[s])).index(key) + 1
        return middle + side * order * min(0.4, (WIDTH / 2 - 0.1) / len(same))

    # -- painting

    def paint(self, axes: Any, colours: dict[str, str], top: float) -> None:
        """All lines, boxes and labels, from `top` down."""
        for key, box in self.boxes.items():
            y = top + self.y[self.level[key]]
            for target in self.targets[key]:
                put_line(axes, self._way(key, target, top))
            if box.note and self.targets[key]:
                put_text(axes, self.x[key] + 0.08, y + HEIGHT + LABEL / 2, box.note, 7.5, ha="left")
            put_box(axes, box, self.x[key], y, colours)
            if box.companion is not None:
                beside = self.x[key] + WIDTH + GAP
                put_box(axes, box.companion, beside, y, colours)
                ends = (self.x[key] + WIDTH / 2, beside - WIDTH / 2)
                put_line(axes, [(ends[0], y + 0.24), (ends[1], y + 0.24)])
                put_line(axes, [(ends[1], y + 0.44), (ends[0], y + 0.44)], STATE, DASHES)

    def _way(self, key: str, target: str, top: float) -> list[tuple[float, float]]:
        start, end = self.level[key], self.level[target]
        out, port = self.x[key], self._port(key, target)
        first = [(out, top + self.y[start] + self._height(key))]
        last = [(port, top + self.y[end] + self._inset(target))]
        if end == start + 1 and out == port:
            return first + last
        high = top + self._track(start, key)
        if end == start + 1:
            return [*first, (out, high), (port, high), *last]
        lane, low = self._lane(key), top + self._track(end - 1, key)
        return [*first, (out, high), (lane, high), (lane, low), (port, low), *last]

    def _track(self, gap: int, key: str) -> float:
        return self.y[gap] + HEIGHT + LABEL + TRACK * self.tracks[gap][key]

    def _height(self, key: str) -> float:
        return HEIGHT - self._inset(key)

    def _inset(self, key: str) -> float:
        return HEIGHT / 2 - 0.16 if self.boxes[key].kind == CONNECTOR else 0.0
