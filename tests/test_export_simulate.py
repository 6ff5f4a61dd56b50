"""Spikes as outputs of exported graphs, and the loop over time steps of hls4ml's simulation."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import golden
from snntorch_stbp.export.hls4ml import convert, simulate
from snntorch_stbp.export.names import Names, with_spikes
from snntorch_stbp.export.qonnx.frozen import Form, build
from snntorch_stbp.frozen import freeze

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
NET = freeze(make("mnistnet", readout="rate"))


class Compiled:
    """Looks like hls4ml's model: takes and gives lists, in an order and with names of its own."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = ModelWrapper(model)
        self.inputs = [i.name for i in reversed(model.graph.input)]
        outputs = list(reversed(model.graph.output))
        self.names = [o.name for o in outputs]
        self.outputs = [f"{name}_cpy{i}" if i % 2 else name for i, name in enumerate(self.names)]
        self.shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim][1:] for o in outputs]

    def get_output_variables(self) -> list[Any]:
        return [SimpleNamespace(shape=shape) for shape in self.shapes]

    def predict(self, x: Any) -> Any:
        columns = x if isinstance(x, list) else [x]
        rows = [
            execute_onnx(self.model, {n: v[None] for n, v in zip(self.inputs, row, strict=True)})
            for row in zip(*columns, strict=True)
        ]
        values = [np.concatenate([row[name].reshape(1, -1) for row in rows]) for name in self.names]
        return values if len(values) > 1 else values[0]


@pytest.mark.parametrize("spikes", [True, False])
@pytest.mark.parametrize("form", ["step", "unrolled"])
def test_the_simulation_goes_through_all_steps(form: Form, spikes: bool) -> None:
    images = digits(2)
    model = build(NET, images[:1], form=form, target="finn").model
    vectors = golden.compute(NET, images)
    compiled = Compiled(with_spikes(model) if spikes else model)
    record, given = simulate(compiled, model, vectors["input"])
    assert np.array_equal(record, vectors["record"])
    if spikes:
        assert {f"spikes/{stage}" for stage in given} == {k for k in vectors if "spikes/" in k}
    for stage, values in given.items():
        assert values.dtype == np.uint8
        assert np.array_equal(values, vectors[f"spikes/{stage}"])


@pytest.mark.parametrize("form", ["step", "unrolled"])
def test_the_simulation_feeds_a_frame_per_step(form: Form) -> None:
    net = freeze(make("nmnistnet_bn", size=12, num_steps=3))
    frames = torch.stack([digits(2, 12).roll(t, -1) for t in range(3)])
    model = build(net, frames[:, :1], form=form, target="finn").model
    vectors = golden.compute(net, frames)
    record, _ = simulate(Compiled(model), model, vectors["input"])
    assert np.array_equal(record, vectors["record"])


@pytest.mark.parametrize("form", ["step", "unrolled"])
def test_spikes_become_outputs_of_a_copy(form: Form) -> None:
    model = build(NET, digits(1), form=form, target="generic").model
    before = [o.name for o in model.graph.output]
    copy = with_spikes(model)
    after = [o.name for o in copy.graph.output]
    spikes = {name for tensors in Names.of(model).spikes.values() for name in tensors}
    assert [o.name for o in model.graph.output] == before == after[: len(before)]
    assert set(after) == {*before, *spikes}
    assert len(after) == len(set(after))  # the readout may be spikes itself
    assert not {i.name for i in copy.graph.value_info} & set(after)


def test_channels_go_to_the_graph_and_back() -> None:
    names = Names.of(build(NET, digits(1), form="step", target="hls4ml").model)
    assert names.channels_last
    for shape, axis in (((2, 3, 4, 5), 1), ((2, 7, 3, 4, 5), 2), ((2, 9), 1)):
        value = np.arange(np.prod(shape)).reshape(shape)
        assert np.array_equal(names.from_graph(names.to_graph(value, axis), axis), value)


def test_files_of_others_are_refused() -> None:
    with pytest.raises(StbpError, match=r"no metadata 'names'; name one that `export` wrote\."):
        with_spikes(onnx.ModelProto())


def test_a_missing_hls4ml_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    with pytest.raises(StbpError, match=r"pip install 'snntorch-stbp\[hls4ml\]'"):
        convert(onnx.ModelProto(), {}, "project")
