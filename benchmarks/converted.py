"""A training step of snnTorch's tutorial networks: stepped by hand, and converted.

    python -m benchmarks.converted [--steps 25] [--batch 128] [--rounds 5] [--device cpu]

The dense network (784-1000-10) and the convolutional one (12C5-MP2-64C5-MP2-10) of snnTorch's
tutorials 5 and 6, on random images of 28x28 pixels; forward and backward pass in float32. Converted
networks have the same spikes, gradients and neurons; "4 bits" quantizes their weights.
"""

from __future__ import annotations

import argparse

import snntorch as snn
import torch
from snntorch import surrogate, utils
from torch import Tensor, nn

import snntorch_stbp as stbp

from .measure import interleave, machine, table


def dense() -> nn.Module:
    """Tutorial 5."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 1000), snn.Leaky(0.95, init_hidden=True),
        nn.Linear(1000, 10), snn.Leaky(0.95, init_hidden=True),
    )  # fmt: skip


def convolutional() -> nn.Module:
    """Tutorial 6."""
    options = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), snn.Leaky(**options),
        nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), snn.Leaky(**options),
        nn.Flatten(), nn.Linear(1024, 10), snn.Leaky(**options),
    )  # fmt: skip


def measure(model: nn.Module, x: Tensor, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of a training step of each candidate."""

    def by_hand(x: Tensor) -> Tensor:
        utils.reset(model)
        return torch.stack([model(x) for _ in range(steps)])

    def backward(network: nn.Module) -> None:
        network.zero_grad()
        network(x).square().sum().backward()

    converted = stbp.convert(model, x, num_steps=steps)
    quantized = stbp.convert(model, x, num_steps=steps, precision=stbp.Precision(4))
    hand = nn.Sequential(model)  # its parameters, another forward pass
    hand.forward = by_hand  # type: ignore[method-assign]
    networks = {"snnTorch, stepped": hand, "converted": converted, "converted, 4 bits": quantized}
    return interleave(
        {name: lambda n=n: backward(n) for name, n in networks.items()},  # type: ignore[misc]
        rounds,
        x.device.type,
    )


def main() -> None:
    """Print the machine and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine(arguments.device))
    x = torch.rand(arguments.batch, 1, 28, 28, device=arguments.device)
    rows = {
        make.__name__: measure(make().to(x.device), x, arguments.steps, arguments.rounds)
        for make in (dense, convolutional)
    }
    print(table(rows, "snnTorch, stepped", 1000))


if __name__ == "__main__":
    main()
