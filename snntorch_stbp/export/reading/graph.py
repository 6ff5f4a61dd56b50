"""A graph that was read from a file: nodes in order, constants, and what their names say.

Files are untrusted: nothing that they name is imported or opened, weights in other files included.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
from onnx import NodeProto
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from ...errors import StbpError
from ..names import Names
from ..qonnx.writer import CHANNELS_LAST, QONNX

QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant")
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "QuantAvgPool2d")
MOVES = ("Flatten", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")
FOLDED = (*QUANTIZERS, *MOVES, "DequantizeLinear", "QuantizeLinear", "Cast")
DOMAINS = ("", "ai.onnx", "onnx.brevitas", QONNX, CHANNELS_LAST)

PARTS = {
    "add": r"add\d+",
    "current": r"multiply\d+|scale_up|add_bias|rescale|current(?:_scaled)?|biased",
    "spike": r"lifted|negated|membrane|membrane_shift|nudged|membrane_quant(?:_scaled)?|over\d*"
    r"|relative|relu\d*|spike(?:_age\d+)?|change\d+|older\d+|select\d+",
    "state": r"fired|reset|decay|offset|state(?:_scaled)?|silent|grow|forgotten|age|older_than\d+",
    "sum": "sum",
}
"""What the nodes of a layer of neurons are called, without layer and step, by what they compute."""

NEURON = re.compile(
    r"(?P<stage>.+)[/_](?:" + "|".join(f"(?P<{k}>{v})" for k, v in PARTS.items()) + ")"
)


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file as it is.

    Raises:
        StbpError: If there is no such file, or it is damaged or not ONNX.
    """
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise StbpError(f"cannot read '{path}': {error.strerror or error}.") from error
    except Exception as error:  # protobuf's own kinds of error
        raise StbpError(f"'{path}' is damaged or is not an ONNX file.") from error
    if not proto.graph.node or not proto.opset_import:
        raise StbpError(f"'{path}' is not an ONNX file, or its graph is empty.")
    return proto


class Graph:
    """A graph in the order of its data.

    Args:
        proto: The model; its shapes, and its data types if qonnx knows all operators, are
            completed in place.
        names: Form and names, if this package wrote the file.

    Attributes:
        names: As given.
        model: The completed model.
        inferred: Whether qonnx's data types can be trusted.
        nodes: Nodes, each after those that it takes data from.
        initializers: Stored constants by name.
        stated: Data types by tensor, as the file states them.
        producers: Tensor -> the node that computes it.
        constants: Tensors that no input reaches.
    """

    def __init__(self, proto: onnx.ModelProto, names: Names | None) -> None:
        self.names = names
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.stated = {
            entry.tensor_name: pair.value
            for entry in proto.graph.quantization_annotation
            for pair in entry.quant_parameter_tensor_names
            if pair.key == "finn_datatype"
        }
        self.model = ModelWrapper(proto)
        self.inferred = self._infer({node.domain for node in proto.graph.node})
        self.nodes = _sorted(self.model.graph, set(self.initializers))
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.constants = set(self.initializers)
        for node in self.nodes:
            if all(name in self.constants for name in node.input if name):
                self.constants.update(node.output)

    def _infer(self, domains: set[str]) -> bool:
        """Let qonnx complete shapes and data types; whether the latter can be trusted."""
        if not domains <= set(DOMAINS):
            return False  # qonnx would import a Python module of that name
        try:
            self.model = self.model.transform(InferShapes(), make_deepcopy=False)
            if CHANNELS_LAST in domains:
                return False
            self.model = self.model.transform(InferDataTypes(), make_deepcopy=False)
        except Exception:  # operators that qonnx or ONNX do not know: what the file states is left
            return False
        return True

    def key(self, node: NodeProto) -> str:
        """The name of a node without its step."""
        name = node.name or (node.output[0] if node.output else node.op_type)
        return name if self.names is None else re.sub(rf"{self.names.separator}t\d+$", "", name)

    def part(self, node: NodeProto) -> tuple[str, str] | None:
        """The layer of neurons that a node belongs to, and what of it (a key of `PARTS`) it helps
        to compute; in files of this package.
        """
        found = NEURON.fullmatch(self.key(node)) if self.names is not None else None
        return (found["stage"], found.lastgroup or "") if found else None

    def step(self, name: str) -> int:
        """The time step in the name of a node or tensor; 0 without one."""
        found = self.names and re.search(rf"{self.names.separator}t(\d+)(?:_n\w+)?$", name)
        return int(found[1]) if found else 0

    def is_layer(self, node: NodeProto) -> bool:
        """Whether a node is a pooling or has constant weights."""
        return node.op_type in POOLS or self.has_weights(node)

    def has_weights(self, node: NodeProto) -> bool:
        """Whether a node is a convolution or product with constant weights."""
        return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in self.constants

    def is_pooling(self, node: NodeProto) -> bool:
        """Whether a node pools; this package writes sums as convolutions of ones."""
        named = re.search(r"[/_]pool\d+(_\d+|_after\d+)?$", self.key(node))
        return node.op_type in POOLS or (self.names is not None and named is not None)

    def shape(self, name: str) -> list[int] | None:
        """A tensor's shape, unknown sizes as 0; None if nothing says it."""
        shape = self.model.get_tensor_shape(name)
        return None if shape is None else [int(n) for n in shape]

    def source(self, tensor: str) -> str | None:
        """The initializer from which constant weights are made."""
        for _ in range(8):
            node = self.producers.get(tensor)
            if node is None or node.op_type not in FOLDED or not node.input:
                break
            tensor = node.input[0]
        return tensor if tensor in self.initializers else None


def _sorted(graph: onnx.GraphProto, known: set[str]) -> list[NodeProto]:
    """Nodes in the order of the data; those that wait for what nobody computes come last."""
    known = known | {"", *(tensor.name for tensor in graph.input)}
    order: list[NodeProto] = []
    waiting = list(graph.node)
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(node.input):
                order.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            break
        waiting = later
    return order + waiting
