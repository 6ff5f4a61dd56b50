"""NIR files compute the trained network: read by NumPy and by snnTorch."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch.import_nir import import_from_nir
from torch import nn

from snntorch_stbp import DirectCoding, Leaky, TimeDistributed
from snntorch_stbp.export import to_nir
from snntorch_stbp.export.golden import load
from snntorch_stbp.export.nir import file as nir_export
from snntorch_stbp.export.nir.graph import build

from .nets import Shortcuts, digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "4 bits": ("mnistnet", {"bits": 4}),
    "fp32": ("mnistnet", {"bits": None}),
    "normalised, ternary, population": (
        "mnistnet_bn",
        {"bits": "ternary", "readout": "population"},
    ),
    "normalised, binary": ("mnistnet_bn", {"bits": 1, "readout": "rate", "num_steps": 3}),
    "averages of currents": ("averaged", {"bits": 4}),
    "padded averages": ("padded averages", {"bits": 4}),
    "residual": ("resnet", {"bits": 4}),
    "residual, powers of two": ("resnet", {"bits": 2, "scale": "po2"}),
}


def written(path: Path) -> tuple[nir.NIRGraph, dict[str, np.ndarray]]:
    return nir.read(path), load(path.with_suffix(".samples.npz"))


def by_hand(
    graph: nir.NIRGraph, frames: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Spikes `[N, T, ...]` of every LIF, and the summed output, in NumPy and float64.

    Windows and plain sums for convolution and pooling; NIR's equation, by forward Euler.
    """
    sources = {node: [a for a, b in graph.edges if b == node] for node in graph.nodes}
    v: dict[str, Any] = {}
    spikes: dict[str, list[np.ndarray]] = {}
    total: Any = 0
    for frame in frames:
        values: dict[str, np.ndarray] = {}

        def value(name: str, frame: np.ndarray = frame, values: Any = values) -> np.ndarray:
            if name not in values:
                x = sum((value(s) for s in sources[name]), np.zeros(())) if sources[name] else frame
                values[name] = compute(name, graph.nodes[name], x)
            return values[name]

        def compute(name: str, node: Any, x: Any) -> Any:
            if isinstance(node, nir.LIF):
                tau, r = node.tau.astype(np.float64), node.r.astype(np.float64)
                before = v.get(name, np.zeros_like(x))
                u = before + 1e-4 / tau * (node.v_leak - before + r * x)
                z = u > node.v_threshold
                v[name] = np.where(z, node.v_reset, u)
                spikes.setdefault(name, []).append(z)
                return z.astype(np.float64)
            if isinstance(node, (nir.SumPool2d, nir.AvgPool2d)):
                top, left = node.padding
                x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
                w = windows(x, node.kernel_size, node.stride)
                return w.sum((4, 5)) if isinstance(node, nir.SumPool2d) else w.mean((4, 5))
            if isinstance(node, nir.Flatten):
                return x.reshape(len(x), -1)
            if isinstance(node, (nir.Linear, nir.Affine)):
                return x @ node.weight.T.astype(np.float64) + getattr(node, "bias", 0)
            if isinstance(node, nir.Conv2d):
                p, d, k = node.padding[0], node.dilation[0], node.weight.shape[2]
                x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
                w = windows(x, (d * (k - 1) + 1,) * 2, node.stride)[..., ::d, ::d]
                y = np.einsum("nchwij,ocij->nohw", w, node.weight.astype(np.float64))
                return y + node.bias[:, None, None]
            assert isinstance(node, (nir.Input, nir.Output))
            return x

        total = total + value("output")
    return {name: np.stack(z, 1) for name, z in spikes.items()}, total


