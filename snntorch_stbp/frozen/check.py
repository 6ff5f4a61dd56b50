"""A trained network beside what was read of it, on a few samples: nothing may have been missed.

Exports are verified against numbers that follow from the `Graph`. What its reader did not see, such
as a hook that changes a layer's result, would be missing from both. So the graph is computed once
more in plain torch operations, stage by stage from the spikes that the network itself had in front
of it, and compared with the currents and spikes that the network had there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import kernels
from ..errors import StbpError
from ..exact import full_precision
from ..modes import evaluating
from ..neuron import Leaky
from . import inputs, plain
from .graph import INPUT, Graph, Stage, inhibition

SAMPLES = 4
"""Samples that are compared at most."""

SHARE = 0.01
"""Share of a stage's currents or spikes that may differ, for the rounding of floating point."""

TOLERANCE = 1e-3
"""Difference of a current that is rounding, in parts of the largest current of its stage."""

NOTED = 0.01
"""Share of spikes from which on what another arithmetic changes is told."""

COMPARED = 32
"""Samples whose spikes are compared at a time: those of all layers are in memory together."""


class Ran(NamedTuple):
    """What a network computed: currents and spikes `[T, B, ...]` by stage, and the record."""

    currents: dict[str, Tensor]
    spikes: dict[str, Tensor]
    record: Tensor


@dataclass(frozen=True)
class Reading:
    """A network and what was read of it."""

    model: nn.Module
    graph: Graph

    @torch.no_grad()
    def check(self, samples: Tensor) -> None:
        """Compare the two on the first of `samples`, real inputs.

        Raises:
            StbpError: If the network computes something else; it names the first such stage.
        """
        axis = inputs.batch_axis(samples)
        x = self.own(samples.narrow(axis, 0, min(SAMPLES, samples.shape[axis])))
        with kernels.backend("loop"), full_precision(), evaluating(self.model):
            currents, values, record = self.run(x)
            values[INPUT] = self._input(x)
            for stage in self.graph.stages:
                self._stage(stage, currents, values, record)

    def run(self, x: Tensor) -> Ran:
        """What the network computes of real inputs in evaluation mode."""
        names = {stage.neuron: stage.name for stage in reversed(self.graph.stages) if stage.neuron}
        calls: dict[str, int] = {}
        currents: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}

        def watch(neuron: Leaky, inputs: tuple[Tensor], spikes: Tensor) -> None:
            name = names[neuron]
            calls[name] = calls.get(name, 0) + 1
            name = name if calls[name] == 1 else f"{name}#{calls[name]}"
            currents[name], values[name] = inputs[0], spikes

        handles = [neuron.register_forward_hook(watch) for neuron in names]
        try:
            with full_precision(), evaluating(self.model):
                return Ran(currents, values, self.model(self.own(x)))
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def changed(self, net: nn.Module, samples: Tensor) -> float:
        """Share in [0, 1] of the spikes of `samples` that differ in `net`, made of the network.

        All neurons count, at every step, whether they spike or not.

        Args:
            net: Takes a real input and a record, as `FrozenNet` does.
            samples: Real inputs.
        """
        neurons = [stage.name for stage in self.graph.stages if stage.neuron is not None]
        differing = total = 0
        there = next(chain(net.parameters(), net.buffers()), samples).device
        for part in samples.split(COMPARED, inputs.batch_axis(samples)):
            record: dict[str, Tensor] = {}
            net(part.to(there), record)
            trained = self.run(part).spikes
            pairs = [(record[name], trained[name].to(record[name].device)) for name in neurons]
            differing += sum(int((ours != own).sum()) for ours, own in pairs)
            total += sum(own.numel() for _, own in pairs)
        return differing / max(total, 1)

    def own(self, x: Tensor) -> Tensor:
        """`x` where the network is, in its type, and at every step where it has no other coding."""
        own = next(self.model.parameters(), x)
        x = x.to(own.device, own.dtype)
        if self.graph.any_length and not inputs.in_time(x):
            x = x.expand(self.graph.run_for(None), *x.shape)
        return x

    def _input(self, x: Tensor) -> Tensor:
        """The sequence that enters the first layer."""
        if self.graph.input_quant is not None:
            x = self.graph.input_quant(x)
            x = getattr(x, "value", x)
        return x if inputs.in_time(x) else x.expand(self.graph.run_for(None), *x.shape)

    def _stage(
        self, stage: Stage, currents: dict[str, Tensor], values: dict[str, Tensor], record: Tensor
    ) -> None:
        name = stage.name
        try:
            found = plain.current(stage, values)
            if stage.neuron is None:
                _compare(name, "currents", found, record)
                return
            _compare(name, "input currents", found, currents[name])
            spikes = plain.spikes(stage.neuron, currents[name])
            _compare(name, "spikes", spikes, values[name])
            if stage.neunorm is not None:
                values[inhibition(name)] = stage.neunorm(values[name]) - values[name]
            if stage is self.graph.stages[-1]:
                votes = self.graph.votes
                spikes = spikes if votes is None else spikes.unflatten(-1, (votes, -1)).mean(-1)
                _compare(name, "records", spikes, record)
        except (RuntimeError, KeyError) as error:  # of sizes, of a stage that was not computed
            raise StbpError(
                f"'{name}' computes something else than what is read of it, this cannot be "
                f"exported: {error}."
            ) from error


def _compare(name: str, what: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape:
        share, sizes = 1.0, f", of the shape {list(own.shape)} in place of {list(found.shape)}"
    else:
        limit = TOLERANCE * torch.maximum(found.abs().max(), own.abs().max())
        share, sizes = ((found - own).abs() > limit).double().mean().item(), ""
    if share > SHARE:
        raise StbpError(
            f"'{name}' computes something else than what is read of it ({100 * share:.2g} % of its "
            f"{what} differ{sizes}): a hook or other code changes what its modules do, and this "
            f"cannot be exported."
        )
