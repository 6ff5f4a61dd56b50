"""Exported graphs compute the network, spike by spike, or are not left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import api, to_qonnx
from snntorch_stbp.export.golden import load
from snntorch_stbp.export.names import Names
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.qonnx.ranges import Range
from snntorch_stbp.export.qonnx.targets import TARGETS
from snntorch_stbp.export.reading.inspect import read
from snntorch_stbp.export.verify import qonnx_executor, verify
from snntorch_stbp.frozen import Settings, freeze
from snntorch_stbp.lowering import lower
from snntorch_stbp.neuron import Leaky

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


def stored_names(path: Path) -> Names:
    props = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    return Names.from_json(props["names"])


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnistnet", {"bits": 4}),
        ("mnistnet", {"bits": 4, "beta": 0.0, "act_bits": 4, "num_steps": 3}),
        ("mnistnet", {"bits": 4, "beta": 1.0, "act_bits": 4, "num_steps": 3}),
        ("mnistnet", {"bits": 4, "act_bits": 4, "membrane_bits": 6, "num_steps": 3}),
        ("mnistnet", {"bits": 4, "reset": "subtract", "num_steps": 3}),
        ("mnistnet", {"bits": 4, "reset": "delayed", "num_steps": 3, "membrane_bits": 6}),
        ("mnistnet_bn", {"bits": 1, "membrane_bits": 4, "num_steps": 3, "readout": "rate"}),
    ],
)
def test_every_target_and_form_computes_the_network(
    tmp_path: Path, name: str, options: dict[str, Any], form: str, target: str
) -> None:
    path = tmp_path / "net.onnx"
    result = to_qonnx(make(name, **options), digits(3), path, form=form, target=target, batch=3)
    assert result.agreement.samples == 3
    assert result.agreement.spikes > 3 * 1000
    assert {p.name for p in tmp_path.iterdir()} == {f.name for f in result.files}


@pytest.mark.parametrize("bits", [None, 2, "ternary"])
@pytest.mark.parametrize("readout", ["current", "population"])
def test_other_bits_and_readouts(tmp_path: Path, bits: Any, readout: str) -> None:
    model = make("mnistnet_bn", bits=bits, readout=readout)
    assert to_qonnx(model, digits(2), tmp_path / "net.onnx").agreement.samples == 2


@pytest.mark.parametrize("target", TARGETS)
def test_residual_blocks(tmp_path: Path, target: str) -> None:
    for form in ("unrolled", "step"):
        path = tmp_path / f"{form}.onnx"
        assert to_qonnx(make("resnet"), digits(2), path, form=form, target=target).agreement


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [None, 4, 1])
@pytest.mark.parametrize("name", ["pooled", "averaged", "padded"])
def test_pooled_currents(tmp_path: Path, name: str, target: str, bits: Any) -> None:
    for form in ("unrolled", "step"):
        model = make(name, bits=bits)
        path = tmp_path / f"{form}.onnx"
        result = to_qonnx(model, digits(9), path, form=form, target=target, batch=3)
        spikes = 2 * (6 * 64 + 8 * 4 + 8) if name == "padded" else 3 * (6 * 16 + 8 * 4)
        assert result.agreement.spikes == result.onnxruntime.spikes == 9 * spikes


@pytest.mark.parametrize("target", TARGETS)
def test_the_state_behind_a_delayed_reset_is_stated(tmp_path: Path, target: str) -> None:
    """Its last operator is a subtraction, whose type no reader infers with channels last."""
    model = make("mnistnet", reset="delayed")
    path = to_qonnx(model, digits(1), tmp_path / "net.onnx", target=target).path
    expected = [s.neuron.state for s in freeze(model).stages if s.neuron is not None]
    assert [n.state for n in read(path).neurons if n.state] == [
        Range(*state).datatype for state in expected
    ]


def test_event_frames(tmp_path: Path) -> None:
    model = make("nmnistnet_bn", size=12, num_steps=3)
    frames = torch.stack([digits(2, 12).roll(t, -1) for t in range(3)])
    for form in ("unrolled", "step"):
        result = to_qonnx(model, frames, tmp_path / f"{form}.onnx", form=form)
        assert result.agreement.samples == 2


def test_what_rounded_currents_change_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a share of all spikes of the samples; a network that comes ready changes nothing."""
    net, samples = make("mnistnet", bits=4), digits(3)
    coarse = Settings(act_bits=4)
    result = to_qonnx(net, samples, tmp_path / "a.onnx", settings=coarse, vectors=1)
    seen: dict[str, torch.Tensor] = {}
    freeze(net, coarse)(samples, seen)
    trained: dict[str, torch.Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, Leaky):
            module.register_forward_hook(lambda *all_, name=name: trained.update({name: all_[2]}))
    net(samples)
    differing = sum(int((spikes != seen[name]).sum()) for name, spikes in trained.items())
    total = sum(spikes.numel() for spikes in trained.values())
    assert result.changed == differing / total > 0.01
    assert f"rounded currents change {100 * result.changed:.2f} % of the spikes" in caplog.text
    caplog.clear()
    for name, ready in (("frozen", freeze(net, coarse)), ("integers", lower(net))):
        assert to_qonnx(ready, samples, tmp_path / f"{name}.onnx", vectors=1).changed is None
    assert not caplog.records


def test_a_batch_that_does_not_divide_the_samples(tmp_path: Path) -> None:
    result = to_qonnx(make("mnistnet"), digits(5), tmp_path / "net.onnx", batch=2)
    assert result.agreement.samples == 5


