"""A graph that was read from a file: nodes in order, constants, and what their names say.

Files are untrusted: nothing that they name is imported or opened, weights in other files included.
"""

from __future__ import annotations

import heapq
import re
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.infer_datatypes import InferDataTypes

from ...errors import StbpError
from ..indexed import Indexed, stated_types
from ..names import Names
from ..qonnx.writer import CHANNELS_LAST, QONNX

QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant")
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "QuantAvgPool2d")
MOVES = ("Flatten", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")
FOLDED = (*QUANTIZERS, *MOVES, "DequantizeLinear", "QuantizeLinear", "Cast")
WIDTHS = ("Quant", "IntQuant", "Trunc")  # nodes with bits from their fourth input on
WIDEST = 64
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
    try:
        _refuse_wide(path, proto)
    except (ValueError, TypeError) as error:
        raise StbpError(f"'{path}' is damaged: the bits of a quantizer are no numbers.") from error
    return proto


def _refuse_wide(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse integers whose limits take for ever to compute."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    words, widths = list(stated_types(proto).values()), []
    for node in proto.graph.node:
        words += [a.s.decode(errors="replace") for a in node.attribute if a.s]
        for name in node.input[3:] if node.op_type in WIDTHS else ():
            constant = constants.get(name)
            if constant is not None and constant.data_location != TensorProto.EXTERNAL:
                values = numpy_helper.to_array(constant).astype(float)
                widths += [f"{n:g}" for n in values[~(values <= WIDEST)]]
    for word in words:
        if word.startswith(("INT", "UINT", "FIXED", "SCALEDINT")):
            widths += [n for n in re.findall(r"\d+", word) if len(n) > 4 or int(n) > WIDEST]
    if widths:
        raise StbpError(
            f"'{path}' has integers of {widths[0]:.12} bits, more than {WIDEST}: it is damaged, or "
            f"no graph for hardware."
        )


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
        self.stated = stated_types(proto)
        order = _sorted(proto.graph, set(self.initializers))
        del proto.graph.node[:]
        proto.graph.node.extend(order)
        self.model = Indexed(proto)
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
            self.model = _shaped(self.model)
            if CHANNELS_LAST in domains:
                return False
            self.model.transform(InferDataTypes(), make_deepcopy=False, cleanup=False)
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


def _shaped(model: Indexed) -> Indexed:
    """The model with the shapes that ONNX infers, which sees an operator of its own that gives the
    same shape in place of each of qonnx.
    """
    proto, nodes = onnx.ModelProto(), list(model.graph.node)
    proto.CopyFrom(model.model)
    del proto.graph.node[:]
    proto.graph.node.extend(
        getCustomOp(node).make_shape_compatible_op(model) if node.domain in DOMAINS[2:] else node
        for node in nodes
    )
    shaped = onnx.shape_inference.infer_shapes(proto)
    del shaped.graph.node[:]
    shaped.graph.node.extend(nodes)
    return Indexed(shaped)


def _sorted(graph: onnx.GraphProto, known: set[str]) -> list[NodeProto]:
    """Nodes in the order of the data and, where that leaves a choice, of the file; those that wait
    for what nobody computes come last.

    Raises:
        ValueError: If two nodes compute the same tensor.
    """
    known = known | {"", *(tensor.name for tensor in graph.input)}
    nodes = list(graph.node)
    computed = [name for node in nodes for name in node.output if name]
    if len(set(computed)) < len(computed):
        raise ValueError("two of its nodes compute the same tensor")
    waiting = [set(node.input) - known for node in nodes]
    users: dict[str, list[int]] = {}
    for index, names in enumerate(waiting):
        for name in names:
            users.setdefault(name, []).append(index)
    ready = [index for index, names in enumerate(waiting) if not names]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for name in nodes[order[-1]].output:
            for index in users.pop(name, ()):
                waiting[index].discard(name)
                if not waiting[index]:
                    heapq.heappush(ready, index)
    left = set(range(len(nodes))).difference(order)
    return [nodes[index] for index in (*order, *sorted(left))]
