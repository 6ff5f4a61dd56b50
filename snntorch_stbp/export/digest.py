"""What tells an export from any other, and from one that was changed since."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import ModelProto

SAMPLES, GRAPH = "samples_sha256", "graph_sha256"
"""Where a graph's metadata say which golden vectors are its own, and what it was written as."""


def of_file(path: Path) -> str:
    """Of all bytes of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_graph(model: ModelProto) -> str:
    """Of all that a graph computes with: nodes, numbers, inputs, outputs and their data types.

    Shapes and words beside them, which tools add, do not count.
    """
    graph = model.graph
    digest = hashlib.sha256()
    for parts in (
        graph.input, graph.output, graph.node, graph.initializer, graph.quantization_annotation
    ):  # fmt: skip
        for part in parts:
            content = part.SerializeToString(deterministic=True)
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
