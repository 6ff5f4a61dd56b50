r"""A frozen network as a QONNX graph.

Per stage and step, in units of the stage's step, everything between two `Quant` nodes is exact:

    current   x = Quant(2^-(F+1) * (sum of m * (w (*) s) + c))          INT<act_bits>
    membrane  u = x + v                                                 integers
    spike     o = Quant1(Relu(u - theta))                               BINARY
    state     v' = Quant(beta * (u - u * o) + 2^-(k+1))                 INT<state bits>

`Quant1` is an unsigned quantizer of one bit; what it rounds is an integer, so that neither the way
it rounds nor the way it compares matters. The `unrolled` form holds `T` steps and gives the sum of
the record over time; the `step` form holds one, with the states `v` as inputs and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from ..errors import StbpError
from ..frozen import FrozenNet
from ..frozen.fold import FrozenBranch
from ..frozen.graph import INPUT, Branch, pair
from ..frozen.net import READOUT_BITS, FrozenStage
from .names import Names
from .writer import CHANNELS_LAST, QONNX, Array, Range, Writer

Form = Literal["unrolled", "step"]
RECORD = "record"


@dataclass(frozen=True)
class Target:
    """How a graph is written for one reader; what it computes is the same for all.

    Attributes:
        layout: `"nchw"`; `"nhwc"` with QONNX's channels-last convolutions; `"nhwc_transposed"`
            with ONNX convolutions between transpositions.
        affine: Multipliers and biases as integer `Mul` and `Add` before one scaling, or as
            `"batchnorm"` nodes per channel.
        separator: Between the parts of a name.
        shared: Whether the steps share constants.
        quantizers: QONNX's `Quant`, or FINN's `MultiThreshold`, which is the same function.
    """

    layout: Literal["nchw", "nhwc", "nhwc_transposed"] = "nchw"
    affine: Literal["integer", "batchnorm"] = "integer"
    separator: str = "/"
    shared: bool = True
    quantizers: Literal["quant", "multithreshold"] = "quant"


TARGETS = {
    "generic": Target(),
    "finn": Target(layout="nhwc_transposed", quantizers="multithreshold"),
    "hls4ml": Target(layout="nhwc", affine="batchnorm", separator="_", shared=False),
}


class Built(NamedTuple):
    """A graph, its tensors' shapes and ranges, and what a verifier must know of it."""

    model: ModelProto
    writer: Writer
    names: Names


def build(
    net: FrozenNet,
    sample: torch.Tensor,
    *,
    form: Form,
    target: str,
    batch: int = 1,
    expose_spikes: bool = False,
    metadata: dict[str, str] | None = None,
) -> Built:
    """Write `net` as an ONNX model.

    Args:
        net: The frozen network.
        sample: One input, `[1, C, H, W]` or frames `[T, 1, C, H, W]`; its shape counts.
        form: `"unrolled"` or `"step"`.
        target: A key of `TARGETS`.
        batch: Static batch size.
        expose_spikes: Make every spike tensor an output, too.
        metadata: Further entries of the model's metadata.

    Returns:
        The model, every tensor's shape and range, and what a verifier must know.

    Raises:
        StbpError: If `net` needs what the target does not have.
    """
    builder = _Builder(net, sample, TARGETS[target], form, batch, expose_spikes)
    builder.write()
    names = builder.names()
    model = builder.writer.model("snn", {"names": names.to_json(), **(metadata or {})})
    return Built(model, builder.writer, names)


