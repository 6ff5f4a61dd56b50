"""The fixed-point network as a plain folder, for people who write their own RTL.

    network.json        everything but the numbers; `docs/fixed-point-files.md` is its schema
    NN_STAGE.npz        the integers of one stage
    samples.npz         golden vectors, see `golden`

The folder is read again and run before it gets its name: its spikes are those of the torch module.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..files import atomic_write
from ..frozen import inputs
from ..lowering import FixedPointNet
from ..lowering.layers import IntBranch, IntNeuron, IntPool, IntStage
from ..lowering.ranges import StageRange, ranges
from . import digest, golden
from .array import Array
from .bundle import Bundle, agree, check_free, check_samples, new_folder
from .folder_reader import FORMAT, VERSION, load_folder, registers
from .shapes import Size, Sizes, sizes

__all__ = ["WROTE", "load_folder", "to_folder"]

WROTE = r"network\.json|samples\.npz|\d{2,}_.*\.npz"
"""Names of the files of such a folder."""


def to_folder(
    net: FixedPointNet,
    samples: torch.Tensor,
    path: str | Path,
    *,
    metadata: dict[str, str] | None = None,
    force: bool = False,
) -> Bundle:
    """Write a fixed-point network as a folder of integers, read it again and compare.

    Args:
        net: The network.
        samples: Real inputs that become golden vectors, images `[N, C, H, W]` or frames
            `[T, N, C, H, W]`, features `[N, F]` or `[T, N, F]`.
        path: The folder; those above it are made.
        metadata: Further words for `network.json`.
        force: Replace an earlier export.

    Raises:
        UsageError: If `path` exists (with `force`, if it holds anything else), or for samples that
            the network does not take.
        StbpError: If it cannot be written, or what was read back computes something else; then
            nothing is left behind.
    """
    path = Path(path)
    check_free(path, force, WROTE)
    check_samples(net, samples)
    net, samples = inputs.on_cpu(net, samples)
    size = inputs.size(samples)
    stored = golden.compute(net, samples)
    with new_folder(path) as folder:
        golden.save(stored, folder / "samples.npz", path / "samples.npz")
        names = _write(net, size, folder, path, inputs.in_time(samples), metadata or {})
        again = golden.compute(FixedPointNet(load_folder(folder)), samples)
        agreement = agree(net, samples, again)
    files = ["network.json", *names, "samples.npz"]
    return Bundle(path, tuple(path / name for name in files), agreement)


def _write(
    net: FixedPointNet,
    image: tuple[int, ...],
    folder: Path,
    path: Path,
    frames: bool,
    metadata: dict[str, str],
) -> list[str]:
    """The files of a network in `folder`, which is to be `path`; the names of those of stages."""
    integers = net.integers
    shapes, reach = sizes(integers, image), ranges(integers)
    names, stages = [], []
    for index, stage in enumerate(integers.stages):
        name = f"{index:02d}_{re.sub(r'[^A-Za-z0-9_.-]', '_', stage.name)}.npz"
        arrays = {key: _smallest(value) for key, value in _arrays(stage).items()}
        with atomic_write(folder / name, path / name) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        names.append(name)
        stages.append(_stage(stage, name, arrays, shapes, reach[stage.name]))
    text: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "form": integers.form,
        "steps": integers.num_steps,
        "input": {
            "shape": list(image),
            "frames": frames,
            "bits": integers.input_bits,
            "scale": integers.input_scale,
            "clips": integers.clips,
        },
        "votes": integers.votes,
        "stages": stages,
        "settings": integers.settings,
        "metadata": {"project": f"snntorch-stbp {__version__}", **metadata},
    }
    text["sha256"] = digest.of_folder(text, folder)
    with atomic_write(folder / "network.json", path / "network.json") as file:
        file.write((json.dumps(text, indent=1) + "\n").encode())
    return names


def _stage(
    stage: IntStage, file: str, arrays: dict[str, Array], shapes: Sizes, reach: StageRange
) -> dict[str, Any]:
    return {
        "name": stage.name,
        "file": file,
        "shape": list(shapes.values[stage.name]),
        "arrays": {
            key: {"shape": list(value.shape), "dtype": str(value.dtype)}
            for key, value in arrays.items()
        },
        "branches": [
            _branch(branch, shapes, (stage.name, n)) for n, branch in enumerate(stage.branches)
        ],
        "up": stage.up,
        "act_bits": stage.act_bits,
        "neuron": None if stage.neuron is None else _neuron(stage.neuron),
        "exact": stage.exact,
        "registers": registers(reach),
    }


def _branch(branch: IntBranch, shapes: Sizes, key: tuple[str, int]) -> dict[str, Any]:
    return {
        "source": branch.source,
        "name": branch.name,
        "weighted": branch.weight is not None,
        "weight_bits": branch.weight_bits,
        "pools": _pools(branch.pools, shapes.pooled[key]),
        "flatten": branch.flatten,
        "stride": list(branch.stride),
        "padding": list(branch.padding),
        "dilation": list(branch.dilation),
        "groups": branch.groups,
        "shape": list(shapes.sums[key]),
        "after": _pools(branch.after, shapes.after[key]),
    }


def _pools(pools: tuple[IntPool, ...], shapes: tuple[Size, ...]) -> list[dict[str, Any]]:
    return [
        {
            "kind": pool.kind,
            "size": list(pool.size),
            "stride": list(pool.stride),
            "dilation": list(pool.dilation),
            "padding": list(pool.padding),
            "shape": list(size),
        }
        for pool, size in zip(pools, shapes, strict=True)
    ]


def _neuron(neuron: IntNeuron) -> dict[str, Any]:
    return {
        "leak": neuron.leak,
        "rounds": neuron.rounds,
        "ages": len(neuron.threshold),
        "reset": neuron.reset,
        "membrane_bits": neuron.membrane_bits,
        "coarse": neuron.coarse,
        "lift": neuron.lift,
    }


def _arrays(stage: IntStage) -> dict[str, Array]:
    """All arrays of a stage by the names that they have in its file."""
    arrays: dict[str, Array] = {"bias": stage.bias, "shift": stage.shift, "unit": stage.unit}
    for number, branch in enumerate(stage.branches):
        arrays[f"multiplier{number}"] = branch.multiplier
        if branch.weight is not None:
            arrays[f"weight{number}"] = branch.weight
    if stage.neuron is not None:
        arrays |= {"beta": stage.neuron.beta, "threshold": stage.neuron.threshold}
    return arrays


def _smallest(value: Array) -> Array:
    """Integers in the smallest signed type that holds them; floats as they are."""
    if value.dtype.kind == "f":
        return value
    for dtype in (np.int8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if not value.size or (value.min() >= limits.min and value.max() <= limits.max):
            return value.astype(dtype)
    return value
