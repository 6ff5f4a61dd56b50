"""A training step of a network against the same one with ReLU: time and peak memory.

    python -m benchmarks.network [--sizes 2x16,8x8] [--rounds 3] [--candidates "save memory" ...]
    python -m benchmarks.network --model cifarnet --device cuda --dtype bfloat16 --sizes 4x128
    python -m benchmarks.network --device cuda --no-graphs ...      # kernel by kernel
    python -m benchmarks.network --seed DIR     # beside STBP-train-and-compression, unpacked there

A size is `T x B`; images are 32 x 32. Times are medians of candidates that run in turn in one
process; memory is what two steps add to the peak of a process of their own, imports excluded, the
median of three (of as many as rounds, if these are fewer), or on a GPU what a step allocates. ReLU,
to which the ratios are, is always among the candidates. Networks are channels-last, as `train` lays
them out, and half precision is autocast. On a GPU those of the zoo are CUDA graphs, as in `train`,
except where memory is saved.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import snntorch as snn
import torch
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import kernels, memory, surrogate, zoo
from snntorch_stbp.train.graphed import capture

from . import jelly
from .measure import DTYPES, interleave, machine, peak_memory, table
from .seed import step_of_seed

PRECISIONS = {torch.float32: "32", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


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


def network(
    steps: int, bits: int | None, neuron: Callable[[], nn.Module] | None, model: str = "resnet18"
) -> nn.Module:
    """A network of the zoo for images of 32 x 32, its neurons replaced by what `neuron` makes."""
    precision = stbp.Precision(weight_bits=bits)
    net = zoo.create(model, image_size=(32, 32), num_steps=steps, precision=precision)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if neuron is not None and isinstance(child, stbp.Leaky):
                setattr(module, name, neuron())
    return net.train()


class Candidate(NamedTuple):
    """Backend of our neuron, bits of weights, what replaces neurons, what is kept, what is changed.

    `peer` names the package, not ours, that it needs; `graphs`: whether a GPU runs it as graphs.
    """

    backend: str = "compiled"
    bits: int | None = None
    neuron: Callable[[], nn.Module] | None = None
    keeping: Callable[[], AbstractContextManager[None]] = nullcontext
    change: Callable[[nn.Module], nn.Module] = lambda net: net
    peer: str | None = None
    graphs: bool = True


CANDIDATES = {
    "ReLU": Candidate(neuron=nn.ReLU),
    "spiking": Candidate(),
    "recompute norms": Candidate(keeping=memory.recomputing, graphs=False),
    "save memory": Candidate(keeping=memory.saving, graphs=False),
    "checkpoint": Candidate(keeping=memory.checkpointing, graphs=False),
    "4 bits": Candidate(bits=4),
    "no compiler": Candidate(backend="fused"),
    "plain loop": Candidate(backend="loop"),
    "snntorch.Leaky in a loop": Candidate(neuron=Stepped),
    "SpikingJelly": Candidate(neuron=jelly.Neuron, peer="spikingjelly", graphs=False),
    "SpikingJelly, memopt": Candidate(
        neuron=jelly.Neuron, change=jelly.save_memory, peer="spikingjelly", graphs=False
    ),
}


SEED = "seed project"
PEAKS = 3  # single ones differ by up to 25 %


def step_of(
    name: str,
    steps: int,
    batch: int,
    model: str = "resnet18",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    graphs: bool = True,
) -> Callable[[], None]:
    """One forward and backward pass of a candidate."""
    candidate = CANDIDATES[name]
    net = candidate.change(network(steps, candidate.bits, candidate.neuron, model)).to(device)
    net.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch,), device=device)
    if device == "cuda" and graphs and candidate.graphs:
        with kernels.backend(candidate.backend):
            problem = capture(net, images, PRECISIONS[dtype])
        if problem:
            print(f"{name} without CUDA graphs: {problem}", file=sys.stderr)

    def step() -> None:
        net.zero_grad()
        half = torch.autocast(device, dtype, enabled=dtype != torch.float32)
        with kernels.backend(candidate.backend):
            with candidate.keeping(), half:
                loss = nn.functional.cross_entropy(net(images).mean(0), labels)
            loss.backward()

    return step


def peak(make: Callable[[int, int], Callable[[], None]], steps: int, batch: int) -> int:
    """Bytes that two steps add to the peak of this process."""
    make(1, 1)  # imports what a network needs
    before = peak_memory()
    step = make(steps, batch)
    step()
    step()
    return peak_memory() - before


def peak_of_process(
    name: str, steps: int, batch: int, model: str, seed: Path | None, times: int
) -> float:
    """`peak` in a process of its own, the median of several."""
    arguments = ["--sizes", f"{steps}x{batch}", "--model", model, "--peak", name]
    arguments += ["--seed", str(seed)] if seed else []
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.network", *arguments]
    run = partial(subprocess.run, command, capture_output=True, text=True, check=True)
    return median(float(run().stdout) for _ in range(times))


def peak_on_gpu(step: Callable[[], None]) -> float:
    """Bytes of GPU memory that a step allocates at most."""
    step()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def measure(
    model: str,
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    rounds: int,
    place: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: Path | None = None,
    graphs: bool = True,
) -> str:
    """The tables of candidates `names` at `sizes` `(T, B)`: milliseconds, and megabytes at most."""
    common = {"model": model, "device": place, "dtype": dtype, "graphs": graphs}
    makers: dict[str, Any] = {n: partial(step_of, n, **common) for n in CANDIDATES}
    makers[SEED] = partial(step_of_seed, seed)
    times, memory = {}, {}
    for steps, batch in sizes:
        column = f"T={steps}, B={batch}"
        runs = {name: makers[name](steps, batch) for name in names}
        times[column] = interleave(runs, rounds, place)
        if place == "cuda":
            alone = {name: makers[name](steps, batch, graphs=False) for name in names}
            peaks = {name: peak_on_gpu(run) for name, run in alone.items()}
        else:
            kind = (steps, batch, model, seed, min(rounds, PEAKS))
            peaks = {name: peak_of_process(name, *kind) for name in names}
        memory[column] = {name: value / 1e6 for name, value in peaks.items()}
    return (
        f"Milliseconds:\n\n{table(times, 'ReLU', 1e3)}\n\n"
        f"Peak memory, MB:\n\n{table(memory, 'ReLU', 1)}"
    )


def installed(name: str) -> bool:
    """Whether a candidate can be had; says so if not."""
    peer = CANDIDATES[name].peer
    if peer is None or importlib.util.find_spec(peer):
        return True
    print(f"skipped {name}: pip install 'snntorch-stbp[benchmarks]'", file=sys.stderr)
    return False


def pairs(sizes: str) -> list[tuple[int, int]]:
    """`"2x16,8x8"` as `[(2, 16), (8, 8)]`."""
    split = (size.split("x") for size in sizes.split(","))
    return [(int(steps), int(batch)) for steps, batch in split]


def main() -> None:
    """Time the candidates side by side, or measure the peak memory of one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--sizes", type=pairs, default=[(2, 16), (8, 8)], metavar="TxB,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--peak", choices=[*CANDIDATES, SEED], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=Path, metavar="DIR", help="STBP-train-and-compression")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--no-graphs", action="store_true", help="start kernel by kernel on a GPU")
    options = parser.parse_args()
    place, dtype, model = options.device, DTYPES[options.dtype], options.model
    if options.seed and (place == "cuda" or dtype != torch.float32 or model != "resnet18"):
        parser.error("--seed is measured with resnet18 on a CPU in float32")
    if options.peak:
        make = partial(step_of_seed, options.seed)
        if options.peak != SEED:
            make = partial(step_of, options.peak, model=model)
        print(peak(make, *options.sizes[0]))
        return
    names = [name for name in dict.fromkeys(["ReLU", *options.candidates]) if installed(name)]
    names += [SEED] * bool(options.seed)
    print(f"{model}, 32 x 32, one training step, {options.dtype}; {machine(place)}\n")
    graphs = not options.no_graphs
    print(measure(model, options.sizes, names, options.rounds, place, dtype, options.seed, graphs))


if __name__ == "__main__":
    main()
