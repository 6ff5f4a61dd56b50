r"""The plain float graph of a trained network, for flows that do their own folding.

    current   x = [Quant](sum of BatchNormalization(Conv or MatMul of Quant(weights)))
    membrane  u = [Quant](v + x)
    spike     o = Quant1(Relu(u / (2 threshold)))
    state     v' = beta * (u - u * o)

in units of the trained potential, on the network's own real input. `Quant1`, unsigned and of one
bit, rounds half to even: it gives 1 strictly above the threshold.
"""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from torch import nn

from ...errors import StbpError
from ...frozen.graph import INPUT, Branch
from ...frozen.neuron import act_quant
from ...kernels.geometry import Geometry
from ...lowering.terms import int_pool
from ...neuron import Leaky
from ...norm import _Gain
from ...rounded import quantized_weight, weight_bits
from ..array import Array
from ..shapes import padded, windows
from ..trained import TrainedNet, TrainedStage
from .frozen import Parts
from .neurons import Stepwise
from .page import Page, array
from .writer import QONNX


def _image(page: Page, net: TrainedNet, name: str) -> str:
    """The real input, behind its quantizer if the network has one."""
    x = page.writer.input(name, page.shape(page.sizes[INPUT]), None)
    if net.graph.input_quant is None:
        return x
    return _quant(page, page.name(name, "quant"), x, net.graph.input_quant)


def _current(page: Page, stage: TrainedStage, values: dict[str, str], t: int) -> str:
    """The input current of a stage, as its neurons take it."""
    name, writer = stage.stage.name, page.writer
    total: str | None = None
    for index, branch in enumerate(stage.stage.branches):
        term = _branch(page, branch, index, name, values[branch.source], t)
        node = page.name(name, f"add{index}", f"t{t}")
        total = term if total is None else writer.binary("Add", node, total, term)
    assert total is not None
    if stage.neuron is None or stage.neuron.current_quant is None:
        return total
    quantizer, node = stage.neuron.current_quant, page.name(name, "current", f"t{t}")
    total = _raised(page, page.name(name, "biased", f"t{t}"), total, quantizer)
    level = _quant(page, node, total, quantizer)
    page.levels.setdefault(f"{name}/current", []).append(level)
    return level


class _Neurons(Stepwise):
    neuron: Leaky

    def _range(self) -> None:
        return None

    def _membrane(self, current: str, t: int) -> str:
        if self.state is None:
            return current
        return self.page.writer.binary("Add", self._label("membrane", t), self.state, current)

    def _quantized(self, u: str, t: int) -> str:
        if self.neuron.state_quant is None:
            return u
        u = _raised(self.page, self._label("nudged", t), u, self.neuron.state_quant)
        u = _quant(self.page, self._label("membrane_quant", t), u, self.neuron.state_quant)
        self.page.levels.setdefault(f"{self.name}/membrane", []).append(u)
        return u

    def _constant(self, what: str, value: Array) -> str:
        if value.size not in (1, self.size[0]):
            raise StbpError(
                f"'{self.name}' has a {what} of {value.size} values; export takes one, or one for "
                f"each of the {self.size[0]} channels."
            )
        spread = self.page.per_channel(value, self.size)
        return self.page.writer.parameter(self.page.name(self.name, what), spread)

    def _spike(self, u: str, t: int) -> str:
        writer, theta = self.page.writer, array(self.neuron.threshold)
        if theta.min() <= 0:
            raise StbpError(
                f"'{self.name}' has a threshold of {theta.min():.4g}; a graph as trained needs "
                f"positive ones: export without --as-trained."
            )
        twice = self._constant("twice_threshold", 2 * theta)
        relative = writer.binary("Div", self._label("relative", t), u, twice)
        relu, node = self._label("relu", t), self._label("spike", t)
        shape = writer.shapes[u]
        positive = writer.node("Relu", relu, [relative], f"{relu}_out", shape, None)
        return writer.real_quant(node, positive, f"{node}_out", 1, False, 1.0)

    def _leak(self, u: str, spike: str, t: int) -> str:
        page, writer, neuron = self.page, self.page.writer, self.neuron
        beta = self._constant("beta", array(neuron.beta.clamp(0, 1)))
        out = page.name(self.name, "state_out") if page.form == "step" else None
        if neuron.reset_rule == "none":
            return writer.binary("Mul", self._label("decay", t), u, beta, out)
        lost = u
        if neuron.reset_rule != "zero":
            lost = self._constant("threshold", array(neuron.threshold))
        fired = writer.binary("Mul", self._label("fired", t), spike, lost)
        if neuron.reset_rule == "delayed":
            decayed = writer.binary("Mul", self._label("decay", t), u, beta)
            return writer.binary("Sub", self._label("reset", t), decayed, fired, out)
        kept = writer.binary("Sub", self._label("reset", t), u, fired)
        return writer.binary("Mul", self._label("decay", t), kept, beta, out)


PARTS = Parts(_image, _current, lambda page, stage: _Neurons(page, stage.stage.name, stage.neuron))
"""How `qonnx.build` writes a `TrainedNet`."""


