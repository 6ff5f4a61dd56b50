"""From a trained network to a verified QONNX file and what lies beside it.

    NAME.onnx           the graph
    NAME.samples.npz    golden vectors, see `golden`
    NAME.step.json      `step` form: which state output feeds which input, initial values, T
    NAME.hls4ml.json    target hls4ml: the configuration that keeps hls4ml exact

All files are written under other names, the graph is run and compared, and only then they are given
their own, the graph last: no file is left behind that was not verified. A process that is killed
between two of these renames leaves new files beside the graph from before, or without a graph; the
graph says in its metadata which golden vectors are its own, and `recheck` refuses others.

Two runtimes run it: QONNX's executor, node by node, on the samples of the golden vectors, and
onnxruntime, the whole graph in stock operators (see `stock`), on all samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .. import __version__
from ..errors import UsageError
from ..files import atomic_write, check_file, claim, write_together
from ..frozen import FrozenNet, Settings, freeze, inputs
from ..frozen.check import NOTED
from ..lowering import FixedPointNet
from ..lowering.fold import has_exact_form
from . import digest, golden
from .qonnx import fixed
from .qonnx.as_trained import PARTS
from .qonnx.frozen import FROZEN, Built, build
from .qonnx.targets import TARGETS, Form
from .tolerance import verify_trained
from .trained import TrainedNet
from .verify import Agreement, onnxruntime_executor, qonnx_executor, verify, verify_chunks

_log = logging.getLogger(__name__)

MOST_SAMPLES, MOST_SPIKES = 50, 2**24
"""What onnxruntime runs at a time."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        path: The graph.
        files: All files that were written, the graph first.
        agreement: What was compared with QONNX's executor and found equal.
        onnxruntime: What was compared with onnxruntime and found equal.
        nodes: Number of nodes of the graph.
        changed: Share in [0, 1] of the spikes of the samples (of all neurons at all steps,
            silent or not) that rounding the currents of the network changed; of a network of
            integers what `lower` found, if it had samples; else `None`.
    """

    path: Path
    files: tuple[Path, ...]
    agreement: Agreement
    onnxruntime: Agreement
    nodes: int
    changed: float | None = None


def to_qonnx(
    model: nn.Module,
    samples: Tensor,
    path: str | Path,
    *,
    form: Form = "unrolled",
    target: str = "generic",
    batch: int = 1,
    settings: Settings | None = None,
    metadata: dict[str, str] | None = None,
    vectors: int | None = None,
    as_trained: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Export a trained network and prove on `samples` that the file computes it.

    Args:
        model: A trained network of the modules of this package, which is frozen: its currents are
            rounded, and in a deep one some percent of the spikes change (`changed`; from 1 % on
            it is logged); a `FrozenNet`; or the `FixedPointNet` that `lower` makes, which rounds
            no current.
        samples: Real inputs to verify with, images `[N, C, H, W]` or frames `[T, N, C, H, W]`,
            features `[N, F]` or `[T, N, F]`.
        path: Where the graph goes; its folder is made.
        form: `"unrolled"`: `T` steps, image in, readout out. `"step"`: one step, states as inputs
            and outputs.
        target: `"generic"`, `"finn"` or `"hls4ml"`: the reader the graph is written for.
        batch: Static batch size of the graph.
        settings: Widths of the arithmetic.
        metadata: Further entries of the file's metadata.
        vectors: How many of the samples become golden vectors, on which QONNX's executor, which
            is slow, runs the file; all if `None`. onnxruntime runs it on all samples.
        as_trained: Write the plain float graph of the trained network, target `"generic"` only;
            spikes may differ where float rounding explains it, see `tolerance`.
        force: Replace files that exist.
        progress: Called with the samples verified and their number.

    Raises:
        UsageError: For an unknown form or target, files that exist, samples that are none or not
            finite, or `as_trained` with another target, with settings or with a frozen network.
        StbpError: If the network cannot be exported, a tool is missing, or the file does not
            compute what the network computes; then no file is left behind.
    """
    _check(model, form, target, settings, as_trained)
    inputs.check_samples(samples)
    for name, value in (("batch", batch), ("vectors", vectors)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is a whole number from 1, not {value}.")
    path = Path(path)
    check_file(path)
    files = _files(path, form, target)
    claim(files, force)
    model, samples = inputs.on_cpu(model, samples)
    ready = as_trained or isinstance(model, FrozenNet | FixedPointNet)
    net: Any = model if ready else freeze(model, settings, inputs.steps(samples))
    said = {"project": f"snntorch-stbp {__version__}", "arithmetic": _arithmetic(net)}
    options = {"form": form, "target": target, "batch": batch, "metadata": said | (metadata or {})}
    built, compute, compare = _built(net, samples, as_trained, options)
    changed = getattr(net, "changed", None) if ready else _told(net, samples)
    axis = inputs.batch_axis(samples)
    count = samples.shape[axis]
    stored = compute(samples.narrow(axis, 0, min(vectors or count, count)))
    with write_together(files, force) as unverified:
        golden.save(stored, unverified[1], files[1])
        texts = _texts(built, form, target)
        for text, beside, file in zip(texts, unverified[2:], files[2:], strict=True):
            _write(text.encode(), beside, file)
        words = built.model.metadata_props
        words.add(key=digest.GRAPH, value=digest.of_graph(built.model))
        for beside, file in zip(unverified[1:], files[1:], strict=True):
            end = file.name.removeprefix(path.stem)
            words.add(key=digest.BESIDE[end], value=digest.of_file(beside))
        _write(built.model.SerializeToString(), unverified[0], path)
        execute = qonnx_executor(unverified[0])
        agreement = compare(execute, stored, built.names, progress=progress)
        wide = _with_onnxruntime(unverified[0], built, compute, samples, as_trained, progress)
    return Exported(path, tuple(files), agreement, wide, len(built.model.graph.node), changed)


def _arithmetic(net: nn.Module) -> str:
    """What a graph of `net` computes in, as `verify` reads it."""
    if isinstance(net, FixedPointNet):
        return f"fixed-point {net.integers.form}"
    return f"deployment {net.settings.act_bits}" if isinstance(net, FrozenNet) else "as trained"


def _check(
    model: nn.Module, form: str, target: str, settings: Settings | None, as_trained: bool
) -> None:
    """Refuse what cannot be asked for together."""
    if form not in ("unrolled", "step"):
        raise UsageError(f"the form of a graph is 'unrolled' or 'step', not '{form}'.")
    if target not in TARGETS:
        raise UsageError(f"the target is one of {', '.join(TARGETS)}, not '{target}'.")
    if as_trained and target != "generic":
        raise UsageError(f"target {target} needs deployment arithmetic: leave out --as-trained.")
    if as_trained and (settings is not None or isinstance(model, FrozenNet | FixedPointNet)):
        raise UsageError("a graph as trained takes neither a frozen network nor its settings.")


def _files(path: Path, form: str, target: str) -> list[Path]:
    """All that is written, the graph first and the golden vectors behind it."""
    files = [path, path.with_suffix(".samples.npz")]
    files += [path.with_suffix(".step.json")] * (form == "step")
    return files + [path.with_suffix(".hls4ml.json")] * (target == "hls4ml")


def _texts(built: Built, form: str, target: str) -> Iterator[str]:
    """What the files behind the golden vectors hold."""
    if form == "step":
        yield built.names.to_json()
    if target == "hls4ml":
        from .hls4ml import configuration_text

        yield configuration_text(built)


def _told(net: FrozenNet, samples: Tensor) -> float:
    """The share of spikes that rounded currents change, once whom it concerns knows of it."""
    changed = net.reading.changed(net, samples)
    if changed > NOTED:
        _log.warning(
            "rounded currents change %.2f %% of the spikes of these samples; "
            "to_qonnx(lower(%s), ...) rounds none",
            100 * changed,
            "model"
            if all(has_exact_form(stage, net.num_steps) for stage in net.graph.stages)
            else 'model, form="simple", samples=samples',
        )
    return changed


def _built(
    net: Any, samples: Tensor, as_trained: bool, options: dict[str, Any]
) -> tuple[Built, Callable[[Tensor], golden.Golden], Callable[..., Agreement]]:
    """The graph, what computes golden vectors for it, and what compares with them.

    Raises:
        StbpError: If the network computes something else than what is read of it.
    """
    if as_trained:
        trained = TrainedNet(net, inputs.steps(samples))
        trained.reading.check(samples)
        built = build(trained, _one(samples), parts=PARTS, **options)
        return built, trained.vectors, verify_trained
    if net.reading is not None:
        net.reading.check(samples)
    parts = fixed.PARTS if isinstance(net, FixedPointNet) else FROZEN
    return build(net, _one(samples), parts=parts, **options), partial(golden.compute, net), verify


def _one(samples: Tensor) -> Tensor:
    return samples.narrow(inputs.batch_axis(samples), 0, 1)


def _with_onnxruntime(
    path: Path,
    built: Built,
    compute: Callable[[Tensor], golden.Golden],
    samples: Tensor,
    as_trained: bool,
    progress: Callable[[int, int], None] | None,
) -> Agreement:
    """Compare the file at `path` on all samples, as many at a time as memory allows.

    Of a graph as trained, every decision is judged once more, given the network's own before it.
    """
    count = samples.shape[inputs.batch_axis(samples)]
    spikes = sum(
        prod(built.writer.shapes[name][1:])
        for steps in built.names.spikes.values()
        for name in steps
    )
    names = built.names.with_batch(max(1, min(MOST_SAMPLES, count, MOST_SPIKES // spikes)))

    def run(compare: Callable[..., Agreement], given: bool = False) -> Agreement:
        execute = onnxruntime_executor(path, names, given=given)
        chunks = golden.chunks(compute, samples, names.batch)
        return verify_chunks(
            execute, chunks, names, count=count, compare=compare, progress=progress
        )

    if not as_trained:
        return run(verify)
    free, given = run(verify_trained), run(partial(verify_trained, given=True), given=True)
    return replace(free, margin=max(free.margin, given.margin))


def _write(content: bytes, path: Path, asked: Path) -> None:
    """Write `content` to `path`, which is to be `asked`."""
    with atomic_write(path, asked) as file:
        file.write(content)
