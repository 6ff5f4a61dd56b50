"""Passes over a data set: how good a network is, and how another form of it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..constant import constant
from ..exact import full_precision
from ..frozen import FrozenNet
from ..losses import LOSSES
from ..lowering import FixedPointNet
from ..neuron import Leaky
from ..time import readout
from .config import RunConfig
from .data import make_loader, upload
from .early_exit import EarlyExit
from .metrics import Means, spike_counter, watched

COMPARED = 32
"""Samples whose spikes are compared at a time: those of all layers are in memory together."""

Tell = Callable[[int, int], None]
"""Told how many samples of how many are through."""


def all_sum(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum of `value` over all processes, on the CPU."""
    if fabric.world_size == 1:
        return value.cpu()
    total = fabric.all_reduce(value.to(fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def evaluation_batches(
    fabric: Fabric, config: RunConfig, dataset: Any, batch_size: int, tell: Tell | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `dataset` in order, this process's share of it, on its device."""
    loader = make_loader(
        dataset,
        batch_size=batch_size,
        shuffle=False,
        seed=0,
        epoch=0,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=config.workers,
        drop_last=False,
    )
    done, mine = 0, -(-len(dataset) // fabric.world_size)
    for x, y in loader:
        yield upload(x, fabric.device), upload(y, fabric.device)
        done += len(y)
        if tell is not None:
            tell(done, mine)


@torch.no_grad()
def measure(
    fabric: Fabric,
    net: nn.Module,
    config: RunConfig,
    dataset: Any,
    batch_size: int,
    early: EarlyExit | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Loss, accuracy and spike rate of `net` over all of `dataset`, all ranks together.

    `early`, if given, sees the records of this rank, and `tell` its progress.

    Returns:
        `loss`, `accuracy` in [0, 1], `images`, `spike_rate`.
    """
    means = Means(fabric.device)
    was_training = net.training
    net.eval()
    # A change to a compiled network would compile it again.
    same = nullcontext() if config.compile else constant(net)
    with same, spike_counter(net, config.compile) as spikes:
        for x, y in evaluation_batches(fabric, config, dataset, batch_size, tell):
            record = net(x)
            means.update(LOSSES[config.loss](record.float(), y, 0.0), readout(record), y)
            if early is not None:
                early.update(record, y)
    net.train(was_training)
    return _read(fabric, means, spikes)


@torch.no_grad()
def compare(
    fabric: Fabric,
    net: nn.Module,
    hard: FrozenNet | FixedPointNet,
    config: RunConfig,
    dataset: Any,
    batch_size: int,
    early: EarlyExit | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure `hard`, and what freezing or lowering `net` to it changed, in one pass of each.

    Returns:
        As `measure` of `hard`, with `trained_accuracy` (of `net`), and `predictions_differ` and
        `spikes_differ`, shares in [0, 1].
    """
    means, trained = Means(fabric.device), Means(fabric.device)
    predictions = torch.zeros((), dtype=torch.long, device=fabric.device)
    loss, stages, spikes = LOSSES[config.loss], dict[str, Tensor](), list[Tensor]()
    net.eval()
    batches = evaluation_batches(fabric, config, dataset, min(batch_size, COMPARED), tell)
    with constant(net), _compared(net, stages) as found:
        for x, y in batches:
            with spike_counter(hard) as counted:  # not of `net`, which may be a part of `hard`
                record = hard(x, stages)
            spikes += counted
            with full_precision():  # the other is exact: what differs would be TF32's
                original = net(x)
            stages.clear()
            for sums, of in ((means, record), (trained, original)):
                sums.update(loss(of.float(), y, 0.0), readout(of), y)
            predictions += (readout(record).argmax(1) != readout(original).argmax(1)).sum()
            if early is not None:
                early.update(record, y)
    result = _read(fabric, means, spikes)
    differing, total = torch.stack(found).sum(0).tolist()
    return {
        **result,
        "trained_accuracy": trained.read()[1],
        "predictions_differ": int(predictions) / result["images"],
        "spikes_differ": differing / total,
    }


@contextmanager
def _compared(net: nn.Module, stages: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """While active, collects `[differing, all]` of the spikes of each layer and those in `stages`.

    In that there are the spikes of the other network, by layer, when `net` is called.
    """
    found: list[Tensor] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if isinstance(module, Leaky)
    }

    def note(layer: nn.Module, spikes: Tensor) -> None:
        name, use = names[layer], 1
        while name not in stages and use <= len(stages):  # it was called before
            name, use = f"{names[layer]}#{use + 1}", use + 1
        differing = (stages.pop(name) != spikes).sum()
        found.append(torch.stack([differing, torch.full_like(differing, spikes.numel())]))

    with watched(names, note):
        yield found


def _read(fabric: Fabric, means: Means, spikes: list[Tensor]) -> dict[str, Any]:
    """What was summed up, of all ranks."""
    counts = torch.stack(spikes).sum(0) if spikes else torch.zeros(2, device=fabric.device)
    sums = all_sum(fabric, torch.cat([means.sums, counts.to(means.sums)]))
    loss, accuracy, images = Means(torch.device("cpu"), sums[:3].tolist()).read()
    rate = float(sums[3] / sums[4].clamp(min=1))
    return {"loss": loss, "accuracy": accuracy, "images": images, "spike_rate": rate}
