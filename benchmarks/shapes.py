"""The neuron's Triton kernels alone, by the shape of a program, against a copy on the device.

    python -m benchmarks.shapes [--dtype bfloat16] [--steps 4,8,16] [--gigabytes 1]
        [--shapes 1024x4x4,512x4x8]

A shape is the neurons of a program, its warps, and the steps whose gradients are asked for ahead.
A cell is terabytes per second, reads and writes counted, of the forward kernel (currents in,
spikes out) and of the backward kernel (currents and gradients in, gradients out), and the share of
the copy's rate that both reach together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from triton import testing

from snntorch_stbp import surrogate
from snntorch_stbp.kernels import Rule, cuda

from .measure import DTYPES, machine

SHAPES = "1024x4x1,1024x4x2,1024x4x4,1024x4x8,512x4x4,512x4x8,1024x8x4,512x2x4,256x2x4"


def _rate(run: Callable[[], object], passes: int, tensor: torch.Tensor) -> float:
    """Bytes per second of `run`, which goes over the memory of `tensor` so many times."""
    milliseconds = testing.do_bench(run, return_mode="median")
    return passes * tensor.numel() * tensor.element_size() / milliseconds * 1e3


def measure(x: torch.Tensor, copy: float) -> str:
    """One cell, at the shape that `cuda` has now; `copy` in bytes per second."""
    beta, threshold = (torch.tensor(value, device=x.device) for value in (0.25, 0.4))
    rule = Rule(surrogate.rectangular())
    gradient = torch.randn_like(x)
    forward = _rate(lambda: cuda.forward(x, beta, threshold, rule, False), 2, x)
    backward = _rate(
        lambda: cuda.backward(x, beta, threshold, rule, gradient, None, (False, False)), 3, x
    )
    share = 5 / (2 / forward + 3 / backward) / copy
    return f"{forward / 1e12:.2f}, {backward / 1e12:.2f}: {share:.0%}"


def main() -> None:
    """Measure every shape at every number of steps, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--steps", default="2,4,8,16")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of a sequence")
    parser.add_argument("--shapes", default=SHAPES)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("the kernels are for a GPU, and torch sees none")
    dtype = DTYPES[options.dtype]
    elements = int(options.gigabytes * 1e9 / dtype.itemsize)
    steps = [int(step) for step in options.steps.split(",")]
    print(machine("cuda"))
    source = torch.randn(elements, device="cuda", dtype=dtype)
    copy = _rate(source.clone, 2, source)
    print(f"copy: {copy / 1e12:.2f} TB/s; {options.dtype}, sequences of {options.gigabytes} GB\n")
    print(f"| shape | {' | '.join(f'T={step}' for step in steps)} |")
    print(f"| --- |{' --- |' * len(steps)}")
    for shape in options.shapes.split(","):
        cuda.BLOCK, cuda.WARPS, cuda.AHEAD = (int(part) for part in shape.split("x"))
        rows = [source[: elements // step * step].view(step, -1) for step in steps]
        print(f"| {shape} | {' | '.join(measure(x, copy) for x in rows)} |", flush=True)


if __name__ == "__main__":
    main()
