"""Running what was exported earlier and comparing it with the network of its run again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from torch import nn

from ..errors import StbpError
from ..frozen import FrozenNet, inputs
from ..lowering import FixedPointNet
from . import golden
from .folder import load_folder
from .names import Names
from .reading.graph import load
from .tolerance import verify_trained
from .trained import TrainedNet
from .verify import Agreement, onnxruntime_executor, qonnx_executor, verify, verify_chunks

ROWS = 10
"""Samples that onnxruntime runs at a time."""


def metadata(path: Path) -> dict[str, str]:
    """The metadata of an exported graph.

    Raises:
        StbpError: If the file is no ONNX model, or none that this package wrote.
    """
    found = {entry.key: entry.value for entry in load(path).metadata_props}
    if "names" not in found or "arithmetic" not in found:
        raise StbpError(
            f"'{path}' does not say which of its tensors are spikes: only files that "
            f"`snntorch-stbp export` wrote can be compared with a run."
        )
    return found


def recheck(
    path: Path,
    net: FrozenNet | FixedPointNet | nn.Module,
    samples: torch.Tensor,
    *,
    vectors: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Agreement, Agreement]:
    """Compare the file at `path` with a network: every spike of every layer and the readout.

    Args:
        path: A graph that `to_qonnx` wrote.
        net: The network it was written from; a trained one for a graph as trained.
        samples: Images `[N, C, H, W]` or frames `[T, N, C, H, W]`.
        vectors: How many of them QONNX's executor runs; onnxruntime runs all.
        progress: Called with the samples done and their number.

    Returns:
        What was compared in QONNX's executor and in onnxruntime.

    Raises:
        StbpError: If the file was not written by this package, is of another network, or does not
            compute what `net` computes.
    """
    try:
        names = Names.from_json(metadata(path)["names"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StbpError(f"the metadata of '{path}' names no spikes ({error}).") from error
    compute: Callable[[torch.Tensor], golden.Golden]
    compare: Callable[..., Agreement]
    if isinstance(net, FrozenNet | FixedPointNet):
        compute, compare = partial(golden.compute, net), verify
    else:
        compute, compare = TrainedNet(net, inputs.steps(samples)).vectors, verify_trained
    axis = inputs.batch_axis(samples)
    count = samples.shape[axis]
    stored = compute(samples.narrow(axis, 0, min(vectors, count)))
    missing = [stage for stage in names.stages if f"spikes/{stage}" not in stored]
    if missing:
        raise StbpError(
            f"'{path}' is of another network: it has a layer '{missing[0]}', which the run has not."
        )
    many = names.with_batch(min(ROWS, count))
    chunks = golden.chunks(compute, samples, many.batch)
    with _running(path, "QONNX's executor"):
        first = compare(qonnx_executor(path), stored, names, progress=progress)
    with _running(path, "onnxruntime"):
        execute = onnxruntime_executor(path, many)
        second = verify_chunks(
            execute, chunks, many, count=count, compare=compare, progress=progress
        )
    return first, second


@contextmanager
def _running(path: Path, tool: str) -> Iterator[None]:
    """Turn what `tool` says of a graph that it cannot run into a sentence."""
    try:
        yield
    except (StbpError, MemoryError):
        raise
    except Exception as error:  # each tool has kinds of its own
        said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
        reason = shorten(said, 160, placeholder=" ...") or type(error).__name__
        raise StbpError(
            f"{tool} cannot run '{path}': the graph is damaged, or was changed after its export "
            f"({reason.rstrip('.')})."
        ) from error


def recheck_folder(path: Path, net: FixedPointNet, samples: torch.Tensor) -> Agreement:
    """Compare the folder at `path` with a fixed-point network: every spike and the readout.

    Args:
        path: A folder that `to_folder` wrote.
        net: The network it was written from.
        samples: Images `[N, C, H, W]` or frames `[T, N, C, H, W]`.

    Raises:
        StbpError: If the folder is none of ours, is of another network, or computes something else.
    """
    found = golden.compute(FixedPointNet(load_folder(path)), samples)
    expected = golden.compute(net, samples)
    spikes = 0
    for key in [*(k for k in expected if k.startswith("spikes/")), "record"]:
        wanted = expected[key]
        if key not in found or found[key].shape != wanted.shape:
            raise StbpError(f"'{path}' is of another network: it has no '{key}' as the run has.")
        if not np.array_equal(found[key], wanted):
            where = np.argwhere(found[key] != wanted)
            raise StbpError(
                f"'{path}' does not compute the network: {len(where)} of {wanted.size} values of "
                f"'{key}' differ, the first in sample {where[0][0]}."
            )
        spikes += wanted.size if key.startswith("spikes/") else 0
    return Agreement(len(expected["record"]), spikes, expected["record"].size)
