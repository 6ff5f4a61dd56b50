"""Graphs as trained: equal to the trained network up to the rounding of floating point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from snntorch_stbp import Leaky
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import api, to_qonnx
from snntorch_stbp.export.golden import load
from snntorch_stbp.export.qonnx.as_trained import PARTS
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.reading.inspect import read
from snntorch_stbp.export.tolerance import verify_trained
from snntorch_stbp.export.trained import ROUNDING, TrainedNet
from snntorch_stbp.export.verify import onnxruntime_executor
from snntorch_stbp.frozen import Settings, freeze

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "4 bits": ("mnistnet", {"bits": 4}),
    "fp32": ("mnistnet", {"bits": None}),
    "pooled currents": ("pooled", {"bits": 4}),
    "averaged currents": ("averaged", {"bits": 4}),
    "padded poolings": ("padded currents", {"bits": 4}),
    "subtract": ("mnistnet", {"bits": 4, "reset": "subtract", "num_steps": 3}),
    "delayed": ("mnistnet", {"bits": 4, "reset": "delayed", "num_steps": 3}),
    "binary, membranes": (
        "mnistnet_bn",
        {"bits": 1, "membrane_bits": 4, "num_steps": 3, "readout": "rate"},
    ),
    "ternary, population": ("mnistnet_bn", {"bits": "ternary", "readout": "population"}),
    "currents, powers of two": ("resnet", {"bits": 4, "act_bits": 8, "scale": "po2"}),
    "currents and membranes": ("mnistnet", {"bits": 4, "act_bits": 6, "membrane_bits": 6}),
    "fine membranes": ("mnistnet", {"bits": 4, "act_bits": 4, "membrane_bits": 8, "num_steps": 3}),
}


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("net", NETS)
def test_graphs_as_trained_compute_the_trained_network(tmp_path: Path, net: str, form: Any) -> None:
    name, options = NETS[net]
    path = tmp_path / "net.onnx"
    model = make(name, **options)
    result = to_qonnx(model, digits(10), path, form=form, as_trained=True, vectors=1)
    assert (result.agreement.samples, result.onnxruntime.samples) == (1, 10)
    assert result.onnxruntime.margin < 1e-5
    assert {p.name for p in tmp_path.iterdir()} == {f.name for f in result.files}
    vectors = load(tmp_path / "net.samples.npz")
    assert np.array_equal(vectors["input"], digits(1).numpy())
    record = model(digits(1)).sum(0).detach().numpy()
    votes = vectors["record"].sum() / record.sum() if "population" in net else 1
    assert np.allclose(vectors["record"], record * votes)


def test_event_frames(tmp_path: Path) -> None:
    model = make("nmnistnet_bn", size=12, num_steps=3)
    frames = torch.stack([digits(4, 12).roll(t, -1) for t in range(3)])
    for form in ("unrolled", "step"):
        path = tmp_path / f"{form}.onnx"
        result = to_qonnx(model, frames, path, form=form, as_trained=True, vectors=1)
        assert result.onnxruntime.samples == 4


def test_recorded_potentials_are_those_of_the_neurons() -> None:
    """Against `Leaky(output=True)` on the recorded currents; spikes against the network itself."""
    model = make("mnistnet", bits=4, act_bits=6, membrane_bits=6)
    net, record = TrainedNet(model), {}
    scores = net(digits(3), record)
    assert torch.equal(scores, model(digits(3)))
    neuron = model.get_submodule("features.1")
    assert isinstance(neuron, Leaky)
    x = record["features.1/current"]
    assert neuron.current_quant is not None
    assert torch.equal(record["features.1/level"], neuron.current_quant(x))
    assert torch.equal(record["features.1"], neuron(x))
    potential = record["features.1/potential"]
    assert neuron.state_quant
    assert torch.equal(neuron.state_quant(potential), record["features.1/membrane"])
    fires = (record["features.1/membrane"] > neuron.threshold).float()
    assert torch.equal(fires, record["features.1"])


def test_the_bound_is_computed_from_what_enters() -> None:
    """By hand, for one layer and two steps; pixels reach 256/255."""
    model = make("mnistnet_bn", bits=4)
    vectors = TrainedNet(model).vectors(digits(2))
    layer, norm, neuron = (
        model.get_submodule(name) for name in ("features.0.layer", "features.0.norm", "features.1")
    )
    layer, norm, neuron = cast(Any, layer), cast(Any, norm), cast(Any, neuron)
    gain = norm.weight * norm.gain.value / (norm.running_var + norm.eps).sqrt()
    weights = layer.quant_weight().value.abs().sum((1, 2, 3)) * 256 / 255
    shift = norm.bias - gain * norm.running_mean
    current = gain.abs() * (weights + norm.running_mean.abs()) + shift.abs()
    potential = current * (1 + neuron.beta) + neuron.threshold
    expected = (ROUNDING * potential).detach().numpy()
    assert np.allclose(vectors["bound/features.1"], expected, rtol=1e-5)
    assert expected.max() < 1e-4 * float(neuron.threshold)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Any]:
    """`build`, with one constant changed."""

    def harmed(*args: Any, **options: Any) -> Any:
        built = build(*args, **options)
        for tensor in built.model.graph.initializer:
            if tensor.name == name:
                value = change(numpy_helper.to_array(tensor)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
                return built
        raise AssertionError(name)

    return harmed


def one_weight(weight: np.ndarray) -> np.ndarray:
    weight = weight.copy()
    weight.flat[np.abs(weight).argmax()] *= -1
    return weight


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("features.0/weight", one_weight),
        ("features.1/twice_threshold", lambda v: v * 1.01),
        ("features.1/beta", lambda v: v * 0.9),
    ],
)
def test_a_graph_that_computes_something_else_is_not_left_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    monkeypatch.setattr(api, "build", changed(name, change))
    with pytest.raises(
        StbpError,
        match=r"does not compute the trained network: in layer 'features\.1', step \d, sample \d+, "
        r"a spike differs although its number is \S+ away from the threshold, more than rounding",
    ):
        to_qonnx(make("mnistnet"), digits(10), tmp_path / "net.onnx", as_trained=True, vectors=1)
    assert not list(tmp_path.iterdir())


def test_a_level_and_a_readout_that_differ_are_named(tmp_path: Path) -> None:
    net = TrainedNet(make("mnistnet", act_bits=6))
    for name, message in (
        ("features.1/current/t0_scale", r"a current differs .* half way between two levels"),
        (
            "head.0/weight/t0_scale",
            r"readout of sample \d differs by \S+, more than rounding \(\S+\) expl",
        ),
    ):
        harmed = changed(name, lambda v: v * 1.03)
        built = harmed(net, digits(1), form="unrolled", target="generic", parts=PARTS)
        path = tmp_path / "net.onnx"
        path.write_bytes(built.model.SerializeToString())
        names = built.names.with_batch(4)
        with pytest.raises(StbpError, match=message):
            verify_trained(onnxruntime_executor(path, names), net.vectors(digits(4)), names)


def test_numbers_that_are_none_are_no_rounding(tmp_path: Path) -> None:
    net = TrainedNet(make("mnistnet"))
    harmed = changed("head.0/bias", lambda v: v * np.nan)
    built = harmed(net, digits(1), form="unrolled", target="generic", parts=PARTS)
    path = tmp_path / "net.onnx"
    path.write_bytes(built.model.SerializeToString())
    with pytest.raises(StbpError, match="readout of sample 0 differs by nan"):
        verify_trained(onnxruntime_executor(path, built.names), net.vectors(digits(1)), built.names)


def test_rounding_is_forgiven_and_counted(tmp_path: Path) -> None:
    """A spike is turned where its membrane is moved next to the threshold, and only there."""
    net = TrainedNet(make("mnistnet"))
    built = build(net, digits(1), form="unrolled", target="generic", parts=PARTS)
    path = tmp_path / "net.onnx"
    path.write_bytes(built.model.SerializeToString())
    names = built.names.with_batch(4)
    vectors = net.vectors(digits(4))
    place = (2, 0, 3, 4, 4)  # sample, step, channel, row, column
    vectors["spikes/features.1"][place] ^= 1
    threshold, bound = vectors["threshold/features.1"], vectors["bound/features.1"][3]
    execute = onnxruntime_executor(path, names)
    for distance, forgiven in ((0.5, True), (2.0, False)):
        vectors["membrane/features.1"][place] = threshold[0] + distance * bound
        if forgiven:
            agreement = verify_trained(execute, vectors, names)
            assert (agreement.rounded, agreement.differences) == (1, 1)
            assert 0.4 * bound < agreement.margin < 0.6 * bound
        else:
            with pytest.raises(StbpError, match=r"layer 'features\.1', step 0, sample 2, a spike"):
                verify_trained(execute, vectors, names)


def test_every_decision_is_judged_from_what_is_given(tmp_path: Path) -> None:
    """A wrong layer behind a difference that is rounding hides from the walk, not from this."""
    net = TrainedNet(make("mnistnet", act_bits=6))
    harmed = changed("features.4/weight", lambda v: -v)
    built = harmed(net, digits(1), form="unrolled", target="generic", parts=PARTS)
    path = tmp_path / "net.onnx"
    path.write_bytes(built.model.SerializeToString())
    names = built.names.with_batch(4)
    vectors = net.vectors(digits(4))
    vectors["spikes/features.1"][:, 0, 0, 0, 0] ^= 1
    vectors["membrane/features.1"][:, 0, 0, 0, 0] = vectors["threshold/features.1"]
    walk = verify_trained(onnxruntime_executor(path, names), vectors, names)
    assert walk.rounded == 4
    execute = onnxruntime_executor(path, names, given=True)
    with pytest.raises(StbpError, match=r"a current differs"):
        verify_trained(execute, vectors, names, given=True)


def test_weights_stand_behind_quantizers_with_float_scales(tmp_path: Path) -> None:
    built = partial(build, form="unrolled", target="generic", parts=PARTS)
    for bits, operator in ((4, "Quant"), (1, "BipolarQuant")):
        model = make("mnistnet_bn", bits=bits)
        graph = built(TrainedNet(model), digits(1)).model.graph
        node = next(n for n in graph.node if n.name == "features.0/weight/t0")
        assert node.op_type == operator
        scale = next(i for i in graph.initializer if i.name == node.input[1])
        layer: Any = model.get_submodule("features.0.layer")
        assert np.array_equal(
            numpy_helper.to_array(scale), layer.quant_weight().scale.detach().numpy()
        )
        assert {"BatchNormalization", "Quant", "Relu"} <= {n.op_type for n in graph.node}


def test_inspect_reads_layers_and_neurons(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    to_qonnx(make("mnistnet", act_bits=6), digits(1), path, as_trained=True)
    found = read(path)
    first, *_, last = found.neurons
    assert (first.name, first.shape, first.spiking) == ("features.1", [1, 15, 8, 8], True)
    assert last.name == "hidden.2"
    assert found.layers[0].weight_type == "INT4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "finn"}, "target finn needs deployment arithmetic: leave out --as-trained"),
        ({"settings": Settings()}, "takes neither a frozen network nor its settings"),
    ],
)
def test_what_as_trained_excludes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        to_qonnx(make("mnistnet"), digits(1), tmp_path / "n.onnx", as_trained=True, **options)
    with pytest.raises(UsageError, match="takes neither a frozen network"):
        to_qonnx(freeze(make("mnistnet")), digits(1), tmp_path / "n.onnx", as_trained=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.threshold.fill_(-0.1), r"'features\.1' has a threshold of -0\.1"),
        (
            lambda n: n.register_buffer("beta", torch.full((8, 8), 0.5)),
            r"'features\.1' has a beta of 64 values; export takes one, or one for each of the 15",
        ),
    ],
)
def test_neurons_that_have_no_such_graph(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    model = make("mnistnet")
    net = TrainedNet(model)
    sizes = net(digits(1)).shape
    assert sizes[0] == 2
    change(model.get_submodule("features.1"))
    with pytest.raises(StbpError, match=message):
        build(net, digits(1), form="unrolled", target="generic", parts=PARTS)
