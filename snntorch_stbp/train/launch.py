"""Starting a run: its processes and devices, and what it says of itself at the start."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import nn

from ..errors import StbpError, UsageError
from ..mixed import mean_bits
from ..rounded import size_in_bytes
from .config import RunConfig
from .data import DataBundle
from .data.loader import check_shares
from .run.rundir import RunDir

LAUNCHERS = (
    TorchElasticEnvironment,
    SLURMEnvironment,
    LSFEnvironment,
    MPIEnvironment,
)
"""What may start the processes on several machines, and tells them of each other."""


def check_device(device: str) -> None:
    """Refuse a kind of device that this machine does not have.

    Raises:
        StbpError: If there is none.
    """
    missing = (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise StbpError(f"there is no {device} device on this machine: use --device auto or cpu.")


def _processes(config: RunConfig) -> int:
    """Processes on this machine; what torchrun started, if it did.

    Raises:
        UsageError: If it says no number.
    """
    said = os.environ.get("LOCAL_WORLD_SIZE", str(config.devices))
    if not said.isdecimal() or int(said) < 1:
        raise UsageError(f"LOCAL_WORLD_SIZE, which torchrun sets, is a number, not '{said}'.")
    return int(said)


def launch(config: RunConfig) -> Fabric:
    """Start the processes of the run; under torchrun they exist already.

    Raises:
        UsageError: If the processes cannot share a batch evenly, the precision needs a GPU, or
            nothing says where other machines are.
        StbpError: If there are no such devices.
    """
    _check_machines(config.num_nodes)
    devices = _processes(config)
    check_shares(config.batch_size, devices * config.num_nodes)
    several = devices * config.num_nodes > 1
    check_device(config.device)
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = config.device == "cpu" or not has_gpu
    if config.precision == "16-mixed" and on_cpu:
        raise UsageError("precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32.")
    try:
        fabric = Fabric(
            accelerator=config.device,
            devices=devices,
            num_nodes=config.num_nodes,
            precision=config.precision,  # type: ignore[arg-type]
            strategy="ddp" if several else "auto",
        )
    except (RuntimeError, ValueError, ImportError) as error:
        raise StbpError(
            f"cannot train on {devices} device(s) of kind '{config.device}' at precision "
            f"{config.precision}: {str(error).splitlines()[0]}"
        ) from error
    if several:
        fabric.launch()
        atexit.register(_leave)
    return fabric


def _check_machines(count: int) -> None:
    """Refuse to wait for other machines of which nothing is known."""
    if count == 1 or any(launcher.detect() for launcher in LAUNCHERS):
        return
    if "MASTER_ADDR" not in os.environ or not os.environ.keys() & {"NODE_RANK", "GROUP_RANK"}:
        raise UsageError(
            f"--num-nodes {count} needs to know the other machines: start it on each of them with "
            f"torchrun or SLURM, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
        )


def _leave() -> None:
    """Close the connections between processes: on CPUs nobody else ends the threads behind them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def summary(
    fabric: Fabric,
    config: RunConfig,
    bundle: DataBundle,
    model: nn.Module,
    run: RunDir,
    start_epoch: int,
) -> dict[str, Any]:
    """What `Reporter.started` receives."""
    return {
        "model": config.model,
        "dataset": config.dataset,
        "source": bundle.source,
        "classes": len(bundle.classes),
        "image_size": list(bundle.image_size),
        "train": len(bundle.train),
        "val": len(bundle.val),
        "test": len(bundle.test),
        "val_name": bundle.val_name,
        "bits": config.bits,
        "layer_bits": config.layer_bits,
        "mean_bits": mean_bits(model),
        "act_bits": config.act_bits,
        "membrane_bits": config.membrane_bits,
        "input_bits": config.input_bits,
        "steps": config.steps,
        "device": str(fabric.device),
        "devices": fabric.world_size,
        "precision": config.precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "size_kb": size_in_bytes(model) / 1024,
        "run": str(run.path),
        "epochs": config.epochs,
        "start_epoch": start_epoch,
        "lr": config.lr,
        "optimizer": config.optimizer,
        "batch_size": config.batch_size,
    }
