"""The simple form's fractional bits: the fewest that change no spike of the calibration data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..frozen import inputs
from ..frozen.graph import Stage
from . import reference
from .fold import real_neuron, simple_stage
from .layers import INPUT, Ints, IntStage
from .terms import Budget, terms

MOST_FRACTION = 20


@dataclass
class Calibration:
    """Chooses the fractional bits of one stage after the other.

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
        if self.images is not None:
            frames = inputs.in_time(self.images)
            self.values[INPUT] = self.images if frames else self.images[None]

    def stage(self, stage: Stage) -> IntStage:
        """The stage with its fractional bits.

        Raises:
            StbpError: If not even whole numbers fit.
        """
        if self.images is None:
            assert self.fraction is not None
            for fraction in range(self.fraction, -1, -1):
                built = simple_stage(stage, self.budget, fraction)
                if built is not None:
                    self.chosen[stage.name] = fraction
                    return built
        wanted = self._wanted(stage)
        self.values[stage.name] = wanted
        best: IntStage | None = None
        least = -1
        for fraction in range(MOST_FRACTION + 1):
            built = simple_stage(stage, self.budget, fraction)
            if built is None:
                break
            changed = int((self._spikes(built) != wanted).sum())
            if best is None or changed < least:
                best, least = built, changed
                self.chosen[stage.name], self.changed[stage.name] = fraction, changed
            if changed == 0:
                break
        assert best is not None
        return best

    def words(self) -> dict[str, str]:
        """What was chosen, for the metadata of files."""
        said = {f"fraction/{name}": str(bits) for name, bits in self.chosen.items()}
        return said | {f"changed/{name}": str(n) for name, n in self.changed.items()}

    def _steps(self, x: Any) -> Any:
        frames = self.images is not None and inputs.in_time(self.images)
        steps = len(self.values[INPUT]) if frames else self.budget.num_steps
        return np.broadcast_to(x, (steps, *x.shape[1:]))

    def _spikes(self, built: IntStage) -> Ints:
        sums = [reference.accumulate(b, self.values[b.source]) for b in built.branches]
        assert built.neuron is not None
        return reference.integrate(built.neuron, self._steps(reference.current(built, sums)))[0]

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
