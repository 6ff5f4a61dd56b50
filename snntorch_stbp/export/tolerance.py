"""Comparing a graph as trained with the trained network, up to the rounding of floating point.

Steps and layers are walked in order. Until a sample's first difference everything that enters a
decision is the same on both sides but for rounding; so the first decision (a spike, or the level of
a quantized current or membrane) that falls the other way must have been nearly even: what the
trained network decided on lies within `bound` (see `trained`) of the boundary. From there on the
sample is another one: its differences are counted, but no longer judged. Where the graph is given
the trained network's decisions instead of its own (`stock.give`), all of its decisions are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from ..errors import StbpError
from .array import Array
from .golden import Golden
from .names import Names
from .verify import Agreement, Execute, batch_rows, run_graph


class _Decision(NamedTuple):
    """Decisions of one layer at one step, `[B, ...]`."""

    what: str
    differs: Array
    margin: Array
    """Distance from the boundary in the trained network."""
    unit: str


def verify_trained(
    execute: Execute,
    golden: Golden,
    names: Names,
    *,
    given: bool = False,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare an execution with the vectors of a `TrainedNet`.

    Args:
        execute: Runs the graph once.
        golden: Vectors, see `TrainedNet.vectors`.
        names: Names and form of the graph.
        given: Whether the graph takes the trained network's decisions as `given/NAME`.
        first: Number of the first sample, for messages.
        progress: Called with the samples done and their number.

    Returns:
        What was compared, in how many samples rounding turned a decision, how many spikes differ,
        and the largest margin of such a decision.

    Raises:
        StbpError: If a difference is no rounding: layer, step, sample and margin.
    """
    count = len(golden["input"])
    agreement = Agreement(0, 0, 0)
    for start in range(0, count, names.batch):
        rows = batch_rows(start, names.batch, count)
        feeds = partial(_given, golden, names, rows) if given else None
        record, seen = run_graph(execute, golden["input"][rows], names, feeds)
        rows = rows[: count - start]
        equal = np.ones(len(rows), bool)  # samples without a difference so far
        spikes = differences = 0
        margin = 0.0
        for t in range(names.steps):
            for stage in names.stages:
                for decision in _decisions(stage, t, golden, rows, seen):
                    judged = decision.differs
                    if not given:
                        judged = judged & _spread(equal, judged.ndim, 0)
                    wrong = judged & ~(decision.margin <= _bound(golden, stage, judged))
                    if wrong.any():
                        raise StbpError(_message(stage, t, decision, wrong, first + rows))
                    margin = max(margin, float(decision.margin[judged].max(initial=0)))
                    equal &= ~decision.differs.reshape(len(rows), -1).any(1)
                    if decision.what == "spike":
                        spikes += decision.differs.size
                        differences += int(decision.differs.sum())
        _compare_record(record[: len(rows)], golden, rows, equal, first)
        scores = record[: len(rows)].size
        agreement += Agreement(len(rows), spikes, scores, int((~equal).sum()), differences, margin)
        if progress is not None:
            progress(agreement.samples, count)
    return agreement


def _given(golden: Golden, names: Names, rows: Array, t: int) -> dict[str, Array]:
    """The trained network's decisions of step `t`, as a graph takes them."""
    sources = {f"{stage}/current": f"level/{stage}" for stage in names.stages}
    sources |= {f"{stage}/membrane": f"membrane/{stage}" for stage in names.stages}
    sources |= {stage: f"spikes/{stage}" for stage in names.stages}
    feeds = {}
    for key, steps in names.tensors.items():
        tensor = steps[min(t, len(steps) - 1)]
        feeds[f"given/{tensor}"] = golden[sources[key]][rows, t].astype(np.float32)
    return feeds


def _decisions(
    stage: str, t: int, golden: Golden, rows: Array, seen: dict[str, list[Array]]
) -> Iterator[_Decision]:
    """In the order in which they are made: current, membrane, spike."""
    for what, before, after in (
        ("current", "current", "level"),
        ("membrane", "potential", "membrane"),
    ):
        if f"step/{what}/{stage}" in golden:
            step = golden[f"step/{what}/{stage}"]
            got = seen[f"{stage}/{what}"][t][: len(rows)]
            jump = np.rint(np.abs(got - golden[f"{after}/{stage}"][rows, t]) / step)
            levels = golden[f"{before}/{stage}"][rows, t] / step
            margin = np.abs(np.abs(levels - np.floor(levels)) - 0.5) + np.maximum(jump - 1, 0)
            yield _Decision(what, jump != 0, margin * step, "half way between two levels")
    membrane = golden[f"membrane/{stage}"][rows, t]
    threshold = _spread(golden[f"threshold/{stage}"], membrane.ndim)
    got = seen[stage][t][: len(rows)]
    differs = got != golden[f"spikes/{stage}"][rows, t]
    yield _Decision("spike", differs, np.abs(membrane - threshold), "the threshold")


def _bound(golden: Golden, stage: str, like: Array) -> Array:
    return _spread(golden[f"bound/{stage}"], like.ndim)


def _spread(value: Array, dimensions: int, axis: int = 1) -> Array:
    """One value per channel (or, with `axis` 0, per sample), aligned with `[B, C, ...]`."""
    shape = [1] * dimensions
    shape[axis] = -1
    return value.reshape(shape)


def _compare_record(record: Array, golden: Golden, rows: Array, equal: Array, first: int) -> None:
    """The readout of samples without any difference."""
    error = np.abs(record - golden["record"][rows])[equal]
    error = error.reshape(len(error), record[0].size).max(1, initial=0)
    bound = float(golden["bound/record"])
    if not error.max(initial=0) <= bound:
        sample = first + int(rows[equal][error.argmax()])
        raise StbpError(
            f"the graph does not compute the trained network: all decisions are equal, but the "
            f"readout of sample {sample} differs by {error.max():.3g}, more than rounding "
            f"({bound:.3g}) explains."
        )


def _message(stage: str, t: int, decision: _Decision, wrong: Array, samples: Array) -> str:
    """The decision that misses the boundary by most, in one sentence."""
    where = np.unravel_index(np.where(wrong, decision.margin, -1).argmax(), wrong.shape)
    return (
        f"the graph does not compute the trained network: in layer '{stage}', step {t}, sample "
        f"{int(samples[where[0]])}, a {decision.what} differs although its number is "
        f"{decision.margin[where]:.3g} away from {decision.unit}, more than rounding explains; "
        f"{int(wrong.sum())} of {wrong.size} there differ so."
    )
