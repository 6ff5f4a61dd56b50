"""The data type of every tensor of a graph that was read.

They come from what is certain first: quantizers say their own, and integer weights with integer
inputs give the exact width of the sum. The rest is qonnx's inference, which does not know operators
with channels last and is left out for these.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from qonnx.core.datatype import DataType
from qonnx.custom_op.registry import getCustomOp

from ..array import Array
from ..qonnx.ranges import Range
from ..qonnx.writer import QONNX
from .graph import DOMAINS, MOVES, QUANTIZERS, Graph


def bits(datatype: str | None) -> int | None:
    """The bits of a QONNX data type."""
    return None if datatype is None else int(DataType[datatype].bitwidth())


def stored(graph: Graph, initializer: str) -> str:
    """The type of weights without a quantizer: annotated, or the container's."""
    annotated = _annotated(graph, initializer)
    kind = onnx.TensorProto.DataType.Name(graph.initializers[initializer].data_type)
    if annotated != "FLOAT32" or kind not in ("INT8", "UINT8", "INT16", "INT32", "FLOAT16"):
        return annotated
    return kind


def infer(graph: Graph) -> dict[str, str | None]:
    """Tensor -> QONNX data type, None where nothing says it."""
    return _Types(graph).types


def _annotated(graph: Graph, name: str) -> str:
    return str(graph.model.get_tensor_datatype(name).name)


class _Types:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sums: dict[str, str | None] = {}  # of a layer, the same at every step
        self.types: dict[str, str | None] = {
            tensor.name: _annotated(graph, tensor.name) for tensor in graph.model.graph.input
        }
        for node in graph.nodes:
            for output in node.output:
                self.types[output] = self._datatype(node, output)

    def _datatype(self, node: NodeProto, output: str) -> str | None:
        """The data type of what a node computes, the certain ways first."""
        graph = self.graph
        if node.domain in DOMAINS[2:4] and node.op_type in QUANTIZERS:
            return self._quantized(node)
        part = graph.part(node)
        if part is not None and part[1] == "sum":
            return self._sum(*(self.types.get(name) for name in node.input))
        if node.op_type == "MultiThreshold" and node.domain == QONNX:
            return str(DataType[getCustomOp(node).get_nodeattr("out_dtype")].name)
        moves = node.op_type in (*MOVES, "MaxPool")
        if moves and node.input and node.input[0] not in graph.constants:
            return self.types.get(node.input[0])
        if graph.has_weights(node):
            key = graph.key(node)
            if key not in self.sums:
                self.sums[key] = self._accumulator(node)
            if self.sums[key] is not None:
                return self.sums[key]
        stated = graph.stated.get(output, "FLOAT32")
        if stated != "FLOAT32":
            return stated
        return _annotated(graph, output) if graph.inferred else None

    def _quantized(self, node: NodeProto) -> str | None:
        """The integers of a quantizer; of an activation that is scaled, the scaled type."""
        try:
            kind = getCustomOp(node).get_integer_datatype(self.graph.model)
            scale = self.graph.model.get_initializer(node.input[1])
        except Exception:  # bits that are no constant, or attributes qonnx does not know
            return None
        if node.input[0] in self.graph.constants or (scale is not None and np.all(scale == 1)):
            return str(kind.name)
        width = kind.bitwidth()
        digits = -math.log2(scale.item()) if scale is not None and scale.size == 1 else 0.5
        if kind.signed() and digits.is_integer() and 0 < digits < width:
            return f"FIXED<{width},{width - int(digits)}>"
        return f"SCALEDINT<{width}>"

    def _sum(self, *kinds: str | None) -> str | None:
        """The type of the sum of two readouts, exactly."""
        ranges = []
        for kind in kinds:
            if kind is None or "FLOAT" in kind:
                return None
            type_ = DataType[kind]
            unit = type_.scale_factor() if type_.is_fixed_point() else 1
            low, high = int(type_.min() / unit), int(type_.max() / unit)
            ranges.append(Range(low, high, -int(math.log2(unit))))
        return (ranges[0] + ranges[1]).datatype

    def _accumulator(self, node: NodeProto) -> str | None:
        """The exact type of integer weights times integer inputs; None if they are not."""
        kind, weight = self.types.get(node.input[0]), self._integers(node.input[1])
        if kind is None or weight is None or node.op_type == "ConvTranspose" or len(node.input) > 2:
            return None
        inputs = DataType[kind]
        if not inputs.is_integer():
            return None
        flat = weight.reshape(len(weight), -1).T if node.op_type == "Conv" else weight
        if flat.ndim != 2:
            return None
        ends = [flat * float(inputs.min()), flat * float(inputs.max())]
        low = np.minimum(np.minimum(*ends), 0).sum(0).min()  # 0: what padding adds
        high = np.maximum(np.maximum(*ends), 0).sum(0).max()
        return Range(int(low), int(high)).datatype

    def _integers(self, tensor: str) -> Array | None:
        """Constant weights behind at most one quantizer of scale 1, if they are integers."""
        graph = self.graph
        node = graph.producers.get(tensor)
        source = graph.initializers.get(tensor if node is None else node.input[0])
        if source is None or source.data_location == onnx.TensorProto.EXTERNAL:
            return None
        value = numpy_helper.to_array(source)
        if node is not None:
            scale = graph.model.get_initializer(node.input[1]) if len(node.input) > 1 else None
            kind = self.types.get(tensor)
            if (
                node.op_type not in QUANTIZERS
                or kind is None
                or scale is None
                or np.any(scale != 1)
            ):
                return None
            if kind == "BIPOLAR":
                value = np.where(value >= 0, 1.0, -1.0)
            value = np.clip(value, DataType[kind].min(), DataType[kind].max())
        return value.astype(np.float64) if np.array_equal(value, np.rint(value)) else None
