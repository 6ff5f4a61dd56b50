"""What FINN's front end needs of a graph of target `finn`, checked with qonnx alone.

`benchmarks/finn_front_end.py` takes the same graphs through FINN itself, which is not on PyPI.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.infer_data_layouts import InferDataLayouts
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from snntorch_stbp.export import golden
from snntorch_stbp.export.qonnx.frozen import Built, build
from snntorch_stbp.export.verify import verify
from snntorch_stbp.frozen import FrozenNet, freeze

from .nets import digits, make
from .test_export_hls4ml import dense

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")

DENSE = {"dense": (), "dense, all resets": ("zero", "subtract", "delayed")}
NETS: dict[str, dict[str, Any]] = {
    "mnistnet": {"bits": 4},
    "pooled": {"bits": 4},
    "averaged": {"bits": 4},
    "padded": {"bits": 4},
    "mnistnet_bn": {"bits": 1, "membrane_bits": 4, "act_bits": 8, "readout": "rate"},
    "resnet": {"bits": "ternary"},
}


@pytest.fixture(
    scope="module", params=[(n, f) for n in (*DENSE, *NETS) for f in ("step", "unrolled")], ids=str
)
def both(request: pytest.FixtureRequest) -> tuple[FrozenNet, Built]:
    name, form = request.param
    net = freeze(dense(*DENSE[name]) if name in DENSE else make(name, **NETS[name]))
    return net, build(net, digits(1), form=form, target="finn")


@pytest.fixture
def built(both: tuple[FrozenNet, Built]) -> Built:
    return both[1]


def inferred(built: Built) -> ModelWrapper:
    model = ModelWrapper(built.model)
    for transformation in (InferShapes(), InferDataTypes(), InferDataLayouts()):
        model = model.transform(transformation)
    return model


def nodes(built: Built, *operators: str) -> list[NodeProto]:
    return [node for node in built.model.graph.node if node.op_type in operators]


def test_the_default_domain_comes_first(built: Built) -> None:
    domains = [o.domain for o in built.model.opset_import]
    assert domains == ["", "qonnx.custom_op.general"]


def test_every_use_of_weights_has_its_own_quantizer(built: Built) -> None:
    """FINN folds a quantizer into its weights, and refuses to if there are two readers."""
    model = ModelWrapper(built.model)
    weights = {node.output[0] for node in nodes(built, "Quant", "BipolarQuant")}
    layers = nodes(built, "Conv", "MatMul")
    assert layers
    for node in layers:
        if node.input[1] in weights:
            assert len(model.find_consumers(node.input[1])) == 1
        else:
            assert model.get_tensor_datatype(node.input[1]) == DataType["BINARY"]  # pooling


def test_all_other_quantizers_are_thresholds_but_for_a_readout_of_currents(built: Built) -> None:
    """More than 8 bits as thresholds are possible, 16 bits would be 65535 per channel."""
    model = ModelWrapper(built.model)
    left = [n for n in nodes(built, "Quant") if model.get_initializer(n.input[0]) is None]
    for node in left:
        (rescale,) = model.find_consumers(node.output[0])
        assert rescale.op_type == "Mul"
        # The bias is added to integers: FINN drops what is below 1e-5.
        add = model.find_producer(node.input[0])
        assert (np.abs(model.get_initializer(add.input[1])) >= 1).all()
    assert len({node.name.rsplit("/", 1)[0] for node in left}) <= 1  # one stage at most


def test_thresholds_say_layout_and_type_and_do_not_scale(built: Built) -> None:
    for node in nodes(built, "MultiThreshold"):
        op = getCustomOp(node)
        shape = built.writer.shapes[node.input[0]]
        assert op.get_nodeattr("data_layout") == ("NHWC" if len(shape) == 4 else "NC")
        assert op.get_nodeattr("out_scale") == 1
        datatype = DataType[op.get_nodeattr("out_dtype")]
        assert datatype.is_integer()
        levels = built.writer.constants[node.input[1]]
        assert levels.shape[0] in (1, shape[-1])
        assert (np.diff(levels) > 0).all()
        low, high = op.get_nodeattr("out_bias"), op.get_nodeattr("out_bias") + levels.shape[1]
        assert (low, high) == (datatype.min(), datatype.max())


def test_thresholds_absorb_no_addition_but_of_constants(built: Built) -> None:
    """FINN insists on absorbing an addition that has one producer and one reader."""
    model = ModelWrapper(built.model)
    for node in nodes(built, "Add"):
        readers = model.find_direct_successors(node) or []
        producers = model.find_direct_predecessors(node) or []
        if len(producers) == 1 and [r.op_type for r in readers] == ["MultiThreshold"]:
            assert model.get_initializer(node.input[1]) is not None, node.name


def test_every_image_has_a_layout(built: Built) -> None:
    model = inferred(built)
    inner = {n.output[0] for n in nodes(built, "Transpose") if n.name.endswith("_nchw")}
    inner |= {n.output[0] for n in nodes(built, "Conv", "MaxPool")}
    for name in model.get_all_tensor_names():
        shape = model.get_tensor_shape(name)
        if len(shape) == 4 and model.get_initializer(name) is None and "/weight/" not in name:
            expected = ["N", "C", "H", "W"] if name in inner else ["N", "H", "W", "C"]
            assert model.get_tensor_layout(name) == expected, name


def test_constants_per_channel_have_one_axis(built: Built) -> None:
    """FINN takes a constant of four axes for one with channels first."""
    for node in nodes(built, "Add", "Sub", "Mul"):
        for name in node.input:
            if name in built.writer.constants:
                assert built.writer.constants[name].ndim <= 1


def test_tensors_are_integers_but_for_rescalings(built: Built) -> None:
    model = inferred(built)
    floats = {"rescale", "decay", "offset"}
    readouts = {"current", "sum"} if built.names.spikes.get("head.0") is None else set()
    for node in built.model.graph.node:
        what = node.name.split("/")[-2] if "/" in node.name else node.name
        datatype = model.get_tensor_datatype(node.output[0])
        if what in floats | readouts and node.op_type != "MultiThreshold":
            continue
        assert datatype.is_integer(), (node.name, datatype)
    for spikes in built.names.spikes.values():
        assert {str(model.get_tensor_datatype(s)) for s in spikes} == {"BINARY"}


def test_inference_keeps_what_is_computed(both: tuple[FrozenNet, Built]) -> None:
    """The executor rounds what is annotated as an integer."""
    net, built = both
    model, vectors = inferred(built), golden.compute(net, digits(2))

    def execute(feeds: Any) -> Any:
        return execute_onnx(model, feeds, return_full_exec_context=True)

    agreement = verify(execute, vectors, built.names)
    assert agreement.samples == 2
