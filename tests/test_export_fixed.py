"""The fixed-point network as a graph: integers only, every spike as in the NumPy reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.names import Names
from snntorch_stbp.export.verify import verify
from snntorch_stbp.lowering import FixedPointAware, FixedPointNet, lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mnistnet", {"bits": 4}, {}),
    ("mnistnet_bn", {"bits": 4, "num_steps": 4}, {}),
    ("mnistnet_bn", {"bits": 2}, {"form": "simple", "fraction": 6}),
    ("mnistnet_bn", {"bits": 2}, {"form": "simple", "fraction": 0}),
    ("resnet", {"bits": "ternary"}, {}),
    ("resnet", {"bits": 1}, {}),
    ("pooled", {"bits": 4}, {}),
    ("averaged", {"bits": 4}, {}),
    ("padded", {"bits": 4}, {}),
    ("pooled", {"bits": "ternary", "act_bits": 6}, {}),
    ("resnet", {"act_bits": 6, "membrane_bits": 5}, {}),
    ("resnet", {"membrane_bits": 5}, {}),
    ("mnistnet", {"act_bits": 4, "membrane_bits": 7, "num_steps": 3}, {}),
    ("mnistnet_bn", {"readout": "population", "beta": 0.75}, {}),
    ("mnistnet_bn", {"reset": "none", "num_steps": 3}, {}),
    ("mnistnet", {"reset": "subtract"}, {"form": "simple", "fraction": 5}),
    ("mnistnet", {"reset": "delayed", "num_steps": 3}, {"form": "simple", "fraction": 5}),
    ("resnet", {"reset": "delayed", "act_bits": 6, "membrane_bits": 5}, {}),
]


def lowered(name: str, options: dict[str, Any], settings: dict[str, Any]) -> FixedPointNet:
    return lower(make(name, **options), **settings)


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize(("name", "options", "settings"), CASES)
def test_a_graph_has_every_spike(
    name: str, options: dict[str, Any], settings: dict[str, Any], form: Any, tmp_path: Path
) -> None:
    net = lowered(name, options, settings)
    for target in ("generic", "hls4ml"):
        path = tmp_path / f"{target}.onnx"
        exported = to_qonnx(net, digits(8), path, form=form, target=target, batch=8)
        assert exported.agreement.samples == 8


@pytest.mark.parametrize("name", ["mnistnet_bn", "resnet"])
def test_a_graph_for_finn_has_every_spike(name: str, tmp_path: Path) -> None:
    net = lowered(name, {"bits": 4}, {})
    path = to_qonnx(net, digits(8), tmp_path / "net.onnx", target="finn", batch=8).path
    assert "Quant" not in {node.op_type for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize(("options", "settings", "arguments", "message"), [
    ({"bits": 4}, {}, {"target": "finn", "form": "step"}, "FINN has no floor"),
    ({"act_bits": 6}, {}, {"target": "finn"}, "FINN has no floor"),
])  # fmt: skip
def test_what_a_reader_does_not_have_is_named(
    options: dict[str, Any], settings: dict[str, Any], arguments: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StbpError, match=message):
        to_qonnx(lowered("mnistnet", options, settings), digits(1), tmp_path / "n", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_a_graph_holds_integers_only(form: Any, tmp_path: Path) -> None:
    net = lowered("mnistnet_bn", {"bits": 4}, {})
    path = to_qonnx(net, digits(1), tmp_path / "net.onnx", form=form).path
    model = onnx.load(str(path))
    for constant in model.graph.initializer:
        array = numpy_helper.to_array(constant)
        scaled = array if form == "unrolled" else array * 4  # the leak of a step, beta = 1/4
        assert np.array_equal(scaled, np.rint(scaled)), constant.name
    operators = {node.op_type for node in model.graph.node}
    assert "MultiThreshold" in operators
    if form == "unrolled":
        assert operators <= {"Conv", "MatMul", "Flatten", "Mul", "Add", "Sub", "MultiThreshold"}
        wrapped = ModelWrapper(str(path)).transform(InferShapes()).transform(InferDataTypes())
        for tensor in wrapped.get_all_tensor_names():
            assert wrapped.get_tensor_datatype(tensor).is_integer(), tensor


def test_weights_and_spikes_have_their_types(tmp_path: Path) -> None:
    for bits, expected in ((1, "BIPOLAR"), ("ternary", "TERNARY"), (4, "INT4")):
        path = tmp_path / f"{bits}.onnx"
        to_qonnx(lowered("mnistnet", {"bits": bits}, {}), digits(1), path)
        wrapped = ModelWrapper(str(path)).transform(InferDataTypes())
        assert wrapped.get_tensor_datatype("features.0/weight") == DataType[expected]
        assert wrapped.get_tensor_datatype("features.1/spike/t1_out") == DataType["BINARY"]


def test_a_graph_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    net = lower(make("mnistnet", bits=8, num_steps=5), bits=31)
    with pytest.raises(StbpError, match=r"needs \d+ bits; a graph holds its integers in float32"):
        to_qonnx(net, digits(1), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_training_as_integers_gives_their_record_and_a_gradient() -> None:
    net = make("resnet", bits=2)
    aware = FixedPointAware(net).train()
    images = digits(16)
    record = aware(images)
    assert np.allclose(record.detach().numpy(), lower(net)(images).numpy(), atol=1e-5)
    record.square().sum().backward()
    for name, parameter in net.named_parameters():
        if "quant" not in name and name.startswith(("conv1", "stages", "head")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    before = {n: b.clone() for n, b in net.named_buffers() if "running" in n}
    aware(images)
    assert all(np.array_equal(b, before[n]) for n, b in net.named_buffers() if n in before)


def test_the_margin_of_a_difference_is_that_of_the_neurons_age() -> None:
    """One channel, three steps, two ages; the spike of step 1 resets, so step 2 has age 0."""
    names = Names("unrolled", 3, 1, False, False, "/", {"lif": ["a", "b", "c"]})
    golden = {
        "input": np.zeros((1, 1, 1, 1), np.uint8),
        "record": np.zeros((1, 1), np.int32),
        "spikes/lif": np.array([[[0], [1], [0]]], np.uint8),
        "membrane/lif": np.array([[[5], [90], [7]]], np.int32),
        "threshold/lif": np.array([[10], [80]], np.int32),
    }
    right = {"a": 0, "b": 1, "c": 0, "record": 0}
    for name, margin in (("a", "5 steps below"), ("b", "10 steps above"), ("c", "3 steps below")):
        wrong = {k: np.full((1, 1), v ^ (k == name), np.float32) for k, v in right.items()}
        with pytest.raises(StbpError, match=margin):
            verify(lambda feeds, wrong=wrong: wrong, golden, names)
