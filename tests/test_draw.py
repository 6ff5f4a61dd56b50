"""`inspect --draw` shows every layer of a graph once, whatever wrote it and for whom."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, save

from snntorch_stbp.cli import main
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.qonnx import fixed
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.reading.diagram import _Column
from snntorch_stbp.export.reading.draw import _Boxes
from snntorch_stbp.export.reading.inspect import read
from snntorch_stbp.export.reading.marks import HEIGHT, WIDTH
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

GRAPHS = {
    "unrolled": ("unrolled", "generic"),
    "step-finn": ("step", "finn"),
    "step-hls4ml": ("step", "hls4ml"),
}
LAYERS = ("conv1", "stages.0.0.conv2", "stages.1.0.shortcut", "hidden.0", "head.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs")
    frozen = freeze(make("resnet"))
    for name, (form, target) in GRAPHS.items():
        built = build(frozen, digits(1), form=form, target=target)  # type: ignore[arg-type]
        (path / f"{name}.onnx").write_bytes(built.model.SerializeToString())
    whole = lower(make("mnistnet_bn", num_steps=3))
    for form in ("unrolled", "step"):
        built = build(whole, digits(1), form=form, target="generic", parts=fixed.PARTS)
        (path / f"fixed-{form}.onnx").write_bytes(built.model.SerializeToString())
    return path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    return result.exit_code, result.output


def texts(path: Path) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_layer_and_its_neurons_are_drawn_once(
    folder: Path, name: str, tmp_path: Path
) -> None:
    picture = tmp_path / "net.svg"
    code, output = call(folder / f"{name}.onnx", "--draw", picture)
    assert code == 0, output
    assert f"drawn    {picture}" in output
    found, separator = texts(picture), "_" if "hls4ml" in name else "/"
    stages = [f"lif1{separator}spike", f"lif1{separator}state", f"hidden.1{separator}current"]
    for layer in (*LAYERS, *stages):
        assert found.count(layer if separator == "/" else layer.replace(".", "_")) == 1
    order = {"step-finn": "8x8x4", "unrolled": "4x8x8"}.get(name, "8x8x4")
    assert f"BINARY {order}" in found
    assert f"INT10 {order}" in found
    assert any(text.startswith("INT4 4x") for text in found)
    assert not any("…" in text for text in found)
    title = "step t0 of 2; later steps are the same" if "unrolled" in name else "one of 2 steps"
    assert any(text.startswith(title) for text in found)


def test_a_png_is_written_with_json_beside(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "net.PNG"
    code, output = call(folder / "unrolled.onnx", "--json", "--draw", picture)
    assert code == 0, output
    assert output.startswith("{")
    assert "drawn" not in output
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_the_fixed_point_network_is_read_and_drawn(folder: Path, form: str, tmp_path: Path) -> None:
    found = read(folder / f"fixed-{form}.onnx")
    stages = ["features.1", "features.3", "features.5", "features.7", "hidden.2"]
    assert [neurons.name for neurons in found.neurons] == stages
    assert all(n.spiking and n.current and n.state for n in found.neurons)
    code, output = call(found.path, "--draw", tmp_path / "net.svg")
    assert code == 0, output
    drawn = texts(tmp_path / "net.svg")
    for stage in stages:
        assert drawn.count(f"{stage}/spike") == drawn.count(f"{stage}/state") == 1
    assert not any("age" in text or "older" in text for text in drawn if text != "image")


@pytest.mark.parametrize("as_trained", [False, True])
def test_what_scales_and_raises_potentials_is_part_of_their_neurons(
    as_trained: bool, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    model = make("averaged", act_bits=4, membrane_bits=6)
    to_qonnx(model, digits(1), path, form="step", as_trained=as_trained)
    assert call(path, "--draw", tmp_path / "net.svg")[0] == 0
    drawn = texts(tmp_path / "net.svg")
    assert as_trained or "other" not in drawn  # there the image is quantized in the graph
    assert not any(word in text for text in drawn for word in ("lifted", "nudged", "biased"))


def test_a_graph_of_another_program_has_a_box_for_every_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="left"),
        helper.make_node("Relu", ["a"], ["c"], name="ri$g$ht"),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    save(helper.make_model(graph), str(tmp_path / "other.onnx"))
    code, output = call(tmp_path / "other.onnx", "--draw", tmp_path / "net.svg")
    assert code == 0, output
    drawn = texts(tmp_path / "net.svg")
    assert {"x", "first", "left", "ri$g$ht", "Relu", "Add", "FLOAT32 4"} <= set(drawn)


def test_no_line_crosses_a_box(folder: Path) -> None:
    column = _Column(_Boxes(read(folder / "unrolled.onnx")).boxes, 0.0)
    boxes = [(key, column.x[key], column.y[column.level[key]]) for key in column.boxes]
    boxes += [(k, x + WIDTH, y) for k, x, y in boxes if column.boxes[k].companion is not None]
    for key, targets in column.targets.items():
        for target in targets:
            way = column._way(key, target, 0.0)
            for (x0, y0), (x1, y1) in pairwise(way):
                for other, x, y in boxes:
                    apart = max(x0, x1) <= x - WIDTH / 2 or min(x0, x1) >= x + WIDTH / 2
                    apart |= max(y0, y1) <= y + 1e-9 or min(y0, y1) >= y + HEIGHT - 1e-9
                    assert apart, (key, target, other)


def test_paths_that_cannot_be_drawn_to_are_refused(folder: Path, tmp_path: Path) -> None:
    graph = folder / "unrolled.onnx"
    code, output = call(graph, "--draw", tmp_path / "net.pdf")
    assert (code, "a drawing is a .png or .svg file, not 'net.pdf'" in output) == (2, True)
    code, output = call(graph, "--draw", tmp_path / "nowhere" / "net.svg")
    assert (code, "there is no folder" in output) == (1, True)
    there = tmp_path / "net.svg"
    there.write_text("kept")
    code, output = call(graph, "--draw", there)
    assert (code, "exists already; replace it with --force" in output) == (2, True)
    assert there.read_text() == "kept"
    assert call(graph, "--draw", there, "--force")[0] == 0
    assert "conv1" in texts(there)


@pytest.mark.parametrize(("count", "circle", "message"), [
    (401, False, "more than 400 are not legible"), (3, True, "go in a circle"),
])  # fmt: skip
def test_graphs_without_a_legible_drawing_are_named(
    count: int, circle: bool, message: str, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    if circle:
        nodes[0].input[0] = f"x{count}"
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x0", f"x{count}")
    ]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    save(helper.make_model(graph), str(tmp_path / "long.onnx"))
    code, output = call(tmp_path / "long.onnx", "--draw", tmp_path / "net.svg")
    assert code == 1
    assert message in output
    assert not (tmp_path / "net.svg").exists()


@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_quantized_membranes_for_finn_are_drawn(form: str, tmp_path: Path) -> None:
    net = freeze(make("mnistnet", membrane_bits=6))
    built = build(net, digits(1), form=form, target="finn")  # type: ignore[arg-type]
    (tmp_path / "net.onnx").write_bytes(built.model.SerializeToString())
    code, output = call(tmp_path / "net.onnx", "--draw", tmp_path / "net.svg")
    assert code == 0, output
