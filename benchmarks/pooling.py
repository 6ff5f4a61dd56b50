"""Average pooling by windows of 2x2, forward and backward, against torch's.

    python -m benchmarks.pooling [--dtype bfloat16] [--rounds 15]

Images are those behind the first convolution of three networks, at the batch sizes of their
recipes and T = 2, once channels-last, as `train` lays them out, and once with planes in a row.
Medians in milliseconds of candidates that run in turn in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

import snntorch_stbp as stbp

from .measure import DTYPES, interleave, machine, table

SHAPES = {
    "mnistnet": (512, 15, 28, 28),
    "mnistnet, second": (512, 40, 14, 14),
    "cifarnet": (128, 256, 32, 32),
}
LAYOUTS = {"channels last": torch.channels_last, "planes": torch.contiguous_format}


def both_ways(pool: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward and a backward pass."""
    x.requires_grad_()
    gradient = torch.randn_like(pool(x))

    def run() -> None:
        x.grad = None
        pool(x).backward(gradient)

    return run


def main() -> None:
    """Time the candidates side by side and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"Average pooling, {options.dtype}; {machine()}\n")
    columns = {}
    for network, shape in SHAPES.items():
        for words, layout in LAYOUTS.items():
            spikes = (torch.rand(shape) < 0.2).to(DTYPES[options.dtype])
            x = spikes.to(memory_format=layout)
            candidates = {"torch": nn.AvgPool2d(2), "compiled": stbp.AvgPool2d(2)}
            columns[f"{network}, {words}"] = interleave(
                {name: both_ways(pool, x) for name, pool in candidates.items()}, options.rounds
            )
    print(table(columns, "torch", 1e3))


if __name__ == "__main__":
    main()
