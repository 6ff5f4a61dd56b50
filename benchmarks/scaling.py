"""A training step as time steps and batch grow: time and peak memory, beside the network with ReLU.

    python -m benchmarks.scaling [--model mnistnet_bn] [--steps 1,2,4,8,16] [--batches 1,16,256]
    python -m benchmarks.scaling --device cuda --dtype bfloat16

Steps vary at a batch of 16, batches at 2 steps; how it is measured is said in `benchmarks.network`.
"""

from __future__ import annotations

import argparse

from .measure import DTYPES, machine
from .network import CANDIDATES, measure

BATCH, STEPS = 16, 2


def numbers(text: str) -> list[int]:
    """`"1,2,4"` as `[1, 2, 4]`."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure along both axes and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mnistnet_bn")
    parser.add_argument("--steps", type=numbers, default=[1, 2, 4, 8, 16], metavar="T,...")
    parser.add_argument("--batches", type=numbers, default=[1, 16, 64, 256], metavar="B,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--candidates", nargs="+", choices=CANDIDATES, default=["spiking", "save memory"]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    names = list(dict.fromkeys(["ReLU", *options.candidates]))
    place = machine(options.device)
    print(f"{options.model}, 32 x 32, one training step, {options.dtype}; {place}\n")
    axes = {
        "Time steps": [(steps, BATCH) for steps in options.steps],
        "Batch": [(STEPS, batch) for batch in options.batches],
    }
    for axis, sizes in axes.items():
        measured = measure(
            options.model, sizes, names, options.rounds, options.device, DTYPES[options.dtype]
        )
        print(f"{axis}\n\n{measured}\n")


if __name__ == "__main__":
    main()
