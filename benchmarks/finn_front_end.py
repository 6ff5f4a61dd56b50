"""FINN's front end on graphs of target `finn`: what it changes, and whether it still computes them.

FINN is not on PyPI. Check out its branch `dev` and say where it is:

    git clone -b dev https://github.com/Xilinx/finn
    FINN_ROOT=finn python -m benchmarks.finn_front_end [--samples 500] [--net dense ...]
    FINN_ROOT=finn python -m benchmarks.finn_front_end --file runs/RUN/export/finn-step.onnx

Each network, small ones of its own or a file of `snntorch-stbp export --target finn`, is taken
through FINN's transformations. After every stage that changes its nodes the graph is executed on
digits, or the file's samples, and compared with the golden vectors: every spike of every layer and
step, and the record; a line says mismatches / compared, the number of samples and the nodes. The
last graph is compared on all `--samples`. At the end stand the hardware layers that were reached,
and what stays for the host. No synthesis tool is needed.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import golden
from snntorch_stbp.export.names import Names, with_spikes
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.qonnx.targets import Form
from snntorch_stbp.export.verify import Execute, verify
from snntorch_stbp.frozen import freeze
from tests.nets import digits, make

HARDWARE = "finn.custom_op.fpgadataflow"


def dense(bits: Any, **options: Any) -> nn.Module:
    """64-24-16-10 neurons without normalisation."""
    precision = stbp.Precision(bits)
    layers: list[nn.Module] = [precision.input_quant(), stbp.DirectCoding(2)]
    for index, (inputs, outputs) in enumerate(((64, 24), (24, 16), (16, 10))):
        linear = precision.linear(inputs, outputs)
        nn.init.normal_(linear.weight, std=0.25)
        layer = linear if index else nn.Sequential(nn.Flatten(), linear)
        layers += [stbp.TimeDistributed(layer), stbp.Leaky(**options)]
    return nn.Sequential(*layers).eval()


def windows(pool: nn.Module, side: int, **options: Any) -> nn.Module:
    """A convolution, pooling of spikes, and a convolution with `options` that leaves `side`."""
    precision = stbp.Precision(4)
    return nn.Sequential(
        precision.input_quant(),
        stbp.DirectCoding(2),
        stbp.TimeDistributed(precision.conv2d(1, 6, 3, padding=1)),
        stbp.Leaky(0.5, threshold=0.1),
        stbp.TimeDistributed(nn.Sequential(pool, precision.conv2d(6, 6, 3, padding=1, **options))),
        stbp.Leaky(0.5, threshold=0.1),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(6 * side**2, 10))),
    ).eval()


NETS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: dense(4),
    "dense-ternary": lambda: dense("ternary"),
    "dense-subtract": lambda: dense(4, reset_mechanism="subtract"),
    "dense-delayed": lambda: dense(4, reset_mechanism="subtract", reset_delay=True),
    "mnistnet": lambda: make("mnistnet", bits=4),
    "mnistnet_bn": lambda: make("mnistnet_bn", bits=4, readout="rate"),
    "mnistnet_bn-binary": lambda: make("mnistnet_bn", bits=1, readout="rate"),
    "mnistnet_bn-membrane": lambda: make("mnistnet_bn", bits=2, act_bits=8, membrane_bits=4),
    "mnistnet-fine-membrane": lambda: make("mnistnet", bits=4, act_bits=4, membrane_bits=6),
    "resnet": lambda: make("resnet", bits=4),
    "maxima-of-currents": lambda: make("pooled", bits=4),
    "averages-of-currents": lambda: make("averaged", bits=4),
    "padded-maxima": lambda: windows(nn.MaxPool2d(3, 2, padding=1), 4, groups=6),
    "padded-averages": lambda: windows(nn.AvgPool2d(3, 2, padding=1), 2, dilation=2),
}


def stages(model: ModelWrapper) -> Iterator[tuple[str, ModelWrapper]]:
    """The graph after each of FINN's transformations."""
    import finn.transformation.fpgadataflow.convert_to_hw_layers as to_hw
    import finn.transformation.streamline.absorb as absorb
    from finn.transformation.move_reshape import RemoveCNVtoFCFlatten
    from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
    from finn.transformation.streamline import Streamline
    from finn.transformation.streamline.reorder import MakeMaxPoolNHWC
    from finn.transformation.streamline.round_thresholds import RoundAndClipThresholds
    from qonnx.transformation.general import GiveUniqueParameterTensors
    from qonnx.transformation.infer_data_layouts import InferDataLayouts
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul

    steps: list[list[Any]] = [
        [InferShapes(), InferDataLayouts(), GiveUniqueParameterTensors()],
        [ConvertQONNXtoFINN()],
        [Streamline()],
        [LowerConvsToMatMul()],
        [MakeMaxPoolNHWC(), absorb.AbsorbConsecutiveTransposes(), Streamline(), InferDataLayouts()],
        [InferDataTypes(), RoundAndClipThresholds(), InferDataTypes()],
        [to_hw.InferPool()],
        [to_hw.InferConvInpGen()],
        [to_hw.InferVectorVectorActivation()],
        [to_hw.InferBinaryMatrixVectorActivation()],
        [to_hw.InferQuantizedMatrixVectorActivation()],
        [to_hw.InferThresholdingLayer()],
        [to_hw.InferElementwiseBinaryOperation(of_integers)],
        [to_hw.InferDuplicateStreamsLayer()],
    ]
    first = {i.name for i in model.graph.input}
    if not any(n.op_type == "Flatten" and n.input[0] in first for n in model.graph.node):
        steps.append([RemoveCNVtoFCFlatten()])  # it expects a node in front of each Flatten
    for group in steps:
        for transformation in group:
            model = model.transform(transformation)
        yield " ".join(type(t).__name__ for t in group[:2]), model


