"""What a network computes between its neurons, as `read` reads it off its forward pass.

A network built from the modules of this package is a sequence of stages. A stage is a layer of
neurons with the branches whose sum is its input current; a branch takes the spikes of an earlier
stage (or the input) through pooling, one layer with weights, a normalisation, and maxima over
windows of the currents that come of it, each of them optional. The last stage may have no neurons:
its current is the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import brevitas.nn as qnn
import torch
from torch import nn

from ..errors import StbpError
from ..kernels.geometry import Geometry, geometry_of
from ..neuron import Leaky
from ..norm import NeuNorm

INPUT = "input"
Pool = nn.AvgPool2d | nn.MaxPool2d
Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Branch:
    """One term of an input current.

    Attributes:
        source: Name of the stage whose spikes it takes, or `INPUT`.
        name: Name of the layer with weights; of a shortcut without one, its source.
        inhibits: Whether it takes, in place of the spikes, what a NeuNorm subtracts from them.
        pools: Poolings in front of the layer.
        flatten: Whether features are flattened in front of the layer.
        layer: Convolution or linear layer, or `None` for a shortcut.
        norm: Batch normalisation behind the layer, or `None`.
        after: Poolings of the currents behind layer and normalisation.
        quantizer: Quantizer of the averages that enter the layer, or `None`. Integers do without
            it, since sums of spikes are exact, see `Graph.refuse_rounded`.
    """

    source: str
    name: str
    inhibits: bool = False
    pools: tuple[Pool, ...] = ()
    flatten: bool = False
    layer: Layer | None = None
    norm: nn.modules.batchnorm._BatchNorm | None = None
    after: tuple[Pool, ...] = ()
    quantizer: qnn.QuantIdentity | None = None

    @property
    def value(self) -> str:
        """Name of what it takes."""
        return inhibition(self.source) if self.inhibits else self.source

    @property
    def geometry(self) -> Geometry | None:
        """Of its convolution, which `check_layer` has seen; `None` of other branches."""
        return geometry_of(self.layer) if isinstance(self.layer, nn.Conv2d) else None


@dataclass(frozen=True)
class Stage:
    """A layer of neurons and what drives it.

    Attributes:
        name: Name of the neuron module; of a readout without neurons, of its layer.
        branches: The terms of its input current.
        neuron: The neurons, or `None` for a readout of currents.
        neunorm: The NeuNorm of its spikes, or `None`; branches that `inhibits` take its result.
    """

    name: str
    branches: tuple[Branch, ...]
    neuron: Leaky | None
    neunorm: NeuNorm | None = None

    @property
    def quantized(self) -> bool:
        """Whether training quantized its currents or its membrane potentials."""
        neuron = self.neuron
        return neuron is not None and (
            neuron.current_quant is not None or neuron.state_quant is not None
        )


def inhibition(stage: str) -> str:
    """Name of what the NeuNorm behind a stage subtracts from its spikes."""
    return f"{stage}/inhibition"


@dataclass
class Graph:
    """The stages of a network, in an order in which they can be computed.

    Attributes:
        stages: The stages; the last one gives the record.
        num_steps: Time steps `T`; `None` where nothing in the network says so.
        any_length: Whether the network takes sequences of any length, as one without coding does.
        input_quant: Quantizer of the input, or `None` if the network has none.
        votes: Classes of a population vote over the last stage's spikes, or `None`.
    """

    stages: list[Stage] = field(default_factory=list)
    num_steps: int | None = None
    any_length: bool = True
    input_quant: qnn.QuantIdentity | None = None
    votes: int | None = None

    def run_for(self, num_steps: int | None) -> int:
        """Settle the time steps `T`, on which the ranges of membranes depend.

        Args:
            num_steps: Of who uses the network; `None`: whatever the network says.

        Raises:
            StbpError: If neither says, or the two differ.
        """
        if num_steps is not None and num_steps < 1:
            raise StbpError(f"a network runs for at least 1 time step, not {num_steps}.")
        fixed = None if self.any_length else self.num_steps
        if num_steps is not None and fixed not in (None, num_steps):
            raise StbpError(
                f"the network runs for {self.num_steps} time steps (its DirectCoding), "
                f"not for {num_steps}."
            )
        self.num_steps = num_steps or self.num_steps
        if self.num_steps is None:
            raise StbpError(
                "nothing says how many time steps the network runs for: give num_steps, or put a "
                "DirectCoding in front of it (frames pass through)."
            )
        return self.num_steps

    def refuse_neunorm(self, what: str) -> None:
        """Raise StbpError where `what` has no counterpart of NeuNorm, if the network has one."""
        for stage in self.stages:
            if stage.neunorm is not None:
                raise StbpError(
                    f"the spikes of '{stage.name}' go through NeuNorm, which {what} do not have; "
                    f"deployment arithmetic, and `export` without --target, do."
                )

    def refuse_rounded(self) -> None:
        """Raise StbpError where averages of spikes are rounded, which sums in hardware are not."""
        for branch in (branch for stage in self.stages for branch in stage.branches):
            if branch.quantizer is None:
                continue
            most = prod(count(pool) for pool in branch.pools)
            device = branch.quantizer.act_quant.scale().device
            averages = torch.arange(min(most, 4096) + 1, device=device) / most
            if not torch.allclose(branch.quantizer(averages), averages, rtol=0, atol=1e-6):
                raise StbpError(
                    f"what enters '{branch.name}', averages of {most} spikes, was rounded to other "
                    f"numbers in training; hardware adds spikes up: leave that quantizer out, or "
                    f"take Precision.pool_quant({most})."
                )


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """A size of one or two numbers as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def count(pool: Pool) -> int:
    """How many values an average pooling adds up; 1 of a maximum."""
    height, width = pair(pool.kernel_size)
    return height * width if isinstance(pool, nn.AvgPool2d) else 1
