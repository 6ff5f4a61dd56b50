"""A drawing of a graph: layers, currents, neurons and their states at one time step.

A box holds the nodes that compute one thing. Weights and other constants have no boxes. Of graphs
of other programs, every node has a box.
"""

from __future__ import annotations

import warnings
from collections import Counter
from graphlib import CycleError
from itertools import groupby
from pathlib import Path

from onnx import NodeProto

from ...errors import StbpError
from ...files import atomic_write
from .diagram import paint
from .graph import MOVES, QUANTIZERS
from .inspect import STATES, Inspected
from .marks import Box

MOST = 400
COLOURS = {
    "input or output": "#ececec",
    "layer with weights": "#c9dff5",
    "pooling": "#d3ecd6",
    "addition": "#e4dcf3",
    "input current": "#fbf0b8",
    "quantizer": "#f3e3a0",
    "neurons": "#fbd3ad",
    "state": "#f6d5dc",
    "other": "#ffffff",
}
KINDS = {
    "add": "addition", "current": "input current", "spike": "neurons", "state": "state",
    "sum": "addition",
}  # fmt: skip


def draw(found: Inspected, path: Path) -> None:
    """Draw a graph to `path`, a PNG or an SVG by its suffix; a file there is replaced.

    Raises:
        StbpError: If the graph has too many boxes to be read or goes in circles, or the file cannot
            be written.
    """
    from matplotlib import rc_context

    boxes = _Boxes(found).boxes
    if len(boxes) > MOST:
        raise StbpError(
            f"'{found.path}' would need {len(boxes):,} boxes; more than {MOST} are not legible."
        )
    svg = path.suffix.lower() == ".svg"
    text = rc_context({"svg.fonttype": "none", "svg.hashsalt": "snntorch-stbp"})
    with text, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        try:
            figure = paint(boxes, *_titles(found), COLOURS)
        except CycleError as error:
            raise StbpError(f"the nodes of '{found.path}' go in a circle.") from error
        with atomic_write(path) as file:
            figure.savefig(
                file, format="svg" if svg else "png", dpi=130,
                metadata={"Date": None} if svg else None,
            )  # fmt: skip


def _titles(found: Inspected) -> tuple[str, str]:
    """What is drawn, and which step of it."""
    names, get = found.names, found.metadata.get
    facts = [get("model") or found.path.name, get("dataset"), get("bits") and f"{get('bits')} bits"]
    if names is None:
        return _clean(", ".join(filter(None, facts))), f"by {_clean(found.producer)}"
    form = "one step" if names.form == "step" else names.form
    title = _clean(", ".join(filter(None, [*facts, form, f"target {found.target}"])))
    if names.form == "step":
        return title, f"one of {names.steps} steps; states are inputs and outputs of the graph"
    if names.steps == 1:
        return title, "one step"
    later = "later steps are the same with the state v of the step before"
    return title, f"step t0 of {names.steps}; {later}"


