"""Trained runs, loaded and measured: as trained, in deployment arithmetic, as integers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from ..errors import StbpError, UsageError
from ..frozen import FrozenNet, Settings, freeze
from ..lowering import FixedPointNet, lower
from .build import build_data, build_model
from .config import RunConfig
from .data import DataBundle
from .early_exit import EarlyExit
from .launch import check_device
from .measure import compare, measure
from .metrics import spike_record
from .run import checkpoint as checkpoints
from .run.reporter import Reporter
from .run.rundir import RunDir

CALIBRATION, LEAST_CALIBRATION = 1000, 32
"""Training samples, at most and at least, that choose the digits of the simple form."""

MOST_VALUES = 2**25
"""Spikes of a layer, of all samples and steps, that are counted for that; they take 64 bits."""


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
    file = run.path / f"{checkpoint}.pt"
    state = checkpoints.load(file, config.model)
    if type(state.get("epoch")) is not int:
        raise StbpError(f"'{file}' is damaged: it does not say of which epoch it is.")
    bundle = build_data(config, run if changes.get("dataset") is None else None)
    if len(bundle.classes) != len(state["classes"]):
        raise StbpError(
            f"the network knows {len(state['classes'])} classes, '{config.dataset}' has "
            f"{len(bundle.classes)}: evaluate on a data set with the same classes."
        )
    model = build_model(config, bundle)
    try:
        model.load_state_dict(state["model"])
    except checkpoints.MISFITS as error:
        raise StbpError(
            f"the network of '{run.path}' does not fit '{config.dataset}' "
            f"({bundle.channels} channels, {bundle.image_size[0]}x{bundle.image_size[1]} pixels)."
        ) from error
    return Trained(run, config, bundle, model.eval(), state)


def renamed(known: list[str], given: list[str]) -> str:
    """A sentence if classes of the same labels have other names; numbers are no names."""
    pairs = list(zip(known, given, strict=True))
    if all(name.isdigit() for name in known) or all(name.isdigit() for name in given):
        return ""
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    if not differing:
        return ""
    return (
        f"{len(differing)} of {len(pairs)} classes have other names than in training, and count as "
        f"the same by their order: '{differing[0][1]}' is taken for '{differing[0][0]}'"
    )


def lowered(trained: Trained, form: Any, bits: int = 24) -> FixedPointNet:
    """The network of integers of a run; the simple form is calibrated with its training data."""
    data, samples = trained.bundle.train, None
    if form == "simple":
        one, _ = data.__getitems__([0])
        with torch.no_grad(), spike_record(trained.model) as record:
            trained.model(one.to(next(trained.model.parameters()).device))
        largest = max((spikes.numel() for spikes in record.values()), default=1)
        count = max(LEAST_CALIBRATION, min(CALIBRATION, MOST_VALUES // largest))
        generator = torch.Generator().manual_seed(trained.config.seed)
        indices = torch.randperm(len(data), generator=generator)[:count]
        samples, _ = data.__getitems__(indices.tolist())
    return lower(trained.model, form=form, samples=samples, bits=bits)


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
    register_bits: int = 24,
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
        register_bits: Most bits of an integer, 24 (of graphs) to 31 (of folders and C).
        reporter: Receives notices.

    Returns:
        `loss`, `accuracy` in [0, 1], `images`, `spike_rate`, `dataset`, `split`, `source`,
        `checkpoint`, `epoch` (the last one that the weights went through, maybe in part),
        `seconds`; with `frozen` or `fixed_point` also `trained_accuracy`,
        `predictions_differ` and `spikes_differ`; with `early_exit` a list of that name, of
        `confidence`, `accuracy` and `mean_steps`.

    Raises:
        UsageError: If `act_bits`, `arithmetic` or `early_exit` cannot apply.
        StbpError: If the checkpoint or the data set cannot be read, or does not fit the network.
    """
    check_device(device)
    _check_use(act_bits, frozen, arithmetic, register_bits, fixed_point)
    if early_exit and run.config.steps < 2:
        raise UsageError("--early-exit needs a run of 2 time steps or more; this one has 1.")
    settings = frozen_settings(run.config, act_bits)
    trained = load_trained(run, checkpoint, dataset=dataset, data_dir=data_dir)
    config, bundle = trained.config, trained.bundle
    fabric = Fabric(accelerator=device, devices=1)
    integers = None
    if fixed_point:  # as exported
        integers = lowered(trained, arithmetic or "exact", register_bits)
    net = trained.model.to(fabric.device)
    part, size = getattr(bundle, split), batch_size or config.batch_size
    reporter.message(f"evaluating on the {split} part of {bundle.source}")
    if told := renamed(trained.state["classes"], bundle.classes):
        reporter.message(told)
    start = time.perf_counter()
    early, tell = EarlyExit(early_exit), reporter.evaluated
    if frozen or fixed_point:
        hard: FrozenNet | FixedPointNet = (
            freeze(net, settings) if integers is None else integers.to(fabric.device)
        )
        result = compare(fabric, net, hard, config, part, size, early, tell)
    else:
        result = measure(fabric, net, config, part, size, early, tell)
    if early_exit:
        result["early_exit"] = early.read()
    return {
        **result,
        "dataset": config.dataset,
        "split": split,
        "source": bundle.source,
        "checkpoint": checkpoint,
        "epoch": _epoch(trained.state),
        "seconds": time.perf_counter() - start,
    }


def _epoch(state: dict[str, Any]) -> int:
    """The last epoch of the weights: `last.pt` says where training goes on."""
    epoch: int = state["epoch"]
    return epoch - 1 if "step" in state and state["step"] == 0 else epoch


def _check_use(
    act_bits: int | None, frozen: bool, arithmetic: str | None, bits: int, fixed_point: bool
) -> None:
    """Refuse options that exclude each other, or would have no effect."""
    if act_bits is not None and not frozen:
        raise UsageError("--act-bits changes deployment arithmetic: it needs --frozen.")
    if arithmetic is not None and not fixed_point:
        raise UsageError("--arithmetic chooses how integers are made: it needs --fixed-point.")
    if bits != 24 and not fixed_point:
        raise UsageError("--register-bits are those of integers: it needs --fixed-point.")
    if frozen and fixed_point:
        raise UsageError("--frozen and --fixed-point exclude each other; choose one.")
