"""Reading a folder of integers, from anyone: nothing in it is trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StbpError
from ..files import UNREADABLE
from ..lowering.layers import IntBranch, IntNetwork, IntNeuron, IntPool, Ints, IntStage
from ..lowering.ranges import INT32, branch_range, ranges
from .array import Array
from .shapes import sizes

FORMAT = "snntorch-stbp fixed-point network"
VERSION = 1

MOST_BITS = 30
"""Largest shift."""

MOST_FILE = 1 << 31
"""Most bytes of an array."""


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
    top = _Entry(text, f"'{file}'")
    if top.value("format", str) != FORMAT:
        raise StbpError(f"'{file}' is no network of integers: its format is not '{FORMAT}'.")
    if top.value("version", int) != VERSION:
        raise StbpError(
            f"'{file}' has version {top.value('version', int)}; this release reads {VERSION}."
        )
    image = top.entry("input")
    stages = tuple(_stage(entry, folder) for entry in top.entries("stages"))
    net = IntNetwork(
        stages, top.whole("steps", 1, 1 << 16), image.whole("bits", 1, 8),
        image.value("scale", float), top.optional("votes", 1, 1 << 16),
        top.value("form", str), top.words("settings"),
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
        bits = entry.entry("registers").entry("membrane").whole("bits", 1, 64)
        if reach[stage.name].largest >= INT32:
            raise StbpError(f"{entry.where} needs more than 32 bits.")
        if bits != reach[stage.name].membrane.bits:
            raise StbpError(
                f"the membrane of {entry.where} is given {bits} bits, but its integers need "
                f"{reach[stage.name].membrane.bits}: they are not those that were written."
            )
    return net


def _check_magnitude(entry: _Entry, stage: IntStage, input_bits: int) -> None:
    """Refuse integers of which 64 bits could not hold the ranges."""
    for branch in stage.branches:
        low, high = branch_range(branch, input_bits)
        sums = max(-int(low.min()), int(high.max()))
        if sums * int(np.abs(branch.multiplier).max()) << stage.up >= 1 << 40:
            raise StbpError(f"{entry.where} needs more than 32 bits.")
    neuron = stage.neuron
    if neuron is not None and int(np.abs(neuron.beta).max()) > 1 << neuron.leak:
        raise StbpError(f"'beta' of {entry.where} exceeds 2^leak, {1 << neuron.leak}.")


class _Entry:
    """An object of the JSON file, whose members are checked as they are read."""

    def __init__(self, members: Any, where: str) -> None:
        if not isinstance(members, dict):
            raise StbpError(f"{where} is no JSON object.")
        self.members, self.where = members, where

    def value(self, key: str, kind: type) -> Any:
        """A member of the type `kind`."""
        if key not in self.members:
            raise StbpError(f"'{key}' is missing in {self.where}.")
        value = self.members[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if kind is float and whole:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and not whole):
            raise StbpError(
                f"'{key}' of {self.where} is {value!r:.40}, not of type {kind.__name__}."
            )
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        """An integer in a range."""
        value: int = self.value(key, int)
        if not low <= value <= high:
            raise StbpError(f"'{key}' of {self.where} is {value}, not {low} to {high}.")
        return value

    def optional(self, key: str, low: int, high: int) -> int | None:
        """An integer in a range, or null."""
        return None if self.members.get(key, 0) is None else self.whole(key, low, high)

    def wholes(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """`count` integers in a range."""
        values = self.value(key, list)
        entry = _Entry(dict(enumerate(values)), f"'{key}' of {self.where}")
        if len(values) != count:
            raise StbpError(f"'{key}' of {self.where} has {len(values)} numbers, not {count}.")
        return tuple(entry.whole(index, low, high) for index in range(count))  # type: ignore[arg-type]

    def pair(self, key: str, low: int) -> tuple[int, int]:
        """Height and width."""
        height, width = self.wholes(key, 2, low, 1 << 16)
        return height, width

    def one_of(self, key: str, *choices: str) -> str:
        """One of some words."""
        value: str = self.value(key, str)
        if value not in choices:
            raise StbpError(f"'{key}' of {self.where} is '{value}', not {' or '.join(choices)}.")
        return value

    def entry(self, key: str) -> _Entry:
        """A member that is an object."""
        return _Entry(self.value(key, dict), f"'{key}' of {self.where}")

    def entries(self, key: str) -> list[_Entry]:
        """A member that is a list of objects."""
        values = self.value(key, list)
        return [_Entry(v, f"{key}[{i}] of {self.where}") for i, v in enumerate(values)]

    def words(self, key: str) -> dict[str, str]:
        """A member that is an object of strings."""
        entry = self.entry(key)
        return {name: entry.value(name, str) for name in entry.members}


def _stage(entry: _Entry, folder: Path) -> IntStage:
    name = entry.value("file", str)
    if not re.fullmatch(r"\w[\w.-]*\.npz", name, re.ASCII) or (folder / name).is_symlink():
        raise StbpError(f"'file' of {entry.where} is '{name}', not a file of the folder itself.")
    arrays = _Arrays(folder / name, entry.entry("arrays"))
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


def _branch(entry: _Entry, number: int, arrays: _Arrays) -> IntBranch:
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


def _pools(entry: _Entry, key: str, *kinds: str) -> tuple[IntPool, ...]:
    return tuple(
        IntPool(
            pool.one_of("kind", *kinds), pool.pair("size", 1), pool.pair("stride", 1),
            pool.pair("dilation", 1), *([pool.pair("padding", 0)] * ("padding" in pool.members)),
        )
        for pool in entry.entries(key)
    )  # fmt: skip


def _neuron(stage: _Entry, arrays: _Arrays) -> IntNeuron:
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


class _Arrays:
    """The arrays of one file, which must be those that the JSON file declares."""

    def __init__(self, file: Path, declared: _Entry) -> None:
        self.file = file
        try:
            with np.load(file, allow_pickle=False) as stored:
                if not isinstance(stored, np.lib.npyio.NpzFile):
                    raise ValueError("it is no archive of arrays")
                large = [i.filename for i in stored.zip.infolist() if i.file_size > MOST_FILE]  # type: ignore[union-attr]
                if large:
                    raise ValueError(f"'{large[0]}' is too large")
                self.arrays: dict[str, Array] = {key: stored[key] for key in stored.files}
        except MemoryError as error:
            raise StbpError(
                f"cannot read '{file}': an array in it claims to be larger than memory."
            ) from error
        except UNREADABLE as error:
            raise StbpError(f"cannot read '{file}': {error}.") from error
        if self.arrays.keys() != declared.members.keys():
            raise StbpError(
                f"'{file}' holds {', '.join(sorted(self.arrays))}, but {declared.where} declares "
                f"{', '.join(sorted(declared.members))}."
            )
        for key, array in self.arrays.items():
            entry = declared.entry(key)
            shape = entry.wholes("shape", array.ndim, 0, 1 << 31)
            if shape != array.shape or entry.value("dtype", str) != str(array.dtype):
                raise StbpError(
                    f"'{key}' in '{file}' is {array.dtype} {list(array.shape)}, not "
                    f"{entry.members['dtype']} {list(shape)}."
                )

    def integers(self, key: str) -> Ints:
        """Integers of at most 32 bits."""
        array = self._get(key, "i")
        if array.size and max(-int(array.min()), int(array.max())) >= INT32:
            raise StbpError(f"'{key}' in '{self.file}' holds integers of more than 32 bits.")
        return array.astype(np.int64)

    def reals(self, key: str) -> np.ndarray:
        """Finite floats."""
        array = self._get(key, "f")
        if not np.isfinite(array).all():
            raise StbpError(f"'{key}' in '{self.file}' is not finite everywhere.")
        return array.astype(np.float64)

    def _get(self, key: str, kind: str) -> Array:
        if key not in self.arrays or self.arrays[key].dtype.kind != kind:
            what = "integers" if kind == "i" else "floats"
            raise StbpError(f"'{self.file}' holds no {what} '{key}'.")
        return self.arrays[key]
