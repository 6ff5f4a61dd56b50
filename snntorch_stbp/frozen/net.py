r"""A network in deployment arithmetic: between neurons only integers, no rounding that can differ.

    x[t] = clip(round(sum of m a + c))                         integer of act_bits, see `fold`
    u[t] = v[t-1] + x[t]                                       v[-1] = 0
    o[t] = 1 if u[t] > theta else 0                            theta an integer
    v[t] = round(beta * (u[t] after reset) + 2^-(k+1))         beta a multiple of 2^-k

in units of the stage's step `delta`. All of `x`, `u`, `v` and `theta` are integers, so a spike does
not depend on how a library compares; and what is rounded lies half a grid step off the grid of
`beta * u`, so that it is never a tie and does not depend on how a library rounds. With a quantized
membrane, `u` is rounded to multiples of `2^coarse` and clipped, in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StbpError
from ..neuron import Leaky
from .fold import (
    CURRENT_STEPS,
    EXACT_BITS,
    FrozenCurrent,
    Settings,
    fold_current,
    on_grid,
    round_ste,
)
from .graph import INPUT, Branch, Graph, Stage, pair, read_graph

BETA_DIGITS = 8
"""Binary digits of a decay `beta` behind the point."""

READOUT_BITS = 16
"""Bits of one step of a readout of currents, on a grid so fine that the largest one fits."""


@dataclass(frozen=True)
class FrozenNeuron:
    """A layer of neurons in deployment arithmetic; all numbers in units of `step`.

    Attributes:
        step: `delta`, in units of the trained membrane potential; scalar.
        act_bits: Bits of the input current, with sign.
        beta: Decay per channel `[C]` or `[1]`, a multiple of `2^-beta_digits`.
        beta_digits: `k`.
        threshold: `theta`, integers `[C]` or `[1]`.
        reset: Reset mechanism.
        state: Smallest and largest `v` that can occur.
        potential: Smallest and largest `u` that can occur.
        membrane_bits: Bits of a quantized `u` on its grid, or `None`.
        coarse: A quantized `u` is a multiple of `2^coarse`.
    """

    step: Tensor
    act_bits: int
    beta: Tensor
    beta_digits: int
    threshold: Tensor
    reset: str
    state: tuple[int, int]
    potential: tuple[int, int]
    membrane_bits: int | None
    coarse: int


def freeze_neuron(neuron: Leaky, num_steps: int, settings: Settings) -> FrozenNeuron:
    """The arithmetic of `neuron` over `num_steps` steps.

    Raises:
        StbpError: If its membrane potential needs more bits than float32 holds exactly, or its
            quantizers have no grid.
    """
    act_bits, step = _current_step(neuron, settings)
    membrane_bits, coarse = None, 0
    if neuron.state_quant is not None:
        quantizer = _act_quant(neuron.state_quant)
        membrane_bits, grid = int(quantizer.bit_width()), quantizer.scale().detach()
        coarse = max(0, round(math.log2(grid.item() / step.item())))
        step = grid / 2**coarse
    beta = on_grid(neuron.beta.reshape(-1).clamp(0, 1), torch.tensor(float(BETA_DIGITS)))
    threshold = neuron.threshold.reshape(-1) / step
    threshold = threshold + (torch.floor(threshold + 1e-4) - threshold).detach()
    digits = _digits_needed(beta.detach())
    frozen = FrozenNeuron(
        step, act_bits, beta, digits, threshold, neuron.reset_mechanism,
        (0, 0), (0, 0), membrane_bits, coarse,
    )  # fmt: skip
    state, potential = _ranges(frozen, num_steps)
    frozen = replace(frozen, state=state, potential=potential)
    if max(abs(v) for v in frozen.potential) * 2 ** (digits + 1) >= 2**EXACT_BITS:
        raise StbpError(
            f"a membrane potential over {num_steps} steps needs more than {EXACT_BITS} bits: "
            f"quantize it (--membrane-bits) or use fewer act bits."
        )
    return frozen


def _ranges(neuron: FrozenNeuron, num_steps: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest `v` and `u`, by interval arithmetic over the steps."""
    top, beta = 2 ** (neuron.act_bits - 1), neuron.beta.detach().max().item()
    theta = neuron.threshold.detach()
    v_low = v_high = 0
    u_low, u_high = -top, top - 1
    for _ in range(num_steps):
        low, high = v_low - top, v_high + top - 1
        if neuron.membrane_bits is not None:
            grid, levels = 2**neuron.coarse, 2 ** (neuron.membrane_bits - 1)
            low, high = max(low - grid, -levels * grid), min(high + grid, (levels - 1) * grid)
        u_low, u_high = min(u_low, low), max(u_high, high)
        kept_high = high
        if neuron.reset == "zero":
            kept_high = min(high, max(0, int(theta.max())))
        elif neuron.reset == "subtract":
            kept_high = max(min(high, int(theta.max())), high - int(theta.min()))
        v_low, v_high = math.floor(beta * low), math.ceil(beta * kept_high + 0.5)
    return (v_low, v_high), (u_low, u_high)