def unequal(spikes: dict[str, np.ndarray], vectors: Any, stages: dict[str, str]) -> int:
    """Samples with a difference; the first of each must be one that rounding explains."""
    found = 0
    samples, steps = next(iter(spikes.values())).shape[:2]
    for sample in range(samples):
        for t, (stage, node) in product(range(steps), stages.items()):
            differs = spikes[node][sample, t] != vectors[f"spikes/{stage}"][sample, t]
            if differs.any():
                spread = (-1, *[1] * (differs.ndim - 1))
                threshold = vectors[f"threshold/{stage}"].reshape(spread)
                margin = np.abs(vectors[f"membrane/{stage}"][sample, t] - threshold)
                bound = vectors[f"bound/{stage}"].reshape(spread)
                assert (margin <= bound)[differs].all(), (stage, t, sample)
                found += 1
                break
    return found


def windows(x: np.ndarray, kernel: Any, stride: Any) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(x, tuple(kernel), (2, 3))
    return view[:, :, :: stride[0], :: stride[1]]


@pytest.mark.parametrize("net", NETS)
def test_files_compute_the_trained_network(tmp_path: Path, net: str) -> None:
    name, options = NETS[net]
    path = tmp_path / "net.nir"
    model = make(name, **options)
    result = to_nir(model, digits(10), path)
    assert {p.name for p in tmp_path.iterdir()} == {"net.nir", "net.samples.npz"}
    assert result.plain.samples == 10
    assert result.unread is None
    assert result.snntorch is not None
    assert result.snntorch.spikes == result.plain.spikes > 1000
    assert max(result.plain.margin, result.snntorch.margin) < 1e-6

    graph, vectors = written(path)
    stages = json.loads(graph.metadata["stages"])
    steps = int(graph.metadata["steps"])
    spikes, record = by_hand(graph, [vectors["input"]] * steps)
    assert set(stages.values()) == set(spikes)
    apart = unequal(spikes, vectors, stages)
    assert apart <= 2
    scores = model(digits(10)).sum(0).detach().numpy()
    if "population" in net:
        assert graph.metadata["votes"] == "10"
        record = record.reshape(10, 10, -1)
        scores = scores * record.shape[2]
        record = record.sum(2)
    assert np.allclose(scores, vectors["record"], atol=1e-5)
    assert (~np.isclose(record, scores, atol=1e-5)).any(1).sum() <= apart


def test_snntorch_reads_a_file_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Image by image, without a batch, as NIR's shapes are; nothing of the reader is ours."""
    path = tmp_path / "net.nir"
    before = list(snn.SpikingNeuron.instances)
    to_nir(make("mnistnet", bits=4), digits(2), path)
    assert capsys.readouterr().out == ""
    assert list(map(id, snn.SpikingNeuron.instances)) == list(map(id, before))
    graph, vectors = written(path)
    model = import_from_nir(graph)
    for sample in range(2):
        state, total = None, torch.zeros(10)
        for module in model.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
                assert module.reset_mechanism == "zero"
                assert torch.allclose(module.beta, torch.tensor(0.25), atol=1e-7)
        with torch.no_grad():
            for _ in range(2):
                output, state = model(torch.from_numpy(vectors["input"][sample]), state)
                total += output
        assert np.allclose(total.numpy(), vectors["record"][sample], atol=1e-5)
    snn.SpikingNeuron.instances[:] = before


def test_event_frames(tmp_path: Path) -> None:
    model = make("nmnistnet_bn", size=12, num_steps=3)
    frames = torch.stack([digits(4, 12).roll(t, -1) for t in range(3)])
    result = to_nir(model, frames, tmp_path / "net.nir")
    graph, vectors = written(result.path)
    assert graph.metadata["steps"] == "3"
    spikes, _ = by_hand(graph, list(vectors["input"].swapaxes(0, 1)))
    assert {z.shape[:2] for z in spikes.values()} == {(4, 3)}
    assert unequal(spikes, vectors, json.loads(graph.metadata["stages"])) <= 1


