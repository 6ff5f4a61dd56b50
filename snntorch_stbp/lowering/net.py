"""`lower`: a trained network as integers, and that network as a torch module."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StbpError
from ..exact import exact_sums
from ..frozen import FrozenNet, Settings, inputs
from ..frozen.check import NOTED, Reading
from ..frozen.graph import Graph
from ..frozen.read import read_graph
from ..kernels import int8
from ..kernels.geometry import Geometry
from ..modes import evaluating
from ..pooling import sum_pool2d
from .calibrate import Calibration
from .fold import exact_stage, readout_stage
from .layers import INPUT, REGISTER_BITS, IntBranch, IntNetwork, IntNeuron, IntPool, IntStage
from .neurons import IntegerCurrent, IntegerNeurons
from .quantized import quantized_stage
from .ranges import FLOAT32, StageRange, ranges
from .terms import Budget

Form = Literal["exact", "simple"]

_log = logging.getLogger(__name__)


def lower(
    model: nn.Module,
    *,
    form: Form = "exact",
    samples: Tensor | None = None,
    fraction: int | None = None,
    bits: int = 24,
    multiplier_bits: int = 16,
    act_bits: int = 10,
    num_steps: int | None = None,
) -> FixedPointNet:
    """A trained network as a network of integers.

    Args:
        model: A network of the modules of this package; taken in evaluation mode, left in its own.
        form: `"exact"`: `T` thresholds per channel, indexed by the steps since a neuron's last
            reset; nothing is rounded. `"simple"`: one threshold and one bias, rounded once.
            Stages whose currents or membranes training quantized are taken as they are, in both.
        samples: Calibration data of the simple form, images `[N, C, H, W]` or frames
            `[T, N, C, H, W]`: each layer gets the fewest fractional bits that change no spike. In
            either form the network is compared with what is read of it on a few of them.
        fraction: Fractional bits of the simple form for all layers, instead of `samples`.
        bits: Largest magnitude is `2^bits`: 24 for float32 containers (graphs), 31 for int32.
        multiplier_bits: Most bits of a multiplier, with sign: 4 to 24.
        act_bits: Bits of input currents where only the membrane was quantized in training.
        num_steps: Time steps `T`, where no coding settles them; those of `samples` with frames.

    Returns:
        The network. What it changes of the spikes of `samples` is its `changed`; more than 1 % is
        logged.

    Raises:
        StbpError: If a layer has no counterpart in integers or does not fit the bits; the message
            names it and what would be right.
        ValueError: For an unknown form, or widths outside their range.
    """
    if form not in ("exact", "simple"):
        raise ValueError(f"the form is 'exact' or 'simple', not {form!r}")
    for name, value, low, high, what in (
        ("bits", bits, 16, 31, ""),
        ("multiplier_bits", multiplier_bits, 4, 24, ""),
        ("fraction", fraction, 0, 20, " bits"),
    ):
        if value is not None and not (isinstance(value, int) and low <= value <= high):
            raise ValueError(f"{name} is {low} to {high}{what}, not {value!r}")
    settings = Settings(act_bits=act_bits)
    if form == "simple" and (samples is None) == (fraction is None):
        raise ValueError("the simple form needs either samples to calibrate with or a fraction")
    with evaluating(model):
        graph = read_graph(model)
        graph.refuse_neunorm("networks of integers")
        graph.refuse_rounded()
        if all(stage.neuron is None for stage in graph.stages):
            raise StbpError("the network has no layers of neurons to lower.")
        reading = Reading(model, graph)
        if samples is not None:
            inputs.check_samples(samples)
            num_steps = inputs.steps(samples) if num_steps is None else num_steps
        steps = graph.run_for(num_steps)
        if samples is not None:
            inputs.check_steps(samples, steps)
            reading.check(samples)
        input_bits, input_scale = _input(graph)
        budget = Budget(steps, input_bits, input_scale, bits, multiplier_bits)
        quantized = any(stage.quantized for stage in graph.stages)
        frozen = FrozenNet(model, settings, steps).stages if quantized else []
        calibration = None
        if form == "simple":
            if samples is not None and graph.input_quant is None:
                inputs.check_range(samples)
            pixels = None if samples is None else _integers(samples, input_bits, input_scale)
            calibration = Calibration(budget, pixels, fraction)
        stages: list[IntStage] = []
        for index, stage in enumerate(graph.stages):
            if quantized:
                built = quantized_stage(frozen[index])
            elif stage.neuron is None:
                built = readout_stage(stage, budget)
            elif calibration is not None:
                built = calibration.stage(stage)
            else:
                built = exact_stage(stage, budget)
            stages.append(built)
        net = IntNetwork(
            tuple(stages), steps, input_bits, input_scale, graph.votes,
            "quantized" if quantized else form,
            {} if calibration is None else calibration.words(), graph.input_quant is not None,
        )  # fmt: skip
        if bits != 24:
            net.settings[REGISTER_BITS] = str(bits)
    fixed = FixedPointNet(net, reading)
    if samples is not None:
        fixed.changed = reading.changed(fixed, samples)
        if fixed.changed > NOTED:
            narrow = calibration is not None and not quantized and bits < 30
            _log.warning(
                "the network of integers changes %.2f %% of the spikes of these samples%s",
                100 * fixed.changed,
                f": {bits} bits have no room for more digits; C and folders take 30" * narrow,
            )
    return fixed


def _input(graph: Graph) -> tuple[int, float]:
    """Bits and value of one unit of the integer input."""
    if graph.input_quant is None:
        return inputs.BITS, inputs.SCALE
    quantizer = graph.input_quant.act_quant
    return int(quantizer.bit_width()), float(quantizer.scale())


def _integers(x: Tensor, bits: int, scale: float) -> np.ndarray:
    return (x / scale).round().clamp(0, 2**bits - 1).to(torch.int64).cpu().numpy()


@dataclass(frozen=True)
class FixedStage:
    """A stage and the ranges of its registers."""

    stage: IntStage
    reach: StageRange

    @property
    def neuron(self) -> IntNeuron | None:
        """Its neurons; a readout of currents has none."""
        return self.stage.neuron


class FixedPointNet(nn.Module):
    """A network of integers as a torch module.

    Its buffers are float32 where every integer fits 24 bits, and float64 else; both are exact. The
    same numbers in NumPy: `reference.run(net.integers, ...)`.

    Args:
        integers: The network.
        reading: The trained network that it was made of, which exports compare with what was read.

    Attributes:
        changed: Share in [0, 1] of the spikes of all neurons and steps, on the samples that `lower`
            was given, that differ from the trained network's; `None` without samples.
    """

    changed: float | None = None

    def __init__(self, integers: IntNetwork, reading: Reading | None = None) -> None:
        super().__init__()
        self.integers, self.reading = integers, reading
        self.ranges: dict[str, StageRange] = ranges(integers)
        largest = max(stage.largest for stage in self.ranges.values())
        self.dtype = torch.float32 if largest <= FLOAT32 else torch.float64
        self.packed: dict[tuple[int, int], int8.Packed | None] = {}
        for index, stage in enumerate(integers.stages):
            for number, branch in enumerate(stage.branches):
                if branch.weight is not None:
                    weight = torch.tensor(branch.weight, dtype=self.dtype, device="cpu")
                    self.register_buffer(_weight(index, number), weight, persistent=False)
                    self.packed[index, number] = int8.pack(weight, None, _geometry(branch))
        self.layers = nn.ModuleList(
            IntegerCurrent(stage, self.dtype)
            if stage.neuron is None
            else IntegerNeurons(stage, self.dtype)
            for stage in integers.stages
        )

    @property
    def stages(self) -> list[FixedStage]:
        """The stages, in an order in which they can be computed."""
        return [FixedStage(stage, self.ranges[stage.name]) for stage in self.integers.stages]

    @property
    def num_steps(self) -> int:
        """Time steps `T`."""
        return self.integers.num_steps

    @property
    def votes(self) -> int | None:
        """Classes of a population vote over the last stage's spikes, or `None`."""
        return self.integers.votes

    @property
    def input_bits(self) -> int:
        """Bits of the unsigned integers that enter."""
        return self.integers.input_bits

    def quantize_input(self, x: Tensor) -> Tensor:
        """The unsigned integers that hardware is fed, of a real input.

        Raises:
            StbpError: If it has values outside, which training did not clip, or that are none.
        """
        if not self.integers.clips:
            inputs.check_range(x, self.input_bits, self.integers.input_scale)
        inputs.check_numbers(x)
        top = 2**self.integers.input_bits - 1
        return (x / self.integers.input_scale).round().clamp(0, top)

    @torch.no_grad()
    def forward(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """The record `[T, B, classes]` of images `[B, C, H, W]` or frames `[T, B, C, H, W]`.

        Args:
            x: Real input, as the trained network takes it, also features `[B, F]`, `[T, B, F]`.
            record: If given, receives the spikes `[T, B, ...]` of every stage by name, and the
                membrane potentials, integers, under `NAME/membrane`.

        Raises:
            UsageError: If frames are more or fewer than `T`.
        """
        inputs.check_steps(x, self.num_steps)
        with exact_sums(x.device):
            return self._forward(x, record)

    def _forward(self, x: Tensor, record: dict[str, Tensor] | None) -> Tensor:
        integers = self.quantize_input(x).to(self.dtype)
        frames = integers if inputs.in_time(x) else integers.unsqueeze(0)
        steps = self.num_steps
        values = {INPUT: frames}
        result = frames
        for index, (stage, layer) in enumerate(zip(self.integers.stages, self.layers, strict=True)):
            sums = [
                self._sums(index, number, values[branch.source])
                for number, branch in enumerate(stage.branches)
            ]
            if stage.neuron is None:
                result = layer(sums) * stage.unit.item()
                result = result.expand(steps, *result.shape[1:])
                continue
            result, membrane = layer(sums, steps, record is not None)
            values[stage.name] = result
            if record is not None:
                record[stage.name], record[f"{stage.name}/membrane"] = result, membrane
        if self.integers.votes is not None:
            result = result.unflatten(-1, (self.integers.votes, -1)).mean(-1)
        return result.to(torch.float32)

    def _sums(self, index: int, number: int, spikes: Tensor) -> Tensor:
        """Sums `a` of a branch of a stage, `[T, B, C, ...]`."""
        branch = self.integers.stages[index].branches[number]
        x = spikes.flatten(0, 1)
        for pool in branch.pools:
            x = _pooled(pool, x)
        if branch.flatten:
            x = x.flatten(1)
        if branch.weight is not None:
            weight, packed = getattr(self, _weight(index, number)), self.packed[index, number]
            geometry = _geometry(branch)
            inputs.check_fit(x, weight, geometry, branch.name)
            x = int8.apply(x, weight, None, None, geometry, packed)
        for pool in branch.after:
            x = _pooled(pool, x)
        return x.unflatten(0, spikes.shape[:2])


def _weight(index: int, number: int) -> str:
    """Name of the weights of a stage's branch."""
    return f"stage{index}_weight{number}"


def _geometry(branch: IntBranch) -> Geometry | None:
    """Of a branch's convolution; `None` of a linear layer."""
    if branch.weight is None or branch.weight.ndim != 4:
        return None
    return Geometry(branch.stride, branch.padding, branch.dilation, branch.groups)


def _pooled(pool: IntPool, x: Tensor) -> Tensor:
    if pool.kind == "sum":
        return sum_pool2d(x, pool.size, pool.stride, pool.padding)
    return F.max_pool2d(x, pool.size, pool.stride, pool.padding, pool.dilation)