def _current_step(neuron: Leaky, settings: Settings) -> tuple[int, Tensor]:
    """Bits and step of the input current: as trained, or a grid of the threshold's size."""
    if neuron.current_quant is not None:
        quantizer = _act_quant(neuron.current_quant)
        return int(quantizer.bit_width()), quantizer.scale().detach()
    top = neuron.threshold.detach().abs().max()
    return settings.act_bits, top * CURRENT_STEPS / 2 ** (settings.act_bits - 1)


def _act_quant(quantizer: Any) -> Any:
    """The Brevitas proxy of a quantizer made by `Precision`."""
    if not isinstance(quantizer, qnn.QuantIdentity):
        raise StbpError(
            f"a {type(quantizer).__name__} quantizes a neuron; only quantizers made by Precision "
            f"(or other Brevitas QuantIdentity) have a grid that can be frozen."
        )
    return quantizer.act_quant


def _digits_needed(beta: Tensor) -> int:
    """Fewest binary digits behind the point that hold all of `beta`."""
    for digits in range(BETA_DIGITS):
        scaled = beta * 2**digits
        if torch.equal(scaled, scaled.round()):
            return digits
    return BETA_DIGITS


@dataclass(frozen=True)
class FrozenStage:
    """A stage and its numbers; a readout of currents has no neuron."""

    stage: Stage
    current: FrozenCurrent
    neuron: FrozenNeuron | None

    @property
    def readout_digits(self) -> int:
        """Binary digits behind the point of a readout of `READOUT_BITS` (may be negative)."""
        largest = self.current.largest.detach().max().item()
        fits = READOUT_BITS - 1 - math.ceil(math.log2(largest + 1))
        return min(fits, int(self.current.fraction.min()) - 1)  # fewer than the sum has: no ties