@pytest.mark.parametrize("name", ["mnistnet_bn", "resnet"])
def test_normalisation_pooling_and_scales_are_folded(name: str) -> None:
    net = nir_export.TrainedNet(make(name, bits=4))
    graph, _ = build(net, digits(1), {})
    branches = [b for s in net.graph.stages for b in s.branches if b.layer is not None]
    summed = 0
    for branch in branches:
        node = graph.nodes[branch.name.replace(".", "_")]
        layer: Any = branch.layer
        norm: Any = branch.norm
        factor, bias = torch.ones(len(layer.weight)), torch.zeros(len(layer.weight))
        if norm is not None:
            factor = norm.weight * norm.gain.value / (norm.running_var + norm.eps).sqrt()
            bias = norm.bias - factor * norm.running_mean
        if layer.bias is not None:
            bias = bias + factor * layer.bias
        spread = (-1, *[1] * (layer.weight.dim() - 1))
        if branch.pools:
            summed += 1
            factor = factor / int(np.prod(branch.pools[0].kernel_size))
            pool = next(a for a, b in graph.edges if b == branch.name.replace(".", "_"))
            pool = pool if not branch.flatten else pool.replace("flatten", "pool")
            assert isinstance(graph.nodes[pool], nir.SumPool2d)
        weight = layer.quant_weight().value * factor.reshape(spread)
        assert np.allclose(node.weight, weight.detach().numpy(), rtol=1e-5)
        assert np.allclose(node.bias, bias.detach().numpy(), rtol=1e-4, atol=1e-6)
        integers = node.weight / node.metadata["scale"].reshape(spread)
        assert np.allclose(integers, np.rint(integers), atol=1e-5)
        assert 1 < np.abs(integers).max() < 7.1
        assert node.metadata["bits"] == 4
    assert summed == (name == "resnet")


def test_neurons_are_those_of_nir() -> None:
    graph, _ = build(nir_export.TrainedNet(make("mnistnet", bits=4)), digits(1), {})
    lif = graph.nodes["features_1"]
    assert {getattr(lif, key).shape for key in ("tau", "r", "v_leak", "v_reset")} == {(15, 8, 8)}
    assert np.allclose([lif.tau.max(), lif.r.max()], [1e-4 / 0.75, 1 / 0.75], rtol=1e-6)
    assert (lif.v_leak.any(), lif.v_reset.any()) == (False, False)
    assert np.unique(lif.v_threshold) == np.float32(0.4)


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = to_nir(Shortcuts(), digits(6), tmp_path / "net.nir")
    graph, vectors = written(result.path)
    assert isinstance(graph.nodes["neuron_pool"], nir.AvgPool2d)
    assert graph.nodes["block_0"].metadata["bits"] == 32
    assert json.loads(graph.metadata["stages"]) == {"neuron": "neuron", "neuron#2": "neuron_2"}
    for stage in ("neuron", "neuron#2"):
        assert 0.01 < vectors[f"spikes/{stage}"].mean() < 0.99
    assert result.snntorch is not None
    plain = nn.Sequential(DirectCoding(2), TimeDistributed(nn.Flatten()))
    plain.append(TimeDistributed(nn.Linear(64, 10, bias=False))).append(Leaky())
    result = to_nir(plain, digits(6), tmp_path / "plain.nir")
    nodes = nir.read(result.path).nodes
    assert set(nodes) == {"input", "layer_2_flatten", "layer_2", "layer_3", "output"}
    assert isinstance(nodes["layer_2"], nir.Linear)


def test_thresholds_per_channel_are_beyond_snntorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Shortcuts(beta=torch.linspace(0, 0.9, 4), threshold=torch.linspace(0.2, 0.5, 4))
    result = to_nir(model, digits(6), tmp_path / "net.nir")
    assert result.snntorch is None
    assert result.unread == "the neurons of 'neuron' have several thresholds"
    graph, vectors = written(result.path)
    spikes, _ = by_hand(graph, [vectors["input"]] * 3)
    assert unequal(spikes, vectors, json.loads(graph.metadata["stages"])) <= 1
