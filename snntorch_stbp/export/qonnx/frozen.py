r"""A frozen network as a QONNX graph.

Per stage and step, in units of the stage's step, everything between two `Quant` nodes is exact:

    current   x = Quant(2^-(F+1) * (sum of m * (w (*) s) + c))          INT<act_bits>
    membrane  u = x + v                                                 integers
    spike     o = Quant1(Relu(u - theta))                               BINARY
    state     v' = Quant(beta * (u - u * o) + 2^-(k+1))                 INT<state bits>

`Quant1` is an unsigned quantizer of one bit; what it rounds is an integer, so that neither the way
it rounds nor the way it compares matters. The `unrolled` form holds `T` steps and gives the sum of
the record over time; the `step` form holds one, with the states `v` as inputs and outputs.

This module walks the steps and stages. `sums` writes `w (*) s`, over `windows` of images,
`currents` the rest of `x`, `neurons` what follows; `page` knows names and layouts, `targets` what
the readers differ in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import ModelProto

from ...frozen import FrozenNet, inputs
from ...frozen.graph import INPUT, inhibition
from ...frozen.net import FrozenStage
from ...lowering import FixedPointNet
from ...lowering.net import FixedStage
from ..names import Names
from ..trained import TrainedNet, TrainedStage
from .currents import input_current
from .inhibition import Inhibitor
from .neurons import Neurons
from .page import Page
from .ranges import Range
from .targets import TARGETS, Form, Target
from .writer import Writer

RECORD = "record"


class Parts(NamedTuple):
    """How the parts of a graph are written, in one arithmetic.

    Attributes:
        image: Writes an input; gives the tensor that the first layers take.
        current: Writes the input current of a stage from the spikes of earlier ones, at a step.
        neurons: The neurons of a stage; their `step` writes one step, `states` are what they leave.
    """

    image: Callable[[Page, Any, str], str]
    current: Callable[[Page, Any, dict[str, str], int], str]
    neurons: Callable[[Page, Any], Any]


class Built(NamedTuple):
    """A graph, its tensors' shapes and ranges, and what a verifier must know of it."""

    model: ModelProto
    writer: Writer
    names: Names


def integer_image(page: Page, net: FrozenNet | FixedPointNet, name: str) -> str:
    """Integers, as hardware is fed."""
    values = Range(0, 2**net.input_bits - 1)
    return page.writer.input(name, page.shape(page.sizes[INPUT]), values)


FROZEN = Parts(
    integer_image, input_current, lambda page, stage: Neurons(page, stage.stage.name, stage.neuron)
)


def build(
    net: FrozenNet | FixedPointNet | TrainedNet,
    sample: torch.Tensor,
    *,
    form: Form,
    target: str,
    batch: int = 1,
    metadata: dict[str, str] | None = None,
    parts: Parts = FROZEN,
) -> Built:
    """Write `net` as an ONNX model.

    Args:
        net: The frozen network, or with other `parts` the network of integers or the trained one.
        sample: One input, `[1, C, H, W]` or frames `[T, 1, C, H, W]`; its shape counts.
        form: `"unrolled"` or `"step"`.
        target: A key of `TARGETS`.
        batch: Static batch size.
        metadata: Further entries of the model's metadata.
        parts: The arithmetic; that of frozen networks, `fixed.PARTS` or `as_trained.PARTS`.

    Returns:
        The model, every tensor's shape and range, and what a verifier must know.

    Raises:
        StbpError: If `net` needs what the target does not have.
    """
    builder = _Builder(net, sample, TARGETS[target], form, batch, parts)
    builder.write()
    names = builder.names()
    writer = builder.page.writer
    model = writer.model("snn", {"names": names.to_json(), **(metadata or {})})
    return Built(model, writer, names)


