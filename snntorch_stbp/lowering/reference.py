"""The network of integers in NumPy: the reference that every other backend is compared with.

Nothing here rounds: sums, products and arithmetic shifts of integers. Sums of products go through
float matrix products, for which NumPy has fast kernels, in a type that holds every partial sum:
float32 where none can exceed `2^24`, float64 else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..frozen import inputs
from .layers import INPUT, IntBranch, IntNetwork, IntNeuron, IntPool, Ints, IntStage

Record = dict[str, Ints]


def run(net: IntNetwork, images: Ints, record: Record | None = None) -> Ints:
    """Run `net` on integer inputs.

    Args:
        net: The network.
        images: Unsigned integers `[N, C, H, W]`, or frames `[T, N, C, H, W]`.
        record: If given, receives by name of the stage: the spikes `[T, N, ...]`, under
            `NAME/membrane` the potentials `u`, under `NAME/current` the currents `x`, and under
            `NAME/BRANCH` the sums `a` of each branch.

    Returns:
        The record `[N, K]` summed over time: currents in units of the last stage, spikes, or votes.
    """
    images = np.asarray(images, np.int64)
    frames = images if inputs.in_time(images) else images[None]
    steps = len(images) if inputs.in_time(images) else net.num_steps
    values: dict[str, Ints] = {INPUT: frames}
    result = frames
    for stage in net.stages:
        sums = [accumulate(branch, values[branch.source]) for branch in stage.branches]
        x = current(stage, sums)
        x = np.broadcast_to(x, (steps, *x.shape[1:]))
        result = x
        if stage.neuron is not None:
            result, membrane = integrate(stage.neuron, x)
            values[stage.name] = result
            if record is not None:
                record[stage.name], record[f"{stage.name}/membrane"] = result, membrane
        if record is not None:
            record[f"{stage.name}/current"] = x
            for index, total in enumerate(sums):
                record[f"{stage.name}/{index}"] = total
    scores: Ints = result.sum(0)
    if net.votes is not None:
        scores = scores.reshape(len(scores), net.votes, -1).sum(-1)
    return scores


def accumulate(branch: IntBranch, x: Ints) -> Ints:
    """Sums `a` of a branch over `x [T, N, ...]`: `[T, N, C, ...]`."""
    lead, x = x.shape[:2], x.reshape(-1, *x.shape[2:])
    for pool in branch.pools:
        x = _pool(pool, x)
    if branch.flatten:
        x = x.reshape(len(x), -1)
    if branch.weight is not None:
        x = _linear(branch.weight, x) if branch.weight.ndim == 2 else _convolve(branch, x)
    for pool in branch.after:
        x = _pool(pool, x)
    return x.reshape(*lead, *x.shape[1:])


def current(stage: IntStage, sums: list[Ints]) -> Ints:
    """The input current `x` of sums `a [T, N, C, ...]` of all branches."""
    total = np.zeros((), np.int64)
    for branch, a in zip(stage.branches, sums, strict=True):
        total = total + a * spread(branch.multiplier, a)
    y: Ints = (total << stage.up) + spread(stage.bias, total)
    if stage.shift.any():
        shift = spread(stage.shift, y)
        y = (y + (np.int64(1) << shift >> 1)) >> shift
    if stage.act_bits is not None:
        top = 1 << (stage.act_bits - 1)
        y = np.clip(y, -top, top - 1)
    return y


def integrate(neuron: IntNeuron, x: Ints) -> tuple[Ints, Ints]:
    """Spikes and membrane potentials `[T, N, ...]` of currents `x [T, N, ...]`."""
    v = np.zeros(x.shape[1:], np.int64)
    age = np.zeros(x.shape[1:], np.int64)
    channels = np.arange(x.shape[2]).reshape(1, -1, *[1] * (x.ndim - 3))
    table = np.broadcast_to(neuron.threshold, (len(neuron.threshold), x.shape[2]))
    beta, first = spread(neuron.beta, x)[0], table[0][channels]
    half = (1 << neuron.leak >> 1) if neuron.rounds else 0
    spikes, membranes = [], []
    for step in x:
        u = v + (step << neuron.lift)
        if neuron.membrane_bits is not None:
            levels, grid = 1 << (neuron.membrane_bits - 1), 1 << neuron.coarse
            u = np.clip((u + (grid >> 1)) >> neuron.coarse, -levels, levels - 1) * grid
        o = (u > table[age, channels]).astype(np.int64)
        kept = {"zero": u * (1 - o), "subtract": u - o * first}.get(neuron.reset, u)
        v = (beta * kept + half) >> neuron.leak
        if neuron.reset == "delayed":
            v = v - o * first
        age = np.minimum(age + 1, len(table) - 1)
        if neuron.reset == "zero":
            age = age * (1 - o)
        spikes.append(o)
        membranes.append(u)
    return np.stack(spikes), np.stack(membranes)


def spread(value: Ints, like: Ints) -> Ints:
    """`value [C]` or `[1]` aligned with `[T, N, C, ...]`."""
    return value.reshape(1, 1, -1, *[1] * (like.ndim - 3))


def _windows(
    x: Any, size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Any:
    """All windows of `x [N, C, H, W]`: `[N, C, H', W', kh, kw]`."""
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    view = sliding_window_view(x, reach, (2, 3))[:, :, :: stride[0], :: stride[1]]
    return view[..., :: dilation[0], :: dilation[1]]


def _pool(pool: IntPool, x: Ints) -> Ints:
    (top, left), least = pool.padding, np.iinfo(np.int64).min if pool.kind == "max" else 0
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=least)
    windows = _windows(x, pool.size, pool.stride, pool.dilation)
    result: Ints = windows.sum((4, 5)) if pool.kind == "sum" else windows.max((4, 5))
    return result


def _exact(weight: Ints, x: Ints) -> type[np.floating[Any]]:
    """A float type that holds any partial sum of products of `weight [C, N]` with values of `x`."""
    largest = int(np.abs(weight).sum(1).max()) * int(np.abs(x).max(initial=0))
    return np.float32 if largest <= 1 << 24 else np.float64


def _linear(weight: Ints, x: Ints) -> Ints:
    kind = _exact(weight, x)
    return (x.astype(kind) @ weight.T.astype(kind)).astype(np.int64)


def _convolve(branch: IntBranch, x: Ints) -> Ints:
    assert branch.weight is not None
    (top, left), groups = branch.padding, branch.groups
    kind = _exact(branch.weight.reshape(len(branch.weight), -1), x)
    padded = np.pad(x.astype(kind), ((0, 0), (0, 0), (top, top), (left, left)))
    windows = _windows(padded, branch.weight.shape[2:], branch.stride, branch.dilation)
    n, _, height, width = windows.shape[:4]
    parts = []
    for w, part in zip(
        np.split(branch.weight, groups), np.split(windows, groups, axis=1), strict=True
    ):
        columns = part.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
        rows = columns @ w.reshape(len(w), -1).T.astype(kind)
        parts.append(rows.reshape(n, height, width, -1).transpose(0, 3, 1, 2))
    return np.concatenate(parts, axis=1).astype(np.int64)