class _Builder:
    def __init__(
        self,
        net: FrozenNet,
        sample: torch.Tensor,
        target: Target,
        form: Form,
        batch: int,
        expose_spikes: bool,
    ) -> None:
        self.net, self.target, self.form = net, target, form
        self.batch, self.expose_spikes = batch, expose_spikes
        self.frames = sample.dim() == 5
        self.steps = sample.shape[0] if self.frames else net.num_steps
        record: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            final = net(sample, record)
        self.sizes = {INPUT: tuple(sample.shape[-3:])}
        for stage in net.stages:
            value = record.get(stage.stage.name, final)  # a readout of currents is no record entry
            self.sizes[stage.stage.name] = tuple(value.shape[2:])
        self.writer = Writer()
        self.values: dict[str, str] = {}  # spikes of each stage at this step
        self.states: dict[str, str] = {}
        self.spikes: dict[str, list[str]] = {}
        self.static: dict[str, str] = {}  # currents that are the same at every step

    def write(self) -> None:
        """All steps of the form."""
        steps = range(self.steps if self.form == "unrolled" else 1)
        total: str | None = None
        for t in steps:
            self._input(t)
            out = ""
            for stage in self.net.stages:
                out = self._stage(stage, t)
            name = self._name(self.net.stages[-1].stage.name, "sum", f"t{t}")
            total = out if total is None else self.writer.binary("Add", name, total, out)
        assert total is not None
        self._record(total)
        if self.form == "step":
            self.writer.outputs += self.states.values()
        self._layouts()

    def _layouts(self) -> None:
        """Say of every tensor of images where its channels are."""
        layout = "NCHW" if self.target.layout == "nchw" else "NHWC"
        for name, shape in self.writer.shapes.items():
            if len(shape) == 4 and name not in self.writer.constants:
                self.writer.layouts[name] = layout
        if self.target.layout == "nhwc_transposed":
            for node in self.writer.nodes:
                if node.op_type == "Conv":
                    for name in (node.input[0], node.output[0]):
                        self.writer.layouts[name] = "NCHW"

    def names(self) -> Names:
        """What a verifier must know of the graph."""
        inputs = [n for n in self.writer.inputs if n != "image"] if self.form == "step" else []
        outputs = zip(inputs, self.states.values(), strict=True) if inputs else ()
        return Names(
            form=self.form,
            steps=self.steps,
            batch=self.batch,
            frames=self.frames,
            channels_last=self.target.layout != "nchw",
            separator=self.target.separator,
            spikes=self.spikes,
            states={i: (o, self.writer.shapes[i]) for i, o in outputs},
        )

    # -- names and layouts

    def _name(self, *parts: str) -> str:
        name = self.target.separator.join(parts)
        if self.target.separator == "/":
            return name
        name = name.replace(".", "_").replace("#", "_")  # an identifier of C++
        return f"n{name}" if name[0].isdigit() else name

    def _quant(
        self, name: str, x: str, output: str, bits: int, scale: float = 1.0, shift: float = 0.0
    ) -> str:
        """A signed quantizer, as the target writes it; thresholds are lowered by `shift`."""
        writer = self.writer
        if self.target.quantizers == "quant":
            return writer.quant(name, x, output, bits, True, scale)
        if scale == 1:
            return writer.thresholds(name, x, output, bits, shift=shift)
        # FINN has no thresholds in hardware whose output is scaled.
        levels = writer.thresholds(name, x, f"{name}_levels_out", bits, scale, shift)
        factor = writer.constant(f"{name}_scale", scale)
        return writer.binary("Mul", f"{name}_scaled", levels, factor, output)

    def _shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape from its features `(F,)` or `(C, H, W)`."""
        if len(size) == 3 and self.target.layout != "nchw":
            return (self.batch, size[1], size[2], size[0])
        return (self.batch, *size)

    def _per_channel(self, value: Array, size: tuple[int, ...]) -> Array:
        """One value per channel in a shape that broadcasts over a tensor of `size`."""
        if value.size == 1:
            return value.reshape(())
        if len(size) == 3 and self.target.layout == "nchw":
            return value.reshape(1, -1, 1, 1)
        return value

    def _constant(
        self, stage: str, what: str, t: int, value: Array | float, fraction: int = 0
    ) -> str:
        """A constant of a stage, shared by the steps if the target wants that."""
        name = self._name(stage, what) if self.target.shared else self._name(stage, what, f"t{t}")
        if name in self.writer.constants:
            return name
        return self.writer.constant(name, value, fraction)

    # -- the parts of a step

    def _input(self, t: int) -> None:
        if self.frames and self.form == "unrolled":
            name = self._name("image", f"t{t}")
        elif t == 0:
            name = "image"
        else:
            return
        top = 2**self.net.input_bits - 1
        self.values[INPUT] = self.writer.input(name, self._shape(self.sizes[INPUT]), Range(0, top))

    def _stage(self, stage: FrozenStage, t: int) -> str:
        """One stage at one step; its spikes, or its current without neurons."""
        name = stage.stage.name
        current = self.static.get(name) or self._current(stage, t)
        if not self.frames and all(b.source == INPUT for b in stage.stage.branches):
            self.static[name] = current
        if stage.neuron is None:
            return current
        return self._neuron(stage, current, t)

    def _current(self, stage: FrozenStage, t: int) -> str:
        name, writer = stage.stage.name, self.writer
        total: str | None = None
        for index, (branch, frozen) in enumerate(
            zip(stage.stage.branches, stage.current.branches, strict=True)
        ):
            summed = self._accumulate(branch, frozen, index, name, t)
            term = self._affine(stage, branch, frozen, index, summed, t)
            if total is None:
                total = term
            else:
                total = writer.binary("Add", self._name(name, f"add{index}", f"t{t}"), total, term)
        assert total is not None
        fraction = _array(stage.current.fraction).astype(int) + 1
        if self.target.affine == "integer":
            total = self._bias_and_scale(stage, total, fraction, t)
        if stage.neuron is None and self.target.quantizers == "multithreshold":
            return total  # rounded already
        bits, scale = READOUT_BITS, 2.0**-stage.readout_digits
        if stage.neuron is not None:
            bits, scale = stage.neuron.act_bits, 1.0
        quant = self._name(name, "current", f"t{t}")
        return self._quant(quant, total, f"{quant}_out", bits, scale)

    def _bias_and_scale(self, stage: FrozenStage, total: str, fraction: Array, t: int) -> str:
        """Add the integer bias and scale the integer sum to units of the step."""
        name, size, writer = stage.stage.name, self.sizes[stage.stage.name], self.writer
        bias = _array(stage.current.bias) * 2.0**fraction
        c = self._constant(name, "bias", t, self._per_channel(bias, size))
        total = writer.binary("Add", self._name(name, "add_bias", f"t{t}"), total, c)
        largest = int(fraction.max())
        scale = self._constant(
            name, "scale", t, self._per_channel(2.0**-fraction, size), fraction=largest
        )
        node = self._name(name, "rescale", f"t{t}")
        if stage.neuron is None and self.target.quantizers == "multithreshold":
            # A readout is rounded to 16 bits, too many for thresholds: FINN leaves it to the host.
            # It is rounded before it is scaled, as integers: FINN moves a bias behind a scaling and
            # drops what is then below 1e-5, which a quantizer, unlike thresholds, does not forgive.
            quant = self._name(name, "current", f"t{t}")
            step = self._per_channel(2.0 ** (fraction - stage.readout_digits), size)
            rounded = writer.quant(quant, total, f"{quant}_out", READOUT_BITS, True, step)
            return writer.binary("Mul", node, rounded, scale)
        # Per channel the sum stays below 2^24 of its own grid; the range states it on the finest.
        top = int(np.ceil(_array(stage.current.largest).max())) << largest
        return writer.node(
            "Mul", node, [total, scale], f"{node}_out", writer.shapes[total],
            Range(-top, top, largest),
        )  # fmt: skip

    def _accumulate(
        self, branch: Branch, frozen: FrozenBranch, index: int, stage: str, t: int
    ) -> str:
        """Pooling and weights of a branch: integer sums."""
        x, size, writer = self.values[branch.source], self.sizes[branch.source], self.writer
        where = f"t{t}"
        for number, pool in enumerate(branch.pools):
            label = self._name(stage, f"pool{index}" + (f"_{number}" if number else ""), where)
            x, size = self._pool(pool, label, x, size)
        if branch.flatten and len(size) == 3:
            flat = self._name(stage, f"flatten{index}", where)
            shape = (self.batch, int(np.prod(size)))
            x = writer.node("Flatten", flat, [x], f"{flat}_out", shape, writer.ranges[x], axis=1)
        if frozen.weight is None:
            return x
        weight = _array(frozen.weight)
        values = _accumulated(weight, writer.ranges[x])
        node = self._name(branch.name, where)
        if isinstance(branch.layer, nn.Conv2d):
            layer = branch.layer
            return self._conv(
                node, x, self._weights(branch, frozen, weight, t), weight.shape[2:],
                pair(layer.stride), pair(layer.padding), pair(layer.dilation),  # type: ignore[arg-type]
                layer.groups, self.sizes[stage], values,
            )  # fmt: skip
        if branch.flatten and len(size) == 3 and self.target.layout != "nchw":
            weight = weight.reshape(-1, *size).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        w = self._weights(branch, frozen, weight.T, t)
        shape = (self.batch, len(weight))
        return writer.node("MatMul", node, [x, w], f"{node}_out", shape, values)

    def _weights(self, branch: Branch, frozen: FrozenBranch, weight: Array, t: int) -> str:
        """Integer weights behind a quantizer; every use has its own quantizer, as FINN wants."""
        name, writer = self._name(branch.name, "weight", f"t{t}"), self.writer
        shared = self._name(branch.name, "weight") if self.target.shared else f"{name}_integers"
        if weight.ndim == 4 and self.target.layout == "nhwc":
            weight = weight.transpose(0, 2, 3, 1)
        if shared not in writer.constants:
            writer.constant(shared, weight)
        if frozen.bits == 1:
            scale = writer.constant(f"{name}_scale", 1.0, datatype="FLOAT32")
            return writer.node(
                "BipolarQuant", name, [shared, scale], f"{name}_out", weight.shape,
                Range(-1, 1), QONNX,
            )  # fmt: skip
        bits = max(frozen.bits, 2)
        return writer.quant(name, shared, f"{name}_out", bits, True, narrow=True)

    def _conv(
        self, node: str, x: str, weight: str, kernel: tuple[int, ...], stride: tuple[int, int],
        padding: tuple[int, int], dilation: tuple[int, int], groups: int, size: tuple[int, ...],
        values: Range,
    ) -> str:  # fmt: skip
        writer = self.writer
        attributes: dict[str, Any] = {
            "kernel_shape": list(kernel),
            "strides": list(stride),
            "pads": [*padding, *padding],
            "dilations": list(dilation),
            "group": groups,
        }
        if self.target.layout != "nhwc_transposed":
            domain = CHANNELS_LAST if self.target.layout == "nhwc" else ""
            return writer.node(
                "Conv", node, [x, weight], f"{node}_out", self._shape(size), values, domain,
                **attributes,
            )  # fmt: skip
        b, h, w, c = writer.shapes[x]
        first = writer.node(
            "Transpose", f"{node}_nchw", [x], f"{node}_nchw_out", (b, c, h, w), writer.ranges[x],
            perm=[0, 3, 1, 2],
        )  # fmt: skip
        y = writer.node(
            "Conv", node, [first, weight], f"{node}_out", (b, *size), values, **attributes
        )
        return writer.node(
            "Transpose", f"{node}_nhwc", [y], f"{node}_nhwc_out", self._shape(size), values,
            perm=[0, 2, 3, 1],
        )  # fmt: skip

    def _pool(
        self, pool: nn.Module, node: str, x: str, size: tuple[int, ...]
    ) -> tuple[str, tuple[int, ...]]:
        """Average pooling as a sum, by a depthwise convolution of ones; maximum pooling as such."""
        assert isinstance(pool, (nn.AvgPool2d, nn.MaxPool2d))
        kernel, stride = pair(pool.kernel_size), pair(pool.stride)
        out = (
            size[0],
            *((n - k) // s + 1 for n, k, s in zip(size[1:], kernel, stride, strict=True)),
        )
        writer, values = self.writer, self.writer.ranges[x]
        if isinstance(pool, nn.AvgPool2d):
            ones = np.ones((size[0], 1, *kernel))
            if self.target.layout == "nhwc":
                ones = ones.transpose(0, 2, 3, 1)
            w = writer.constant(f"{node}_weight", ones, datatype="BINARY")
            total = Range(0, values.high * kernel[0] * kernel[1])
            return self._conv(
                node, x, w, kernel, stride, (0, 0), (1, 1), size[0], out, total
            ), out  # fmt: skip
        if self.target.layout == "nhwc_transposed":
            raise StbpError("maximum pooling is written for the targets generic and hls4ml only.")
        domain = CHANNELS_LAST if self.target.layout == "nhwc" else ""
        return writer.node(
            "MaxPool", node, [x], f"{node}_out", self._shape(out), values, domain,
            kernel_shape=list(kernel), strides=list(stride), pads=[0, 0, 0, 0],
        ), out  # fmt: skip

    def _affine(
        self, stage: FrozenStage, branch: Branch, frozen: FrozenBranch, index: int, x: str, t: int
    ) -> str:
        """Multiply by the multiplier: integers on the stage's grid, or with the bias as a node."""
        name, size, writer = stage.stage.name, self.sizes[stage.stage.name], self.writer
        fraction = _array(stage.current.fraction).astype(int) + 1
        multiplier = np.broadcast_to(_array(frozen.multiplier), fraction.shape)
        node = self._name(name, f"multiply{index}", f"t{t}")
        if self.target.affine == "integer":
            m = self._constant(
                name, f"multiplier{index}", t, self._per_channel(multiplier * 2.0**fraction, size)
            )
            return writer.binary("Mul", node, x, m)
        digits = int(fraction.max())
        bias = _array(stage.current.bias) if index == 0 else np.zeros(fraction.shape)
        low = np.minimum(multiplier * writer.ranges[x].low, multiplier * writer.ranges[x].high)
        high = np.maximum(multiplier * writer.ranges[x].low, multiplier * writer.ranges[x].high)
        values = Range(
            int(((low + bias) * 2.0**digits).min()),
            int(((high + bias) * 2.0**digits).max()),
            digits,
        )
        channels = size[0]
        parameters = [
            self._constant(name, f"{key}{index}", t, np.broadcast_to(value, channels), grid)
            for key, value, grid in (
                ("gamma", multiplier, digits),
                ("beta", bias, digits),
                ("mean", np.zeros(1), 0),
                ("var", np.ones(1), 0),
            )
        ]
        domain = CHANNELS_LAST if len(size) == 3 and self.target.layout == "nhwc" else ""
        return writer.node(
            "BatchNormalization", node, [x, *parameters], f"{node}_out", writer.shapes[x], values,
            domain, epsilon=0.0,
        )  # fmt: skip

    def _neuron(self, stage: FrozenStage, x: str, t: int) -> str:
        name, size, writer, neuron = (
            stage.stage.name, self.sizes[stage.stage.name], self.writer, stage.neuron,
        )  # fmt: skip
        assert neuron is not None
        where = f"t{t}"

        def label(what: str) -> str:
            return self._name(name, what, where)

        if self.form == "step":
            state = self._name(name, "state_in")
            self.states[name] = writer.input(state, self._shape(size), Range(*neuron.state))
        u = x
        if name in self.states:
            u = writer.binary("Add", label("membrane"), x, self.states[name])
            writer.ranges[u] = Range(*neuron.potential)
        if neuron.membrane_bits is not None:
            u = self._quantized_membrane(stage, u, t)
        spike = self._spike(stage, u, t)
        self.values[name] = spike
        self.spikes.setdefault(name, []).append(spike)
        if self.expose_spikes:
            writer.outputs.append(spike)
        if self.form == "step" or t + 1 < self.steps:
            self.states[name] = self._leak(stage, u, spike, t)
        return spike

    def _spike(self, stage: FrozenStage, u: str, t: int) -> str:
        """1 where `u > theta`: the positive part of `u - theta`, clipped to one bit."""
        name, size, writer = stage.stage.name, self.sizes[stage.stage.name], self.writer
        assert stage.neuron is not None
        theta = _array(stage.neuron.threshold)
        node = self._name(name, "spike", f"t{t}")
        if self.target.quantizers == "multithreshold":
            channels = size[0] if theta.size > 1 else 1
            levels = np.broadcast_to(theta.reshape(-1, 1) + 1, (channels, 1))
            layout = "NHWC" if len(size) == 3 else "NC"
            # FINN divides them by the scale of a quantized membrane, but keeps their data type.
            datatype = "FLOAT32" if stage.neuron.coarse else None
            levels_name = writer.constant(f"{node}_levels", levels, datatype=datatype)
            return writer.node(
                "MultiThreshold", node, [u, levels_name],
                f"{node}_out", writer.shapes[u], Range(0, 1), QONNX,
                out_dtype="BINARY", data_layout=layout,
            )  # fmt: skip
        th = self._constant(name, "threshold", t, self._per_channel(theta, size))
        over = writer.binary("Sub", self._name(name, "over", f"t{t}"), u, th)
        relu, top = self._name(name, "relu", f"t{t}"), max(writer.ranges[over].high, 1)
        values = Range(0, top)
        positive = writer.node("Relu", relu, [over], f"{relu}_out", writer.shapes[u], values)
        return writer.quant(node, positive, f"{node}_out", 1, False)

    def _quantized_membrane(self, stage: FrozenStage, u: str, t: int) -> str:
        name, writer, neuron = stage.stage.name, self.writer, stage.neuron
        assert neuron is not None
        assert neuron.membrane_bits is not None
        node = self._name(name, "membrane_quant", f"t{t}")
        scale, shift = 2.0**neuron.coarse, 0.5 if neuron.coarse else 0.0
        if shift and self.target.quantizers == "quant":
            half = self._constant(name, "half", t, shift, fraction=1)
            u = writer.binary("Add", self._name(name, "membrane_shift", f"t{t}"), u, half)
        return self._quant(node, u, f"{node}_out", neuron.membrane_bits, scale, shift)

    def _leak(self, stage: FrozenStage, u: str, spike: str, t: int) -> str:
        """The state that the next step finds."""
        name, size, writer, neuron = (
            stage.stage.name, self.sizes[stage.stage.name], self.writer, stage.neuron,
        )  # fmt: skip
        assert neuron is not None

        def label(what: str) -> str:
            return self._name(name, what, f"t{t}")

        kept, top = u, int(_array(neuron.threshold).max())
        if neuron.reset == "zero":
            fired = writer.binary("Mul", label("fired"), u, spike)
            writer.ranges[fired] = Range(0, max(writer.ranges[u].high, 1))
            kept = writer.binary("Sub", label("reset"), u, fired)
            writer.ranges[kept] = Range(writer.ranges[u].low, max(top, 0))
        elif neuron.reset == "subtract":
            th = self._constant(
                name, "threshold", t, self._per_channel(_array(neuron.threshold), size)
            )
            fired = writer.binary("Mul", label("fired"), spike, th)
            kept = writer.binary("Sub", label("reset"), u, fired)
        digits = neuron.beta_digits
        beta = self._constant(
            name, "beta", t, self._per_channel(_array(neuron.beta), size), fraction=digits
        )
        decayed = writer.binary("Mul", label("decay"), kept, beta)
        half = self._constant(name, "half_step", t, 2.0 ** -(digits + 1), fraction=digits + 1)
        shifted = writer.binary("Add", label("offset"), decayed, half)
        bits = Range(*neuron.state).bits if neuron.state[0] < 0 else Range(-1, neuron.state[1]).bits
        out = self._name(name, "state_out") if self.form == "step" else f"{label('state')}_out"
        quantized = self._quant(label("state"), shifted, out, bits)
        writer.ranges[quantized] = Range(*neuron.state)
        return quantized

    def _record(self, total: str) -> None:
        """Name the result; count the votes of a population."""
        writer, votes = self.writer, self.net.graph.votes
        if votes is None:
            writer.rename(total, RECORD)
            self.spikes = {
                stage: [RECORD if n == total else n for n in names]
                for stage, names in self.spikes.items()
            }
        else:
            neurons = writer.shapes[total][1]
            groups = np.kron(np.eye(votes), np.ones((neurons // votes, 1)))
            w = writer.constant("vote_weight", groups, datatype="BINARY")
            values = Range(0, writer.ranges[total].high * (neurons // votes))
            writer.node("MatMul", "vote", [total, w], RECORD, (self.batch, votes), values)
        writer.outputs = [RECORD, *(name for name in writer.outputs if name != RECORD)]


def _array(value: torch.Tensor) -> Array:
    return value.detach().cpu().double().numpy()


def _accumulated(weight: Array, inputs: Range) -> Range:
    """Exact range of integer weights times inputs in a range that starts at 0."""
    flat = weight.reshape(len(weight), -1)
    low = np.minimum(flat, 0).sum(1).min() * inputs.high
    high = np.maximum(flat, 0).sum(1).max() * inputs.high
    return Range(int(low), int(high))