def of_integers(model: ModelWrapper, node: NodeProto) -> bool:
    """Whether a node gives integers; the scaling of a readout is left to the host."""
    return bool(model.get_tensor_datatype(node.output[0]).is_integer())


def executor(model: ModelWrapper, inputs: list[str], outputs: list[str]) -> Execute:
    """The QONNX executor; inputs and outputs keep their places, but not always their names."""
    new_inputs = [i.name for i in model.graph.input]
    new_outputs = [o.name for o in model.graph.output]

    def execute(feeds: dict[str, Any]) -> dict[str, Any]:
        renamed = {new: feeds[old] for old, new in zip(inputs, new_inputs, strict=True)}
        result = execute_onnx(model, renamed)
        return {old: result[new] for old, new in zip(outputs, new_outputs, strict=True)}

    return execute


def count(model: ModelWrapper, hardware: bool | None = None) -> str:
    """Operators and how many nodes of each; of the hardware layers or of the others only."""
    nodes = [
        node.op_type
        for node in model.graph.node
        if hardware is None or node.domain.startswith(HARDWARE) == hardware
    ]
    found = sorted(collections.Counter(nodes).items())
    return " ".join(f"{number} {name}" for name, number in found) or "none"


def of_net(name: str, form: Form, samples: int) -> tuple[ModelProto, golden.Golden]:
    """The graph of a network, and its golden vectors on digits."""
    net, images = freeze(NETS[name]()), digits(samples)
    return build(net, images[:1], form=form, target="finn").model, golden.compute(net, images)


def of_file(path: Path) -> tuple[ModelProto, golden.Golden]:
    """An exported graph, and the golden vectors beside it."""
    return onnx.load(str(path)), golden.load(path.with_suffix(".samples.npz"))


def through(
    title: str, proto: ModelProto, vectors: golden.Golden, samples: int, between: int
) -> bool:
    """Print the table of one graph; whether all of it was equal."""
    names, source = Names.of(proto), ModelWrapper(with_spikes(proto))
    inputs, outputs = ([v.name for v in vs] for vs in (source.graph.input, source.graph.output))
    samples = min(samples, len(vectors["input"]))
    print(f"\n{title}, {names.form}")
    before, equal = "", True

    def row(stage: str, model: ModelWrapper, limit: int) -> bool:
        verdict, same = compare(executor(model, inputs, outputs), vectors, names, limit)
        print(f"  {stage:36} {verdict} in {min(limit, samples)}  {count(model)}", flush=True)
        return same

    for stage, model in stages(source):
        if count(model) != before:
            before = count(model)
            equal &= row(stage, model, between)
    if samples > between:
        equal &= row("the last one", model, samples)
    print(f"  hardware layers: {count(model, True)}")
    print(f"  left to the host: {count(model, False)}", flush=True)
    return equal


def compare(execute: Execute, vectors: golden.Golden, names: Names, limit: int) -> tuple[str, bool]:
    """Mismatches / compared, or the sentence of the first difference."""
    try:
        agreement = verify(execute, vectors, names, limit=limit)
    except StbpError as error:
        return str(error), False
    return f"0/{agreement.spikes + agreement.scores}", True


def main() -> int:
    """Take every network or file through FINN's front end and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=8, help="samples for the last stage")
    parser.add_argument("--between", type=int, default=8, help="samples for every stage")
    parser.add_argument("--net", choices=NETS, nargs="*", default=list(NETS))
    parser.add_argument("--form", choices=["step", "unrolled"], nargs="*")
    parser.add_argument("--file", type=Path, nargs="*", help="exported graphs instead of --net")
    arguments = parser.parse_args()
    root = Path(os.environ.get("FINN_ROOT", ""))
    if not os.environ.get("FINN_ROOT") or not (root / "src/finn").is_dir():
        print(
            "FINN_ROOT must name a checkout of FINN (branch dev), with src/finn.", file=sys.stderr
        )
        return 1
    sys.path.insert(0, str(root.resolve() / "src"))
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(3)
    samples, between = arguments.samples, arguments.between
    if arguments.file:
        graphs = ((str(path), *of_file(path)) for path in arguments.file)
    else:
        forms = arguments.form or ("step", "unrolled")
        graphs = ((net, *of_net(net, form, samples)) for net in arguments.net for form in forms)
    results = [through(*graph, samples, between) for graph in graphs]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
