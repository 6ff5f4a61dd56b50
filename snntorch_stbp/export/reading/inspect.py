"""What an ONNX file holds: its layers, weights, data types and neurons, read without running it.

Any ONNX or QONNX file is read; one of this package says more by its metadata and by the names of
its nodes, `LAYER/t0` and `STAGE/what/t0`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import onnx
from onnx import NodeProto

from ...errors import StbpError
from ..names import Names
from .datatypes import bits, infer, stored
from .graph import Graph, load

STATES = ("reset", "decay", "state")
"""Nodes of a layer of neurons of which the last one there is gives the state."""

TAKE = ("lifted", "negated", "membrane", "over", "spike")
"""How nodes are called of which the first takes the current."""

AGES = ("grow", "age")
"""Nodes that give the age, if what they compute is a state."""


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
    age: str | None = None  # steps since the last reset, a state, too
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
        graph: The graph.
        types: Tensor -> QONNX data type, None where nothing says it.
        weight_kb: Of all weights, each counted once.
        parameters: Number of all weights, each counted once.
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
    graph: Graph
    types: dict[str, str | None]
    weight_kb: float
    parameters: int


def read(path: Path) -> Inspected:
    """Read an ONNX file.

    Raises:
        StbpError: If there is no such file, or it is damaged or not ONNX.
    """
    proto = load(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    names = _names(metadata.pop("names", ""))
    try:
        return _inspected(path, proto, metadata, names)
    except StbpError:
        raise
    except Exception as error:  # qonnx has none of its own
        reason = shorten(str(error), 160, placeholder=" ...") or type(error).__name__
        raise StbpError(f"'{path}' is an ONNX file whose graph is not valid: {reason}.") from error


def _names(text: str) -> Names | None:
    """What this package says of its files; None for files of others."""
    try:
        return Names.from_json(text)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _inspected(
    path: Path, proto: onnx.ModelProto, metadata: dict[str, str], names: Names | None
) -> Inspected:
    graph = Graph(proto, names)
    types = infer(graph)
    layers: dict[str, Layer] = {}
    counted: dict[str, Layer] = {}  # weights -> the first layer that has them
    neurons: dict[str, Neurons] = {}
    for node in graph.nodes:
        key, part = graph.key(node), graph.part(node)
        if part is not None and graph.step(node.name) == 0:
            _note(neurons, node, *part, graph, types)
        if graph.is_layer(node) and key not in layers:
            layers[key] = layer = _layer(node, key, graph, types)
            weights = graph.source(node.input[1]) if len(node.input) > 1 else None
            if weights is not None and layer.parameters:
                counted.setdefault(weights, layer)
    inner = {**names.states, **dict(names.states.values())} if names is not None else {}
    hidden = {*inner, *graph.initializers}  # constants may be listed as inputs, too
    inputs = [t.name for t in graph.model.graph.input if t.name not in hidden]
    outputs = [t.name for t in graph.model.graph.output if t.name not in inner]
    written_by = f"{proto.producer_name} {proto.producer_version}".strip()
    return Inspected(
        path=path,
        producer=metadata.get("project") or written_by or "unknown",
        opset=max(
            (o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
        names=names,
        target=_target(names),
        metadata=metadata,
        inputs=[Tensor(name, graph.shape(name), types.get(name)) for name in inputs],
        outputs=[Tensor(name, graph.shape(name), types.get(name)) for name in outputs],
        layers=list(layers.values()),
        neurons=list(neurons.values()),
        operators=dict(Counter(n.op_type for n in graph.model.graph.node).most_common()),
        graph=graph,
        types=types,
        weight_kb=sum(layer.weight_kb for layer in counted.values()),
        parameters=sum(layer.parameters for layer in counted.values()),
    )


def _target(names: Names | None) -> str | None:
    if names is None:
        return None
    if not names.channels_last:
        return "generic"
    return "hls4ml" if names.separator == "_" else "finn"


def _layer(node: NodeProto, key: str, graph: Graph, types: dict[str, str | None]) -> Layer:
    pooling = graph.is_pooling(node)
    layer = Layer(
        name=key,
        operator="SumPool" if pooling and node.op_type == "Conv" else node.op_type,
        shape=graph.shape(node.output[0]),
        input_type=types.get(node.input[0]),
        weight_type=None,
        weight_bits=None,
        parameters=0,
        weight_kb=0.0,
        accumulator=types.get(node.output[0]),
    )
    for attribute in node.attribute:
        if attribute.name == "kernel_shape":
            layer.kernel = [int(n) for n in attribute.ints]
        elif attribute.name == "strides":
            layer.strides = [int(n) for n in attribute.ints]
    source = None if pooling else graph.source(node.input[1])
    if source is not None:
        kind = types.get(node.input[1]) if node.input[1] in graph.producers else None
        layer.weight_type = kind or stored(graph, source)
        layer.weight_bits = bits(layer.weight_type)
        layer.parameters = math.prod(graph.initializers[source].dims)
        layer.weight_kb = layer.parameters * (layer.weight_bits or 0) / 8 / 1024
    return layer


def _note(
    neurons: dict[str, Neurons],
    node: NodeProto,
    stage: str,
    part: str,
    graph: Graph,
    types: dict[str, str | None],
) -> None:
    """What a node of the first step says of the neurons, or the readout, that it belongs to."""
    output, what = node.output[0], graph.key(node)[len(stage) + 1 :]
    states = graph.names.states if graph.names is not None else {}
    if what == "current" or part == "spike":
        found = neurons.setdefault(stage, Neurons(stage, graph.shape(output)))
        found.spiking |= part == "spike"
        taken = [name for name in node.input if name not in (*graph.constants, *states)]
        if what == "current":
            found.current = types[output]
        elif found.current is None and what.startswith(TAKE) and taken:  # not quantized
            found.current = types.get(taken[0])
    elif stage in neurons and (what in STATES or (what in AGES and _left(output, states))):
        found = neurons[stage]
        if what in STATES:  # the last of them is kept
            found.state = types[output]
        else:
            found.age = types[output]
        count = math.prod(graph.shape(output) or [0])
        width = sum(bits(kind) or 0 for kind in (found.state, found.age))
        found.state_kb = count * width / 8 / 1024


def _left(output: str, states: Mapping[str, tuple[str, Sequence[int]]]) -> bool:
    """Whether a tensor is a state for the next step."""
    return any(output == name for name, _ in states.values())


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
        data = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return data if _shallow(data, 8) else value


def _shallow(data: Any, depth: int) -> bool:
    """Whether lists and objects are nested less deep than `depth`."""
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return depth > 0 and all(_shallow(value, depth - 1) for value in inner)
