"""What tells an export from any other, and from one that was changed since."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from onnx import ModelProto

GRAPH = "graph_sha256"
"""Where a graph's metadata say what it was written as."""

BESIDE = {
    ".samples.npz": "samples_sha256",
    ".step.json": "step_sha256",
    ".hls4ml.json": "hls4ml_sha256",
}
"""Where they say which files beside it are its own, by the ends of their names."""


def of_bytes(content: bytes) -> str:
    """Of a file's content."""
    return hashlib.sha256(content).hexdigest()


def of_file(path: Path) -> str:
    """Of a file."""
    return of_bytes(path.read_bytes())


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


def of_folder(text: dict[str, Any], folder: Path) -> str:
    """Of a folder of integers: its arrays, its golden vectors, and the rest of its `text`."""
    content = json.dumps({k: v for k, v in text.items() if k != "sha256"}, sort_keys=True)
    files = sorted(folder.glob("*.npz"))
    return of_bytes(" ".join([content, *map(of_file, files)]).encode())
