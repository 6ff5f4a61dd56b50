"""Writing ONNX graphs node by node: names, shapes, and the exact range of every tensor.

Ranges are computed with the graph and give each tensor its data type. Tensors of real numbers have
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_tensor_value_info
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper

from ..array import Array
from .ranges import Range

QONNX = "qonnx.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
OPSET = 13

OPERATORS = {
    "": ("Add", "AveragePool", "BatchNormalization", "Conv", "Div", "Flatten", "MatMul", "MaxPool",
         "Mul", "Relu", "Sub", "Transpose"),
    QONNX: ("BipolarQuant", "MultiThreshold", "Quant"),
    CHANNELS_LAST: ("BatchNormalization", "Conv", "MaxPool"),
}  # fmt: skip
"""The operators of our graphs by their domain."""


@dataclass
class Writer:
    """Collects the nodes, constants and tensors of a graph."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    layouts: dict[str, str] = field(default_factory=dict)

    def constant(
        self, name: str, value: float | Array, fraction: int = 0, datatype: str | None = None
    ) -> str:
        """A constant whose values are multiples of `2^-fraction`; the same name means the same."""
        array = np.asarray(value, np.float32)
        scaled = array.astype(np.float64) * 2.0**fraction
        if not np.array_equal(scaled, np.rint(scaled)):
            raise ValueError(f"{name} is not on a grid of 2^-{fraction}")
        self.constants[name] = array
        self.shapes[name] = array.shape
        self.ranges[name] = Range(int(scaled.min()), int(scaled.max()), fraction)
        if datatype is not None:
            self.types[name] = datatype
        elif fraction == 0:
            self.types[name] = self.ranges[name].datatype
        return name

    def parameter(self, name: str, value: float | Array) -> str:
        """A constant of real numbers; the same name means the same."""
        self.constants[name] = np.asarray(value, np.float32)
        self.shapes[name] = self.constants[name].shape
        return name

    def input(self, name: str, shape: Sequence[int], values: Range | None) -> str:
        """A graph input."""
        self.inputs.append(name)
        self._note(name, shape, values)
        return name

    def _note(self, name: str, shape: Sequence[int], values: Range | None) -> None:
        self.shapes[name] = tuple(shape)
        if values is not None:
            self.ranges[name] = values

    def node(
        self,
        operator: str,
        name: str,
        inputs: Sequence[str],
        output: str,
        shape: Sequence[int],
        values: Range | None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """A node with one output, whose shape and range (`None` for real numbers) are stated."""
        if operator not in OPERATORS.get(domain, ()):
            raise ValueError(f"{operator} of '{domain}' is none of the operators of our graphs")
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name, domain=domain, **attributes)
        )
        self._note(output, shape, values)
        return output

    def binary(self, operator: str, name: str, a: str, b: str, output: str | None = None) -> str:
        """`Add`, `Sub` or `Mul` of two tensors (or `Div` of real ones); the range follows."""
        ra, rb = self.ranges.get(a), self.ranges.get(b)
        values = None
        if ra is not None and rb is not None:
            values = {"Add": ra.__add__, "Sub": ra.__sub__, "Mul": ra.__mul__}[operator](rb)
        shape = np.broadcast_shapes(self.shapes[a], self.shapes[b])
        return self.node(operator, name, [a, b], output or f"{name}_out", shape, values)

    def state(self, name: str, values: Range) -> None:
        """Say the range of a tensor, in the file, too, since its operator does not."""
        self.ranges[name], self.types[name] = values, values.datatype

    def quant(
        self,
        name: str,
        x: str,
        output: str,
        bits: int,
        signed: bool,
        scale: float | Array = 1.0,
        narrow: bool = False,
        floor: bool = False,
    ) -> str:
        """A QONNX `Quant`: clip(round(x / scale)) * scale in `bits`; `scale` powers of two.

        With `floor` it takes the floor instead of rounding.
        """
        parameters = [
            self.constant(f"{name}_{key}", value, fraction=16, datatype="FLOAT32")
            for key, value in (("scale", scale), ("zero_point", 0.0), ("bit_width", float(bits)))
        ]
        low = -(1 << (bits - 1)) + narrow if signed else 0
        high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        exponents = np.log2(np.asarray(scale)).astype(int)
        finest = int(exponents.min())
        more = int(exponents.max()) - finest
        values = Range(low << more, high << more, -finest)
        mode = "FLOOR" if floor else "ROUND"
        return self._quant(name, [x, *parameters], output, values, signed, narrow, mode)

    def real_quant(
        self,
        name: str,
        x: str,
        output: str,
        bits: int,
        signed: bool,
        scale: float | Array,
        narrow: bool = False,
    ) -> str:
        """A QONNX `Quant` to real multiples of any `scale`."""
        parameters = [
            self.parameter(f"{name}_{key}", value)
            for key, value in (("scale", scale), ("zero_point", 0.0), ("bit_width", float(bits)))
        ]
        return self._quant(name, [x, *parameters], output, None, signed, narrow)

    def _quant(
        self,
        name: str,
        inputs: Sequence[str],
        output: str,
        values: Range | None,
        signed: bool,
        narrow: bool,
        mode: str = "ROUND",
    ) -> str:
        return self.node(
            "Quant",
            name,
            inputs,
            output,
            self.shapes[inputs[0]],
            values,
            QONNX,
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode=mode,
        )

    def thresholds(
        self, name: str, x: str, output: str, bits: int, scale: float = 1.0, shift: float = 0.0
    ) -> str:
        """A signed `quant` of `x + shift` (away from ties), divided by `scale`, a power of two from
        1 on, as a `MultiThreshold`: FINN's own node.
        """
        low = -(1 << (bits - 1))
        high = low + (1 << bits) - 1
        levels = (np.arange(low, high) + 0.5)[None] * scale - shift
        levels_name = self.constant(f"{name}_levels", levels, 1, "FLOAT32")
        values = Range(low, high)
        return self.node(
            "MultiThreshold",
            name,
            [x, levels_name],
            output,
            self.shapes[x],
            values,
            QONNX,
            out_dtype=values.datatype,
            out_bias=float(low),
            data_layout="NHWC" if len(self.shapes[x]) == 4 else "NC",
        )

    def rename(self, tensor: str, name: str) -> None:
        """Give a tensor that a node computes another name, wherever it occurs."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, old in enumerate(names):
                    if old == tensor:
                        names[index] = name
        self._note(name, self.shapes.pop(tensor), self.ranges.pop(tensor, None))
        if tensor in self.types:
            self.types[name] = self.types.pop(tensor)
        self.outputs = [name if old == tensor else old for old in self.outputs]

    def model(self, name: str, metadata: dict[str, str]) -> ModelProto:
        """The finished model."""
        constants = {n: numpy_helper.from_array(a, n) for n, a in self.constants.items()}

        def info(tensor: str) -> Any:
            kind = constants[tensor].data_type if tensor in constants else TensorProto.FLOAT
            return make_tensor_value_info(tensor, kind, list(self.shapes[tensor]))

        named = {*self.inputs, *self.outputs, *constants}
        # QONNX's executor asks for the shapes of constants, too.
        read = dict.fromkeys(t for node in self.nodes for t in node.input if t in constants)
        graph = helper.make_graph(
            self.nodes,
            name,
            [info(t) for t in self.inputs],
            [info(t) for t in self.outputs],
            list(constants.values()),
            value_info=[info(t) for t in (*(t for t in self.shapes if t not in named), *read)],
        )
        # The default domain comes first: readers exist that look at the first entry only.
        domains = ["", QONNX]
        domains += [CHANNELS_LAST] * any(n.domain == CHANNELS_LAST for n in self.nodes)
        versions = {"": OPSET, QONNX: 2, CHANNELS_LAST: OPSET}
        opsets = [helper.make_opsetid(domain, versions[domain]) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        model.producer_name = "snntorch-stbp"
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        return self._annotated(model)

    def _annotated(self, model: ModelProto) -> ModelProto:
        """The model with QONNX data types of inputs and constants, from which the rest follows."""
        wrapped = ModelWrapper(model, fix_missing_initializer_valueinfo=False)
        types = self.types | {
            name: self.ranges[name].datatype for name in self.inputs if name in self.ranges
        }
        for name, datatype in types.items():
            wrapped.set_tensor_datatype(name, DataType[datatype])
        for name, layout in self.layouts.items():
            wrapped.set_tensor_layout(name, list(layout))
        return wrapped.model
