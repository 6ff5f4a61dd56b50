r"""Which layer gets how many bits: sensitivities measured one layer at a time, then a budget.

Of every layer it is measured how much the loss on held-out data grows when only its weights get
each choice of bits. As in mixed precision by sensitivity (Z. Dong et al., "HAWQ", ICCV 2019,
arXiv:1905.03696; Y. Cai et al., "ZeroQ", CVPR 2020, arXiv:2001.00281, section 3.3) the growth of
several layers is taken to be the sum of theirs, so that the best choice is a knapsack:

    minimise sum_l growth_l(b_l)    subject to    sum_l n_l b_l <= budget * sum_l n_l

over the layers `l` of `n_l` weights; dynamic programming solves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from ..errors import UsageError
from ..mixed import assign_bits, layer_at, mean_bits, replace_layer, weight_layers
from ..quant import Bits, Precision
from .evaluate import load_trained
from .launch import check_device
from .measure import measure
from .run.rundir import RunDir

GRID = 2**18
"""Most units into which a budget is divided; where it has fewer bits, the choice is the optimum."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sensitivity:
    """What few bits do to one layer.

    Attributes:
        name: Its name, as `mixed.weight_layers` gives it.
        weights: How many it has.
        growth: By how much the loss grows at each choice of bits, the other layers as trained.
    """

    name: str
    weights: int
    growth: dict[Any, float]


@dataclass(frozen=True)
class Allocation:
    """Bits by layer within a budget.

    Attributes:
        bits: The choice by layer.
        mean_bits: Mean bits of a weight.
        layers: What it is based on.
        trained, allocated: `loss` and `accuracy` on the held-out data, as trained and with `bits`,
            without any training.
        source, images: The held-out data and how many they are.
    """

    bits: dict[str, Any]
    mean_bits: float
    layers: list[Sensitivity]
    trained: dict[str, float]
    allocated: dict[str, float]
    source: str
    images: int


def stored_bits(bits: Any) -> int:
    """Bits in memory of a weight of `bits`; ternary takes 2."""
    return 2 if bits == "ternary" else int(bits)


def sensitivities(
    model: nn.Module,
    choices: Sequence[Bits],
    precision: Precision,
    loss: Callable[[], float],
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Measure every layer of `model` at every choice; `model` is left as it was.

    Args:
        model: The network.
        choices: Bits, each 1 to 8 or `"ternary"`.
        precision: Says whether scales are per channel, and of what kind.
        loss: Measures the loss of `model` as it is when called; one that is not finite counts as
            infinite.
        progress: Receives how many of how many measurements are done.
    """
    layers, base, found = weight_layers(model), loss(), []
    for number, (name, layer) in enumerate(layers.items()):
        growth = {}
        for choice in choices:
            other = layer_at(layer, choice, precision, name)
            replace_layer(model, layer, other)
            try:
                value = loss()
            finally:
                replace_layer(model, other, layer)
            growth[choice] = value - base if math.isfinite(value) else math.inf
            if progress is not None:
                progress(number * len(choices) + len(growth), len(layers) * len(choices))
        found.append(Sensitivity(name, layer.weight.numel(), growth))
    return found


def choose(layers: Sequence[Sensitivity], budget: float) -> dict[str, Any]:
    """The bits by layer whose growths have the least sum, with a mean of at most `budget` bits.

    Of equal sums the one with fewer bits in later layers is taken. Beyond `GRID` units of memory,
    what a choice takes is rounded up to the next unit: the budget holds, and the sum is the least
    of a budget smaller by at most one unit a layer.

    Raises:
        UsageError: If even the fewest bits are more than the budget.
    """
    options = [sorted(layer.growth, key=stored_bits) for layer in layers]
    least = sum(n.weights * stored_bits(o[0]) for n, o in zip(layers, options, strict=True))
    total = sum(layer.weights for layer in layers)
    room = math.floor(budget * total - least + 1e-6)
    if room < 0:
        raise UsageError(
            f"a budget of {budget:g} bits is less than the fewest to choose from, "
            f"{least / total:g}: give more, or choices of fewer bits."
        )
    extra = [
        [layer.weights * (stored_bits(o) - stored_bits(own[0])) for o in own]
        for layer, own in zip(layers, options, strict=True)
    ]
    unit = max(math.gcd(*(size for sizes in extra for size in sizes)), math.ceil(room / GRID), 1)
    units = room // unit
    best = np.zeros(units + 1)  # least sum of the layers so far within 0, 1, ... units
    taken = []
    for layer, own, sizes in zip(layers, options, extra, strict=True):
        sums = np.full((len(own), units + 1), np.inf)
        for row, option, size in zip(sums, own, sizes, strict=True):
            need = math.ceil(size / unit)
            if need <= units:
                row[need:] = best[: units + 1 - need] + layer.growth[option]
        taken.append(sums.argmin(0))
        best = sums.min(0)
    chosen = {}
    for layer, own, sizes, picks in reversed(list(zip(layers, options, extra, taken, strict=True))):
        pick = int(picks[units])
        chosen[layer.name] = own[pick]
        units -= math.ceil(sizes[pick] / unit)
    return dict(reversed(chosen.items()))


def allocate(
    run: RunDir,
    budget: float,
    choices: Sequence[Bits],
    *,
    checkpoint: str = "best",
    data_dir: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Allocation:
    """Choose bits by layer for the network of a run, on the part of its data that it held out.

    Args:
        run: The run; best one of fp32 or many bits.
        budget: Most bits of a weight, on average.
        choices: Bits to choose from, each 1 to 8 or `"ternary"`.
        checkpoint: `"best"` or `"last"`.
        data_dir: Folder of the downloaded data sets, if another.
        batch_size: Images at a time; that of the training run if `None`.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.
        progress: Receives how many of how many measurements are done.

    Raises:
        UsageError: If the budget is too small, or the run held no data out.
        StbpError: If the checkpoint or the data set cannot be read.
    """
    if run.config.validate_on_test:
        raise UsageError(
            f"'{run.path}' held no data out (--validate-on-test), and bits that the test set chose "
            f"could not be tested: allocate for a run without it."
        )
    fewest = min(stored_bits(choice) for choice in choices)
    if budget < fewest:  # refused before anything is measured
        choose([Sensitivity("", 1, dict.fromkeys(choices, 0.0))], budget)
    check_device(device)
    trained = load_trained(run, checkpoint, data_dir=data_dir)
    config, val = trained.config, trained.bundle.val
    fabric = Fabric(accelerator=device, devices=1)
    net = trained.model.to(fabric.device)
    precision = Precision(
        per_channel=config.per_channel,
        scale=config.scale,  # type: ignore[arg-type]
        weight_range=config.weight_range,  # type: ignore[arg-type]
    )

    def look() -> dict[str, float]:
        return measure(fabric, net, config, val, batch_size or config.batch_size)

    before = look()
    layers = sensitivities(net, choices, precision, lambda: look()["loss"], progress)
    bits = choose(layers, budget)
    assign_bits(net, bits, precision)
    after = look()
    return Allocation(
        bits, mean_bits(net), layers,
        {name: before[name] for name in ("loss", "accuracy")},
        {name: after[name] for name in ("loss", "accuracy")},
        f"{trained.bundle.val_name} of {config.dataset}", len(val),
    )  # fmt: skip
