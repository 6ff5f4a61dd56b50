"""What each layer of a fixed-point network needs: widths by proof, and ranges by data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import reference
from .layers import Ints
from .net import FixedPointNet
from .ranges import Span, span


@dataclass(frozen=True)
class LayerReport:
    """One stage.

    Attributes:
        name: The stage.
        layers: Its layers with weights.
        weight_bits: Most bits of a weight; 0 without weights.
        multiplier_bits: Most bits of a multiplier, 0 if none multiplies.
        accumulator: Worst case of the sums `a`, over the branches.
        accumulator_seen: What data reached of it.
        membrane: Worst case of `u` (of a readout: of the record).
        membrane_seen: What data reached of it.
        fraction: Binary digits of `u` behind those of the current.
        ages: Thresholds per channel.
        exact: Whether nothing was rounded in lowering it.
    """

    name: str
    layers: tuple[str, ...]
    weight_bits: int
    multiplier_bits: int
    accumulator: Span
    accumulator_seen: Span
    membrane: Span
    membrane_seen: Span
    fraction: int
    ages: int
    exact: bool


def report(net: FixedPointNet, samples: Tensor) -> list[LayerReport]:
    """The widths of every stage, and the ranges that `samples` reach.

    Args:
        net: The network.
        samples: Images `[N, C, H, W]` or frames `[T, N, C, H, W]`.
    """
    pixels = net.quantize_input(samples).cpu().numpy().astype(np.int64)
    record: reference.Record = {}
    scores = reference.run(net.integers, pixels, record)
    rows = []
    for stage in net.integers.stages:
        reach = net.ranges[stage.name]
        accumulator, seen = reach.accumulators[0], _seen(record[f"{stage.name}/0"])
        for index, other in enumerate(reach.accumulators[1:], 1):
            accumulator, seen = accumulator | other, seen | _seen(record[f"{stage.name}/{index}"])
        membrane = record.get(f"{stage.name}/membrane", scores)
        weights = [b for b in stage.branches if b.weight is not None]
        multiplied = [b.multiplier for b in stage.branches if (b.multiplier != 1).any()]
        rows.append(
            LayerReport(
                name=stage.name,
                layers=tuple(b.name for b in weights),
                weight_bits=max((b.weight_bits for b in weights), default=0),
                multiplier_bits=max((span(m, m).bits for m in multiplied), default=0),
                accumulator=accumulator,
                accumulator_seen=seen,
                membrane=reach.membrane,
                membrane_seen=_seen(membrane),
                fraction=stage.up + (0 if stage.neuron is None else stage.neuron.lift),
                ages=0 if stage.neuron is None else len(stage.neuron.threshold),
                exact=stage.exact,
            )
        )
    return rows


def _seen(values: Ints) -> Span:
    return span(values, values)
