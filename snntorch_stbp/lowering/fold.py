"""From the modules of a trained network to integers, stage by stage.

`terms` makes integers of the branches and finds their unit; what remains is a bias and a threshold
per channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import StbpError
from ..frozen.graph import Stage
from ..neuron import Leaky
from ..rounded import weight_bits
from .layers import IntBranch, IntNeuron, Ints, IntStage
from .ranges import branch_range, stage_range
from .terms import FLOAT_WEIGHT_BITS, TINY, Budget, Reals, join, of_shifts, terms

BETA_DIGITS = 8
"""Most binary digits behind the point of a decay that counts as whole."""
COARSE = 2.0**-12
"""Error of a current, in thresholds, above which a stage gives its leak's digits to multipliers."""

SILENT = 2.0**-8
"""Largest sum of a channel's currents over all steps, in thresholds, that the simple form drops."""

SIMPLE = "the simple form (--arithmetic simple)"

ROOM_STEPS = 20
"""Steps of a search for the widest multipliers that fit."""


@dataclass(frozen=True)
class RealNeuron:
    """Decay and threshold as trained, per channel `[C]` or `[1]`."""

    beta: Reals
    threshold: Reals
    reset: str


def real_neuron(neuron: Leaky) -> RealNeuron:
    """The numbers of `neuron`."""
    beta = neuron.beta.detach().double().reshape(-1).clamp(0, 1).cpu().numpy()
    threshold = neuron.threshold.detach().double().reshape(-1).cpu().numpy()
    return RealNeuron(beta, threshold, neuron.reset_rule)


def whole_digits(beta: Reals) -> int | None:
    """Binary digits behind the point that hold `beta`, or `None` beyond `BETA_DIGITS`."""
    for digits in range(BETA_DIGITS + 1):
        scaled = beta * 2.0**digits
        if np.array_equal(scaled, np.rint(scaled)):
            return digits
    return None


def _uneven(beta: Reals) -> float:
    """The first decay that has more than `BETA_DIGITS` binary digits."""
    return next(float(value) for value in beta if whole_digits(np.array([value])) is None)


def has_exact_form(stage: Stage, num_steps: int, bits: int = 24) -> bool:
    """Whether a stage has thresholds by age, or none: no subtraction, and a decay of few digits.

    Of those every time step behind the first takes as many bits.
    """
    if stage.neuron is None or stage.quantized:
        return True
    neuron = real_neuron(stage.neuron)
    digits = whole_digits(neuron.beta)
    if digits is None or neuron.reset not in ("zero", "none"):
        return False
    return digits * (num_steps - 1) < bits


def exact_stage(stage: Stage, budget: Budget) -> IntStage:
    """The stage with thresholds by age: no number of it is rounded, if it has one branch.

    What the bias adds to a membrane depends only on the steps since its last reset, `age`:
    `c * (1 + beta + ... + beta^age)`. So it fires where the membrane without bias exceeds
    `theta` less that, and as that membrane is an integer of known grid, so may be the threshold.

    Raises:
        StbpError: If the decay is no multiple of `2^-8`, the reset subtracts, or it does not fit.
    """
    assert stage.neuron is not None
    neuron = real_neuron(stage.neuron)
    leak = whole_digits(neuron.beta)
    if neuron.reset in ("subtract", "delayed"):
        raise StbpError(
            f"'{stage.name}' resets by subtraction, so its membrane depends on every spike before: "
            f"the exact form needs reset to zero or none; use {SIMPLE}."
        )
    if leak is None:
        raise StbpError(
            f"the decay of '{stage.name}', {_uneven(neuron.beta):g}, is no multiple of "
            f"2^-{BETA_DIGITS}, which the exact form needs; use {SIMPLE}, which rounds it."
        )
    beta = np.rint(neuron.beta * 2.0**leak).astype(np.int64)
    remedy = f"{SIMPLE}, fewer weight bits or fewer time steps"
    if (digits := leak * (budget.num_steps - 1)) >= budget.bits:
        raise StbpError(
            f"'{stage.name}' needs more than {digits} bits, for {leak} more with each time step, "
            f"and {budget.bits} are exact here: use {remedy}."
        )

    def build(up: int, rounds: bool) -> IntStage:
        def finish(branches: tuple[IntBranch, ...], unit: Reals, shift: Reals) -> IntStage:
            ages = np.arange(budget.num_steps)[:, None]
            grown = np.cumsum(neuron.beta[None] ** ages, 0)
            levels = np.floor((neuron.threshold - shift * grown) / unit * 2.0**up)
            if (levels == levels[:1]).all():
                levels = levels[:1]
            return _stage(
                stage, branches, up, np.zeros(len(unit), np.int64), unit * 2.0**-up,
                IntNeuron(beta, leak, rounds, _integers(levels), neuron.reset), budget,
            )  # fmt: skip

        return _fit(stage, budget, finish, remedy)

    built = build(digits, False)
    if len(built.branches) > 1 and _error(stage, built, budget) > COARSE:
        return build(0, True)
    return built


