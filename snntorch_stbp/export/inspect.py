"""What an ONNX file holds: layers, weights, data types and neurons, read without running it.

Any ONNX or QONNX file is read; one of this package says more by its metadata and by the names of
its nodes, `LAYER/t0` and `STAGE/what/t0`. Files are untrusted: nothing that they name is imported
or opened, weights in other files included.

Data types come from what is certain first: quantizers say their own, and integer weights with
integer inputs give the exact width of the sum. The rest is qonnx's inference, which does not know
operators with channels last and is left out for these.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

from ..errors import StbpError
from .names import Names
from .writer import CHANNELS_LAST, QONNX, Array, Range

QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant")
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "QuantAvgPool2d")
MOVES = ("Flatten", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "MaxPool")
FOLDED = (*QUANTIZERS, *MOVES[:-1], "DequantizeLinear", "QuantizeLinear", "Cast")
DOMAINS = ("", "ai.onnx", "onnx.brevitas", QONNX, CHANNELS_LAST)

NEURON = re.compile(
    r"(.+)[/_](?:multiply\d+|add\d+|add_bias|rescale|current(?:_scaled)?|negated|membrane|membrane_shift"
    r"|membrane_quant(?:_scaled)?|over|relative|relu|spike|fired|reset|decay|offset|state(?:_scaled)?|sum)"
)
"""Nodes of a layer of neurons (without the step): the layer is the first group."""

NOTED = ("current", "spike", "state")


@dataclass
class Layer:
    """A layer with weights, or a pooling; once, however many steps the graph holds."""

    name: str
    operator: str
    shape: list[int] | None
    input_type: str | None
    weight_type: str | None
    weight_bits: int | None
    parameters: int
    weight_kb: float
    accumulator: str | None
    kernel: list[int] = field(default_factory=list)
    strides: list[int] = field(default_factory=list)


@dataclass
class Neurons:
    """A layer of neurons, or the currents of a readout; the types are those of one step."""

    name: str
    shape: list[int] | None
    current: str | None = None
    spiking: bool = False
    state: str | None = None
    state_kb: float = 0.0


@dataclass
class Tensor:
    """An input or output of the graph."""

    name: str
    shape: list[int] | None
    datatype: str | None


@dataclass
class Inspected:
    """An ONNX file, read.

    Attributes:
        path: The file.
        producer: Who wrote it.
        opset: Version of ONNX's own operators.
        names: Form and names, if this package wrote the file.
        target: The target it was exported for, if this package wrote it.
        metadata: What the file says of itself, without `names`.
        inputs: Inputs without the states.
        outputs: Outputs without the states.
        layers: Layers in the order of the graph.
        neurons: Layers of neurons in the order of the graph.
        operators: How many nodes of each type there are.
        model: The graph.
        nodes: Its nodes, each after those that it takes data from.
        constants: Tensors that no input reaches.
    """

    path: Path
    producer: str
    opset: int
    names: Names | None
    target: str | None
    metadata: dict[str, str]
    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: list[Layer]
    neurons: list[Neurons]
    operators: dict[str, int]
    model: ModelWrapper
    nodes: list[NodeProto]
    constants: set[str]
    weight_kb: float = 0.0
    parameters: int = 0

    def key(self, node: NodeProto) -> str:
        """The name of a node without its step."""
        return _key(node, self.names)

    def stage(self, node: NodeProto) -> str | None:
        """The layer of neurons that a node belongs to, in files of this package."""
        return _stage(node, self.names)


def read(path: Path) -> Inspected:
    """Read an ONNX file.

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
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    names = _names(metadata.pop("names", ""))
    producer = metadata.get("project") or f"{proto.producer_name} {proto.producer_version}".strip()
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    try:
        return _Reader(path, proto, names).read(producer, opset, metadata)
    except (AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StbpError(f"'{path}' is an ONNX file whose graph is not valid: {error}.") from error


def is_layer(node: NodeProto, constants: set[str]) -> bool:
    """Whether a node is a pooling or has constant weights."""
    if node.op_type in POOLS:
        return True
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants


def _names(text: str) -> Names | None:
    """What this package says of its files; None for files of others."""
    try:
        names = Names.from_json(text)
        spikes = [n for tensors in names.spikes.values() for n in tensors]
        fits = all(isinstance(n, str) for n in [*spikes, *(o for o, _ in names.states.values())])
        fits &= names.form in ("unrolled", "step") and names.separator in ("/", "_")
        return names if fits and isinstance(names.steps, int) else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _key(node: NodeProto, names: Names | None) -> str:
    name = node.name or (node.output[0] if node.output else node.op_type)
    return name if names is None else re.sub(rf"{names.separator}t\d+$", "", name)


def _stage(node: NodeProto, names: Names | None) -> str | None:
    found = NEURON.fullmatch(_key(node, names)) if names is not None else None
    return found[1] if found else None


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


def _bits(datatype: str | None) -> int | None:
    return None if datatype is None else int(DataType[datatype].bitwidth())


class _Reader:
    def __init__(self, path: Path, proto: onnx.ModelProto, names: Names | None) -> None:
        self.path, self.names = path, names
        self.model = ModelWrapper(proto)
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        domains = {node.domain for node in proto.graph.node}
        self.inferred = self._infer(domains)
        self.nodes = _sorted(self.model.graph, set(self.initializers))
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.constants = set(self.initializers)
        for node in self.nodes:
            if all(name in self.constants for name in node.input if name):
                self.constants.update(node.output)
        self.types: dict[str, str | None] = {}
        self.sums: dict[str, str | None] = {}

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

    def read(self, producer: str, opset: int, metadata: dict[str, str]) -> Inspected:
        graph, names = self.model.graph, self.names
        for tensor in graph.input:
            self.types[tensor.name] = self._annotated(tensor.name)
        layers: dict[str, Layer] = {}
        neurons: dict[str, Neurons] = {}
        counted: set[str] = set()
        size = 0.0
        parameters = 0
        for node in self.nodes:
            for output in node.output:
                self.types[output] = self._datatype(node, output)
            key, stage = _key(node, names), _stage(node, names)
            what = key[len(stage) + 1 :] if stage is not None else ""
            if stage is not None and what in NOTED:
                self._note(neurons.setdefault(stage, Neurons(stage, None)), node, what)
            if is_layer(node, self.constants) and key not in layers:
                layers[key] = layer = self._layer(node, key)
                weights = self._source(node.input[1]) if len(node.input) > 1 else None
                if weights is not None and weights not in counted and layer.parameters:
                    counted.add(weights)
                    size, parameters = size + layer.weight_kb, parameters + layer.parameters
        inner = {**names.states, **dict(names.states.values())} if names is not None else {}
        return Inspected(
            path=self.path,
            producer=producer or "unknown",
            opset=opset,
            names=names,
            target=self._target(),
            metadata=metadata,
            inputs=[
                self._tensor(t.name)
                for t in graph.input
                if t.name not in inner and t.name not in self.initializers
            ],
            outputs=[self._tensor(t.name) for t in graph.output if t.name not in inner],
            layers=list(layers.values()),
            neurons=list(neurons.values()),
            operators=dict(Counter(node.op_type for node in graph.node).most_common()),
            model=self.model,
            nodes=self.nodes,
            constants=self.constants,
            weight_kb=size,
            parameters=parameters,
        )

    def _target(self) -> str | None:
        if self.names is None:
            return None
        if not self.names.channels_last:
            return "generic"
        return "hls4ml" if self.names.separator == "_" else "finn"

    def _tensor(self, name: str) -> Tensor:
        return Tensor(name, self._shape(name), self.types.get(name))

    def _shape(self, name: str) -> list[int] | None:
        shape = self.model.get_tensor_shape(name)
        return None if shape is None else [int(n) for n in shape]

    # -- data types

    def _annotated(self, name: str) -> str:
        return str(self.model.get_tensor_datatype(name).name)

    def _datatype(self, node: NodeProto, output: str) -> str | None:
        """The data type of what a node computes, the certain ways first."""
        if node.domain in DOMAINS[2:4] and node.op_type in QUANTIZERS:
            return self._quantized(node)
        if _stage(node, self.names) is not None and re.search("[/_]sum$", _key(node, self.names)):
            return self._sum(*(self.types.get(name) for name in node.input))
        if node.op_type == "MultiThreshold" and node.domain == QONNX:
            return str(DataType[getCustomOp(node).get_nodeattr("out_dtype")].name)
        if node.op_type in MOVES and node.input and node.input[0] not in self.constants:
            return self.types.get(node.input[0])
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in self.constants:
            key = _key(node, self.names)
            if key not in self.sums:
                self.sums[key] = self._accumulator(node)
            if self.sums[key] is not None:
                return self.sums[key]
        return self._annotated(output) if self.inferred else None

    def _quantized(self, node: NodeProto) -> str | None:
        """The integers of a quantizer; of an activation that is scaled, the scaled type."""
        try:
            kind = getCustomOp(node).get_integer_datatype(self.model)
            scale = self.model.get_initializer(node.input[1])
        except Exception:  # bits that are no constant, or attributes qonnx does not know
            return None
        if node.input[0] in self.constants or (scale is not None and np.all(scale == 1)):
            return str(kind.name)
        bits = kind.bitwidth()
        digits = -math.log2(scale.item()) if scale is not None and scale.size == 1 else 0.5
        if kind.signed() and digits.is_integer() and 0 < digits < bits:
            return f"FIXED<{bits},{bits - int(digits)}>"
        return f"SCALEDINT<{bits}>"

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
        node = self.producers.get(tensor)
        source = self.initializers.get(tensor if node is None else node.input[0])
        if source is None or source.data_location == onnx.TensorProto.EXTERNAL:
            return None
        value = numpy_helper.to_array(source)
        if node is not None:
            scale = self.model.get_initializer(node.input[1]) if len(node.input) > 1 else None
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

    # -- layers

    def _source(self, tensor: str) -> str | None:
        """The initializer from which constant weights are made."""
        for _ in range(8):
            node = self.producers.get(tensor)
            if node is None or node.op_type not in FOLDED or not node.input:
                break
            tensor = node.input[0]
        return tensor if tensor in self.initializers else None

    def _layer(self, node: NodeProto, key: str) -> Layer:
        ours = self.names is not None
        pooling = node.op_type in POOLS or (ours and re.search(r"[/_]pool\d+(_\d+)?$", key))
        layer = Layer(
            name=key,
            operator="SumPool" if pooling and node.op_type == "Conv" else node.op_type,
            shape=self._shape(node.output[0]),
            input_type=self.types.get(node.input[0]),
            weight_type=None,
            weight_bits=None,
            parameters=0,
            weight_kb=0.0,
            accumulator=self.types.get(node.output[0]),
        )
        for attribute in node.attribute:
            if attribute.name == "kernel_shape":
                layer.kernel = [int(n) for n in attribute.ints]
            elif attribute.name == "strides":
                layer.strides = [int(n) for n in attribute.ints]
        source = None if pooling else self._source(node.input[1])
        if source is not None:
            kind = self.types.get(node.input[1]) if node.input[1] in self.producers else None
            layer.weight_type = kind or self._stored(source)
            layer.weight_bits = _bits(layer.weight_type)
            layer.parameters = math.prod(self.initializers[source].dims)
            layer.weight_kb = layer.parameters * (layer.weight_bits or 0) / 8 / 1024
        return layer

    def _stored(self, initializer: str) -> str:
        """The type of weights without a quantizer: annotated, or the container's."""
        annotated = self._annotated(initializer)
        kind = onnx.TensorProto.DataType.Name(self.initializers[initializer].data_type)
        if annotated != "FLOAT32" or kind not in ("INT8", "UINT8", "INT16", "INT32", "FLOAT16"):
            return annotated
        return kind

    def _note(self, neurons: Neurons, node: NodeProto, what: str) -> None:
        """What a node says of the neurons that it belongs to."""
        output = node.output[0]
        neurons.shape = neurons.shape or self._shape(output)
        if what == "current" and neurons.current is None:
            neurons.current = self.types[output]
        elif what == "spike":
            neurons.spiking = True
        elif what == "state" and neurons.state is None:
            neurons.state = self.types[output]
            count = math.prod(self._shape(output) or [0])
            neurons.state_kb = count * (_bits(neurons.state) or 0) / 8 / 1024


def as_data(found: Inspected) -> dict[str, Any]:
    """Everything that was read, for JSON."""
    names = found.names
    return {
        "file": str(found.path),
        "producer": found.producer,
        "opset": found.opset,
        "form": names.form if names else None,
        "target": found.target,
        "steps": names.steps if names else None,
        "batch": names.batch if names else None,
        "channels_last": names.channels_last if names else None,
        "metadata": {key: _parsed(key, value) for key, value in found.metadata.items()},
        "inputs": [vars(tensor) for tensor in found.inputs],
        "outputs": [vars(tensor) for tensor in found.outputs],
        "layers": [vars(layer) for layer in found.layers],
        "neurons": [vars(neurons) for neurons in found.neurons],
        "parameters": found.parameters,
        "weight_kb": found.weight_kb,
        "state_kb": sum(neurons.state_kb for neurons in found.neurons),
        "nodes": found.operators,
    }


def _parsed(key: str, value: str) -> Any:
    """The configuration of the run as data; other entries as they are."""
    if key != "train":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
