r"""A network in deployment arithmetic: every number a dyadic rational that float32 holds exactly.

    x[t] = clip(round(sum of m a + c))                 integer of act_bits, see `fold`
    u[t] = clip(round_g(beta * (u[t-1] after reset) + x[t]))
    o[t] = 1 if u[t] > theta else 0

All in units of the stage's step `delta`. `u` lies on a grid of `2^-g`, `theta` half a step of that
grid above a grid point: `>` and `>=` agree, and no rounding of another library can flip a spike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FrozenNeuron:
    """A layer of neurons in deployment arithmetic, in units of the step.

    Attributes:
        step: `delta`, in units of the trained membrane potential; scalar.
        act_bits: Bits of the input current, with sign.
        beta: Decay per channel `[C]` or `[1]`, a multiple of `2^-beta_digits`.
        beta_digits: See `beta`.
        threshold: `theta` per channel `[C]` or `[1]`, half a grid step off the grid.
        reset: Reset mechanism; `subtract` takes off `threshold - 2^-(fraction + 1)`, on the grid.
        fraction: `g`: binary digits of the membrane potential behind the point (may be negative).
        membrane_bits: Bits of the membrane potential on its grid, with sign.
    """

    step: Tensor
    act_bits: int
    beta: Tensor
    beta_digits: int
    threshold: Tensor
    reset: str
    fraction: int
    membrane_bits: int

    def limits(self) -> tuple[float, float]:
        """Smallest and largest membrane potential."""
        top, grid = 2.0 ** (self.membrane_bits - 1), 2.0**-self.fraction
        return -top * grid, (top - 1) * grid


def freeze_neuron(neuron: Leaky, num_steps: int, settings: Settings) -> FrozenNeuron:
    """The arithmetic of `neuron` over `num_steps` steps.

    Raises:
        StbpError: If its membrane potential needs more bits than float32 holds exactly, or its
            quantizers are not of this package.
    """
    threshold, beta = neuron.threshold.reshape(-1), neuron.beta.reshape(-1).clamp(0, 1)
    act_bits, step = _current_step(neuron, settings)
    beta = on_grid(beta, torch.tensor(float(BETA_DIGITS)))
    digits = _digits_needed(beta.detach())
    if neuron.state_quant is not None:
        quantizer = _act_quant(neuron.state_quant)
        membrane_bits, grid = int(quantizer.bit_width()), quantizer.scale().detach()
        coarser = max(0, round(math.log2(grid.item() / step.item())))
        fraction, step = -coarser, grid / 2**coarser
    else:
        growth = min(1 / max(1 - beta.max().item(), 1e-9), float(num_steps))
        whole = act_bits + math.ceil(math.log2(growth))
        fraction = min(digits * (num_steps - 1), EXACT_BITS - 1 - digits - whole)
        if fraction < 0:
            raise StbpError(
                f"a membrane potential over {num_steps} steps needs more than {EXACT_BITS} bits: "
                f"quantize it (--membrane-bits) or use fewer act bits."
            )
        membrane_bits = whole + fraction
    scale = 2.0**fraction
    half_off = torch.floor(threshold / step * scale) + 0.5
    if neuron.state_quant is not None:  # the trained grid is centred on the threshold already
        half_off = torch.round(threshold / step * scale - 0.5) + 0.5
    half_off = threshold / step * scale + (half_off - threshold / step * scale).detach()
    return FrozenNeuron(
        step, act_bits, beta, digits, half_off / scale, neuron.reset_mechanism,
        fraction, membrane_bits,
    )  # fmt: skip


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
    """A stage and its numbers."""

    stage: Stage
    current: FrozenCurrent
    neuron: FrozenNeuron | None


class FrozenNet(nn.Module):
    """A trained network in deployment arithmetic; still a torch module.

    The numbers are folded from the network's own parameters. By default this happens once; under
    `training_in_frozen_arithmetic()` it happens in every forward pass, with straight-through
    gradients to the network's parameters.

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
        if not self.graph.stages:
            raise StbpError("the network has no layers of neurons to export.")
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
                continue
            result, membrane = _integrate(stage, result)
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

    @contextmanager
    def training_in_frozen_arithmetic(self) -> Iterator[None]:
        """Fold in every forward pass, so that gradients reach the network's parameters."""
        self.refolds = True
        try:
            yield
        finally:
            self.refolds = False
            self.refold()


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


def _integrate(stage: FrozenStage, current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and membrane potentials of a sequence of input currents."""
    neuron, module = stage.neuron, stage.stage.neuron
    assert neuron is not None
    assert module is not None
    top = 2 ** (neuron.act_bits - 1)
    x = round_ste(current).clamp(-top, top - 1)
    low, high = neuron.limits()
    beta, theta = (_per_channel(v, x)[0] for v in (neuron.beta, neuron.threshold))
    taken_off = theta - 2.0 ** -(neuron.fraction + 1)
    digits = torch.tensor(float(neuron.fraction))
    spikes, membranes = [], []
    kept: Tensor | None = None
    for step in x.unbind(0):
        u = step if kept is None else beta * kept + step
        u = on_grid(u, digits).clamp(low, high)
        spike = module.spike_grad((u - theta) * neuron.step)
        if neuron.reset == "zero":
            kept = u - spike * u
        else:
            kept = u - spike * taken_off if neuron.reset == "subtract" else u
        spikes.append(spike)
        membranes.append(u)
    return torch.stack(spikes), torch.stack(membranes)


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
