"""ResNet-18 without gradients: spiking, frozen and of integers, against the same with ReLU.

    python -m benchmarks.inference [--sizes 2x4] [--rounds 3]

A size is `T x B`; images are 32 x 32. Weights have 4 bits (rounded once, as `evaluate` does), those
of "ReLU" and "spiking" are float. Times are medians of candidates that run in turn in
one process, and ratios to the network with ReLU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from snntorch_stbp.constant import constant
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

from .measure import interleave, machine, table
from .network import network


def measure(steps: int, batch: int, rounds: int) -> dict[str, float]:
    """Median seconds of every candidate."""
    images, trained = torch.rand(batch, 3, 32, 32), network(steps, 4, None).eval()
    spiking = network(steps, None, None).eval()
    runs: dict[str, Callable[[], object]] = {
        "ReLU": partial(network(steps, None, nn.ReLU).eval(), images),
        "spiking": partial(spiking, images),
        "4 bits": partial(trained, images),
        "frozen": partial(freeze(trained), images),
        "fixed point": partial(lower(trained), images),
    }
    with torch.no_grad(), constant(spiking), constant(trained):
        return interleave(runs, rounds)


def main() -> None:
    """Time the candidates side by side and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="2x4")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"ResNet-18, 32 x 32, inference; {machine()}\n")
    rows = {}
    for size in options.sizes.split(","):
        steps, batch = map(int, size.split("x"))
        rows[f"T={steps}, B={batch}"] = measure(steps, batch, options.rounds)
    print(table(rows, "ReLU", 1e3))


if __name__ == "__main__":
    main()