def _error(stage: Stage, built: IntStage, budget: Budget, weights: bool = False) -> float:
    """Largest error of a current by its multipliers, in thresholds; the mean over channels.

    With `weights` also that of rounding the weights of float layers, by half a step each.
    """
    error: Reals = np.zeros(1)
    floats = [
        branch.layer is not None and weight_bits(branch.layer) == 32 for branch in stage.branches
    ]
    rounded = [b.weight_bits for b, real in zip(built.branches, floats, strict=True) if real]
    parts = terms(stage, budget, next(iter(rounded), FLOAT_WEIGHT_BITS))
    for term, branch, real in zip(parts, built.branches, floats, strict=True):
        low, high = branch_range(term.integer, budget.input_bits)
        gain = np.abs(term.gain) if branch.weight is not None else term.gain
        off = gain - branch.multiplier * built.unit * 2.0**built.up
        error = error + np.maximum(-low, high) * np.abs(off)
        if weights and real and branch.weight is not None:
            error = error + np.abs(gain) / 2 * branch.weight[0].size
    assert stage.neuron is not None
    return float((error / np.abs(real_neuron(stage.neuron).threshold)).mean())


def simple_stage(stage: Stage, budget: Budget, fraction: int, leak: int) -> IntStage:
    """The stage with one bias and one threshold, rounded once to `fraction` binary digits.

    The decay is rounded to `leak` digits; what the leak shifts out, half up.

    Raises:
        StbpError: If that many digits do not fit.
    """
    assert stage.neuron is not None
    neuron = real_neuron(stage.neuron)
    beta = np.rint(neuron.beta * 2.0**leak).astype(np.int64)

    def finish(branches: tuple[IntBranch, ...], unit: Reals, shift: Reals) -> IntStage:
        unit, shift = of_shifts(branches, unit, shift, neuron.threshold, fraction)
        grid = unit * 2.0**-fraction
        theta = np.floor(np.broadcast_to(neuron.threshold / grid, unit.shape))[None]
        bias = _integers(np.rint(shift / grid))
        built = IntNeuron(beta, leak, True, _integers(theta), neuron.reset)
        return _stage(stage, branches, fraction, bias, grid, built, budget)

    more = "" if budget.bits >= 30 else ", or more bits (--register-bits 30, for C and folders)"
    least = SILENT * np.abs(neuron.threshold) / budget.num_steps / len(stage.branches)
    return _fit(stage, budget, finish, f"fewer weight bits{more}", least)


