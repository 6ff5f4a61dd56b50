"""`snntorch-stbp inspect` says what a file holds, and refuses what is no ONNX file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto, NodeProto, TensorProto, helper, load, numpy_helper, save

from snntorch_stbp.cli import main
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.qonnx.ranges import bits_of
from snntorch_stbp.lowering import lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs")
    model = make("mnistnet", bits=4)
    to_qonnx(model, digits(1), path / "unrolled.onnx")
    to_qonnx(model, digits(1), path / "hls.onnx", form="step", target="hls4ml")
    return path


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    return result.exit_code, result.output


def test_layers_are_listed_once_with_their_types(folder: Path) -> None:
    code, output = call(str(folder / "unrolled.onnx"))
    assert code == 0, output
    assert "unrolled (2 time steps), batch 1" in output
    assert "image 1x1x8x8 UINT8" in output
    (row,) = [line.split() for line in output.splitlines() if line.startswith("features.4 ")]
    assert row[:6] == ["features.4", "Conv", "40x4x4", "INT4", "4", "15,000"]
    (total,) = [line.split() for line in output.splitlines() if line.startswith("total   ")][:1]
    assert total[1] == f"{15 * 25 + 40 * 15 * 25 + 160 * 300 + 3000:,}"
    assert max(map(len, output.replace(str(folder), "").splitlines())) <= 80


@pytest.mark.parametrize("name", ["unrolled.onnx", "hls.onnx"])
def test_json_holds_the_same(folder: Path, name: str) -> None:
    code, output = call(str(folder / name), "--json")
    assert code == 0, output
    facts = json.loads(output)
    weights = [layer for layer in facts["layers"] if layer["weight_bits"]]
    assert [layer["weight_bits"] for layer in weights] == [4, 4, 4, 4]
    assert sum(layer["parameters"] for layer in weights) == 66_375


@pytest.mark.parametrize("target", ["generic", "hls4ml"])
def test_averages_of_currents_are_poolings(tmp_path: Path, target: str) -> None:
    to_qonnx(make("averaged"), digits(1), tmp_path / "net.onnx", target=target)
    code, output = call(str(tmp_path / "net.onnx"), "--json")
    assert code == 0, output
    layers = json.loads(output)["layers"]
    operators = [layer["operator"] for layer in layers]
    assert operators == ["Conv", "SumPool", "Conv", "SumPool", "MatMul"]
    assert [layer["parameters"] for layer in layers] == [6 * 9, 0, 6 * 8 * 9, 0, 320]


@pytest.mark.parametrize("target", ["generic", "hls4ml"])
def test_integers_say_the_bits_of_currents_and_of_both_states(tmp_path: Path, target: str) -> None:
    net = lower(make("mnistnet_bn", bits=4))
    path = tmp_path / "net.onnx"
    to_qonnx(net, digits(1), path, form="step", target=target)
    code, output = call(str(path), "--json")
    assert code == 0, output
    found = {row["name"].replace("_", "."): row for row in json.loads(output)["neurons"]}
    for stage in net.stages:
        if stage.neuron is None:
            continue
        row, ages = found[stage.stage.name], len(stage.neuron.threshold)
        current, state = (int(row[kind].lstrip("UINT")) for kind in ("current", "state"))
        assert current <= bits_of(stage.reach.membrane.low, stage.reach.membrane.high)
        assert row["age"] == (None if ages == 1 else "UINT2")  # 0, 1, 2 steps
        assert row["state_kb"] == math.prod(row["shape"]) * (state + 2 * (ages > 1)) / 8192
    assert " + UINT2 " in call(str(path))[1]


def test_a_graph_of_another_program(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    save(helper.make_model(graph), str(tmp_path / "other.onnx"))
    code, output = call(str(tmp_path / "other.onnx"))
    assert code == 0, output
    assert "1 Relu" in output


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    for name in ("text.onnx", "net.NIR"):
        (tmp_path / name).write_text("hello")
    for name, message in (
        ("nothing.onnx", "does not exist; name an ONNX file"),
        ("", "is a folder; name an ONNX file"),
        ("text.onnx", "is damaged or is not an ONNX file"),
        ("net.NIR", "is a NIR file; name an ONNX file, as `export` writes it."),
    ):
        code, output = call(str(tmp_path / name))
        assert code == 1
        assert message in output


def test_a_drawing_without_a_name_is_refused(folder: Path) -> None:
    code, output = call(str(folder / "unrolled.onnx"), "--draw", ".")
    assert (code, output) == (2, "Error: a drawing is a .png or .svg file, not '.'.\n")


def _chain(nodes: list[NodeProto], path: Path) -> str:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x0", "x3000")]
    save(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:])), str(path))
    return str(path)


def test_a_graph_of_thousands_of_nodes_in_any_order(tmp_path: Path) -> None:
    """Work grows with the number of nodes, not with its square."""
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(3000)]
    for order in (nodes, nodes[::-1], nodes[::2] + nodes[1::2]):
        code, output = call(_chain(order, tmp_path / "chain.onnx"))
        assert (code, "output   x3000 1x4 FLOAT32" in output) == (0, True), output
        assert "3,000: 3000 Relu" in output


def _annotated(model: ModelProto) -> None:
    for entry in model.graph.quantization_annotation:
        entry.quant_parameter_tensor_names[0].value = "INT99999999"


def _of_bits(value: float) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        names = {node.input[3] for node in model.graph.node if node.op_type == "Quant"}
        for tensor in model.graph.initializer:
            if tensor.name in names:
                number = np.array(value, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(number, tensor.name))

    return change


def _bare(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Quant")
    node.op_type = "MultiThreshold"
    del node.attribute[:]


def _twice(model: ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


@pytest.mark.parametrize(("change", "message"), [
    (_annotated, "has integers of 99999999 bits, more than 64: it is damaged, or no graph for"),
    (_of_bits(1e9), "has integers of 1e+09 bits, more than 64"),
    (_of_bits(math.nan), "has integers of nan bits, more than 64"),
    (_bare, "whose graph is not valid: Required attribute"),
    (_twice, "whose graph is not valid: two of its nodes compute the same tensor"),
])  # fmt: skip
def test_damage_is_one_sentence(
    folder: Path, tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    model = load(str(folder / "unrolled.onnx"))
    change(model)
    path = tmp_path / "net.onnx"
    save(model, str(path))
    for options in ((), ("--json",)):
        code, output = call(str(path), *options)
        assert (code, message in output, output.count("\n")) == (1, True, 1), output
        assert output.startswith(f"Error: '{path}' ")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 700 + "]" * 700, "9" * 5000])
def test_a_configuration_that_is_none_stays_text(folder: Path, tmp_path: Path, text: str) -> None:
    model = load(str(folder / "unrolled.onnx"))
    entry = model.metadata_props.add()
    entry.key, entry.value = "train", text
    path = tmp_path / "net.onnx"
    save(model, str(path))
    code, output = call(str(path), "--json")
    assert code == 0, output
    assert json.loads(output)["metadata"]["train"] == text


def test_weights_in_other_files_are_not_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(folder / "unrolled.onnx"))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "numbers.bin"
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "numbers.bin").mkdir()  # to open it is an error
    monkeypatch.chdir(tmp_path)
    code, output = call(str(path))
    assert (code, "features.4" in output) == (0, True), output
