"""Two readers of NIR files: snnTorch's own, and plain arithmetic node by node.

Both run all `T` time steps of a batch from rest, the input held where there are no frames, and give
the spikes of every layer of neurons beside the readout, summed over time.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import StbpError
from ..array import Array
from ..names import Names
from ..verify import Execute
from .graph import DT

Step = Callable[[int, Tensor], Tensor]
"""The output of time step `t`."""


def plain_reader(
    path: Path, names: Names, nodes: dict[str, str], *, given: bool = False
) -> Execute:
    """The file at `path` computed from the definition of its nodes, in float64.

    Args:
        path: A NIR file.
        names: Its spikes and steps.
        nodes: Stage -> node.
        given: Whether what follows spikes takes them from inputs `given/NAME`.
    """
    graph = nir.read(path)
    order = _order(graph)
    stages = {node: stage for stage, node in nodes.items()}

    def execute(feeds: dict[str, Array]) -> dict[str, Array]:
        seen: dict[str, Array] = {}
        potentials: dict[str, Tensor] = {}

        def step(t: int, x: Tensor) -> Tensor:
            values: dict[str, Tensor] = {}
            for name, sources in order.items():
                node = graph.nodes[name]
                entering = sum((values[source] for source in sources[1:]), values[sources[0]]) \
                    if sources else x  # fmt: skip
                if not isinstance(node, nir.LIF):
                    values[name] = _apply(node, entering)
                    continue
                u = _integrate(node, entering, potentials.get(name))
                spikes = u > _tensor(node.v_threshold)
                tensor = names.spikes[stages[name]][t]
                seen[tensor] = spikes.float().numpy()
                if given:
                    spikes = torch.from_numpy(feeds[f"given/{tensor}"]) > 0
                potentials[name] = torch.where(spikes, _tensor(node.v_reset), u)
                values[name] = spikes.double()
            return values["output"]

        return seen | {"record": _record(feeds, names, step)}

    return execute


def snntorch_reader(path: Path, names: Names, nodes: dict[str, str]) -> Execute:
    """The file at `path` in snnTorch, through its `import_from_nir`.

    Raises:
        StbpError: If snnTorch cannot read the file.
    """
    from snntorch.import_nir import import_from_nir

    others = list(snn.SpikingNeuron.instances)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = import_from_nir(nir.read(path))
    except Exception as error:  # whatever snnTorch and nirtorch raise
        raise StbpError(f"snnTorch cannot read the NIR graph: {error!r}.") from error
    finally:
        # snnTorch's list would keep every neuron ever made.
        snn.SpikingNeuron.instances[:] = others
    modules = dict(model.named_modules())
    for module in modules.values():
        if isinstance(module, nn.Flatten):
            module.start_dim += 1  # NIR has no batch
    neurons = {stage: modules[node] for stage, node in nodes.items()}

    def execute(feeds: dict[str, Array]) -> dict[str, Array]:
        seen: dict[str, Array] = {}
        for neuron in neurons.values():
            neuron.reset_mem()
        spikes: dict[str, Tensor] = {}
        hooks = [
            neuron.register_forward_hook(lambda _, i, o, stage=stage: spikes.update({stage: o}))
            for stage, neuron in neurons.items()
        ]
        state = None

        def step(t: int, x: Tensor) -> Tensor:
            nonlocal state
            output, state = model(x.float(), state)
            for stage, value in spikes.items():
                seen[names.spikes[stage][t]] = value.numpy()
            return output.double()

        try:
            return seen | {"record": _record(feeds, names, step)}
        finally:
            for hook in hooks:
                hook.remove()

    return execute


def uneven(path: Path) -> str | None:
    """The first layer of neurons with several thresholds, which snnTorch does not read."""
    for name, node in nir.read(path).nodes.items():
        if isinstance(node, nir.LIF) and np.unique(node.v_threshold).size > 1:
            return name
    return None


@torch.no_grad()
def _record(feeds: dict[str, Array], names: Names, step: Step) -> Array:
    """Run all steps and add up their outputs."""
    total: Tensor | float = 0.0
    for t in range(names.steps):
        x = feeds[names.frame(t)] if names.frames else feeds["image"]
        total = total + step(t, torch.from_numpy(x).double())
    assert isinstance(total, Tensor)
    return total.numpy()


def _order(graph: nir.NIRGraph) -> dict[str, list[str]]:
    """The nodes, each with its sources, in an order in which they can be computed."""
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, node in graph.edges:
        sources[node].append(source)
    order: dict[str, list[str]] = {}
    while len(order) < len(sources):
        ready = [n for n, s in sources.items() if n not in order and all(i in order for i in s)]
        if not ready:
            raise StbpError("the NIR graph has a cycle.")
        order |= {name: sources[name] for name in ready}
    return order


def _apply(node: nir.NIRNode, x: Tensor) -> Tensor:
    """A node without state, on a batch."""
    if isinstance(node, nir.Flatten):
        return x.flatten(1)
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        kernel, stride = _pair(node.kernel_size), _pair(node.stride)
        divisor, padding = 1 if isinstance(node, nir.SumPool2d) else None, _pair(node.padding)
        return functional.avg_pool2d(x, kernel, stride, padding, divisor_override=divisor)
    if isinstance(node, nir.Linear):
        return x @ _tensor(node.weight).T
    if isinstance(node, nir.Affine):
        return x @ _tensor(node.weight).T + _tensor(node.bias)
    if isinstance(node, nir.Conv2d):
        return functional.conv2d(
            x, _tensor(node.weight), _tensor(node.bias), _pair(node.stride), _pair(node.padding),
            _pair(node.dilation), int(node.groups),
        )  # fmt: skip
    return x  # input and output


def _integrate(node: nir.LIF, current: Tensor, v: Tensor | None) -> Tensor:
    """One step of forward Euler: the membrane potential before the reset."""
    v = torch.zeros_like(current) if v is None else v
    tau, r, leak = _tensor(node.tau), _tensor(node.r), _tensor(node.v_leak)
    return v + DT / tau * (leak - v + r * current)


def _pair(value: Array) -> tuple[int, int]:
    height, width = np.asarray(value).tolist()
    return height, width


def _tensor(value: Array) -> Tensor:
    return torch.from_numpy(np.asarray(value)).double()