def readout_stage(stage: Stage, budget: Budget) -> IntStage:
    """A readout of currents on one grid `2^-digits` for all channels, as fine as fits.

    Raises:
        StbpError: If it does not fit.
    """
    layers, built = [branch.layer for branch in stage.branches], None
    floats = all(layer is not None and weight_bits(layer) == 32 for layer in layers)
    for float_bits in range(FLOAT_WEIGHT_BITS, 3, -2):
        parts = terms(stage, budget, float_bits, dyadic=True)
        gains = np.stack(np.broadcast_arrays(*(part.gain for part in parts)))
        shift = np.sum(np.stack(np.broadcast_arrays(*(part.shift for part in parts))), 0)
        cap = 2 ** (budget.multiplier_bits - 1) - 1
        if floats:
            fractions = [-round(math.log2(gains.min()))]  # the finest of their powers of two
        else:
            digits = math.floor(math.log2(cap / max(np.abs(gains).max(), TINY)))
            fractions = list(range(digits, digits - 12, -1))
        for fraction in fractions:
            scaled = np.rint(np.abs(gains) * 2.0**fraction)
            if scaled.max() > cap:
                continue
            whole = scaled.astype(np.int64)
            branches = tuple(
                replace(part.integer, multiplier=m) for part, m in zip(parts, whole, strict=True)
            )
            bias = _integers(np.rint(shift * 2.0**fraction))
            built = IntStage(
                stage.name, branches, 0, bias, np.zeros(len(bias), np.int64), None, None,
                np.array([2.0**-fraction]), False,
            )  # fmt: skip
            if budget.fits(built):
                return built
        if all(part.integer.weight_bits != float_bits for part in parts):
            break
    raise _too_wide(stage, built, budget, "fewer weight bits")


def _fit(  # type: ignore[no-untyped-def]
    stage: Stage, budget: Budget, finish, remedy: str, least: Reals | float = 0.0
) -> IntStage:
    """Build a stage with multipliers and float weights as wide as fit.

    Channels whose currents are `least` or less are left out of a branch. Of several branches these
    two compete for the bits: the float weights are those with the least error of both.
    """
    built: IntStage | None = None
    found: list[IntStage] = []
    for float_bits in range(FLOAT_WEIGHT_BITS, 3, -2):
        parts = terms(stage, budget, float_bits, least=least)
        shift = np.sum(np.stack(np.broadcast_arrays(*(part.shift for part in parts))), 0)
        best: IntStage | None = None
        low, high = 0.0, 2.0**budget.bits
        for _ in range(ROOM_STEPS if len(parts) > 1 else 1):  # a single branch needs no room
            room = high if low == 0 else math.sqrt(low * high)
            branches, unit = join(parts, budget, room)
            if not branches:
                break
            built = finish(branches, unit, np.broadcast_to(shift, unit.shape))
            if budget.fits(built):
                best, low = built, room
                if room == high:
                    break
            else:
                high = room if low else room / 2
        if best is not None:
            found.append(best)
        if all(part.integer.weight_bits != float_bits for part in parts):
            break
        if found and len(parts) == 1:
            break
    if not found:
        raise _too_wide(stage, built, budget, remedy)
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda each: _error(stage, each, budget, weights=True))


def _stage(
    stage: Stage, branches: tuple[IntBranch, ...], up: int, bias: Ints, unit: Reals,
    neuron: IntNeuron, budget: Budget,
) -> IntStage:  # fmt: skip
    """A stage whose thresholds are clipped to the range of its membrane, which changes nothing."""
    layers = [branch.layer for branch in stage.branches]
    quantized = all(layer is None or weight_bits(layer) < 32 for layer in layers)
    exact = len(branches) == 1 and quantized and not neuron.rounds
    built = IntStage(
        stage.name, branches, up, bias, np.zeros(len(bias), np.int64), None, neuron, unit, exact
    )
    spans = stage_range(built, budget.num_steps, budget.input_bits).membrane
    limits = np.iinfo(np.int64)  # of what does not fit the range is of any width
    theta = neuron.threshold.clip(max(spans.low - 1, limits.min), min(spans.high, limits.max))
    return replace(built, neuron=replace(neuron, threshold=theta))


def _integers(values: Reals) -> Ints:
    return np.clip(values, -(2.0**52), 2.0**52).astype(np.int64)


def _too_wide(stage: Stage, built: IntStage | None, budget: Budget, remedy: str) -> StbpError:
    needs = "more" if built is None else str(budget.needs(built))
    return StbpError(
        f"'{stage.name}' needs {needs} bits, more than the {budget.bits} that are exact here: "
        f"use {remedy}."
    )
