"""hls4ml: the configuration under which its C++ computes exactly what the graph computes.

Left to itself hls4ml guesses precisions, merges quantizers into other nodes and loses bits. Every
tensor's exact range is known here, so each layer is given its precision outright, which also keeps
hls4ml from merging it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from ..errors import StbpError
from .array import Array
from .names import Names, with_spikes
from .qonnx.frozen import Built
from .qonnx.ranges import Range
from .verify import Execute, run_graph

MISSING = "hls4ml is not installed: pip install 'snntorch-stbp[hls4ml]'."


def precision(values: Range) -> str:
    """The fixed-point type of hls4ml that holds a range exactly; its point is not in front of it,
    where hls4ml's C++ would round by a bit that the type lacks.
    """
    kind = "fixed" if values.signed else "ufixed"
    integer = max(values.bits - values.fraction, 0)
    return f"{kind}<{integer + values.fraction},{integer}>"


def configuration(built: Built) -> dict[str, Any]:
    """Precisions of every layer of a graph of target `hls4ml`, by the names hls4ml gives them."""
    ranges, constants = built.writer.ranges, built.writer.constants
    layers: dict[str, Any] = {}
    for name in built.writer.inputs:
        layers[name] = {"Precision": {"result": precision(ranges[name])}}
    for node in built.model.graph.node:
        kinds = {"result": precision(ranges[node.output[0]])}
        if node.op_type in ("MatMul", "Conv"):
            kinds["accum"] = kinds["result"]
            kinds["weight"] = precision(ranges[node.input[1]])
            kinds["bias"] = "ufixed<1,1>"
        elif node.op_type == "BatchNormalization":
            kinds["scale"], kinds["bias"] = (precision(ranges[i]) for i in node.input[1:3])
        elif node.op_type in ("Mul", "Add", "Sub") and node.input[1] in constants:
            values = ranges[node.input[1]]
            if node.op_type == "Sub":
                values = Range(-values.high, -values.low, values.fraction)
            kinds |= {"scale": "fixed<2,2>", "bias": "ufixed<1,1>"}
            kinds["scale" if node.op_type == "Mul" else "bias"] = precision(values)
        layers[node.name] = {"Precision": kinds}
    return {"Model": {"Precision": "fixed<32,16>", "ReuseFactor": 1}, "LayerName": layers}


def configuration_text(built: Built) -> str:
    """The configuration as JSON."""
    return json.dumps(configuration(built), indent=2) + "\n"


def convert(
    model: ModelProto,
    config: dict[str, Any],
    folder: str | Path,
    io_type: str = "io_stream",
    spikes: bool = False,
) -> Any:
    """An hls4ml model of a graph of target `hls4ml`; `compile()` it, then `simulate`.

    Args:
        model: The ONNX model.
        config: What `configuration` gives.
        folder: Where hls4ml writes its C++.
        io_type: `"io_stream"` (images) or `"io_parallel"` (small dense networks).
        spikes: Give the spikes of every layer as outputs, too, to compare them.

    Raises:
        StbpError: If hls4ml is not installed.
    """
    try:
        import hls4ml
    except ImportError as error:
        raise StbpError(MISSING) from error
    if spikes:
        model = with_spikes(model)
    full = hls4ml.utils.config_from_onnx_model(
        model,
        granularity="name",
        backend="Vitis",
        default_precision=config["Model"]["Precision"],
    )
    full["Model"] |= config["Model"]
    for name, values in config["LayerName"].items():
        if name in full["LayerName"]:
            full["LayerName"][name].setdefault("Precision", {}).update(values["Precision"])
    return hls4ml.converters.convert_from_onnx_model(
        model,
        hls_config=full,
        output_dir=str(folder),
        backend="Vitis",
        io_type=io_type,
        project_name="snn",
    )


def simulate(compiled: Any, model: ModelProto, images: Array) -> tuple[Array, dict[str, Array]]:
    """Run hls4ml's C++ on images: all steps of a network, in either form of its graph.

    A graph of the form `step` is run `T` times; each state output feeds its input at the next step,
    0 at the first one, and the readouts are summed.

    Args:
        compiled: What `convert` gave, after `compile()`.
        model: The ONNX model that was converted.
        images: Integers `[N, C, H, W]`, or frames `[N, T, C, H, W]`, as `input` of the golden
            vectors.

    Returns:
        The record `[N, K]`, summed over time, and the spikes `[N, T, ...]` of every layer, channels
        first, as in the golden vectors (none without `convert(..., spikes=True)`).

    Raises:
        StbpError: If the model does not come from this package.
    """
    names = Names.of(model).with_batch(len(images))
    given = set(_outputs(compiled))
    names = replace(names, spikes={s: n for s, n in names.spikes.items() if given.issuperset(n)})
    record, spikes = run_graph(_executor(compiled), images, names)
    return record, {
        stage: names.from_graph(np.stack(steps, 1), 2).astype(np.uint8)
        for stage, steps in spikes.items()
    }


def _executor(compiled: Any) -> Execute:
    """Run a compiled hls4ml model with inputs and outputs by the names of the graph."""
    shapes = [variable.shape for variable in compiled.get_output_variables()]

    def execute(inputs: dict[str, Array]) -> dict[str, Array]:
        x = [np.ascontiguousarray(inputs[name], np.float32) for name in compiled.inputs]
        y = compiled.predict(x if len(x) > 1 else x[0])
        values = y if isinstance(y, list) else [y]
        return {
            name: np.asarray(value).reshape(-1, *shape)
            for name, value, shape in zip(_outputs(compiled), values, shapes, strict=True)
        }

    return execute


def _outputs(compiled: Any) -> list[str]:
    """The graph's names of hls4ml's outputs, in the order of hls4ml."""
    return [re.sub(r"_cpy\d+$", "", name) for name in compiled.outputs]
