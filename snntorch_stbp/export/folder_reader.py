"""Reading a folder of integers, from anyone: nothing in it is trusted."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StbpError
from ..lowering.layers import IntBranch, IntNetwork, IntNeuron, IntPool, IntStage
from ..lowering.ranges import INT32, Span, StageRange, branch_range, ranges, width
from .folder_entries import Arrays, Entry
from .shapes import sizes

FORMAT = "snntorch-stbp fixed-point network"
VERSION = 1

MOST_BITS = 30
"""Largest shift."""

FORMS = ("exact", "simple", "quantized")

TYPES = ("int8", "int16", "int32", "int64", "float32", "float64")

MOST_BYTES = 1 << 31
"""Most bytes of all arrays."""


def load_folder(path: str | Path) -> IntNetwork:
    """Read a network of integers that `to_folder` wrote.

    Args:
        path: The folder.

    Raises:
        StbpError: If it is no such folder, or anything in it is missing, out of range or does not
            fit; the message names the first.
    """
    folder = Path(path)
    file = folder / "network.json"
    try:
        text = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StbpError(f"cannot read '{file}': {error}.") from error
    top = Entry(text, f"'{file}'")
    if top.value("format", str) != FORMAT:
        raise StbpError(f"'{file}' is no network of integers: its format is not '{FORMAT}'.")
    if top.value("version", int) != VERSION:
        raise StbpError(
            f"'{file}' has version {top.value('version', int)}; this release reads {VERSION}."
        )
    image = top.entry("input")
    _check_bytes(top)
    stages = tuple(_stage(entry, folder) for entry in top.entries("stages"))
    net = IntNetwork(
        stages, top.whole("steps", 1, 1 << 16), image.whole("bits", 1, 8),
        image.positive("scale"), top.optional("votes", 1, 1 << 16),
        top.one_of("form", *FORMS), top.words("settings"),
        "clips" not in image.members or image.value("clips", bool),
    )  # fmt: skip
    dims = 1 if len(image.value("shape", list)) == 1 else 3
    shapes = sizes(net, image.wholes("shape", dims, 1, 1 << 16))
    for entry, stage in zip(top.entries("stages"), stages, strict=True):
        _check_magnitude(entry, stage, net.input_bits)
    reach = ranges(net)
    for entry, stage in zip(top.entries("stages"), stages, strict=True):
        shape = shapes.values[stage.name]
        if entry.wholes("shape", len(shape), 1, 1 << 31) != shape:
            raise StbpError(f"'shape' of {entry.where} is not {list(shape)}, which follows.")
        if reach[stage.name].largest >= INT32:
            raise StbpError(f"{entry.where} needs more than 32 bits.")
        _check_widths(entry, stage, reach[stage.name])
    return net


def registers(reach: StageRange) -> dict[str, Any]:
    """The registers of a stage, for the JSON file: worst cases and the bits that hold them."""
    return {
        "accumulators": [_span(span) for span in reach.accumulators],
        "current": _span(reach.current),
        "membrane": _span(reach.membrane),
        "threshold": _span(reach.threshold),
        "largest": reach.largest,
    }


def _span(span: Span) -> dict[str, int]:
    return {"low": span.low, "high": span.high, "bits": span.bits}


def _check_widths(entry: Entry, stage: IntStage, reach: StageRange) -> None:
    """Refuse widths that are not those of the integers."""
    changed = "they are not those that were written."
    given = entry.entry("registers")
    for key, needed in registers(reach).items():
        if (said := given.value(key, type(needed))) != needed:
            raise StbpError(
                f"'{key}' of {given.where} is {said!r:.80}, but its integers need {needed!r}: "
                f"{changed}"
            )
    for branch, said in zip(stage.branches, entry.entries("branches"), strict=True):
        if branch.weight is None:
            continue
        low, high = int(branch.weight.min()), int(branch.weight.max())
        binary = branch.weight_bits == 1 and bool((np.abs(branch.weight) == 1).all())
        if not binary and width(min(low, -1), high) > branch.weight_bits:
            raise StbpError(
                f"'weight_bits' of {said.where} is {branch.weight_bits}, but its weights are "
                f"{low} to {high}: {changed}"
            )


def _check_bytes(top: Entry) -> None:
    """Refuse more numbers than anything here needs, before one is read."""
    total = 0
    for stage in top.entries("stages"):
        arrays = stage.entry("arrays")
        for key in arrays.members:
            entry = arrays.entry(key)
            shape = entry.wholes("shape", len(entry.value("shape", list)), 0, 1 << 31)
            total += prod(shape) * np.dtype(entry.one_of("dtype", *TYPES)).itemsize
    if total > MOST_BYTES:
        raise StbpError(f"the arrays of {top.where} claim {total:,} bytes, more than 2 GiB.")


def _check_magnitude(entry: Entry, stage: IntStage, input_bits: int) -> None:
    """Refuse integers of which 64 bits could not hold the ranges."""
    for branch in stage.branches:
        low, high = branch_range(branch, input_bits)
        sums = max(-int(low.min()), int(high.max()))
        if sums * int(np.abs(branch.multiplier).max()) << stage.up >= 1 << 40:
            raise StbpError(f"{entry.where} needs more than 32 bits.")
    neuron = stage.neuron
    if neuron is not None and int(np.abs(neuron.beta).max()) > 1 << neuron.leak:
        raise StbpError(f"'beta' of {entry.where} exceeds 2^leak, {1 << neuron.leak}.")


def _stage(entry: Entry, folder: Path) -> IntStage:
    name = entry.value("file", str)
    if not re.fullmatch(r"\w[\w.-]*\.npz", name, re.ASCII) or (folder / name).is_symlink():
        raise StbpError(f"'file' of {entry.where} is '{name}', not a file of the folder itself.")
    arrays = Arrays(folder / name, entry.entry("arrays"))
    branches = tuple(_branch(b, n, arrays) for n, b in enumerate(entry.entries("branches")))
    shift = arrays.integers("shift")
    if shift.size and not 0 <= shift.min() <= shift.max() <= MOST_BITS:
        raise StbpError(f"'shift' in '{arrays.file}' is not 0 to {MOST_BITS} everywhere.")
    neuron = None if entry.members.get("neuron", 0) is None else _neuron(entry, arrays)
    return IntStage(
        entry.value("name", str), branches, entry.whole("up", 0, MOST_BITS),
        arrays.integers("bias"), shift, entry.optional("act_bits", 1, 32), neuron,
        arrays.reals("unit"), entry.value("exact", bool),
    )  # fmt: skip


def _branch(entry: Entry, number: int, arrays: Arrays) -> IntBranch:
    weighted = entry.value("weighted", bool)
    after = _pools(entry, "after", "sum", "max") if "after" in entry.members else ()
    return IntBranch(
        entry.value("source", str), entry.value("name", str),
        arrays.integers(f"multiplier{number}"),
        arrays.integers(f"weight{number}") if weighted else None,
        entry.whole("weight_bits", 1, 32), _pools(entry, "pools", "sum", "max"),
        entry.value("flatten", bool), entry.pair("stride", 1), entry.pair("padding", 0),
        entry.pair("dilation", 1), entry.whole("groups", 1, 1 << 16), after,
    )  # fmt: skip


def _pools(entry: Entry, key: str, *kinds: str) -> tuple[IntPool, ...]:
    return tuple(
        IntPool(
            pool.one_of("kind", *kinds), pool.pair("size", 1), pool.pair("stride", 1),
            pool.pair("dilation", 1), *([pool.pair("padding", 0)] * ("padding" in pool.members)),
        )
        for pool in entry.entries(key)
    )  # fmt: skip


def _neuron(stage: Entry, arrays: Arrays) -> IntNeuron:
    entry = stage.entry("neuron")
    threshold = arrays.integers("threshold")
    if threshold.ndim != 2 or len(threshold) != entry.whole("ages", 1, 1 << 16):
        raise StbpError(f"'ages' of {entry.where} is not that of 'threshold' in '{arrays.file}'.")
    return IntNeuron(
        arrays.integers("beta"), entry.whole("leak", 0, MOST_BITS), entry.value("rounds", bool),
        threshold, entry.one_of("reset", "zero", "subtract", "delayed", "none"),
        entry.optional("membrane_bits", 1, 31), entry.whole("coarse", 0, MOST_BITS),
        entry.whole("lift", 0, MOST_BITS) if "lift" in entry.members else 0,
    )  # fmt: skip
