"""The neuron alone, forward and backward, against copying the three tensors it cannot do without.

    python -m benchmarks.neuron [--steps 2,4,8,16] [--shape 16,128,32,32] [--rounds 7]
    python -m benchmarks.neuron --device cuda --dtype bfloat16 --shape 1024,128,32,32

Candidates run in turn in one process; a cell is the median in milliseconds and the ratio to the
floor: three copies of a tensor of the sequence's size, six passes over memory where the neuron
needs five (currents in, spikes out; currents and gradient in, gradient out). The copies are new
tensors, as spikes and gradients are; copies into tensors that exist already stand beside them.
Peers that are not installed (`pip install -e ".[benchmarks]"`) are skipped, and said to be.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

import snntorch as snn
import torch
from torch import Tensor

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate

from .measure import DTYPES, interleave, machine, table

FLOOR = "floor: three copies"


def _skip(name: str, error: Exception) -> None:
    print(f"skipped {name}: {error}", file=sys.stderr)


def snntorch_loop(device: str) -> Callable[[Tensor], Tensor]:
    """The neuron of snnTorch, step by step."""
    neuron = snn.Leaky(0.25, 0.4, surrogate.rectangular(), reset_mechanism="zero")
    neuron.to(device)

    def run(x: Tensor) -> Tensor:
        membrane, spikes = neuron.init_leaky(), []
        for step in x:
            spike, membrane = neuron(step, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


def spikingjelly() -> Callable[[Tensor], Tensor]:
    """SpikingJelly's multi-step neuron; from version 2 on it chooses its backend by itself."""
    from spikingjelly.activation_based import functional, neuron

    layer = neuron.LIFNode(tau=4.0 / 3.0, v_threshold=0.4, decay_input=False, step_mode="m")

    def run(x: Tensor) -> Tensor:
        functional.reset_net(layer)
        return layer(x)

    return run


def norse() -> Callable[[Tensor], Tensor]:
    """Norse's neuron over a sequence."""
    import norse.torch as nt

    layer = nt.LIF()
    return lambda x: layer(x)[0]


def candidates(device: str) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """Name -> (backend of our neuron, function of the sequence)."""
    ours = stbp.Leaky(0.25, 0.4).to(device)
    found: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = (
        {"ours, Triton": ("fused", ours)}
        if device == "cuda"
        else {"ours, fused (no compiler)": ("fused", ours), "ours, compiled": ("compiled", ours)}
    )
    found["ours, plain loop"] = ("loop", ours)
    found["snntorch.Leaky in a loop"] = ("loop", snntorch_loop(device))
    peers = {"SpikingJelly LIFNode, multi-step": spikingjelly, "Norse LIF": norse}
    for name, make in peers.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = ("loop", make())
        except ImportError as error:
            _skip(name, error)
    return found


def measure(
    shape: tuple[int, ...], rounds: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Median seconds of the floor and of every candidate on one sequence."""

    def random() -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    x, gradient = random().requires_grad_(), random()
    copies = [(random(), random()) for _ in range(3)]

    def floor() -> None:
        for _, source in copies:
            source.clone()

    def in_place() -> None:
        for target, source in copies:
            target.copy_(source)

    def step(backend: str, run: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def both() -> None:
            x.grad = None
            with kernels.backend(backend):
                run(x).backward(gradient)

        return both

    runs: dict[str, Callable[[], None]] = {FLOOR: floor, "three copies in place": in_place}
    for name, candidate in candidates(device).items():
        try:
            run = step(*candidate)
            run()
        except (ImportError, RuntimeError) as error:  # a peer that does not run here
            if name.startswith("ours"):
                raise
            _skip(name, error)
        else:
            runs[name] = run
    return interleave(runs, rounds, device)


def main() -> None:
    """Time the candidates side by side and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", default="2,4,8,16")
    parser.add_argument("--shape", default="16,128,32,32", help="of one step, batch first")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    shape = tuple(map(int, options.shape.split(",")))
    steps = list(map(int, options.steps.split(",")))
    place, dtype = options.device, options.dtype
    print(f"[T, {', '.join(map(str, shape))}], {dtype}; {machine(place)}\n")
    rows = {f"T={t}": measure((t, *shape), options.rounds, place, DTYPES[dtype]) for t in steps}
    print(table(rows, FLOOR, 1e3))


if __name__ == "__main__":
    main()
