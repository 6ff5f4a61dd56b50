"""From a trained network to a verified QONNX file and what lies beside it.

    NAME.onnx           the graph
    NAME.samples.npz    golden vectors, see `golden`
    NAME.step.json      `step` form: which state output feeds which input, initial values, T
    NAME.hls4ml.json    target hls4ml: the configuration that keeps hls4ml exact

The graph is written under another name, run, compared, and only then given its own: no file is left
behind that was not verified. Two runtimes do: QONNX's executor, node by node, on the samples of the
golden vectors, and onnxruntime, the whole graph in stock operators (see `stock`), on all samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..errors import StbpError, UsageError
from ..files import atomic_write
from ..frozen import FrozenNet, Settings, freeze
from ..lowering import FixedPointNet
from . import golden
from .qonnx import Built, build
from .targets import TARGETS, Form
from .verify import Agreement, onnxruntime_executor, qonnx_executor, verify, verify_chunks


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        path: The graph.
        files: All files that were written, the graph first.
        agreement: What was compared with QONNX's executor and found equal.
        onnxruntime: What was compared with onnxruntime and found equal.
        nodes: Number of nodes of the graph.
    """

    path: Path
    files: tuple[Path, ...]
    agreement: Agreement
    onnxruntime: Agreement
    nodes: int


def to_qonnx(
    model: nn.Module,
    samples: torch.Tensor,
    path: str | Path,
    *,
    form: Form = "unrolled",
    target: str = "generic",
    batch: int = 1,
    settings: Settings | None = None,
    metadata: dict[str, str] | None = None,
    vectors: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Export a trained network and prove on `samples` that the file computes it.

    Args:
        model: A trained network of the modules of this package, a `FrozenNet`, or a
            `FixedPointNet` (target generic).
        samples: Real inputs to verify with, images `[N, C, H, W]` or frames `[T, N, C, H, W]`.
        path: Where the graph goes; its folder is made.
        form: `"unrolled"`: `T` steps, image in, readout out. `"step"`: one step, states as inputs
            and outputs.
        target: `"generic"`, `"finn"` or `"hls4ml"`: the reader the graph is written for.
        batch: Static batch size of the graph.
        settings: Widths of the arithmetic.
        metadata: Further entries of the file's metadata.
        vectors: How many of the samples become golden vectors, on which QONNX's executor, which
            is slow, runs the file; all if `None`. onnxruntime runs it on all samples.
        force: Replace files that exist.
        progress: Called with the samples verified and their number.

    Raises:
        UsageError: For an unknown form or target, or files that exist.
        StbpError: If the network cannot be exported, a tool is missing, or the file does not
            compute what the frozen network computes; then no file is left behind.
    """
    if form not in ("unrolled", "step"):
        raise UsageError(f"the form of a graph is 'unrolled' or 'step', not '{form}'.")
    if target not in TARGETS:
        raise UsageError(f"the target is one of {', '.join(TARGETS)}, not '{target}'.")
    path = Path(path)
    net: FrozenNet | FixedPointNet
    net = model if isinstance(model, FrozenNet | FixedPointNet) else freeze(model, settings)
    files = [path, path.with_suffix(".samples.npz")]
    files += [path.with_suffix(".step.json")] * (form == "step")
    files += [path.with_suffix(".hls4ml.json")] * (target == "hls4ml")
    there = [file for file in files if file.exists()]
    if there and not force:
        raise UsageError(f"'{there[0]}' exists already; replace it with --force.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StbpError(f"cannot make the folder '{path.parent}': {error.strerror}.") from error

    built = build(
        net, _one(samples), form=form, target=target, batch=batch,
        metadata={"project": f"snntorch-stbp {__version__}", **(metadata or {})},
    )  # fmt: skip
    axis = 1 if samples.dim() == 5 else 0
    count = samples.shape[axis]
    stored = golden.compute(net, samples.narrow(axis, 0, min(vectors or count, count)))
    temporary = path.with_name(f".{path.name}.unverified")
    try:
        with atomic_write(temporary) as file:
            file.write(built.model.SerializeToString())
        agreement = verify(qonnx_executor(temporary), stored, built.names, progress=progress)
        many = built.names.with_batch(_rows(built, count))
        wide = verify_chunks(
            onnxruntime_executor(temporary, many), golden.chunks(net, samples, many.batch), many,
            count=count, progress=progress,
        )  # fmt: skip
        golden.save(stored, files[1])
        if form == "step":
            _write_text(path.with_suffix(".step.json"), built.names.to_json())
        if target == "hls4ml":
            from .hls4ml import configuration_text

            _write_text(path.with_suffix(".hls4ml.json"), configuration_text(built))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(path, tuple(files), agreement, wide, len(built.model.graph.node))


def _one(samples: torch.Tensor) -> torch.Tensor:
    return samples[:, :1] if samples.dim() == 5 else samples[:1]


def _rows(built: Built, count: int) -> int:
    """Samples that onnxruntime runs at a time: at most 50, fewer of networks with many neurons."""
    tensors = [name for steps in built.names.spikes.values() for name in steps]
    spikes = sum(prod(built.writer.shapes[name][1:]) for name in tensors)
    return max(1, min(50, count, 2**24 // spikes))


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
