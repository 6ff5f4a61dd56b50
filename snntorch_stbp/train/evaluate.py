"""Accuracy, loss and spike rate of a network on a data set."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..errors import StbpError
from ..losses import LOSSES
from ..time import readout
from . import checkpoint as checkpoints
from .build import build_data, build_model
from .config import RunConfig
from .data import make_loader
from .metrics import Means, spike_counter
from .reporter import Reporter
from .rundir import RunDir


def all_sum(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum of `value` over all processes, on the CPU."""
    if fabric.world_size == 1:
        return value.cpu()
    total = fabric.all_reduce(value.to(fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


@torch.no_grad()
def measure(
    fabric: Fabric, net: nn.Module, config: RunConfig, dataset: Any, batch_size: int
) -> dict[str, Any]:
    """Loss, accuracy and spike rate of `net` over all of `dataset`, all ranks together."""
    means = Means(fabric.device)
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
    was_training = net.training
    net.eval()
    with spike_counter(net) as spikes:
        for x, y in loader:
            x, y = x.to(fabric.device), y.to(fabric.device)
            record = net(x)
            means.update(LOSSES[config.loss](record.float(), y, 0.0), readout(record), y)
    net.train(was_training)
    counts = torch.stack(spikes).sum(0) if spikes else torch.zeros(2)
    sums = torch.cat([means.sums.cpu(), counts.to(means.sums.dtype)])
    sums = all_sum(fabric, sums)
    means = Means(torch.device("cpu"), sums[:3].tolist())
    loss, accuracy, images = means.read()
    rate = float(sums[3] / sums[4].clamp(min=1))
    return {"loss": loss, "accuracy": accuracy, "images": images, "spike_rate": rate}


def evaluate(
    run: RunDir,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int | None = None,
    device: str = "auto",
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure the network of a run.

    Args:
        run: The run.
        dataset: Another data set than the one it was trained on.
        data_dir: Folder of the downloaded data sets, if another.
        split: `"test"`, `"val"` or `"train"`.
        checkpoint: `"best"` or `"last"`.
        batch_size: Images at a time; that of the training run if `None`.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.
        reporter: Receives notices.

    Returns:
        `loss`, `accuracy` in [0, 1], `images`, `spike_rate`, `dataset`, `split`, `source`,
        `checkpoint`, `epoch`, `seconds`.

    Raises:
        StbpError: If the checkpoint or the data set cannot be read, or does not fit the network.
    """
    config = run.changed(dataset=dataset, data_dir=data_dir)
    state = checkpoints.load(run.path / f"{checkpoint}.pt", config.model)
    bundle = build_data(config)
    classes = state["classes"]
    if len(bundle.classes) != len(classes):
        raise StbpError(
            f"the network knows {len(classes)} classes, '{config.dataset}' has "
            f"{len(bundle.classes)}: evaluate on a data set with the same classes."
        )
    net = build_model(config, bundle)
    try:
        net.load_state_dict(state["model"])
    except RuntimeError as error:
        raise StbpError(
            f"the network of '{run.path}' does not fit '{config.dataset}' "
            f"({bundle.channels} channels, {bundle.image_size[0]}x{bundle.image_size[1]} pixels)."
        ) from error
    fabric = Fabric(accelerator=device, devices=1)
    net = fabric.setup_module(net) if fabric.device.type != "cpu" else net
    reporter.message(f"evaluating on the {split} part of {bundle.source}")
    start = time.perf_counter()
    result = measure(fabric, net, config, getattr(bundle, split), batch_size or config.batch_size)
    return {
        **result,
        "dataset": config.dataset,
        "split": split,
        "source": bundle.source,
        "checkpoint": checkpoint,
        "epoch": state["epoch"],
        "seconds": time.perf_counter() - start,
    }
