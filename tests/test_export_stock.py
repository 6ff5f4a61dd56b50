"""Graphs in stock operators: the same numbers as QONNX's executor, in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import api, golden, to_qonnx
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.qonnx.targets import TARGETS
from snntorch_stbp.export.qonnx.writer import CHANNELS_LAST, QONNX
from snntorch_stbp.export.stock import to_stock
from snntorch_stbp.export.verify import onnxruntime_executor, verify, verify_chunks
from snntorch_stbp.frozen import freeze

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


def one_node(
    operator: str,
    shape: tuple[int, ...],
    parameters: list[Any],
    domain: str = QONNX,
    **options: Any,
) -> ModelProto:
    """A model of one node from `x` to `y`."""
    arrays = {f"p{i}": np.asarray(p, np.float32) for i, p in enumerate(parameters)}
    node = helper.make_node(operator, ["x", *arrays], ["y"], name="node", domain=domain, **options)
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid(d, v) for d, v in (("", 13), (QONNX, 2), (CHANNELS_LAST, 13))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def both(model: ModelProto, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output in QONNX's executor, and in onnxruntime after rewriting."""
    expected = execute_onnx(ModelWrapper(model), {"x": x})["y"]
    stock = to_stock(model)
    assert {node.domain for node in stock.graph.node} == {""}
    session = onnxruntime.InferenceSession(stock.SerializeToString())
    return expected, session.run(None, {"x": x})[0]


@pytest.mark.parametrize("rounding", ["ROUND", "FLOOR", "CEIL"])
@pytest.mark.parametrize(("bits", "signed", "narrow"), [(1, 0, 0), (4, 1, 0), (4, 1, 1), (8, 0, 1)])
def test_quant(rounding: str, bits: int, signed: int, narrow: int) -> None:
    x = (np.arange(-400, 400, dtype=np.float32) / 8).reshape(2, 400)  # halves: ties
    scale = np.asarray([0.25, 1, 2, 0.3], np.float32).repeat(100)
    options = {"signed": signed, "narrow": narrow, "rounding_mode": rounding}
    model = one_node("Quant", x.shape, [scale, 0.0, float(bits)], **options)
    expected, got = both(model, x)
    assert np.array_equal(got, expected)


def test_bipolar_quant() -> None:
    x = np.asarray([[-2, -0.5, 0, 0.5, 3]], np.float32)
    expected, got = both(one_node("BipolarQuant", x.shape, [[0.5, 1, 2, 3, 4]]), x)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    "levels",
    [
        np.asarray([[3.0]]),
        np.asarray([[1.0], [2], [3]]),
        np.arange(-4, 3)[None] + 0.5,
        np.arange(-8, 7)[None] * 4 - 0.5 + np.asarray([[0.0], [1], [2]]),
        np.asarray([[-1.0, 0, 3], [0, 0, 1], [-5, 2, 2]]),
        np.arange(4)[None] * 3,
    ],
    ids=["one", "one per channel", "even", "even per channel", "uneven", "spaces of three"],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NC", ""])
def test_multithreshold(levels: np.ndarray, layout: str) -> None:
    shape = {"NCHW": (2, 3, 4, 5), "NHWC": (2, 4, 5, 3), "NC": (40, 3), "": (2, 3, 4, 5)}[layout]
    x = (np.random.default_rng(0).integers(-80, 80, shape) / 2).astype(np.float32)
    options = {"out_dtype": "INT8", "out_scale": 2.0, "out_bias": -3.0, "data_layout": layout}
    expected, got = both(one_node("MultiThreshold", shape, [levels], **options), x)
    assert np.array_equal(got, expected)


