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
from .golden import Golden
from .names import Names
from .stock import to_stock
from .writer import Array

Execute = Callable[[dict[str, Array]], dict[str, Array]]
"""Runs a graph: inputs by name to outputs (and inner tensors) by name."""


@dataclass(frozen=True)
class Agreement:
    """What was compared, all of it equal."""

    samples: int
    spikes: int
    scores: int

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.samples + other.samples, self.spikes + other.spikes, self.scores + other.scores
        )


def qonnx_executor(path: Path) -> Execute:
    """The QONNX executor on the file `path`, with every inner tensor in its result."""
    import onnxruntime
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    onnxruntime.set_default_logger_severity(3)
    model = ModelWrapper(str(path))
    return lambda inputs: execute_onnx(model, inputs, return_full_exec_context=True)


def onnxruntime_executor(path: Path, names: Names) -> Execute:
    """Onnxruntime on the file `path` in stock operators, whole and without optimizations.

    Args:
        path: A QONNX file.
        names: Its spikes, which are returned beside its outputs, and the batch size to run it at.
    """
    import onnxruntime

    model = to_stock(onnx.load(str(path)), names.batch)
    outputs = {output.name for output in model.graph.output}
    for name in {name for steps in names.spikes.values() for name in steps} - outputs:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    labels = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(labels, session.run(None, inputs), strict=True))


def verify_chunks(
    execute: Execute,
    chunks: Iterable[Golden],
    names: Names,
    *,
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """`verify` with golden vectors that come in chunks, `count` samples in all."""
    agreement = Agreement(0, 0, 0)
    for chunk in chunks:
        agreement += verify(execute, chunk, names, first=agreement.samples)
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
        rows = _rows(start, names.batch, count)
        record, seen = _run(execute, golden["input"][rows], names)
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


def _rows(start: int, batch: int, count: int) -> Array:
    """Indices of a whole batch; the last sample fills it up."""
    return np.minimum(np.arange(start, start + batch), count - 1)


def _run(execute: Execute, images: Array, names: Names) -> tuple[Array, dict[str, list[Array]]]:
    """The record and the spikes per stage and step of a batch of integer inputs."""
    x = names.to_graph(images.astype(np.float32), 2 if names.frames else 1)
    seen: dict[str, list[Array]] = {stage: [] for stage in names.stages}
    if names.form == "unrolled":
        feeds = {"image": x}
        if names.frames:
            feeds = {names.frame(t): x[:, t] for t in range(names.steps)}
        result = execute(feeds)
        for stage in names.stages:
            seen[stage] = [result[names.spike(stage, t)] for t in range(names.steps)]
        return result["record"], seen
    states = {n: np.zeros(shape, np.float32) for n, (_, shape) in names.states.items()}
    total: Array | None = None
    for t in range(names.steps):
        result = execute({"image": x[:, t] if names.frames else x, **states})
        states = {
            name: np.asarray(result[out], np.float32).reshape(states[name].shape)
            for name, (out, _) in names.states.items()
        }
        for stage in names.stages:
            seen[stage].append(result[names.spike(stage, 0)])
        total = result["record"] if total is None else total + result["record"]
    assert total is not None
    return total, seen


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
    theta = golden[f"threshold/{stage}"].reshape(-1)
    channel = where[-1] if names.channels_last or len(where) == 2 else where[1]
    margin = int(membrane) - int(theta[channel if len(theta) > 1 else 0])
    return (
        f"the graph does not compute the network: first difference in layer '{stage}', step {t}, "
        f"sample {first + int(rows[where[0]])}, where the membrane is {abs(margin)} steps "
        f"{'above' if margin > 0 else 'below or at'} the threshold; {int((got != expected).sum())} "
        f"of {got.size} spikes there differ."
    )


def check_model(path: Path) -> None:
    """Refuse a file that ONNX itself does not accept.

    Raises:
        StbpError: If the file is no ONNX model.
    """
    try:
        onnx.load(str(path))
    except Exception as error:  # protobuf's own kinds of error
        raise StbpError(f"'{path}' is not an ONNX model.") from error
