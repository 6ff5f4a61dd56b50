"""Layers of neurons on integers: their numbers, the ranges of their states, their steps in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import brevitas.nn as qnn
import torch
from torch import Tensor, nn

from ..errors import StbpError
from ..membrane import ThresholdGrid
from ..neuron import Leaky
from .fold import CURRENT_STEPS, Settings
from .grid import EXACT_BITS, on_grid, round_ste

BETA_DIGITS = 8
"""Binary digits of a decay `beta` behind the point."""


@dataclass(frozen=True)
class FrozenNeuron:
    """A layer of neurons in deployment arithmetic; all numbers in units of `step`.

    Attributes:
        step: `delta`, in units of the trained membrane potential; scalar.
        act_bits: Bits of the input current, with sign.
        lift: The input current counts steps of `2^lift`: potentials may have a finer grid.
        beta: Decay per channel `[C]` or `[1]`, a multiple of `2^-beta_digits`.
        beta_digits: `k`.
        threshold: `theta`, integers `[C]` or `[1]`.
        reset: `"zero"`, `"subtract"`, `"delayed"` (by subtraction after the leak) or `"none"`.
        leaked: Smallest and largest potential after the leak that can occur.
        state: Smallest and largest `v` that can occur.
        potential: Smallest and largest `u` that can occur, before it is rounded.
        membrane_bits: Bits of a quantized `u` on its grid, or `None`.
        coarse: A quantized `u` is a multiple of `2^coarse`.
    """

    step: Tensor
    act_bits: int
    lift: int
    beta: Tensor
    beta_digits: int
    threshold: Tensor
    reset: str
    leaked: tuple[int, int]
    state: tuple[int, int]
    potential: tuple[int, int]
    membrane_bits: int | None
    coarse: int


def freeze_neuron(
    neuron: Leaky, num_steps: int, settings: Settings, gain: Tensor | None = None
) -> FrozenNeuron:
    """The arithmetic of `neuron` over `num_steps` steps.

    Args:
        neuron: The neurons.
        num_steps: Time steps `T`.
        settings: Widths.
        gain: So many times the trained ones its currents are, per channel `[C]` (see `fold`).

    Raises:
        StbpError: If its membrane potential needs more bits than float32 holds exactly, or its
            quantizers have no grid.
    """
    act_bits, current_step = _current_step(neuron, settings)
    beta = on_grid(neuron.beta.reshape(-1).clamp(0, 1), BETA_DIGITS)
    digits = digits_needed(beta.detach())
    membrane_bits, coarse = None, 0
    if neuron.state_quant is None:
        lift = _lift(neuron, act_bits, current_step, digits, num_steps)
        step = current_step / 2**lift
    else:
        quantizer = act_quant(neuron.state_quant)
        membrane_bits, grid = int(quantizer.bit_width()), quantizer.scale().detach()
        ratio = round(math.log2(grid.item() / current_step.item()))
        coarse = _coarse(neuron, membrane_bits, act_bits, digits, ratio)
        lift, step = coarse - ratio, grid / 2**coarse
    frozen = FrozenNeuron(
        step, act_bits, lift, beta, digits, _threshold(neuron, step, gain), neuron.reset_rule,
        (0, 0), (0, 0), (0, 0), membrane_bits, coarse,
    )  # fmt: skip
    leaked, state, potential = _ranges(frozen, num_steps)
    frozen = replace(frozen, leaked=leaked, state=state, potential=potential)
    largest = max(abs(v) for v in potential)
    if membrane_bits is not None:
        largest = min(largest, 2 ** (membrane_bits - 1 + coarse))
    if largest * 2 ** (digits + 1) >= 2**EXACT_BITS:
        remedy = "quantize it (--membrane-bits) or use fewer act bits"
        if membrane_bits is not None:
            remedy = "use fewer membrane bits, or a decay that is a multiple of 1/4 or 1/8"
        raise StbpError(
            f"a membrane potential over {num_steps} steps, of {largest.bit_length()} bits and "
            f"sign, needs more than {EXACT_BITS} bits once it has leaked: {remedy}."
        )
    return frozen


def _coarse(neuron: Leaky, bits: int, act_bits: int, digits: int, ratio: int) -> int:
    """Binary digits of a potential behind its trained grid, of `2^ratio` steps of the current.

    As many as the leak has, which then rounds nothing, where that many fit: training rounds its sum
    with the current, once. Reset by subtraction leaves half a level more.
    """
    exact = digits + (neuron.reset_rule in ("subtract", "delayed"))
    fits = EXACT_BITS - 1 - bits - digits, EXACT_BITS - 1 - act_bits + ratio
    return max(0, ratio, min(exact, *fits))


def _lift(neuron: Leaky, act_bits: int, step: Tensor, digits: int, num_steps: int) -> int:
    """Binary digits of a potential behind those of its currents, where these were quantized.

    Training keeps potentials as they are: so many that no leak rounds, or if these do not fit, that
    the step is as fine as where currents were not quantized.
    """
    if neuron.current_quant is None:
        return 0
    fine = neuron.threshold.detach().abs().max() * CURRENT_STEPS / 2 ** (Settings.act_bits - 1)
    enough = max(0, math.ceil(math.log2(step.item() / fine.item())))
    room = EXACT_BITS - 2 - act_bits - digits - math.ceil(math.log2(num_steps))
    return max(0, min(max(enough, digits * (num_steps - 1)), room))


def _threshold(neuron: Leaky, step: Tensor, gain: Tensor | None) -> Tensor:
    """The thresholds in steps, rounded down: a whole number of steps above fires as in float32."""
    real = neuron.threshold.reshape(-1) if gain is None else neuron.threshold.reshape(-1) * gain
    threshold = real / step
    with torch.no_grad():
        whole = torch.floor(threshold + threshold.abs() * 2.0**-22)
        if neuron.current_quant is not None:
            whole = whole - (whole * step > real).float()
    return threshold + (whole - threshold).detach()


def _ranges(neuron: FrozenNeuron, num_steps: int) -> tuple[tuple[int, int], ...]:
    """Smallest and largest leaked potential, `v` and `u`, by interval arithmetic over the steps."""
    top, beta = 2 ** (neuron.act_bits - 1), neuron.beta.detach().max().item()
    least, most = -top << neuron.lift, (top - 1) << neuron.lift
    theta = neuron.threshold.detach()
    theta_low, theta_high = int(theta.min()), int(theta.max())
    v_low = v_high = 0
    leaked = (0, 0)
    u_low, u_high = least, most
    for _ in range(num_steps):
        low, high = v_low + least, v_high + most
        u_low, u_high = min(u_low, low), max(u_high, high)
        if neuron.membrane_bits is not None:
            grid, levels = 2**neuron.coarse, 2 ** (neuron.membrane_bits - 1)
            low, high = max(low - grid, -levels * grid), min(high + grid, (levels - 1) * grid)
        kept_high = high
        if neuron.reset == "zero":
            kept_high = min(high, max(0, theta_high))
        elif neuron.reset == "subtract":
            kept_high = max(min(high, theta_high), high - theta_low)
        leaked = v_low, v_high = math.floor(beta * low), math.ceil(beta * kept_high + 0.5)
        if neuron.reset == "delayed":
            silent = min(v_high, math.ceil(beta * theta_high + 0.5))
            v_low = min(v_low, -theta_high)
            v_high = max(silent, v_high - theta_low)
    return leaked, (v_low, v_high), (u_low, u_high)


def _current_step(neuron: Leaky, settings: Settings) -> tuple[int, Tensor]:
    """Bits and step of the input current: as trained, or a grid of the threshold's size."""
    if neuron.current_quant is not None:
        quantizer = act_quant(neuron.current_quant)
        return int(quantizer.bit_width()), quantizer.scale().detach()
    top = neuron.threshold.detach().abs().max()
    return settings.act_bits, top * CURRENT_STEPS / 2 ** (settings.act_bits - 1)


