"""`recheck` compares all that a network computes, and runs nothing that `export` does not write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.digest import BESIDE
from snntorch_stbp.export.recheck import recheck
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

NET = lower(make("mnistnet"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "net.onnx"
    to_qonnx(NET, digits(2), path, metadata={"arithmetic": "fixed-point exact"})
    return path


def refused(path: Path, model: ModelProto) -> str:
    """What is said of a changed graph."""
    onnx.save(model, str(path))
    with pytest.raises(StbpError) as caught:
        recheck(path, NET, digits(2), vectors=1)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("form", "target", "readout"), [
    ("step", "finn", "population"), ("unrolled", "hls4ml", "rate"),
])  # fmt: skip
def test_every_form_is_compared_again(tmp_path: Path, form: Any, target: str, readout: str) -> None:
    net = freeze(make("mnistnet_bn", readout=readout, num_steps=3))
    path, said = tmp_path / "net.onnx", {"arithmetic": "deployment 10"}
    to_qonnx(net, digits(3), path, form=form, target=target, batch=2, metadata=said)
    first, second = recheck(path, net, digits(3), vectors=2)
    assert (first.samples, second.samples, second.rounded) == (2, 3, 0)


@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_frames_and_graphs_as_trained_are_compared_again(tmp_path: Path, form: Any) -> None:
    frames = torch.stack([digits(2, 12).roll(t, -1) for t in range(3)])
    events = make("nmnistnet_bn", size=12, num_steps=3)
    levels = make("mnistnet", act_bits=6, membrane_bits=6)
    for name, model, samples in (("events", events, frames), ("levels", levels, digits(2))):
        path, said = tmp_path / f"{name}.onnx", {"arithmetic": "as trained"}
        to_qonnx(model, samples, path, form=form, as_trained=True, metadata=said)
        assert recheck(path, model, samples, vectors=1)[1].samples == 2
        if name == "levels":
            changed = onnx.load(str(path))
            _named(lambda names: names["levels"].popitem())(changed)
            onnx.save(changed, str(path))
            with pytest.raises(StbpError, match=r"it has no layer '.*/membrane', which"):
                recheck(path, model, samples, vectors=1)


def test_golden_vectors_of_another_export_are_refused(graph: Path, tmp_path: Path) -> None:
    path, vectors = tmp_path / "net.onnx", tmp_path / "net.samples.npz"
    path.write_bytes(graph.read_bytes())
    recheck(path, NET, digits(2), vectors=1)  # without any
    vectors.write_bytes(graph.with_suffix(".samples.npz").read_bytes())
    recheck(path, NET, digits(2), vectors=1)
    to_qonnx(NET, digits(1), tmp_path / "other.onnx")
    (tmp_path / "other.samples.npz").replace(vectors)
    with pytest.raises(StbpError, match=r"net\.samples\.npz' is not of the export that wrote '"):
        recheck(path, NET, digits(2), vectors=1)
    older = onnx.load(str(path))
    older.metadata_props.remove(
        next(p for p in older.metadata_props if p.key == BESIDE[".samples.npz"])
    )
    onnx.save(older, str(path))
    recheck(path, NET, digits(2), vectors=1)


@pytest.mark.parametrize(
    ("end", "options"), [(".step.json", {"form": "step"}), (".hls4ml.json", {"target": "hls4ml"})]
)
def test_files_beside_a_graph_are_its_own(tmp_path: Path, end: str, options: Any) -> None:
    path, beside = tmp_path / "net.onnx", tmp_path / f"net{end}"
    to_qonnx(NET, digits(1), path, **options)
    recheck(path, NET, digits(1), vectors=1)
    beside.write_text(beside.read_text().replace("1", "2", 1))
    with pytest.raises(StbpError, match=rf"net{end}' is not of the export that wrote '"):
        recheck(path, NET, digits(1), vectors=1)


def test_a_change_that_no_sample_shows_is_found(graph: Path, tmp_path: Path) -> None:
    """A threshold between two integers, on which no spike depends, and the name of a node."""
    path, changed = tmp_path / "net.onnx", "was changed since its export: all spikes of these sam"
    model = onnx.load(str(graph))
    for name in ("features.1/spike/t0_levels", "hidden.2/spike/t1_levels"):
        tensor = next(t for t in model.graph.initializer if t.name.endswith(name))
        before, values = tensor.SerializeToString(), numpy_helper.to_array(tensor).copy()
        values.flat[0] += 5e-4
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        assert changed in refused(path, model)
        tensor.ParseFromString(before)
    model.graph.value_info[0].doc_string = "words"
    onnx.save(model, str(path))
    recheck(path, NET, digits(2), vectors=1)
    model.graph.node[0].name += "x"
    assert changed in refused(path, model)


def _named(change: Callable[[dict[str, Any]], Any]) -> Callable[[ModelProto], None]:
    def apply(model: ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == "names")
        names = json.loads(entry.value)
        change(names)
        entry.value = json.dumps(names)

    return apply


@pytest.mark.parametrize(("change", "message"), [
    (lambda n: n.update(spikes={}), "it has no layer 'features.1', which the run has"),
    (lambda n: n["spikes"].pop("hidden.2"), "it has no layer 'hidden.2', which the run has"),
    (lambda n: n["spikes"].update(x=["y", "z"]), "it has a layer 'x', which the run has not"),
    (lambda n: n["spikes"].update({"hidden.2": ["y"]}), "name 1 tensors of the spikes of 'hidden"),
    (lambda n: n["spikes"].update({"hidden.2": []}), "'hidden.2' names 0 tensors, not one for ea"),
    (lambda n: n["spikes"].update({"hidden.2": 5}), "'hidden.2' names no list of tensors"),
    (lambda n: n.update(levels={"a": ["b"]}), "it has a layer 'a', which the run has not"),
    (lambda n: n.update(steps=0), "steps is 0, not 1 to 65536"),
    (lambda n: n.update(steps=True), "steps is True, not 1 to 65536"),
    (lambda n: n.update(steps=1, spikes={k: v[:1] for k, v in n["spikes"].items()}),
     "it has 1 time steps, that of the run 2"),
    (lambda n: n.update(batch=-1), "batch is -1, not 1 to 65536"),
    (lambda n: n.update(batch=10**12), "batch is 1000000000000, not 1 to 65536"),
    (lambda n: n.update(frames=True), "takes an image for each step, that of the run one image"),
    (lambda n: n.update(form="x\ny"), "form is 'x\\ny', not unrolled or step"),
    (lambda n: n.update(separator="("), "separator is '(', not / or _"),
    (lambda n: n.update(states={"a": [1, [1]]}), "the state 'a' has no output, or no shape"),
])  # fmt: skip
def test_names_that_leave_anything_out_are_refused(
    graph: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    model = onnx.load(str(graph))
    _named(change)(model)
    assert message in refused(tmp_path / "net.onnx", model)


def _module(model: ModelProto) -> None:
    model.graph.node[0].domain = "evilmod"
    model.opset_import.append(helper.make_opsetid("evilmod", 1))


def _partition(model: ModelProto) -> None:
    node = model.graph.node[0]
    node.op_type, node.domain = "GenericPartition", "qonnx.custom_op.general"
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("model", "/etc/hostname"))


def _nested(model: ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "inner", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", inner))


def _elsewhere(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "numbers.bin"


def _function(model: ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    opset = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], opset))


def _sparse(model: ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    index = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [3]))


@pytest.mark.parametrize(("change", "message"), [
    (_module, "'Conv' of 'evilmod', none of the operators that `verify` runs."),
    (_partition, "'GenericPartition' of 'qonnx.custom_op.general', none of the operators that"),
    (_nested, "'body' of the node 'features.0/t0' is neither numbers nor words."),
    (_elsewhere, "the numbers of 'features.0/weight' are in another file."),
    (_function, "it holds functions or sparse tensors."),
    (_sparse, "it holds functions or sparse tensors."),
])  # fmt: skip
def test_what_a_graph_names_is_neither_imported_nor_opened(
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ModelProto], None],
    message: str,
) -> None:
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = onnx.load(str(graph))
    change(model)
    path = tmp_path / "net.onnx"
    assert f"'{path}' is not as `export` wrote it: " in (said := refused(path, model))
    assert message in said
    assert not (tmp_path / "ran").exists()
    assert "evilmod" not in sys.modules