def _branch(page: Page, branch: Branch, index: int, stage: str, x: str, t: int) -> str:
    """Pooling, layer and normalisation of a branch."""
    writer, where = page.writer, f"t{t}"
    for number, pool in enumerate(branch.pools):
        label = page.name(stage, f"pool{index}" + (f"_{number}" if number else ""), where)
        x = _pool(page, pool, label, x)
    if branch.quantizer is not None:
        x = _quant(page, page.name(stage, f"pool{index}_quant", where), x, branch.quantizer)
    if branch.flatten and len(writer.shapes[x]) == 4:
        flat = page.name(stage, f"flatten{index}", where)
        shape = (page.batch, int(np.prod(writer.shapes[x][1:])))
        x = writer.node("Flatten", flat, [x], f"{flat}_out", shape, None, axis=1)
    if branch.layer is None:
        return x
    x = _layer(page, branch, x, t)
    if branch.norm is not None:
        x = _norm(page, branch.norm, branch.name, x, t)
    for number, pool in enumerate(branch.after):
        x = _pool(page, pool, page.name(stage, f"pool{index}_after{number}", where), x)
    return x


def _layer(page: Page, branch: Branch, x: str, t: int) -> str:
    layer, name = branch.layer, branch.name
    assert layer is not None
    writer, node = page.writer, page.name(name, f"t{t}")
    weight = _weight(page, layer, name, t)
    bias = None
    if layer.bias is not None:
        bias = writer.parameter(page.name(name, "bias"), array(layer.bias))
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation, groups = branch.geometry or Geometry()
        batch, _, *image = writer.shapes[x]
        size = padded(tuple(image), padding)
        out = windows(size, layer.kernel_size, stride, dilation, node)
        return writer.node(
            "Conv", node, [x, weight, *([] if bias is None else [bias])], f"{node}_out",
            (batch, layer.out_channels, *out), None, kernel_shape=list(layer.kernel_size),
            strides=list(stride), pads=[*padding, *padding], dilations=list(dilation), group=groups,
        )  # fmt: skip
    shape = (writer.shapes[x][0], layer.out_features)
    y = writer.node("MatMul", node, [x, weight], f"{node}_out", shape, None)
    return (
        y if bias is None else writer.binary("Add", page.name(name, "add_bias", f"t{t}"), y, bias)
    )


def _weight(page: Page, layer: nn.Conv2d | nn.Linear, name: str, t: int) -> str:
    """Weights on their grid, behind the quantizer that has it."""
    writer, bits = page.writer, weight_bits(layer)
    value = array(quantized_weight(layer))
    turned = (lambda a: a.T) if isinstance(layer, nn.Linear) else (lambda a: a)
    constant = writer.parameter(page.name(name, "weight"), turned(value))
    if bits == 32:
        return constant
    scale = turned(array(layer.quant_weight().scale))  # type: ignore[operator]
    node = page.name(name, "weight", f"t{t}")
    if bits == 1:
        factor = writer.parameter(f"{node}_scale", scale)
        shape = writer.shapes[constant]
        return writer.node(
            "BipolarQuant", node, [constant, factor], f"{node}_out", shape, None, QONNX
        )
    return writer.real_quant(node, constant, f"{node}_out", bits, True, scale, narrow=True)


def _norm(page: Page, norm: nn.modules.batchnorm._BatchNorm, name: str, x: str, t: int) -> str:
    """Batch normalisation with its running statistics; gains of tdBN are merged into gamma."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    ones = torch.ones_like(norm.running_mean)
    gain = norm._modules.get("gain")
    gamma = (norm.weight if norm.affine else ones) * (gain.value if isinstance(gain, _Gain) else 1)
    beta = norm.bias if norm.affine else 0 * ones
    parameters = [
        page.writer.parameter(page.name(name, f"norm_{key}"), array(value))
        for key, value in (
            ("gamma", gamma),
            ("beta", beta),
            ("mean", norm.running_mean),
            ("var", norm.running_var),
        )
    ]
    node = page.name(name, "norm", f"t{t}")
    return page.writer.node(
        "BatchNormalization", node, [x, *parameters], f"{node}_out", page.writer.shapes[x], None,
        epsilon=norm.eps,
    )  # fmt: skip


def _pool(page: Page, pool: nn.Module, node: str, x: str) -> str:
    assert isinstance(pool, (nn.AvgPool2d, nn.MaxPool2d))
    average = isinstance(pool, nn.AvgPool2d)
    window = int_pool(pool)
    more: dict[str, Any] = {"dilations": list(window.dilation)}
    if average:
        more = {"count_include_pad": 1}
    batch, channels, *image = page.writer.shapes[x]
    out = windows(
        padded(tuple(image), window.padding), window.size, window.stride, window.dilation, node
    )
    return page.writer.node(
        "AveragePool" if average else "MaxPool", node, [x], f"{node}_out",
        (batch, channels, *out), None, kernel_shape=list(window.size), strides=list(window.stride),
        pads=[*window.padding, *window.padding], **more,
    )  # fmt: skip


def _raised(page: Page, node: str, x: str, quantizer: Any) -> str:
    """What a quantizer that rounds half up adds in front of the nearest level."""
    nudge = float(getattr(quantizer, "nudge", 0.0))
    if not nudge:
        return x
    return page.writer.binary("Add", node, x, page.writer.parameter(f"{node}_by", np.array(nudge)))


def _quant(page: Page, node: str, x: str, quantizer: Any) -> str:
    """A Brevitas activation quantizer."""
    proxy: qnn.QuantIdentity = act_quant(quantizer)
    return page.writer.real_quant(
        node, x, f"{node}_out", int(proxy.bit_width()), proxy.is_signed,
        array(proxy.scale()), narrow=proxy.is_narrow_range,
    )  # fmt: skip
