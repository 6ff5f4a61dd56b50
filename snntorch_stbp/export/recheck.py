"""Running what was exported earlier and comparing it with the network of its run again."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from onnx import AttributeProto, ModelProto, TensorProto
from torch import nn

from ..errors import StbpError
from ..frozen import FrozenNet, inputs
from ..lowering import FixedPointNet
from ..lowering.layers import IntNetwork
from . import digest, golden
from .folder import load_folder
from .names import Names
from .qonnx.writer import OPERATORS
from .reading.graph import load
from .tolerance import verify_trained
from .trained import TrainedNet
from .verify import Agreement, onnxruntime_executor, qonnx_executor, verify, verify_chunks

ROWS = 10
"""Samples that onnxruntime runs at a time."""


PLAIN = (
    AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING,
    AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS,
)  # fmt: skip
"""The kinds of attributes of our nodes: no graphs, no tensors."""


def metadata(path: Path) -> dict[str, str]:
    """The metadata of an exported graph, which is safe to run.

    Raises:
        StbpError: If the file is no ONNX model, none that this package wrote, or names what is
            outside of it: executors import modules and open files that nodes and tensors name.
    """
    proto = load(path)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    if "names" not in found or "arithmetic" not in found:
        raise StbpError(
            f"'{path}' does not say which of its tensors are spikes: only files that "
            f"`snntorch-stbp export` wrote can be compared with a run."
        )
    _refuse_foreign(path, proto)
    return found


def _refuse_foreign(path: Path, proto: ModelProto) -> None:
    changed = f"'{path}' is not as `export` wrote it:"
    for node in proto.graph.node:
        if node.op_type not in OPERATORS.get(node.domain, ()):
            domain = f" of '{node.domain}'" if node.domain else ""
            raise StbpError(
                f"{changed} the node '{node.name}' is '{node.op_type}'{domain}, none of the "
                f"operators that `verify` runs."
            )
        for attribute in node.attribute:
            if attribute.type not in PLAIN:
                raise StbpError(
                    f"{changed} '{attribute.name}' of the node '{node.name}' is neither numbers "
                    f"nor words."
                )
    if proto.functions or proto.graph.sparse_initializer:
        raise StbpError(f"{changed} it holds functions or sparse tensors.")
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise StbpError(f"{changed} the numbers of '{tensor.name}' are in another file.")


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
        StbpError: If the file was not written by this package, is of another network, does not
            compute what `net` computes, was changed otherwise since it was written, or lies beside
            files of another export.
    """
    said = metadata(path)
    _check_beside(path, said)
    try:
        names = Names.from_json(said["names"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StbpError(f"the metadata of '{path}' names no spikes ({error}).") from error
    compute: Callable[[torch.Tensor], golden.Golden]
    compare: Callable[..., Agreement]
    if isinstance(net, FrozenNet | FixedPointNet):
        compute, compare, steps = partial(golden.compute, net), verify, net.num_steps
    else:
        trained = TrainedNet(net, inputs.steps(samples))
        compute, compare, steps = trained.vectors, verify_trained, trained.num_steps
    axis = inputs.batch_axis(samples)
    count = samples.shape[axis]
    stored = compute(samples.narrow(axis, 0, min(vectors, count)))
    _check_names(path, names, stored, steps, inputs.in_time(samples))
    many = names.with_batch(min(ROWS, count))
    chunks = golden.chunks(compute, samples, many.batch)
    with _running(path, "QONNX's executor"):
        first = compare(qonnx_executor(path), stored, names, progress=progress)
    with _running(path, "onnxruntime"):
        execute = onnxruntime_executor(path, many)
        second = verify_chunks(
            execute, chunks, many, count=count, compare=compare, progress=progress
        )
    if said.get(digest.GRAPH, "") not in ("", digest.of_graph(load(path))):
        raise StbpError(
            f"'{path}' was changed since its export: all spikes of these samples are equal, but "
            f"its nodes or numbers are not those that were written; export again with --force."
        )
    return first, second


def _check_beside(path: Path, said: dict[str, str]) -> None:
    """Refuse files beside a graph that says it has others; older graphs do not say."""
    for end, key in digest.BESIDE.items():
        beside = path.with_suffix(end)
        if key in said and beside.is_file() and digest.of_file(beside) != said[key]:
            raise StbpError(
                f"'{beside}' is not of the export that wrote '{path}', or was changed since: "
                f"export again with --force."
            )


def _check_names(path: Path, names: Names, stored: golden.Golden, steps: int, frames: bool) -> None:
    """Make sure that all is compared that the network of the run computes, and nothing else."""
    other = f"'{path}' is of another network:"
    if names.steps != steps:
        raise StbpError(f"{other} it has {names.steps} time steps, that of the run {steps}.")
    if names.frames != frames:
        kinds = ("one image for all steps", "an image for each step")
        raise StbpError(f"{other} it takes {kinds[not frames]}, that of the run {kinds[frames]}.")
    spikes = {key.removeprefix("spikes/") for key in stored if key.startswith("spikes/")}
    levels = set()
    for key in stored:
        if key.startswith("step/"):  # step/WHAT/STAGE
            _, what, stage = key.split("/", 2)
            levels.add(f"{stage}/{what}")
    for wanted, named in ((spikes, names.spikes), (levels, names.levels)):
        for key in sorted(named.keys() - wanted):
            raise StbpError(f"{other} it has a layer '{key}', which the run has not.")
        for key in sorted(wanted - named.keys()):
            raise StbpError(f"{other} it has no layer '{key}', which the run has.")
    for key, tensors in names.spikes.items():
        wanted_count = steps if names.form == "unrolled" else 1
        if len(tensors) != wanted_count:
            raise StbpError(
                f"the metadata of '{path}' name {len(tensors)} tensors of the spikes of '{key}', "
                f"not {wanted_count}."
            )


@contextmanager
def _running(path: Path, tool: str) -> Iterator[None]:
    """Turn what `tool` says of a graph that it cannot run into a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of numbers that a type does not hold
            yield
    except StbpError:
        raise
    except MemoryError as error:
        raise StbpError(
            f"there is not enough memory for '{path}' in {tool}: its batches are too large."
        ) from error
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
        StbpError: If the folder is none of ours, is of another network, computes something else, or
            was changed otherwise since it was written.
    """
    stored = load_folder(path)
    for own, said in zip(_words(net.integers), _words(stored), strict=False):
        if own != said:
            raise StbpError(
                f"'{path}' is of another network: it has {' '.join(map(str, said))}, that of the "
                f"run {' '.join(map(str, own))}."
            )
    found = golden.compute(FixedPointNet(stored), samples)
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
    text = json.loads((path / "network.json").read_text("utf-8"))
    if text.get("sha256", "") not in ("", digest.of_folder(text, path)):
        raise StbpError(
            f"'{path}' was changed since its export: all spikes of these samples are equal, but "
            f"its numbers or golden vectors are not those that were written; export again with "
            f"--force."
        )
    return Agreement(len(expected["record"]), spikes, expected["record"].size)


def _words(net: IntNetwork) -> list[tuple[str, object]]:
    """What a network of integers says that its spikes do not show."""
    words: list[tuple[str, object]] = [
        ("form", net.form),
        ("input bits", net.input_bits),
        ("input scale", net.input_scale),
        ("votes", net.votes),
    ]
    return words + [(f"stage '{stage.name}', exact:", stage.exact) for stage in net.stages]