def act_quant(quantizer: Any) -> Any:
    """The Brevitas proxy of a quantizer made by `Precision`."""
    if isinstance(quantizer, ThresholdGrid):
        raise StbpError(
            "this network's membranes have levels that are dense at the threshold "
            "(--membrane-grid threshold), for which there are no integers here: train with "
            "--membrane-grid uniform to freeze or export."
        )
    if not isinstance(quantizer, qnn.QuantIdentity):
        raise StbpError(
            f"a {type(quantizer).__name__} quantizes a neuron; only quantizers made by Precision "
            f"(or other Brevitas QuantIdentity) have a grid that can be frozen."
        )
    return quantizer.act_quant


def digits_needed(beta: Tensor) -> int:
    """Fewest binary digits behind the point that hold all of `beta`.

    At least one, so that half of the last digit, added before rounding, is less than a tie.
    """
    for digits in range(1, BETA_DIGITS):
        scaled = beta * 2**digits
        if torch.equal(scaled, scaled.round()):
            return digits
    return BETA_DIGITS


class Integrate(nn.Module):
    """A layer of neurons over a sequence; a module without state, so that hooks can watch it."""

    def forward(
        self, neuron: FrozenNeuron, spike_grad: Callable[[Tensor], Tensor], current: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Spikes and membrane potentials `[T, B, ...]` of input currents `[T, B, ...]`."""
        top = 2 ** (neuron.act_bits - 1)
        x = round_ste(current).clamp(-top, top - 1) * 2**neuron.lift
        beta, theta = (per_channel(v, x)[0] for v in (neuron.beta, neuron.threshold))
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
            if neuron.reset == "delayed":
                v = v - spike * theta
            spikes.append(spike)
            membranes.append(u)
        return torch.stack(spikes), torch.stack(membranes)


def _quantize_membrane(u: Tensor, bits: int, grid: float) -> Tensor:
    """Round the integer `u` to a multiple of `grid`, ties up, and clip to `bits`."""
    levels = 2 ** (bits - 1)
    shift = 0.5 if grid > 1 else 0.0
    return round_ste((u + shift) / grid).clamp(-levels, levels - 1) * grid


def per_channel(value: Tensor, x: Tensor) -> Tensor:
    """`value [C]` (or `[1]`) aligned with `[T, B, C, ...]`."""
    return value.reshape(1, 1, -1, *[1] * (x.dim() - 3))