class FrozenNet(nn.Module):
    """A trained network in deployment arithmetic; still a torch module.

    The numbers are folded from the network's own parameters, once, or again by `refold()`. While
    `refolds` is set, every forward pass folds them, with straight-through gradients: the network's
    parameters are then trained in this arithmetic (normalisation with its running statistics).

    Args:
        model: A network of the modules of this package, in evaluation mode; it is kept.
        settings: Widths.

    Raises:
        StbpError: If the network does what has no counterpart in this arithmetic.
    """

    def __init__(self, model: nn.Module, settings: Settings | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or Settings()
        self.graph: Graph = read_graph(model)
        if all(stage.neuron is None for stage in self.graph.stages):
            raise StbpError("the network has no layers of neurons to export.")
        self.integrate = Integrate()
        self.refolds = False
        self.refold()

    @property
    def input_bits(self) -> int:
        """Bits of the unsigned integers that enter."""
        quantizer = self.graph.input_quant
        return 8 if quantizer is None else int(quantizer.act_quant.bit_width())

    @property
    def input_scale(self) -> float:
        """Value of one unit of the integer input."""
        quantizer = self.graph.input_quant
        return 1 / 255 if quantizer is None else float(quantizer.act_quant.scale())

    @property
    def num_steps(self) -> int:
        """Time steps `T`."""
        return self.graph.num_steps or 1

    def refold(self) -> None:
        """Take the numbers from the network's parameters as they are now."""
        with torch.no_grad():
            self.stages = self._fold()

    def _fold(self) -> list[FrozenStage]:
        stages = []
        top = 2**self.input_bits - 1
        for stage in self.graph.stages:
            neuron = None
            step: Tensor | float = 1.0
            if stage.neuron is not None:
                neuron = freeze_neuron(stage.neuron, self.num_steps, self.settings)
                step = neuron.step
            current = fold_current(stage, step, self.input_scale, top, self.settings)
            stages.append(FrozenStage(stage, current, neuron))
        return stages

    def quantize_input(self, x: Tensor) -> Tensor:
        """The integers 0 to `2^input_bits - 1` that hardware is fed, of a real input."""
        return round_ste(x / self.input_scale).clamp(0, 2**self.input_bits - 1)

    def forward(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """The record `[T, B, classes]` of images `[B, C, H, W]` or frames `[T, B, C, H, W]`.

        Args:
            x: Real input, as the trained network takes it.
            record: If given, receives the spikes `[T, B, ...]` of every stage by name, and the
                membrane potentials under `NAME/membrane`.
        """
        stages = self._fold() if self.refolds else self.stages
        values = {INPUT: self.quantize_input(x)}
        frames = x.dim() == 5 or (x.dim() == 3 and self.graph.num_steps is None)
        steps = x.shape[0] if frames else self.num_steps
        if not frames:
            values[INPUT] = values[INPUT].unsqueeze(0)
        result = x
        for stage in stages:
            result = self._current(stage, values)
            result = result.expand(steps, *result.shape[1:])
            if stage.neuron is None:
                result = on_grid(result, torch.tensor(float(stage.readout_digits)))
                continue
            assert stage.stage.neuron is not None
            grad = stage.stage.neuron.spike_grad
            result, membrane = self.integrate(stage.neuron, grad, result)
            values[stage.stage.name] = result
            if record is not None:
                record[stage.stage.name] = result
                record[f"{stage.stage.name}/membrane"] = membrane
        if self.graph.votes is not None:
            result = result.unflatten(-1, (self.graph.votes, -1)).mean(-1)
        return result

    def _current(self, stage: FrozenStage, values: dict[str, Tensor]) -> Tensor:
        """The input current `[T, B, C, ...]`, before it is rounded to integers."""
        total: Tensor | None = None
        for branch, frozen in zip(stage.stage.branches, stage.current.branches, strict=True):
            summed = _accumulate(branch, frozen.weight, values[branch.source])
            term = summed * _per_channel(frozen.multiplier, summed)
            total = term if total is None else total + term
        assert total is not None
        return total + _per_channel(stage.current.bias, total)


def _accumulate(branch: Branch, weight: Tensor | None, spikes: Tensor) -> Tensor:
    """Integer sums of a branch, `[T, B, C, ...]`."""
    x = spikes.flatten(0, 1)
    for pool in branch.pools:
        size, stride = pair(pool.kernel_size), pair(pool.stride)
        if isinstance(pool, nn.AvgPool2d):
            x = F.avg_pool2d(x, size, stride, divisor_override=1)
        else:
            x = F.max_pool2d(x, size, stride, dilation=pool.dilation)
    if branch.flatten:
        x = x.flatten(1)
    layer = branch.layer
    if isinstance(layer, nn.Conv2d) and weight is not None:
        padding = pair(layer.padding)  # type: ignore[arg-type]
        x = F.conv2d(x, weight, None, layer.stride, padding, layer.dilation, layer.groups)
    elif weight is not None:
        x = F.linear(x, weight)
    return x.unflatten(0, spikes.shape[:2])


class Integrate(nn.Module):
    """A layer of neurons over a sequence; a module without state, so that hooks can watch it."""

    def forward(
        self, neuron: FrozenNeuron, spike_grad: Callable[[Tensor], Tensor], current: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Spikes and membrane potentials `[T, B, ...]` of input currents `[T, B, ...]`."""
        top = 2 ** (neuron.act_bits - 1)
        x = round_ste(current).clamp(-top, top - 1)
        beta, theta = (_per_channel(v, x)[0] for v in (neuron.beta, neuron.threshold))
        offset = 2.0 ** -(neuron.beta_digits + 1)
        spikes, membranes = [], []
        v: Tensor | None = None
        for step in x.unbind(0):
            u = step if v is None else v + step
            if neuron.membrane_bits is not None:
                u = _quantize_membrane(u, neuron.membrane_bits, 2.0**neuron.coarse)
            spike = spike_grad((u - theta - 0.5) * neuron.step)
            kept = u
            if neuron.reset == "zero":
                kept = u - spike * u
            elif neuron.reset == "subtract":
                kept = u - spike * theta
            v = round_ste(beta * kept + offset)
            spikes.append(spike)
            membranes.append(u)
        return torch.stack(spikes), torch.stack(membranes)


def _quantize_membrane(u: Tensor, bits: int, grid: float) -> Tensor:
    """Round the integer `u` to a multiple of `grid`, ties up, and clip to `bits`."""
    levels = 2 ** (bits - 1)
    shift = 0.5 if grid > 1 else 0.0
    return round_ste((u + shift) / grid).clamp(-levels, levels - 1) * grid


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    """`value [C]` (or `[1]`) aligned with `[T, B, C, ...]`."""
    return value.reshape(1, 1, -1, *[1] * (x.dim() - 3))


def freeze(model: nn.Module, settings: Settings | None = None) -> FrozenNet:
    """`model` in deployment arithmetic: dyadic numbers that float32 holds exactly.

    Args:
        model: A trained network built from the modules of this package.
        settings: Widths; `Settings()` if `None`.

    Returns:
        A module with the network's interface. Its spikes are equal in every runtime that computes
        in float32 or in integers of the widths it states.

    Raises:
        StbpError: If the network does what has no counterpart in this arithmetic.
    """
    return FrozenNet(model.eval(), settings)
