"""Running an exported file and comparing every spike and the readout with the golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from ..errors import StbpError
from .array import Array
from .golden import Golden
from .indexed import Indexed
from .names import Names
from .stock import give, to_stock

Execute = Callable[[dict[str, Array]], dict[str, Array]]
"""Runs a graph: inputs by name to outputs (and inner tensors) by name."""


@dataclass(frozen=True)
class Agreement:
    """What was compared and found equal.

    Attributes:
        samples: Samples.
        spikes: Spikes of all layers and steps.
        scores: Scores of the readout.
        rounded: Samples in which rounding turned a decision; of networks as trained.
        differences: Spikes that differ in them, these decisions and what followed.
        margin: How far from its boundary the farthest of these decisions was.
    """

    samples: int
    spikes: int
    scores: int
    rounded: int = 0
    differences: int = 0
    margin: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.samples + other.samples,
            self.spikes + other.spikes,
            self.scores + other.scores,
            self.rounded + other.rounded,
            self.differences + other.differences,
            max(self.margin, other.margin),
        )


def qonnx_executor(path: Path) -> Execute:
    """The QONNX executor on the file `path`, with every inner tensor in its result."""
    import onnxruntime
    from qonnx.core.onnx_exec import execute_onnx

    onnxruntime.set_default_logger_severity(3)
    model = Indexed(onnx.load(str(path)))
    return lambda inputs: execute_onnx(model, inputs, return_full_exec_context=True)


def onnxruntime_executor(path: Path, names: Names, *, given: bool = False) -> Execute:
    """The file `path` in onnxruntime: in stock operators, whole and without optimizations.

    Args:
        path: A QONNX file.
        names: Its spikes and levels, which are returned beside its outputs, and the batch size to
            run it at.
        given: Whether what follows spikes and levels takes them from inputs `given/NAME`.
    """
    import onnxruntime

    model = to_stock(onnx.load(str(path)), names.batch)
    outputs = {output.name for output in model.graph.output}
    watched = {name for steps in names.tensors.values() for name in steps}
    if given:
        give(model, watched)
    for name in sorted(watched - outputs):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    taken = {tensor.name for tensor in session.get_inputs()}
    labels = [tensor.name for tensor in session.get_outputs()]

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        feeds = {name: value for name, value in inputs.items() if name in taken}
        return dict(zip(labels, session.run(None, feeds), strict=True))

    return run


def verify_chunks(
    execute: Execute,
    chunks: Iterable[Golden],
    names: Names,
    *,
    count: int,
    compare: Callable[..., Agreement],
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """`compare` an execution with golden vectors that come in chunks, `count` samples in all."""
    agreement = Agreement(0, 0, 0)
    for chunk in chunks:
        agreement += compare(execute, chunk, names, first=agreement.samples)
        if progress is not None:
            progress(agreement.samples, count)
    return agreement


def verify(
    execute: Execute,
    golden: Golden,
    names: Names,
    *,
    limit: int | None = None,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare an execution with golden vectors: every spike of every layer and the record.

    Args:
        execute: Runs the graph once.
        golden: Golden vectors.
        names: Names and form of the graph.
        limit: Samples to compare; all if `None`.
        first: Number of the first sample, for messages.
        progress: Called with the samples done and their number.

    Raises:
        StbpError: At the first difference: its layer, step and sample, and by how much the
            membrane missed the threshold.
    """
    count = len(golden["input"]) if limit is None else min(limit, len(golden["input"]))
    spikes = scores = 0
    for start in range(0, count, names.batch):
        rows = batch_rows(start, names.batch, count)
        record, seen = run_graph(execute, golden["input"][rows], names)
        for stage in names.stages:
            expected = names.to_graph(golden[f"spikes/{stage}"][rows], 2)
            for t, step in enumerate(seen[stage]):
                if not np.array_equal(step, expected[:, t]):
                    raise StbpError(
                        _difference(stage, t, step, expected[:, t], golden, rows, names, first)
                    )
                spikes += step[: min(names.batch, count - start)].size
        if not np.array_equal(record, golden["record"][rows]):
            sample = first + int(rows[np.argwhere(record != golden["record"][rows])[0][0]])
            raise StbpError(
                f"the graph does not compute the network: all spikes are equal, but the readout of "
                f"sample {sample} differs by {np.abs(record - golden['record'][rows]).max():g}."
            )
        scores += record[: min(names.batch, count - start)].size
        if progress is not None:
            progress(min(start + names.batch, count), count)
    return Agreement(count, spikes, scores)


def batch_rows(start: int, batch: int, count: int) -> Array:
    """Indices of a whole batch; the last sample fills it up."""
    return np.minimum(np.arange(start, start + batch), count - 1)


def run_graph(
    execute: Execute,
    images: Array,
    names: Names,
    given: Callable[[int], dict[str, Array]] | None = None,
) -> tuple[Array, dict[str, list[Array]]]:
    """The record, as in golden vectors, and per step the spikes (and levels) of a batch of inputs.

    Args:
        execute: Runs the graph once.
        images: The batch.
        names: Names and form of the graph.
        given: Further inputs of a step, if the graph takes them.
    """
    x = names.to_graph(images.astype(np.float32), 2 if names.frames else 1)
    seen: dict[str, list[Array]] = {key: [] for key in names.tensors}
    if names.form == "unrolled":
        feeds = {"image": x}
        if names.frames:
            feeds = {names.frame(t): x[:, t] for t in range(names.steps)}
        if given is not None:
            for t in range(names.steps):
                feeds |= given(t)
        result = execute(feeds)
        for key, steps in names.tensors.items():
            seen[key] = [result[steps[min(t, len(steps) - 1)]] for t in range(names.steps)]
        return names.from_graph(result["record"], 1), seen
    states = {n: np.zeros(shape, np.float32) for n, (_, shape) in names.states.items()}
    total: Array | None = None
    for t in range(names.steps):
        feeds = {"image": x[:, t] if names.frames else x, **states}
        result = execute(feeds if given is None else feeds | given(t))
        states = {
            name: np.asarray(result[out], np.float32).reshape(states[name].shape)
            for name, (out, _) in names.states.items()
        }
        for key, steps in names.tensors.items():
            seen[key].append(result[steps[0]])
        total = result["record"] if total is None else total + result["record"]
    assert total is not None
    return names.from_graph(total, 1), seen


def _difference(
    stage: str,
    t: int,
    got: Array,
    expected: Array,
    golden: Golden,
    rows: Array,
    names: Names,
    first: int,
) -> str:
    """The first spike that differs, in one sentence."""
    where = tuple(np.argwhere(got != expected)[0])
    membrane = names.to_graph(golden[f"membrane/{stage}"][rows], 2)[:, t][where]
    spikes = names.to_graph(golden[f"spikes/{stage}"][rows], 2)[:, :t]
    theta = golden[f"threshold/{stage}"]
    theta = theta[None] if theta.ndim == 1 else theta
    silent = spikes[(where[0], slice(None), *where[1:])][::-1]
    age = min(int(np.argmax(silent)) if silent.any() else t, len(theta) - 1)
    channel = where[-1] if names.channels_last or len(where) == 2 else where[1]
    margin = int(membrane) - int(theta[age, channel if theta.shape[1] > 1 else 0])
    return (
        f"the graph does not compute the network: first difference in layer '{stage}', step {t}, "
        f"sample {first + int(rows[where[0]])}, where the membrane is {abs(margin)} steps "
        f"{'above' if margin > 0 else 'below or at'} the threshold; {int((got != expected).sum())} "
        f"of {got.size} spikes there differ."
    )
