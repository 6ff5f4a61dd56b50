"""The simple form's digits: the fewest that change no spike of the calibration data.

They are those of a membrane behind its current's, and those of a decay that is no whole number of
them: the more of one, the fewer of the other fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import StbpError
from ..frozen import inputs
from ..frozen.graph import Stage
from . import reference
from .fold import BETA_DIGITS, real_neuron, simple_stage, whole_digits
from .layers import INPUT, IntBranch, Ints, IntStage
from .terms import Budget, terms

MOST_FRACTION = 20

FEWEST_DIGITS, MOST_DIGITS = 4, 16
"""Binary digits that are tried of a decay that is rounded."""

SEARCHED = 64
"""Samples on which digits of two kinds are tried; what these change is counted on all."""

PATIENCE = 6
"""Digits more that are tried, where there are two kinds, without a spike fewer that changes."""


@dataclass
class Calibration:
    """Chooses the digits of one stage after the other.

    The spikes to keep are those of the same integer sums in float64, with the decay, threshold,
    normalisation and bias as trained; every stage is driven by those of the stages before it.

    Attributes:
        budget: What a stage must fit.
        images: Integer inputs `[N, C, H, W]` or frames `[T, N, C, H, W]`; `None` with `fraction`.
        fraction: Fractional bits for all stages, or `None`.
        chosen: Fractional bits by stage.
        changed: Spikes of the calibration data that differ, by stage.
    """

    budget: Budget
    images: Ints | None
    fraction: int | None
    chosen: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values: dict[str, Ints] = {}
        self.sums: dict[int, tuple[Ints | None, Ints]] = {}
        if self.images is not None:
            frames = inputs.in_time(self.images)
            self.values[INPUT] = self.images if frames else self.images[None]

    def stage(self, stage: Stage) -> IntStage:
        """The stage with its fractional bits.

        Raises:
            StbpError: If not even whole numbers fit.
        """
        assert stage.neuron is not None
        whole = whole_digits(real_neuron(stage.neuron).beta)
        if self.images is not None:
            least, most = (FEWEST_DIGITS, MOST_DIGITS) if whole is None else (whole, whole)
            return self._calibrated(stage, range(least, most + 1))
        assert self.fraction is not None
        for fraction in range(self.fraction, -1, -1):
            try:
                built = simple_stage(
                    stage, self.budget, fraction, BETA_DIGITS if whole is None else whole
                )
            except StbpError:
                if fraction == 0:
                    raise
                continue
            self.chosen[stage.name] = fraction
            return built
        raise AssertionError

    def _calibrated(self, stage: Stage, leaks: range) -> IntStage:
        """The stage with the fewest digits among those that change the fewest spikes.

        Raises:
            StbpError: If not even the fewest fit.
        """
        wanted = self.values[stage.name] = self._wanted(stage)
        samples = wanted.shape[1] if len(leaks) == 1 else min(SEARCHED, wanted.shape[1])
        best, least, level = simple_stage(stage, self.budget, 0, leaks.start), wanted.size + 1, 0
        too_many: list[tuple[int, int]] = []
        for digits, leak in sorted(
            (f + leak - leaks.start, leak) for f in range(MOST_FRACTION + 1) for leak in leaks
        ):
            fraction = digits - leak + leaks.start
            if least == 0 or (len(leaks) > 1 and digits > level + PATIENCE):
                break
            if any(fraction >= most and leak >= beside for most, beside in too_many):
                continue
            try:
                built = simple_stage(stage, self.budget, fraction, leak)
            except StbpError:
                too_many.append((fraction, leak))
                continue
            changed = int((self._spikes(built, samples) != wanted[:, :samples]).sum())
            if changed < least:
                best, least, level, self.chosen[stage.name] = built, changed, digits, fraction
        if samples < wanted.shape[1]:
            self.sums.clear()
            least = int((self._spikes(best, wanted.shape[1]) != wanted).sum())
        self.changed[stage.name] = least
        self.sums.clear()
        return best

    def words(self) -> dict[str, str]:
        """What was chosen, for the metadata of files."""
        said = {f"fraction/{name}": str(bits) for name, bits in self.chosen.items()}
        return said | {f"changed/{name}": str(n) for name, n in self.changed.items()}

    def _steps(self, x: Any) -> Any:
        frames = self.images is not None and inputs.in_time(self.images)
        steps = len(self.values[INPUT]) if frames else self.budget.num_steps
        return np.broadcast_to(x, (steps, *x.shape[1:]))

    def _spikes(self, built: IntStage, samples: int) -> Ints:
        """Spikes of the first `samples`."""
        sums = [self._sums(number, branch, samples) for number, branch in enumerate(built.branches)]
        assert built.neuron is not None
        return reference.integrate(built.neuron, self._steps(reference.current(built, sums)))[0]

    def _sums(self, number: int, branch: IntBranch, samples: int) -> Ints:
        """Sums of a branch: those of before, where its weights are."""
        known = self.sums.get(number)
        if known is None or not np.array_equal(known[0], branch.weight):  # type: ignore[arg-type]
            taken = self.values[branch.source][:, :samples]
            known = branch.weight, reference.accumulate(branch, taken)
            self.sums[number] = known
        return known[1]

    def _wanted(self, stage: Stage) -> Ints:
        """Spikes of the stage in float64."""
        x: Any = np.zeros(())
        for term in terms(stage, self.budget):
            a: Any = reference.accumulate(term.integer, self.values[term.integer.source])
            gain: Any = np.abs(term.gain) if term.integer.weight is not None else term.gain
            x = x + a * _spread(gain, a) + _spread(term.shift, a)
        x = self._steps(x)
        assert stage.neuron is not None
        neuron = real_neuron(stage.neuron)
        beta, theta = (_spread(v, x)[0] for v in (neuron.beta, neuron.threshold))
        u = np.zeros(x.shape[1:])
        spikes = []
        for step in x:
            u = u + step
            o = (u > theta).astype(np.int64)
            spikes.append(o)
            kept = {"zero": u * (1 - o), "subtract": u - o * theta}.get(neuron.reset, u)
            u = beta * kept - o * theta * (neuron.reset == "delayed")
        return np.stack(spikes)


def _spread(value: Any, like: Any) -> Any:
    """Real numbers per channel, aligned as `reference.spread` aligns integers."""
    return reference.spread(value, like)
