"""Accuracy, loss and spike rate of a network on a data set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..errors import StbpError, UsageError
from ..frozen import FrozenNet, Settings, freeze
from ..losses import LOSSES
from ..lowering import FixedPointNet, lower
from ..time import readout
from . import checkpoint as checkpoints
from .build import build_data, build_model
from .config import RunConfig
from .data import DataBundle, make_loader, upload
from .early_exit import EarlyExit
from .launch import check_device
from .metrics import Means, spike_counter, spike_record
from .reporter import Reporter
from .rundir import RunDir

CALIBRATION = 1000
"""Training samples that choose the fractional bits of the simple form."""


def all_sum(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum of `value` over all processes, on the CPU."""
    if fabric.world_size == 1:
        return value.cpu()
    total = fabric.all_reduce(value.to(fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def evaluation_batches(
    fabric: Fabric, config: RunConfig, dataset: Any, batch_size: int
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
    for x, y in loader:
        yield upload(x, fabric.device), upload(y, fabric.device)


@torch.no_grad()
def measure(
    fabric: Fabric,
    net: nn.Module,
    config: RunConfig,
    dataset: Any,
    batch_size: int,
    early: EarlyExit | None = None,
) -> dict[str, Any]:
    """Loss, accuracy and spike rate of `net` over all of `dataset`, all ranks together.

    `early`, if given, sees the records of this rank.
    """
    means = Means(fabric.device)
    was_training = net.training
    net.eval()
    with spike_counter(net, config.compile) as spikes:
        for x, y in evaluation_batches(fabric, config, dataset, batch_size):
            record = net(x)
            means.update(LOSSES[config.loss](record.float(), y, 0.0), readout(record), y)
            if early is not None:
                early.update(record, y)
    net.train(was_training)
    counts = torch.stack(spikes).sum(0) if spikes else torch.zeros(2, device=fabric.device)
    sums = all_sum(fabric, torch.cat([means.sums, counts.to(means.sums)]))
    loss, accuracy, images = Means(torch.device("cpu"), sums[:3].tolist()).read()
    rate = float(sums[3] / sums[4].clamp(min=1))
    return {"loss": loss, "accuracy": accuracy, "images": images, "spike_rate": rate}


@torch.no_grad()
def differences(
    fabric: Fabric,
    net: nn.Module,
    frozen: FrozenNet | FixedPointNet,
    config: RunConfig,
    dataset: Any,
    batch_size: int,
) -> dict[str, float]:
    """What freezing or lowering changed: shares of predictions and spikes that differ."""
    predictions = spikes = images = total = 0
    net.eval()
    for x, _ in evaluation_batches(fabric, config, dataset, batch_size):
        record: dict[str, Tensor] = {}
        ours = readout(frozen(x, record)).argmax(1)
        with spike_record(net) as trained:
            theirs = readout(net(x)).argmax(1)
        predictions += int((ours != theirs).sum())
        images += len(x)
        for name, value in trained.items():
            spikes += int((record[name] != value).sum())
            total += value.numel()
    return {
        "predictions_differ": predictions / max(images, 1),
        "spikes_differ": spikes / max(total, 1),
    }


def frozen_settings(config: RunConfig, act_bits: int | None) -> Settings:
    """Widths of a run in deployment arithmetic; `act_bits` for input currents, if not the default.

    Raises:
        UsageError: If training chose other bits for the input currents already.
    """
    if act_bits is None:
        return Settings()
    if config.act_bits is not None:
        raise UsageError(
            f"this run was trained with input currents of {config.act_bits} bits, which deployment "
            f"arithmetic keeps: leave --act-bits out."
        )
    return Settings(act_bits=act_bits)


@dataclass(frozen=True)
class Trained:
    """A trained run, loaded: its configuration, data, network and checkpoint."""

    run: RunDir
    config: RunConfig
    bundle: DataBundle
    model: nn.Module
    state: dict[str, Any]


def load_trained(run: RunDir, checkpoint: str = "best", **changes: Any) -> Trained:
    """Load the network of a run and its data set.

    Args:
        run: The run.
        checkpoint: `"best"` or `"last"`.
        changes: Fields of the configuration to replace, such as `dataset`, where not `None`.

    Raises:
        StbpError: If the checkpoint or the data set cannot be read, or does not fit the network.
    """
    config = run.changed(**changes)
    state = checkpoints.load(run.path / f"{checkpoint}.pt", config.model)
    bundle = build_data(config)
    if len(bundle.classes) != len(state["classes"]):
        raise StbpError(
            f"the network knows {len(state['classes'])} classes, '{config.dataset}' has "
            f"{len(bundle.classes)}: evaluate on a data set with the same classes."
        )
    model = build_model(config, bundle)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise StbpError(
            f"the network of '{run.path}' does not fit '{config.dataset}' "
            f"({bundle.channels} channels, {bundle.image_size[0]}x{bundle.image_size[1]} pixels)."
        ) from error
    return Trained(run, config, bundle, model.eval(), state)


def lowered(trained: Trained, form: Any) -> FixedPointNet:
    """The network of integers of a run; the simple form is calibrated with its training data."""
    data, samples = trained.bundle.train, None
    if form == "simple":
        generator = torch.Generator().manual_seed(trained.config.seed)
        indices = torch.randperm(len(data), generator=generator)[:CALIBRATION]
        samples, _ = data.__getitems__(indices.tolist())
    return lower(trained.model, form=form, samples=samples)


def evaluate(
    run: RunDir,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int | None = None,
    device: str = "auto",
    frozen: bool = False,
    act_bits: int | None = None,
    fixed_point: bool = False,
    early_exit: Sequence[float] = (),
    arithmetic: str | None = None,
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
        frozen: Measure in deployment arithmetic, and what it changed.
        act_bits: Bits of input currents in that arithmetic, where training did not quantize them.
        fixed_point: Measure as the network of integers, and what that changed.
        early_exit: Confidences, 0 to 1, at which samples stop before the last step.
        arithmetic: How the integers are made, `"exact"` (default) or `"simple"`; see `lower`.
        reporter: Receives notices.

    Returns:
        `loss`, `accuracy` in [0, 1], `images`, `spike_rate`, `dataset`, `split`, `source`,
        `checkpoint`, `epoch`, `seconds`; with `frozen` or `fixed_point` also `trained_accuracy`,
        `predictions_differ` and `spikes_differ`; with `early_exit` a list of that name, of
        `confidence`, `accuracy` and `mean_steps`.

    Raises:
        UsageError: If `act_bits`, `arithmetic` or `early_exit` cannot apply.
        StbpError: If the checkpoint or the data set cannot be read, or does not fit the network.
    """
    check_device(device)
    _check_use(act_bits, frozen, arithmetic, fixed_point)
    if early_exit and run.config.steps < 2:
        raise UsageError("--early-exit needs a run of 2 time steps or more; this one has 1.")
    settings = frozen_settings(run.config, act_bits)
    trained = load_trained(run, checkpoint, dataset=dataset, data_dir=data_dir)
    config, bundle = trained.config, trained.bundle
    fabric = Fabric(accelerator=device, devices=1)
    net = trained.model.to(fabric.device)
    part, size = getattr(bundle, split), batch_size or config.batch_size
    reporter.message(f"evaluating on the {split} part of {bundle.source}")
    start = time.perf_counter()
    early = EarlyExit(early_exit)
    hardened = frozen or fixed_point
    result = measure(fabric, net, config, part, size, None if hardened else early)
    if hardened:
        hard: FrozenNet | FixedPointNet
        if fixed_point:
            hard = lowered(trained, arithmetic or "exact").to(fabric.device)
        else:
            hard = freeze(net, settings)
        changed = differences(fabric, net, hard, config, part, size)
        trained_accuracy = {"trained_accuracy": result["accuracy"]}
        result = measure(fabric, hard, config, part, size, early) | trained_accuracy | changed
    if early_exit:
        result["early_exit"] = early.read()
    return {
        **result,
        "dataset": config.dataset,
        "split": split,
        "source": bundle.source,
        "checkpoint": checkpoint,
        "epoch": trained.state["epoch"],
        "seconds": time.perf_counter() - start,
    }


def _check_use(
    act_bits: int | None, frozen: bool, arithmetic: str | None, fixed_point: bool
) -> None:
    """Refuse options that exclude each other, or would have no effect."""
    if act_bits is not None and not frozen:
        raise UsageError("--act-bits changes deployment arithmetic: it needs --frozen.")
    if arithmetic is not None and not fixed_point:
        raise UsageError("--arithmetic chooses how integers are made: it needs --fixed-point.")
    if frozen and fixed_point:
        raise UsageError("--frozen and --fixed-point exclude each other; choose one.")
