"""A training step of ResNet-18 against the same network with ReLU: time and peak memory.

    python -m benchmarks.network [--sizes 2x8,8x2] [--rounds 3]

A size is `T x B`; images are 32 x 32. Times are medians of candidates that run in turn in one
process; memory is what two steps add to the peak of a process of their own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

import snntorch as snn
import torch
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate, zoo

from .measure import interleave, machine, table


class Stepped(nn.Module):
    """`snntorch.Leaky`, stepped by hand through a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron = snn.Leaky(0.25, 0.4, surrogate.rectangular(), reset_mechanism="zero")

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of the sequence `x`."""
        membrane, spikes = self.neuron.init_leaky(), []
        for step in x:
            spike, membrane = self.neuron(step, membrane)
            spikes.append(spike)
        return torch.stack(spikes)


def network(steps: int, bits: int | None, neuron: Callable[[], nn.Module] | None) -> nn.Module:
    """The zoo's ResNet-18, its neurons replaced by what `neuron` makes."""
    net = zoo.create("resnet18", num_steps=steps, precision=stbp.Precision(weight_bits=bits))
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if neuron is not None and isinstance(child, stbp.Leaky):
                setattr(module, name, neuron())
    return net.train()


# name -> (backend of our neuron, bits of the weights, what replaces the neurons)
CANDIDATES: dict[str, tuple[str, int | None, Callable[[], nn.Module] | None]] = {
    "ReLU": ("fused", None, nn.ReLU),
    "ours, fused": ("fused", None, None),
    "ours, compiled": ("compiled", None, None),
    "ours, plain loop": ("loop", None, None),
    "snntorch.Leaky in a loop": ("loop", None, Stepped),
    "ours, fused, 4 bits": ("fused", 4, None),
}


def step_of(name: str, steps: int, batch: int) -> Callable[[], None]:
    """One forward and backward pass of a candidate."""
    backend, bits, neuron = CANDIDATES[name]
    net = network(steps, bits, neuron)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step() -> None:
        net.zero_grad()
        with kernels.backend(backend):
            nn.functional.cross_entropy(net(images).mean(0), labels).backward()

    return step


def peak(name: str, steps: int, batch: int) -> int:
    """Bytes that two steps add to the peak of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = step_of(name, steps, batch)
    step()
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def main() -> None:
    """Time the candidates side by side, or measure the peak memory of one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="2x8,8x2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    if options.peak:
        print(peak(options.peak, *sizes[0]))
        return
    print(f"ResNet-18, 32 x 32, one training step; {machine()}\n")
    times, memory = {}, {}
    for steps, batch in sizes:
        column = f"T={steps}, B={batch}"
        runs = {name: step_of(name, steps, batch) for name in CANDIDATES}
        times[column] = interleave(runs, options.rounds)
        memory[column] = {}
        for name in CANDIDATES:
            arguments = ["--sizes", f"{steps}x{batch}", "--peak", name]
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.network", *arguments]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            memory[column][name] = float(shown) / 1e6
    print("Milliseconds:\n\n" + table(times, "ReLU", 1e3))
    print("\nPeak memory, MB:\n\n" + table(memory, "ReLU", 1))


if __name__ == "__main__":
    main()
