"""A network as it was trained, in evaluation mode: what it decides, and how nearly.

A decision is a spike, or the level of a quantized current or membrane. It may fall the other way in
another library where the number that was decided on lies within the rounding of floating point of a
boundary. `bound` states that: `2^-20` times the sum of the largest magnitudes that can enter the
number (weights times inputs, mean and shift of the normalisation, decayed potentials, threshold).
A float32 addition errs by up to `2^-24` of its result, so this is sixteen roundings at full scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import brevitas.nn as qnn
import torch
from torch import Tensor, nn

from ..errors import StbpError
from ..frozen import inputs
from ..frozen.branches import affine
from ..frozen.check import Reading
from ..frozen.graph import INPUT, Branch, Graph, Stage
from ..frozen.read import read_graph
from ..neuron import Leaky
from ..rounded import quantized_weight
from .golden import Golden

ROUNDING = 2.0**-20
"""Bound of rounding, relative to the sum of the magnitudes that enter."""


@dataclass(frozen=True)
class TrainedStage:
    """A stage with its own neurons."""

    stage: Stage

    @property
    def neuron(self) -> Leaky | None:
        """The neurons, or `None` for a readout of currents."""
        return self.stage.neuron


class TrainedNet:
    """A trained network and what export must know of it.

    Args:
        model: A network of the modules of this package; it is put in evaluation mode.
        num_steps: Time steps `T`, of a network whose coding does not settle them.

    Raises:
        StbpError: If the network does what export cannot follow.
    """

    def __init__(self, model: nn.Module, num_steps: int | None = None) -> None:
        self.model = model.eval()
        self.graph: Graph = read_graph(model)
        self.num_steps: int = self.graph.run_for(num_steps)
        halves = {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}
        if halves:
            raise StbpError(
                f"a graph as trained computes in float32, and the network has parameters of "
                f"{str(halves.pop())[6:]}: give model.float()."
            )
        self.reading = Reading(model, self.graph)
        self.graph.refuse_neunorm("graphs as trained")
        self.stages = [TrainedStage(stage) for stage in self.graph.stages]
        if all(stage.neuron is None for stage in self.stages):
            raise StbpError("the network has no layers of neurons to export.")

    @property
    def votes(self) -> int | None:
        """Classes of a population vote over the last stage's spikes, or `None`."""
        return self.graph.votes

    @torch.no_grad()
    def __call__(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """The record `[T, B, classes]` of a real input.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            record: If given, receives of every stage the spikes under `NAME`, and under
                `NAME/current`, `NAME/potential` and `NAME/membrane` the input current and the
                membrane potential before and after their quantizers (`NAME/level`: the current
                behind its own), all `[T, B, ...]`.
        """
        with _watch(self.model, {} if record is None else record):
            return self.model(self.reading.own(x))

    @torch.no_grad()
    def vectors(self, samples: Tensor) -> Golden:
        """Golden vectors of `samples`, as those of `golden`, with real inputs and potentials.

        Beside them there are `bound/STAGE` (per channel) and `bound/record`; of a quantized
        current `current/STAGE`, `level/STAGE`, `step/current/STAGE`; of a quantized membrane
        `potential/STAGE` and `step/membrane/STAGE`.
        """
        record: dict[str, Tensor] = {}
        scores = self(samples, record).sum(0)
        frames = inputs.in_time(samples)
        votes = self.graph.votes
        if votes is not None:  # the graph counts votes, the network takes their mean
            scores = (scores * (record[self.stages[-1].stage.name].shape[-1] // votes)).round()
        vectors = {"input": samples.transpose(0, 1) if frames else samples, "record": scores}
        largest = self._largest_input(samples)
        for stage in self.graph.stages:
            current = _magnitude(stage, largest)
            if stage.neuron is None:
                vectors["bound/record"] = ROUNDING * self.num_steps * current.max()
                continue
            name = stage.name
            vectors |= _decisions(stage.neuron, name, record)
            vectors[f"bound/{name}"] = ROUNDING * _potential(stage.neuron, current, self.num_steps)
        vectors.setdefault("bound/record", torch.zeros(()))
        return {key: value.contiguous().numpy() for key, value in vectors.items()}

    def _largest_input(self, samples: Tensor) -> float:
        quantizer = self.graph.input_quant
        if quantizer is None:
            return float(samples.abs().max())
        act = quantizer.act_quant
        return float(act.scale()) * 2 ** int(act.bit_width())


def _decisions(neuron: Leaky, name: str, record: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a layer of neurons decides, and on what; samples first."""

    def of(key: str) -> Tensor:
        return record[key].transpose(0, 1)

    def raised(quantizer: Any, key: str) -> Tensor:  # what is rounded to the nearest level
        return of(f"{name}/{key}") + getattr(quantizer, "nudge", 0)

    vectors = {
        f"spikes/{name}": of(name).to(torch.uint8),
        f"membrane/{name}": of(f"{name}/membrane"),
        f"threshold/{name}": neuron.threshold.reshape(-1),
    }
    if neuron.current_quant is not None:
        vectors[f"current/{name}"] = raised(neuron.current_quant, "current")
        vectors[f"level/{name}"] = of(f"{name}/level")
        vectors[f"step/current/{name}"] = step_of(neuron.current_quant)
    if neuron.state_quant is not None:
        vectors[f"potential/{name}"] = raised(neuron.state_quant, "potential")
        vectors[f"step/membrane/{name}"] = step_of(neuron.state_quant)
    return vectors


def step_of(quantizer: Any) -> Tensor:
    """The step of a Brevitas quantizer of one scale."""
    return quantizer.act_quant.scale().detach().reshape(())


def _magnitude(stage: Stage, largest_input: float) -> Tensor:
    """Sum of the largest magnitudes that enter an input current, per channel `[C]` (or `[1]`)."""
    total: Tensor = torch.zeros(1)
    for branch in stage.branches:
        total = total + _branch_magnitude(branch, largest_input if branch.source == INPUT else 1.0)
    return total


def _branch_magnitude(branch: Branch, largest: float) -> Tensor:
    layer = branch.layer
    if layer is None:
        return torch.full((1,), largest)
    weight = quantized_weight(layer).flatten(1)
    total = weight.abs().sum(1) * largest
    if layer.bias is not None:
        total = total + layer.bias.abs()
    gain, shift = affine(branch.norm, len(weight), weight.device)
    if branch.norm is not None and branch.norm.running_mean is not None:
        total = total + branch.norm.running_mean.abs()
    return gain.abs() * total + shift.abs()


def _potential(neuron: Leaky, current: Tensor, steps: int) -> Tensor:
    """The same of a membrane potential over `steps` steps."""
    beta = neuron.beta.clamp(0, 1).reshape(-1)
    decays = sum((beta**k for k in range(steps)), torch.zeros_like(beta))
    return current * decays + neuron.threshold.abs().reshape(-1)


@contextmanager
def _watch(model: nn.Module, record: dict[str, Tensor]) -> Iterator[None]:
    """While active, collects what every `Leaky` of `model` decides, by its stage's name."""
    calls: dict[str, int] = {}

    def hook(name: str, neuron: Leaky, inputs: tuple[Tensor], spikes: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        stage = name if calls[name] == 1 else f"{name}#{calls[name]}"
        record[stage] = spikes
        record[f"{stage}/current"] = inputs[0]
        if neuron.current_quant is not None:
            record[f"{stage}/level"] = neuron.current_quant(inputs[0])
        potentials: list[Tensor] = []
        watched = None
        if isinstance(neuron.state_quant, qnn.QuantIdentity):
            watched = neuron.state_quant.register_forward_pre_hook(
                lambda _, taken: potentials.append(taken[0])
            )
        neuron.output = True
        try:
            record[f"{stage}/membrane"] = neuron.forward(inputs[0])[1]
        finally:
            neuron.output = False
            if watched is not None:
                watched.remove()
        if potentials:
            record[f"{stage}/potential"] = torch.stack(potentials)

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: hook(name, m, i, o))
        for name, module in model.named_modules()
        if isinstance(module, Leaky)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