def test_even_thresholds_far_from_a_small_number_on_a_fine_grid() -> None:
    """`x - threshold` needs 33 bits here."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = np.asarray([[below, 0.5, -0.5, np.nextafter(np.float32(-0.5), np.float32(-1))]], np.float32)
    levels = np.arange(-512, 511)[None] + 0.5
    expected, got = both(
        one_node("MultiThreshold", x.shape, [levels], out_dtype="INT10", data_layout="NC"), x
    )
    assert expected.tolist() == [[512, 513, 512, 511]]
    assert np.array_equal(got, expected)


WEIGHT = np.random.default_rng(1).integers(-7, 8, (4, 2, 3, 3)).astype(np.float32)
"""Four channels of 2 x 3 x (3 channels)."""


@pytest.mark.parametrize(
    ("operator", "parameters", "options", "reference"),
    [
        (
            "Conv", [WEIGHT], {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]},
            lambda x: F.conv2d(x, torch.tensor(WEIGHT).movedim(3, 1), None, (2, 1), (0, 1)),
        ),
        (
            "BatchNormalization", [[1, 2, 3], [4, 5, 6], [0] * 3, [1] * 3], {"epsilon": 0.0},
            lambda x: x * torch.tensor([1, 2, 3]).view(-1, 1, 1)
            + torch.tensor([4, 5, 6]).view(-1, 1, 1),
        ),
        (
            "MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]},
            lambda x: F.max_pool2d(x, 2),
        ),
    ],
)  # fmt: skip
def test_channels_last(
    operator: str,
    parameters: list[Any],
    options: dict[str, Any],
    reference: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Against torch, channels in front."""
    x = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3)).astype(np.float32)
    stock = to_stock(one_node(operator, x.shape, parameters, CHANNELS_LAST, **options))
    got = onnxruntime.InferenceSession(stock.SerializeToString()).run(None, {"x": x})[0]
    expected = reference(torch.tensor(x).movedim(3, 1)).movedim(1, 3)
    assert np.array_equal(got, expected.numpy())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            one_node("Trunc", (1, 2), [1.0, 0, 8, 4]),
            r"'Trunc' of .* \(node 'node'\) has no counter",
        ),
        (
            one_node("Quant", (1, 2), [1.0, 0, 4], signed=1, narrow=0, rounding_mode="HALF_UP"),
            "the rounding mode 'HALF_UP' of 'node' has no stock operator",
        ),
    ],
)
def test_what_has_no_stock_operator_is_named(model: ModelProto, message: str) -> None:
    with pytest.raises(StbpError, match=message):
        to_stock(model)


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnistnet", {"bits": 1, "membrane_bits": 4, "act_bits": 8, "num_steps": 3}),
        ("resnet", {"bits": "ternary"}),
    ],
)
def test_graphs_at_another_batch_size(
    tmp_path: Path, name: str, options: dict[str, Any], target: str, form: Any
) -> None:
    net = freeze(make(name, **options))
    built = build(net, digits(1), form=form, target=target)
    (tmp_path / "net.onnx").write_bytes(built.model.SerializeToString())
    names = built.names.with_batch(8)
    execute = onnxruntime_executor(tmp_path / "net.onnx", names)
    chunks = golden.chunks(partial(golden.compute, net), digits(20), 8)
    agreement = verify_chunks(execute, chunks, names, count=20, compare=verify)
    assert (agreement.samples, agreement.scores) == (20, 200)


def test_event_frames_at_another_batch_size(tmp_path: Path) -> None:
    net = freeze(make("nmnistnet_bn", size=12, num_steps=3))
    frames = torch.stack([digits(5, 12).roll(t, -1) for t in range(3)])
    result = to_qonnx(net, frames, tmp_path / "net.onnx", vectors=2)
    assert result.agreement.samples == 2
    assert result.onnxruntime.samples == 5
    assert len(golden.load(tmp_path / "net.samples.npz")["input"]) == 2


def test_a_difference_beyond_the_golden_vectors_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QONNX's executor sees one sample; a weight that matters to others only is found, too."""
    net = freeze(make("mnistnet"))
    images = torch.cat([torch.zeros(1, 1, 8, 8), digits(59)])

    def harmed(*args: Any, **options: Any) -> Any:
        built = build(*args, **options)
        for tensor in built.model.graph.initializer:
            if tensor.name == "features.0/weight":  # counts nothing where all pixels are 0
                tensor.CopyFrom(
                    numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name)
                )
        return built

    monkeypatch.setattr(api, "build", harmed)
    with pytest.raises(StbpError, match=r"first difference in layer .* sample ([1-9]|[1-5]\d),"):
        to_qonnx(net, images, tmp_path / "net.onnx", vectors=1)
    assert not list(tmp_path.iterdir())


def test_messages_count_samples_over_chunks(tmp_path: Path) -> None:
    net = freeze(make("mnistnet"))
    built = build(net, digits(1), form="unrolled", target="generic")
    (tmp_path / "net.onnx").write_bytes(built.model.SerializeToString())
    execute = onnxruntime_executor(tmp_path / "net.onnx", built.names)
    wrong = golden.compute(net, digits(1))
    wrong["record"] = wrong["record"] + 1
    with pytest.raises(StbpError, match="readout of sample 50 differs by 1"):
        verify(execute, wrong, built.names, first=50)