def test_the_files_suffice_to_verify_again(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    to_qonnx(make("mnistnet"), digits(3), path, form="step")
    agreement = verify(
        qonnx_executor(path), load(path.with_suffix(".samples.npz")), stored_names(path)
    )
    assert agreement.samples == 3
    wiring = json.loads(path.with_suffix(".step.json").read_text())
    assert wiring["steps"] == 2
    graph = onnx.load(str(path)).graph
    inputs = {i.name for i in graph.input} - {"image"}
    assert inputs == set(wiring["states"])
    assert {o.name for o in graph.output} == {o for o, _ in wiring["states"].values()} | {"record"}


def flip_a_weight(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("features.0/weight"):
            weight = numpy_helper.to_array(tensor).copy()
            weight.flat[:] = -weight
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


def lower_a_threshold(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "features.1/threshold":
            value = numpy_helper.to_array(tensor) - np.float32(1)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


@pytest.mark.parametrize("harm", [flip_a_weight, lower_a_threshold])
def test_a_graph_that_computes_something_else_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[onnx.ModelProto], None]
) -> None:
    def harmed(*args: Any, **options: Any) -> Any:
        built = build(*args, **options)
        harm(built.model)
        return built

    monkeypatch.setattr(api, "build", harmed)
    with pytest.raises(
        StbpError,
        match=r"first difference in layer 'features\.1', step 0, sample \d+, where the membrane is "
        r"\d+ steps (above|below or at) the threshold; \d+ of \d+ spikes there differ",
    ):
        to_qonnx(make("mnistnet"), digits(8), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_files_that_exist_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("precious")
    with pytest.raises(UsageError, match=r"net\.onnx' exists already; replace it with --force"):
        to_qonnx(make("mnistnet"), digits(1), path)
    assert path.read_text() == "precious"
    to_qonnx(make("mnistnet"), digits(1), path, force=True)
    assert path.read_bytes()[:8] != b"precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "rolled"}, "the form of a graph is 'unrolled' or 'step', not 'rolled'"),
        ({"target": "tpu"}, "the target is one of generic, finn, hls4ml, not 'tpu'"),
    ],
)
def test_unknown_forms_and_targets_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        to_qonnx(make("mnistnet"), digits(1), tmp_path / "net.onnx", **options)


def test_data_types_are_inferred(tmp_path: Path) -> None:
    """Weights, spikes, currents and states are integers for QONNX; only rescalings are not."""
    path = tmp_path / "net.onnx"
    to_qonnx(make("mnistnet", bits=4, act_bits=8), digits(1), path)
    model = ModelWrapper(str(path)).transform(InferShapes()).transform(InferDataTypes())
    floats = {"rescale", "relu", "decay", "offset"}
    for node in model.graph.node:
        kind = model.get_tensor_datatype(node.output[0])
        what = node.name.split("/")[-2]
        if node.op_type == "Quant":
            expected = {"weight": "INT4", "spike": "BINARY", "current": "INT8", "state": "INT9"}
            readout = node.name.startswith("head.0/current")
            assert readout or kind == DataType[expected[what]], node.name
        elif what not in floats and not node.name.startswith("head.0"):
            assert kind.is_integer(), (node.name, kind)
    assert model.get_tensor_datatype("image") == DataType["UINT8"]
    assert model.get_tensor_datatype("record") == DataType["FLOAT32"]  # in units of the scores


def test_the_model_with_look_ups_is_executed_as_qonnxs_own(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    to_qonnx(make("resnet"), digits(2), path, form="step", batch=2)
    own = ModelWrapper(str(path))
    inputs = {i.name: np.zeros(own.get_tensor_shape(i.name), np.float32) for i in own.graph.input}
    inputs["image"] = (digits(2) * 255).round().numpy()
    expected = execute_onnx(own, dict(inputs), return_full_exec_context=True)
    seen = qonnx_executor(path)(inputs)
    assert seen.keys() == expected.keys()
    assert all(np.array_equal(seen[name], expected[name]) for name in expected if name)
    assert len(expected) > 100


def test_the_default_domain_comes_first_and_names_say_layer_and_step(tmp_path: Path) -> None:
    built = build(freeze(make("mnistnet")), digits(1), form="unrolled", target="generic")
    assert [o.domain for o in built.model.opset_import] == ["", "qonnx.custom_op.general"]
    names = {node.name for node in built.model.graph.node}
    assert {"features.0/t0", "features.4/t1", "features.1/spike/t1"} <= names
    onnx.checker.check_model(onnx.load_model_from_string(built.model.SerializeToString()))


@pytest.mark.parametrize(
    ("values", "bits", "datatype"),
    [
        (Range(0, 1), 1, "BINARY"),
        (Range(0, 255), 8, "UINT8"),
        (Range(-8, 7), 4, "INT4"),
        (Range(-9, 7), 5, "INT5"),
        (Range(-1, 1, 2), 2, "FIXED<2,0>"),
        (Range(-512, 511, -2), 10, "INT12"),
    ],
)
def test_ranges_know_their_bits(values: Range, bits: int, datatype: str) -> None:
    assert values.bits == bits
    assert values.datatype == datatype


def test_ranges_follow_arithmetic() -> None:
    a, b = Range(-3, 5, 1), Range(2, 7)
    rng = np.random.default_rng(0)
    for operator in ("__add__", "__sub__", "__mul__"):
        result = getattr(a, operator)(b)
        x, y = rng.integers(-3, 6, 500) / 2, rng.integers(2, 8, 500)
        exact = {"__add__": x + y, "__sub__": x - y, "__mul__": x * y}[operator]
        scaled = exact * 2**result.fraction
        assert np.array_equal(scaled, np.rint(scaled))
        assert scaled.min() >= result.low
        assert scaled.max() <= result.high
