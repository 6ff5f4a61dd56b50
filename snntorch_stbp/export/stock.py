"""QONNX in stock ONNX operators, so that any ONNX runtime can run a graph, and at any batch size.

    Quant           Div, Add, Clip, Round, Sub, Mul, in the order of QONNX's own implementation
    BipolarQuant    GreaterOrEqual, Where, Mul
    MultiThreshold  GreaterOrEqual (one threshold); Sub, Div, Floor, Add, Clip in float64 (evenly
                    spaced ones); comparisons with all of them, added up (others)
    Conv, MaxPool,  the stock node between two Transpose, for those of the domain
    BatchNorm.      qonnx.custom_op.channels_last

What the QONNX executor computes exactly in float32 is computed exactly here. Spaces between
thresholds are powers of two, so that their division is exact; differences from the first threshold
are taken in float64, since in float32 they can need more than 24 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..errors import StbpError
from .array import Array
from .qonnx.writer import CHANNELS_LAST, QONNX

ROUNDINGS = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}


def to_stock(model: ModelProto, batch: int | None = None) -> ModelProto:
    """`model` without operators of QONNX; the same function, exactly.

    Args:
        model: A QONNX model with static shapes, its batch in front, as `build` writes it.
        batch: Another batch size; none of our nodes holds it, so that only inputs and outputs
            change.

    Raises:
        StbpError: If the model holds an operator of QONNX that has no counterpart here.
    """
    stock = ModelProto()
    stock.CopyFrom(model)
    graph = stock.graph
    rewriter = _Rewriter(stock)
    del graph.node[:]
    graph.node.extend(rewriter.nodes)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in rewriter.added.items())
    del graph.value_info[:]
    if batch is not None:
        for tensor in (*graph.input, *graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_value = batch
    default = [opset for opset in stock.opset_import if opset.domain in ("", "ai.onnx")]
    del stock.opset_import[:]
    stock.opset_import.extend(default)
    return stock


def give(model: ModelProto, tensors: Collection[str]) -> None:
    """Let every node that takes one of `tensors` take the input `given/NAME` instead.

    The tensors are still computed, each from what is given of those before it.
    """
    taken = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in tensors:
                taken.add(name)
                node.input[index] = f"given/{name}"
    for name in sorted(taken):
        info = helper.make_tensor_value_info(f"given/{name}", TensorProto.FLOAT, None)
        model.graph.input.append(info)


class _Rewriter:
    """Collects the stock nodes of a model, and the constants they need."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.ranks = {
            tensor.name: len(tensor.type.tensor_type.shape.dim)
            for tensor in (*graph.input, *graph.output, *graph.value_info)
        }
        self.nodes: list[NodeProto] = []
        self.added: dict[str, Array] = {}
        rewrites: dict[tuple[str, str], Callable[[NodeProto, dict[str, Any]], None]] = {
            (QONNX, "Quant"): self._quant,
            (QONNX, "BipolarQuant"): self._bipolar,
            (QONNX, "MultiThreshold"): self._thresholds,
            (CHANNELS_LAST, "Conv"): self._channels_last,
            (CHANNELS_LAST, "BatchNormalization"): self._channels_last,
            (CHANNELS_LAST, "MaxPool"): self._channels_last,
        }
        for node in graph.node:
            if node.domain in ("", "ai.onnx"):
                self.nodes.append(node)
            elif (node.domain, node.op_type) in rewrites:
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                rewrites[node.domain, node.op_type](node, attributes)
            else:
                raise StbpError(
                    f"'{node.op_type}' of {node.domain} (node '{node.name}') has no counterpart in "
                    f"stock ONNX here; known are {', '.join(sorted({op for _, op in rewrites}))}."
                )

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(operator, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        self.added[name] = np.asarray(value, dtype)
        return name

    def _quant(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        x, scale, zero, width = node.input
        bits = int(self.constants[width].item())
        signed, narrow = bool(attributes["signed"]), bool(attributes["narrow"])
        rounding = attributes["rounding_mode"].decode().upper()
        if rounding not in ROUNDINGS:
            raise StbpError(
                f"the rounding mode '{rounding}' of '{node.name}' has no stock operator; use one "
                f"of {', '.join(ROUNDINGS)}."
            )
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        y = node.output[0]
        limits = [self._constant(f"{y}#low", low), self._constant(f"{y}#high", high)]
        level = self._node("Div", [x, scale], f"{y}#level")
        level = self._node("Add", [level, zero], f"{y}#offset")
        level = self._node("Clip", [level, *limits], f"{y}#clipped")
        level = self._node(ROUNDINGS[rounding], [level], f"{y}#rounded")
        level = self._node("Sub", [level, zero], f"{y}#centred")
        self._node("Mul", [level, scale], y)

    def _bipolar(self, node: NodeProto, _: dict[str, Any]) -> None:
        y = node.output[0]
        signs = [self._constant(f"{y}#plus", 1), self._constant(f"{y}#minus", -1)]
        zero = self._constant(f"{y}#zero", 0)
        positive = self._node("GreaterOrEqual", [node.input[0], zero], f"{y}#positive")
        sign = self._node("Where", [positive, *signs], f"{y}#sign")
        self._node("Mul", [sign, node.input[1]], y)

    def _thresholds(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """The number of thresholds `[C or 1, N]` that `x` reaches, scaled and shifted."""
        (x, name), y = node.input, node.output[0]
        levels = self.constants[name].astype(np.float64)
        layout, rank = attributes.get("data_layout", b"").decode(), self.ranks[x]
        axis = layout.index("C") if "C" in layout else 1
        spread = (-1, *[1] * (rank - 1 - axis))
        spaces = np.unique(np.diff(levels, axis=1))
        if levels.shape[1] == 1:
            self._constant(f"{y}#levels", levels.reshape(spread))
            reached = self._node("GreaterOrEqual", [x, f"{y}#levels"], f"{y}#reached")
            count = self._node("Cast", [reached], f"{y}#count", to=TensorProto.FLOAT)
        elif len(spaces) == 1 and np.frexp(spaces[0])[0] == 0.5:
            count = self._even(x, y, levels[:, 0].reshape(spread), spaces[0], levels.shape[1])
        else:
            self._constant(f"{y}#levels", levels.reshape(*spread, levels.shape[1]))
            last = self._constant(f"{y}#last", [-1], np.int64)
            column = self._node("Unsqueeze", [x, last], f"{y}#column")
            reached = self._node("GreaterOrEqual", [column, f"{y}#levels"], f"{y}#reached")
            ones = self._node("Cast", [reached], f"{y}#ones", to=TensorProto.FLOAT)
            count = self._node("ReduceSum", [ones, last], f"{y}#count", keepdims=0)
        scale = self._constant(f"{y}#scale", attributes.get("out_scale", 1.0))
        bias = self._constant(f"{y}#bias", attributes.get("out_bias", 0.0))
        scaled = self._node("Mul", [count, scale], f"{y}#scaled")
        self._node("Add", [scaled, bias], y)

    def _even(self, x: str, y: str, first: Array, space: float, number: int) -> str:
        """How many of `number` thresholds `first + k * space` are reached."""
        double = np.float64
        for what, value in (("first", first), ("space", space), ("one", 1), ("none", 0)):
            self._constant(f"{y}#{what}", value, double)
        self._constant(f"{y}#all", number, double)
        wide = self._node("Cast", [x], f"{y}#wide", to=TensorProto.DOUBLE)
        above = self._node("Sub", [wide, f"{y}#first"], f"{y}#above")
        above = self._node("Div", [above, f"{y}#space"], f"{y}#spaces")
        above = self._node("Floor", [above], f"{y}#floor")
        above = self._node("Add", [above, f"{y}#one"], f"{y}#reached")
        above = self._node("Clip", [above, f"{y}#none", f"{y}#all"], f"{y}#clipped")
        return self._node("Cast", [above], f"{y}#count", to=TensorProto.FLOAT)

    def _channels_last(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """The stock node between transpositions; a convolution's weights are transposed, too."""
        inputs, y = list(node.input), node.output[0]
        rank = self.ranks[inputs[0]]
        first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
        for index in range(2 if node.op_type == "Conv" else 1):
            name = f"{y}#input{index}"
            inputs[index] = self._node("Transpose", [inputs[index]], name, perm=first)
        result = self._node(node.op_type, inputs, f"{y}#channels_first", **attributes)
        self._node("Transpose", [result], y, perm=last)
