"""What the runs of a sweep say together: rows, Pareto fronts, the picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from snntorch_stbp.train.sweep import tradeoff
from snntorch_stbp.train.sweep.summary import Point, fronts, markdown, summarize


def point(bits: int, seed: int, accuracy: float | None, additions: float) -> Point:
    return Point(bits, 2, seed, accuracy, 10.0, additions, 0.0, 1.0, "run")


def test_rows_know_their_spread_and_the_front() -> None:
    rows = summarize(
        [
            point(8, 0, 0.9, 100), point(8, 1, 0.8, 100),
            point(4, 0, 0.8, 200), point(4, 1, None, 0),
            point(2, 0, 0.7, 50), point(1, 0, None, 0),
        ]
    )  # fmt: skip
    assert [row.bits for row in rows] == [8, 4, 2, 1]
    assert rows[0].mean == pytest.approx(0.85)
    assert rows[0].spread == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert [row.pareto for row in rows] == [True, False, True, False]
    assert [row.pareto_size for row in rows] == [True, False, False, False]  # all of one size
    assert [fronts(row) for row in rows] == ["size, operations", "", "operations", ""]
    assert rows[1].seeds == 1
    text = markdown(rows, "command")
    assert "| 4 | 2 | 80.00 % | 1 of 2 | 10 | 200 |" in text
    assert "| 1 | 2 | diverged | 0 of 1 | - | - |" in text


@pytest.mark.parametrize("factor", [3, 20, 60, 300, 3000])
def test_no_labels_of_the_picture_overlap(factor: float) -> None:
    """Whether costs lie close together or decades apart."""
    points = [Point(bits, 2, 0, 0.9 + bits / 100, 3e3, 2e6, 0, 1, "run") for bits in (2, 4)]
    points.append(Point(None, 2, 0, 0.95, 3e3 * factor, 2e6 * factor, 0, 1, "run"))
    figure = tradeoff.picture(summarize(points))
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        labels = [
            text.get_window_extent()
            for place, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if low <= place <= high
        ]
        assert len(labels) >= 3
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))
        assert not axes.get_xticklabels(minor=True)
