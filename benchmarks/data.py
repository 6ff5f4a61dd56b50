"""How much of a training step goes to its data: loading, augmentation, and the network's share.

    python -m benchmarks.data [--datasets digits npz:mnist.npz folder:cifar10] [--model mnistnet_bn]

Batches are those of `snntorch-stbp train`, augmented as its recipe says; a step is one of the
optimizer. What is absent is skipped, and said to be.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from snntorch_stbp.errors import StbpError
from snntorch_stbp.losses import LOSSES
from snntorch_stbp.train import build
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.data import DataBundle, augment, make_loader, seeded_generator, upload
from snntorch_stbp.train.optimizer import build_optimizer

from .measure import machine

COLUMNS = ("loading", "augmentation", "network")


def batches(config: RunConfig, bundle: DataBundle) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        epoch += 1
        yield from make_loader(
            bundle.train, batch_size=config.batch_size, shuffle=True, seed=config.seed,
            epoch=epoch, workers=config.workers, drop_last=True,
        )  # fmt: skip


def measure(config: RunConfig, steps: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each part of a step."""
    bundle = build.build_data(config)
    bundle = bundle.kept_on(device) if config.workers == 0 else bundle
    net: nn.Module = build.build_model(config, bundle).to(device)
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(config, net)
    change = augment.make(config.augment, bundle.image_size)
    loss_of, source = LOSSES[config.loss], batches(config, bundle)
    seconds: dict[str, list[float]] = {name: [] for name in COLUMNS}

    def lap(name: str, start: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(time.perf_counter() - start)
        return time.perf_counter()

    for step in range(steps + 1):
        start = time.perf_counter()
        x, y = next(source)
        x, y = upload(x, device), upload(y, device)
        start = lap("loading", start)
        x = change(x, seeded_generator(config.seed, 1, step))
        start = lap("augmentation", start)
        optimizer.zero_grad()
        loss_of(net(x), y, config.label_smoothing).backward()
        optimizer.step()
        lap("network", start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Measure every data set and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["digits"])
    parser.add_argument("--model", default="mnistnet_bn")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    print(f"{options.model}, one training step in milliseconds; {machine(options.device)}\n")
    print(f"| | batch | {' | '.join(COLUMNS)} | waiting for data |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dataset in options.datasets:
        config = RunConfig.from_recipe(options.model, dataset)
        config = replace(config, workers=options.workers)
        try:
            parts = measure(config, options.steps, torch.device(options.device))
        except StbpError as error:
            print(f"skipped {dataset}: {error}", file=sys.stderr)
            continue
        waiting = (parts["loading"] + parts["augmentation"]) / sum(parts.values())
        cells = " | ".join(f"{1e3 * parts[name]:.1f}" for name in COLUMNS)
        print(f"| {dataset} | {config.batch_size} | {cells} | {waiting:.1%} |")


if __name__ == "__main__":
    main()
