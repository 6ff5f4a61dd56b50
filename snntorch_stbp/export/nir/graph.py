"""A trained network as a NIR graph (Pedersen et al., Nature Communications 15, 2024).

NIR's LIF neuron is a differential equation, `tau dv/dt = v_leak - v + r I`. A reader that steps it
by `dt` (forward Euler) computes

    v <- v + dt / tau * (v_leak - v + r I),    spike where v > v_threshold, then v = v_reset

which with `tau = dt / (1 - beta)`, `r = 1 / (1 - beta)` and no leak or reset potential is this
package's neuron with reset to zero. `dt` is `DT`, the step that snnTorch and others assume.

Normalisation and weight scales are folded into the weights and biases, and the count of an average
pooling into the weights behind it: NIR's chips add spikes up (`SumPool2d`). Shapes have no batch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from ...errors import StbpError
from ...frozen import inputs
from ...frozen.branches import affine
from ...frozen.graph import INPUT, Branch, Pool, Stage, count, pair
from ...kernels.geometry import Geometry
from ...neuron import Leaky
from ...rounded import quantized_weight, weight_bits
from ..array import Array
from ..shapes import padded, windows
from ..trained import TrainedNet, step_of

DT = 1e-4
"""Length of a time step, in seconds."""

Shape = tuple[int, ...]


@dataclass
class Built:
    """A NIR graph under construction, in an order in which it can be computed.

    Attributes:
        nodes: Its nodes.
        edges: Its edges; a node takes the sum of what enters.
        shapes: Shape of each node's output, without batch.
        stages: Stage -> its node.
    """

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, node: nir.NIRNode, shape: Shape, sources: tuple[str, ...]) -> str:
        """Add a node behind `sources`, and return the name it got: an identifier, used once."""
        base = re.sub(r"\W", "_", name)
        base = base if base.isidentifier() else f"layer_{base}"
        reserved = set() if isinstance(node, nir.Output) else {"output"}
        label, number = base, 2
        while label in self.nodes or label in reserved:
            label, number = f"{base}_{number}", number + 1
        self.nodes[label] = node
        self.shapes[label] = shape
        self.edges += [(source, label) for source in sources]
        return label


def build(net: TrainedNet, sample: Tensor, metadata: dict[str, str]) -> tuple[nir.NIRGraph, Built]:
    """The graph of `net`, one time step of it.

    Args:
        net: A trained network.
        sample: One input, `[1, C, H, W]` or `[T, 1, C, H, W]`, for shapes.
        metadata: Entries of the graph's metadata. Added are `steps`, `dt`, `stages` (stage -> node,
            as JSON), `input_step` (the grid of the input) and, of a population vote, `votes`.

    Raises:
        StbpError: If NIR has no words for what the network does.
    """
    for stage in net.graph.stages:
        _check(stage)
    record: dict[str, Tensor] = {}
    scores = net(sample, record)
    built = Built()
    shape = inputs.size(sample)
    built.stages[INPUT] = built.add("input", nir.Input(np.array(shape)), shape, ())
    sources: tuple[str, ...] = ()
    size: Shape = ()
    for stage in net.graph.stages:
        sources = tuple(_branch(built, branch) for branch in stage.branches)
        size = tuple(record[stage.name].shape[2:]) if stage.neuron else tuple(scores.shape[2:])
        if stage.neuron is not None:
            node = built.add(stage.name, _neurons(stage.name, stage.neuron, size), size, sources)
            built.stages[stage.name], sources = node, (node,)
    built.add("output", nir.Output(np.array(size)), size, sources)
    del built.stages[INPUT]
    facts = {"steps": str(len(scores)), "dt": str(DT), "stages": json.dumps(built.stages)}
    if net.graph.input_quant is not None:
        facts["input_step"] = str(float(step_of(net.graph.input_quant)))
    if net.votes is not None:
        facts["votes"] = str(net.votes)
    try:
        graph = nir.NIRGraph(built.nodes, built.edges, metadata=metadata | facts)
    except ValueError as error:
        raise StbpError(f"NIR cannot hold this network: {error}") from error
    return graph, built


def _check(stage: Stage) -> None:
    """Refuse what NIR cannot say."""
    name, neuron = stage.name, stage.neuron
    for branch in stage.branches:
        if branch.quantizer is not None:
            raise StbpError(_rounds(f"what enters '{branch.name}'", "--act-bits"))
        maxima = [pool for pool in (*branch.after, *branch.pools) if isinstance(pool, nn.MaxPool2d)]
        if maxima:
            side = "behind" if maxima[0] in branch.after else "in front of"
            raise StbpError(
                f"NIR has no max pooling, as {side} '{branch.name}': use a network with average "
                f"pooling."
            )
        layer = branch.layer
        if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or len(set(layer.kernel_size)) > 1):
            raise StbpError(
                f"the convolution '{branch.name}' has groups or a kernel that is not square, whose "
                f"shapes nir does not infer: use a square kernel and one group."
            )
    if neuron is None:
        return
    if neuron.current_quant is not None:
        raise StbpError(_rounds(f"the input current of '{name}'", "--act-bits"))
    if neuron.state_quant is not None:
        raise StbpError(_rounds(f"the membrane of '{name}'", "--membrane-bits"))
    if neuron.reset_mechanism != "zero":
        raise StbpError(
            f"'{name}' has the reset '{neuron.reset_mechanism}': NIR's LIF is reset to a fixed "
            f"potential, so train with reset 'zero'."
        )
    if float(neuron.beta.max()) >= 1:
        raise StbpError(
            f"'{name}' does not leak (beta = 1), NIR's LIF always does: train with beta below 1."
        )


def _rounds(what: str, option: str) -> str:
    return (
        f"NIR does not round, so {what}, trained with {option}, cannot be written: train with "
        f"quantized weights only, or export to QONNX."
    )


def _branch(built: Built, branch: Branch) -> str:
    """Add the nodes of a branch; the last one, which feeds its neurons."""
    node = built.stages[branch.source]
    factor = 1.0
    for index, pool in enumerate(branch.pools):
        sums = branch.layer is not None and pair(pool.padding) == (0, 0)  # snnTorch's do not pad
        kind = nir.SumPool2d if sums else nir.AvgPool2d
        factor /= count(pool) if sums else 1
        node = _pooled(built, pool, kind, f"{branch.name}_pool{index + 1 if index else ''}", node)
    if branch.flatten:
        shape = built.shapes[node]
        flat = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
        node = built.add(f"{branch.name}_flatten", flat, (int(np.prod(shape)),), (node,))
    if branch.layer is None:
        return node
    weights, size = _weights(branch, built.shapes[node], factor)
    node = built.add(branch.name, weights, size, (node,))
    for index, pool in enumerate(branch.after):
        node = _pooled(built, pool, nir.AvgPool2d, f"{branch.name}_average{index or ''}", node)
    return node


def _pooled(built: Built, pool: Pool, kind: type, name: str, node: str) -> str:
    """Add a pooling of the values of `node`."""
    kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    channels, *image = built.shapes[node]
    pooled = windows(padded(tuple(image), padding), kernel, stride, (1, 1), name)
    pooling = kind(np.array(kernel), np.array(stride), np.array(padding))
    return built.add(name, pooling, (channels, *pooled), (node,))


def _weights(branch: Branch, shape: Shape, factor: float) -> tuple[nir.NIRNode, Shape]:
    """A convolution or linear layer with its normalisation, and the shape of its output.

    Its metadata holds the bits of a weight and, of quantized ones, `scale` per output channel:
    `weight / scale` are the integers.
    """
    layer = branch.layer
    assert layer is not None
    exact = torch.float64
    value = quantized_weight(layer).detach().to(exact)
    channels, spread = len(value), (-1, *[1] * (value.dim() - 1))
    gain, shift = (v.detach() for v in affine(branch.norm, channels, value.device, exact))
    weight = value * (gain * factor).reshape(spread)
    bias = shift if layer.bias is None else shift + gain * layer.bias.detach()
    bits = weight_bits(layer)
    facts: dict[str, Any] = {"bits": bits}
    if bits < 32:
        scale = layer.quant_weight().scale.detach()  # type: ignore[operator]
        facts["scale"] = _array(scale.reshape(-1) * gain * factor)
    if isinstance(layer, nn.Linear):
        if layer.bias is None and branch.norm is None:
            return nir.Linear(_array(weight), metadata=facts), (channels,)
        return nir.Affine(_array(weight), _array(bias), metadata=facts), (channels,)
    stride, padding, dilation, _ = branch.geometry or Geometry()
    image = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[1:], value.shape[2:], stride, padding, dilation, strict=True)
    ]
    node = nir.Conv2d(
        input_shape=shape[1:], weight=_array(weight), stride=stride, padding=padding,
        dilation=dilation, groups=1, bias=_array(bias), metadata=facts,
    )  # fmt: skip
    return node, (channels, *image)


def _neurons(name: str, neuron: Leaky, shape: Shape) -> nir.LIF:
    """Neurons of the given shape; every parameter is an array of it."""

    def full(what: str, value: Tensor) -> Tensor:
        value = value.detach().double().reshape(-1)
        if len(value) not in (1, shape[0]):
            raise StbpError(
                f"'{name}' has a {what} of {len(value)} values; export takes one, or one for each "
                f"of the {shape[0]} channels."
            )
        return value.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)

    rest = 1 - full("beta", neuron.beta.clamp(min=0))
    zero = np.zeros(shape, np.float32)
    return nir.LIF(
        tau=_array(DT / rest),
        r=_array(1 / rest),
        v_leak=zero,
        v_threshold=_array(full("threshold", neuron.threshold)),
        v_reset=zero,
    )


def _array(value: Tensor) -> Array:
    return value.to(torch.float32).cpu().contiguous().numpy()