class _Boxes:
    """The boxes of one step, each with the keys of those that it takes data from."""

    def __init__(self, found: Inspected) -> None:
        self.found, self.graph = found, found.graph
        self.consumers: dict[str, NodeProto] = {}
        for node in self.graph.nodes:
            for name in node.input:
                self.consumers.setdefault(name, node)
        parts = [self.graph.part(node) for node in self.graph.nodes]
        self.joined = {part[0] for part in parts if part is not None and part[1] == "add"}
        self.layers = {layer.name: layer for layer in found.layers}
        self.groups: dict[str, list[NodeProto]] = {}
        self.maker: dict[str, str] = {}  # tensor -> key of the box that it comes from
        for node in self.graph.nodes:
            if self._drawn(node):
                key = self._key(node)
                self.groups.setdefault(key, []).append(node)
                self.maker.update(dict.fromkeys(node.output, key))
        self.boxes = self._inputs()
        self.boxes |= {key: self._box(key, nodes) for key, nodes in self.groups.items()}
        self._connect()
        self._outputs()

    def _drawn(self, node: NodeProto) -> bool:
        """Whether a node is of the first step and no constant."""
        if all(output in self.graph.constants for output in node.output):
            return False
        part = self.graph.part(node)
        return self.graph.step(node.name) == 0 or (part is not None and part[1] == "sum")

    def _key(self, node: NodeProto) -> str:
        """The key of the box of a node."""
        if self.found.names is None:
            return f"node {node.output[0]}"
        key, part = self.graph.key(node), self.graph.part(node)
        if part is not None:
            scales = self.graph.key(node).rpartition("multiply")[2].isdigit()
            return self._name(part[0], "add" if scales and part[0] in self.joined else part[1])
        if node.op_type in MOVES:
            step = f"{self.found.names.separator}t0_n"
            if step in node.name:  # beside a convolution
                return node.name.rpartition(step)[0]
            after = self.consumers.get(node.output[0])
            return key if after is None else self._key(after)
        return key

    def _name(self, stage: str, what: str) -> str:
        assert self.found.names is not None
        return f"{stage}{self.found.names.separator}{what}"

    def _box(self, key: str, nodes: list[NodeProto]) -> Box:
        """What a box says of its nodes."""
        graph = self.graph
        whole = graph.part(nodes[-1])
        part = whole[1] if whole is not None else None
        names = [node.op_type for node in nodes]
        main = next((node for node in nodes if graph.is_layer(node)), nodes[0])
        layer = self.layers.get(graph.key(main)) if part is None else None
        title = (main.name or main.output[0]) if self.found.names is None else key
        lines: list[str] = []
        if layer is not None:
            names = [self._operation(n) if n is main else n.op_type for n in nodes]
            source = graph.source(main.input[1]) if layer.weight_type else None
            if source is not None:
                shape = _shape(list(graph.initializers[source].dims), 0)
                lines = [f"{layer.weight_type} {shape}"]
        if whole is not None and part == "state":
            kept = [n for n in nodes if graph.key(n)[len(whole[0]) + 1 :] in STATES]
            lines = [self._note((kept or nodes)[-1].output[0])]
        elif part == "sum":
            names = names[:1]
            lines = [f"the sum of {self.found.names.steps if self.found.names else 0} steps"]
        elif part == "spike":
            lines = [f"{_shape(graph.shape(nodes[-1].output[0]))} neurons"]
        kind = KINDS[part] if part is not None else self._kind(main)
        runs = [(name, len(list(run))) for name, run in groupby(names)]
        if len(runs) > 5:  # thresholds by age
            runs = Counter(names).most_common()
        operations = ", ".join(f"{n} x{count}" if count > 1 else n for n, count in runs)
        return Box(kind, _clean(title), tuple(map(_clean, [operations, *lines])))

    def _kind(self, node: NodeProto) -> str:
        if self.graph.is_pooling(node):
            return "pooling"
        if self.graph.has_weights(node):
            return "layer with weights"
        if node.op_type in (*QUANTIZERS, "MultiThreshold", "QuantizeLinear"):
            return "quantizer"
        return "addition" if node.op_type in ("Add", "Sum") else "other"

    def _operation(self, node: NodeProto) -> str:
        """An operator with its window: `Conv 3x3 stride 2`."""
        layer = self.layers[self.graph.key(node)]
        stride = f"stride {_shape(layer.strides, 0)}" if max(layer.strides, default=1) > 1 else ""
        return " ".join(filter(None, [layer.operator, _shape(layer.kernel or None, 0), stride]))

    def _inputs(self) -> dict[str, Box]:
        boxes = {}
        for tensor in self.found.inputs:
            if self.graph.step(tensor.name) == 0:
                key = f"input {tensor.name}"
                boxes[key] = Box("input or output", _clean(tensor.name), ("input",))
                self.maker[tensor.name] = key
        return boxes

    def _outputs(self) -> None:
        for tensor in self.found.outputs:
            lines = ("output", self._note(tensor.name))
            box = self.boxes[f"output {tensor.name}"] = Box(
                "input or output", _clean(tensor.name), lines
            )
            if tensor.name in self.maker:
                self._link(box, tensor.name)

    def _connect(self) -> None:
        """Give every box its sources, and every layer of neurons its state."""
        for key, nodes in self.groups.items():
            for name in (name for node in nodes for name in node.input):
                if self.maker.get(name, key) != key:
                    self._link(self.boxes[key], name)
        for key in [key for key, box in self.boxes.items() if box.kind == "state"]:
            spike = key.removesuffix("state") + "spike"
            if spike in self.boxes:
                self.boxes[spike].companion = self.boxes.pop(key)
                for box in self.boxes.values():
                    box.sources = [source for source in box.sources if source != key]

    def _link(self, box: Box, tensor: str) -> None:
        source = self.maker[tensor]
        if source not in box.sources:
            box.sources.append(source)
        if box.kind != "state":
            self.boxes[source].note = self.boxes[source].note or self._note(tensor)

    def _note(self, tensor: str) -> str:
        """Data type and shape, without the batch."""
        shape = _shape(self.graph.shape(tensor))
        return _clean(f"{self.found.types.get(tensor) or ''} {shape}".strip())


def _shape(shape: list[int] | None, skip: int = 1) -> str:
    if shape is None:
        return ""
    return "x".join(str(n) if n > 0 else "?" for n in shape[skip:]) or "scalar"


def _clean(text: str) -> str:
    """Text from a file without what cannot be printed."""
    return "".join(c if c.isprintable() else "?" for c in text)