class _Builder:
    def __init__(
        self,
        net: FrozenNet | FixedPointNet | TrainedNet,
        sample: torch.Tensor,
        target: Target,
        form: Form,
        batch: int,
        parts: Parts,
    ) -> None:
        self.net, self.parts = net, parts
        self.frames = inputs.in_time(sample)
        self.page = Page(target, form, batch, net.num_steps, _sizes(net, sample))
        self.neurons = {
            stage.stage.name: parts.neurons(self.page, stage)
            for stage in net.stages
            if stage.neuron is not None
        }
        self.inhibitors = {
            stage.stage.name: Inhibitor(self.page, inhibition(stage.stage.name), stage.inhibition)
            for stage in net.stages
            if isinstance(stage, FrozenStage) and stage.inhibition is not None
        }
        self.values: dict[str, str] = {}  # the input and the spikes of each stage at this step
        self.spikes: dict[str, list[str]] = {}
        self.static: dict[str, str] = {}  # currents that are the same at every step

    def write(self) -> None:
        """All steps of the form."""
        page = self.page
        total: str | None = None
        for t in range(page.steps if page.form == "unrolled" else 1):
            self._input(t)
            out = ""
            for stage in self.net.stages:
                out = self._stage(stage, t)
            name = page.name(self.net.stages[-1].stage.name, "sum", f"t{t}")
            total = out if total is None else page.writer.binary("Add", name, total, out)
        assert total is not None
        self._record(total)
        if page.form == "step":
            page.writer.outputs += self._states()
        page.annotate_layouts()

    def _input(self, t: int) -> None:
        if self.frames and self.page.form == "unrolled":
            name = self.page.name("image", f"t{t}")
        elif t == 0:
            name = "image"
        else:
            return
        self.values[INPUT] = self.parts.image(self.page, self.net, name)

    def _stage(self, stage: FrozenStage | FixedStage | TrainedStage, t: int) -> str:
        """One stage at one step; its spikes, or its current without neurons."""
        name = stage.stage.name
        current = self.static.get(name) or self.parts.current(self.page, stage, self.values, t)
        if not self.frames and all(b.source == INPUT for b in stage.stage.branches):
            self.static[name] = current
        if stage.neuron is None:
            return current
        spike = self.neurons[name].step(current, t)
        self.values[name] = spike
        if name in self.inhibitors:
            self.values[inhibition(name)] = self.inhibitors[name].step(spike, t)
        self.spikes.setdefault(name, []).append(spike)
        return spike

    def _record(self, total: str) -> None:
        """Name the result; count the votes of a population."""
        writer, votes = self.page.writer, self.net.votes
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
            values = None
            if total in writer.ranges:
                values = Range(0, writer.ranges[total].high * (neurons // votes))
            writer.node("MatMul", "vote", [total, w], RECORD, (self.page.batch, votes), values)
        writer.outputs = [RECORD, *(name for name in writer.outputs if name != RECORD)]

    def _states(self) -> list[str]:
        """The states that the layers of neurons, and NeuNorm behind them, leave."""
        keepers = [
            (n, self.inhibitors[k]) if k in self.inhibitors else (n,)
            for k, n in self.neurons.items()
        ]
        return [state for group in keepers for keeper in group for state in keeper.states]

    def names(self) -> Names:
        """What a verifier must know of the graph."""
        writer, step = self.page.writer, self.page.form == "step"
        inputs = [name for name in writer.inputs if name != "image"] if step else []
        outputs = zip(inputs, self._states(), strict=True) if step else ()
        return Names(
            form=self.page.form,
            steps=self.page.steps,
            batch=self.page.batch,
            frames=self.frames,
            channels_last=self.page.target.layout != "nchw",
            separator=self.page.target.separator,
            spikes=self.spikes,
            states={i: (o, writer.shapes[i]) for i, o in outputs},
            levels=self.page.levels,
        )


def _sizes(
    net: FrozenNet | FixedPointNet | TrainedNet, sample: torch.Tensor
) -> dict[str, tuple[int, ...]]:
    """Features `(F,)` or `(C, H, W)` of the input and of every stage."""
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        final = net(sample, record)
    sizes = {INPUT: inputs.size(sample)}
    for stage in net.stages:
        value = record.get(stage.stage.name, final)  # a readout of currents is no record entry
        sizes[stage.stage.name] = tuple(value.shape[2:])
        sizes[inhibition(stage.stage.name)] = sizes[stage.stage.name]
    return sizes
