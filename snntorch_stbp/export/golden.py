"""Golden vectors: what a frozen network computes on real samples, for anyone to verify with.

A file `NAME.samples.npz` holds, for `N` samples,

- `input` `[N, C, H, W]` (or frames `[N, T, C, H, W]`, features `[N, F]`): unsigned integers, what
  hardware is fed;
- `spikes/STAGE` `[N, T, ...]`: 0 or 1;
- `membrane/STAGE` `[N, T, ...]`: the potential `u[t]` before reset, integers in units of the step;
- `inhibition/STAGE` `[N, T, ...]`: of a NeuNorm behind the stage, what it subtracts, integers;
- `threshold/STAGE`: `theta` per channel, or of a fixed-point network `[ages, C]`, indexed by the
  steps since a neuron's last reset; a neuron spikes where `u > theta`;
- `record` `[N, K]`: the readout, summed over time; of a fixed-point network in integers.

Channels come first; graphs with channels last hold the same numbers transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ..files import atomic_write
from ..frozen import FrozenNet, inputs
from ..frozen.graph import inhibition
from ..lowering import FixedPointNet, reference
from .array import Array

Golden = dict[str, Array]


def _of_integers(net: FixedPointNet, samples: torch.Tensor) -> Golden:
    """Golden vectors of a fixed-point network: integers from the NumPy reference."""
    pixels = net.quantize_input(samples).to(torch.uint8).numpy()
    record: reference.Record = {}
    scores = reference.run(net.integers, pixels, record)
    golden: Golden = {
        "input": pixels.swapaxes(0, 1) if inputs.in_time(pixels) else pixels,
        "record": scores.astype(np.int32),
    }
    for stage in net.integers.stages:
        if stage.neuron is not None:
            name = stage.name
            golden[f"spikes/{name}"] = record[name].swapaxes(0, 1).astype(np.uint8)
            membrane = record[f"{name}/membrane"].swapaxes(0, 1)
            golden[f"membrane/{name}"] = membrane.astype(np.int32)
            golden[f"threshold/{name}"] = stage.neuron.threshold.astype(np.int32)
    return golden


@torch.no_grad()
def compute(net: FrozenNet | FixedPointNet, samples: torch.Tensor) -> Golden:
    """Golden vectors of `samples`, real inputs `[N, C, H, W]` or frames `[T, N, C, H, W]`."""
    if isinstance(net, FixedPointNet):
        return _of_integers(net, samples)
    record: dict[str, torch.Tensor] = {}
    scores = net(samples, record).sum(0)
    votes = net.graph.votes
    if votes is not None:  # the graph counts votes, the network takes their mean
        neurons = record[net.stages[-1].stage.name].shape[-1]
        scores = (scores * (neurons // votes)).round()
    integers = net.quantize_input(samples).to(torch.uint8)
    golden = {
        "input": (integers.transpose(0, 1) if inputs.in_time(integers) else integers).numpy(),
        "record": scores.numpy(),
    }
    for stage in net.stages:
        if stage.neuron is None:
            continue
        name = stage.stage.name
        golden[f"spikes/{name}"] = record[name].transpose(0, 1).to(torch.uint8).numpy()
        membrane = record[f"{name}/membrane"].transpose(0, 1)
        golden[f"membrane/{name}"] = membrane.to(torch.int32).numpy()
        golden[f"threshold/{name}"] = stage.neuron.threshold.to(torch.int32).numpy()
        if stage.inhibition is not None:
            held = record[inhibition(name)].transpose(0, 1)
            golden[f"inhibition/{name}"] = held.to(torch.int32).numpy()
    return golden


def chunks(
    compute: Callable[[torch.Tensor], Golden], samples: torch.Tensor, size: int
) -> Iterator[Golden]:
    """What `compute` gives of `samples`, images or frames, `size` of them at a time."""
    for part in samples.split(size, inputs.batch_axis(samples)):
        yield compute(part)


def save(golden: Golden, path: Path, asked: Path | None = None) -> None:
    """Write golden vectors, all of them or nothing, to `path`, which is to be `asked`."""
    with atomic_write(path, asked) as file:
        np.savez_compressed(file, **golden)  # type: ignore[arg-type]


def load(path: str | Path) -> Golden:
    """Read golden vectors."""
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
