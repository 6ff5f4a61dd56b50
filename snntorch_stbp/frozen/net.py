r"""A network in deployment arithmetic: between neurons only integers, no rounding that can differ.

    x[t] = clip(round(sum of m a + c))                         integer of act_bits, see `fold`
    u[t] = v[t-1] + 2^lift x[t]                                v[-1] = 0
    o[t] = 1 if u[t] > theta else 0                            theta an integer
    v[t] = round(beta * (u[t] after reset) + 2^-(k+1))         beta a multiple of 2^-k

(a delayed reset takes `theta` off what is rounded)
in units of the stage's step `delta`. All of `x`, `u`, `v` and `theta` are integers, so a spike does
not depend on how a library compares; and what is rounded lies half a grid step off the grid of
`beta * u`, so that it is never a tie and does not depend on how a library rounds. With a quantized
membrane, `u` is rounded to multiples of `2^coarse` and clipped, in the same way. `lift` is 0 unless
training quantized the current.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StbpError
from ..exact import exact_sums
from ..kernels import int8
from ..modes import evaluating
from ..pooling import sum_pool2d
from . import inputs
from .branches import FrozenBranch, Source, weight_sum
from .check import Reading
from .fold import FrozenCurrent, Settings, fold_current
from .graph import INPUT, Branch, Graph, Pool, Stage, inhibition, pair
from .grid import on_grid, round_ste
from .inhibition import FrozenInhibition, freeze_inhibition
from .mapped import mapped
from .modules import check_grid
from .neuron import FrozenNeuron, Integrate, freeze_neuron, per_channel
from .read import read_graph

READOUT_BITS = 16
"""Bits of one step of a readout of currents, on a grid so fine that the largest one fits."""


@dataclass(frozen=True)
class FrozenStage:
    """A stage and its numbers; a readout of currents has no neuron."""

    stage: Stage
    current: FrozenCurrent
    neuron: FrozenNeuron | None
    inhibition: FrozenInhibition | None = None

    @property
    def terms(self) -> list[tuple[Branch, FrozenBranch]]:
        """The terms of its current, and their numbers."""
        return list(zip(self.stage.branches, self.current.branches, strict=True))

    @property
    def readout_digits(self) -> int:
        """Binary digits behind the point of a readout of `READOUT_BITS` (may be negative)."""
        largest = self.current.largest.detach().max().item()
        fits = READOUT_BITS - 1 - math.ceil(math.log2(largest + 1))
        return min(fits, int(self.current.fraction.min()) - 1)  # fewer than the sum has: no ties


class FrozenNet(nn.Module):
    """A trained network in deployment arithmetic; still a torch module.

    The numbers are folded from the network's own parameters, once, and again by `refold()` or
    `load_state_dict`. While `refolds` is set, every forward pass folds them, with straight-through
    gradients: the network's parameters are then trained in this arithmetic (normalisation with its
    running statistics).

    Args:
        model: A network of the modules of this package; it is kept, in the mode that it is in.
        settings: Widths.
        num_steps: Time steps `T`, of a network whose coding does not settle them.

    Raises:
        StbpError: If the network does what has no counterpart in this arithmetic.
    """

    def __init__(
        self, model: nn.Module, settings: Settings | None = None, num_steps: int | None = None
    ) -> None:
        super().__init__()
        if not (settings is None or isinstance(settings, Settings)):
            raise TypeError(f"settings are Settings(act_bits=...), not {settings!r}")
        self.model = model
        self.settings = settings or Settings()
        with evaluating(model):
            self.graph: Graph = read_graph(model)
            self.num_steps: int = self.graph.run_for(num_steps)
            self.reading = Reading(model, self.graph)
            if all(stage.neuron is None for stage in self.graph.stages):
                raise StbpError("the network has no layers of neurons to export.")
            self.graph.refuse_rounded()
            for stage in self.graph.stages:
                check_grid(stage)
        self.integrate = Integrate()
        self.refolds = False
        self.refold()
        self.register_load_state_dict_post_hook(_refold)

    @property
    def input_bits(self) -> int:
        """Bits of the unsigned integers that enter."""
        quantizer = self.graph.input_quant
        return inputs.BITS if quantizer is None else int(quantizer.act_quant.bit_width())

    @property
    def input_scale(self) -> float:
        """Value of one unit of the integer input."""
        quantizer = self.graph.input_quant
        return inputs.SCALE if quantizer is None else float(quantizer.act_quant.scale())

    @property
    def votes(self) -> int | None:
        """Classes of a population vote over the last stage's spikes, or `None`."""
        return self.graph.votes

    def refold(self) -> None:
        """Take the numbers from the network's parameters as they are now."""
        with torch.no_grad(), evaluating(self.model):
            self.stages = _of_stages(self._fold(), Tensor.float)  # exact, of a network in float64
            self.packed = {
                (stage.stage.name, number): int8.pack(frozen.weight, None, branch.geometry)
                for stage in self.stages
                for number, (branch, frozen) in enumerate(stage.terms)
                if frozen.weight is not None
            }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNet:
        """Move the numbers along with the network."""
        super()._apply(fn, recurse)
        self.stages = _of_stages(self.stages, fn)
        return self

    def _fold(self) -> list[FrozenStage]:
        stages = []
        sources = {INPUT: Source(self.input_scale, 0, 2**self.input_bits - 1)}
        for stage in self.graph.stages:
            neuron = held = None
            step: Tensor | float = 1.0
            if stage.neuron is not None:
                neuron = freeze_neuron(stage.neuron, self.num_steps, self.settings)
                step = neuron.step * 2**neuron.lift
            if stage.neunorm is not None:
                held = freeze_inhibition(
                    stage.neunorm,
                    self.num_steps,
                    self._weight_sum(stage),
                    self.settings,
                    stage.name,
                )
                sources[inhibition(stage.name)] = held.source
            current = fold_current(stage, step, sources, self.settings)
            if stage.neuron is not None and bool((current.gain != 1).any()):
                neuron = freeze_neuron(stage.neuron, self.num_steps, self.settings, current.gain)
            stages.append(FrozenStage(stage, current, neuron, held))
        return stages

    def _weight_sum(self, stage: Stage) -> float:
        """Largest sum of integer weights, in magnitude, that meets what inhibits `stage`.

        1 where it goes into a neuron as it is.
        """
        branches = (b for s in self.graph.stages for b in s.branches)
        taking = (b for b in branches if b.inhibits and b.source == stage.name)
        return max((weight_sum(b.layer) for b in taking if b.layer is not None), default=1.0)

    def quantize_input(self, x: Tensor) -> Tensor:
        """The integers 0 to `2^input_bits - 1` that hardware is fed, of a real input.

        Raises:
            StbpError: If it has values outside, which training did not clip, or that are none.
        """
        if self.graph.input_quant is None:
            inputs.check_range(x)
        inputs.check_numbers(x)
        return round_ste(x / self.input_scale).clamp(0, 2**self.input_bits - 1)

    def forward(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """The record `[T, B, classes]` of images `[B, C, H, W]` or frames `[T, B, C, H, W]`.

        Args:
            x: Real input, as the trained network takes it, also features `[B, F]`, `[T, B, F]`.
            record: If given, receives the spikes `[T, B, ...]` of every stage by name, the
                membrane potentials under `NAME/membrane`, and of NeuNorm what it subtracts, in
                integers, under `NAME/inhibition`.

        Raises:
            UsageError: If frames are more or fewer than `T`.
        """
        inputs.check_steps(x, self.num_steps)
        with exact_sums(x.device):
            return self._forward(x.float(), record)  # training may hand over half precision

    def _forward(self, x: Tensor, record: dict[str, Tensor] | None) -> Tensor:
        stages = self._fold() if self.refolds else self.stages
        values = {INPUT: self.quantize_input(x)}
        if not inputs.in_time(x):
            values[INPUT] = values[INPUT].unsqueeze(0)
        result = x
        for stage in stages:
            result = self._current(stage, values)
            result = result.expand(self.num_steps, *result.shape[1:])
            if stage.neuron is None:
                result = on_grid(result, stage.readout_digits)
                continue
            assert stage.stage.neuron is not None
            grad = stage.stage.neuron.spike_grad
            result, membrane = self.integrate(stage.neuron, grad, result)
            name = stage.stage.name
            values[name] = result
            if stage.inhibition is not None:
                values[inhibition(name)] = stage.inhibition.subtrahend(result)
            if record is not None:
                record[name], record[f"{name}/membrane"] = result, membrane
                if stage.inhibition is not None:
                    record[inhibition(name)] = values[inhibition(name)]
        if self.graph.votes is not None:
            result = result.unflatten(-1, (self.graph.votes, -1)).mean(-1)
        return result

    def _current(self, stage: FrozenStage, values: dict[str, Tensor]) -> Tensor:
        """The input current `[T, B, C, ...]`, before it is rounded to integers."""
        total: Tensor | None = None
        for number, (branch, frozen) in enumerate(stage.terms):
            packed = None if self.refolds else self.packed.get((stage.stage.name, number))
            summed = _accumulate(branch, frozen.weight, values[branch.value], packed)
            term = summed * per_channel(frozen.multiplier, summed)
            total = term if total is None else total + term
        assert total is not None
        return total + per_channel(stage.current.bias, total)


def _refold(net: nn.Module, _keys: Any) -> None:
    """What a frozen network does once it has loaded a state."""
    assert isinstance(net, FrozenNet)
    net.refold()


def _of_stages(stages: list[FrozenStage], fn: Callable[[Tensor], Tensor]) -> list[FrozenStage]:
    """`stages` with `fn` applied to all their numbers."""
    return [
        FrozenStage(s.stage, *(mapped(v, fn) for v in (s.current, s.neuron, s.inhibition)))
        for s in stages
    ]


def _accumulate(
    branch: Branch, weight: Tensor | None, spikes: Tensor, packed: int8.Packed | None
) -> Tensor:
    """Integer sums of a branch, `[T, B, C, ...]`."""
    x = spikes.flatten(0, 1)
    for pool in branch.pools:
        x = _pooled(pool, x)
    if branch.flatten:
        x = x.flatten(1)
    if weight is not None:
        inputs.check_fit(x, weight, branch.geometry, branch.name)
        x = int8.apply(x, weight, None, None, branch.geometry, packed)
    for pool in branch.after:
        x = _pooled(pool, x)
    return x.unflatten(0, spikes.shape[:2])


def _pooled(pool: Pool, x: Tensor) -> Tensor:
    """Sums or maxima of integers."""
    size, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    if isinstance(pool, nn.AvgPool2d):
        return sum_pool2d(x, size, stride, padding)
    return F.max_pool2d(x, size, stride, padding, pool.dilation)


def freeze(
    model: nn.Module, settings: Settings | None = None, num_steps: int | None = None
) -> FrozenNet:
    """`model` in deployment arithmetic: dyadic numbers that float32 holds exactly.

    Args:
        model: A trained network built from the modules of this package.
        settings: Widths; `Settings()` if `None`.
        num_steps: Time steps `T`, of a network without coding, or one of `any_length`.

    Returns:
        A module with the network's interface. Its spikes are equal in every runtime that computes
        in float32 or in integers of the widths it states.

    Raises:
        StbpError: If the network does what has no counterpart in this arithmetic.
    """
    return FrozenNet(model, settings, num_steps)
