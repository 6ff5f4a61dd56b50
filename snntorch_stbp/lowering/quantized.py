"""Stages whose currents or membranes were quantized in training: the integers of `freeze`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..frozen.net import READOUT_BITS, FrozenStage
from .layers import IntNeuron, Ints, IntStage
from .terms import geometry


def quantized_stage(frozen: FrozenStage) -> IntStage:
    """The integers of a frozen stage; spikes and records are the same."""
    stage, current = frozen.stage, frozen.current
    shift = _whole(current.fraction) + 1
    scale = 2.0**shift
    branches = []
    for branch, numbers in zip(stage.branches, current.branches, strict=True):
        multiplier = _whole(numbers.multiplier.cpu().numpy() * scale)
        weight = None if numbers.weight is None else _whole(numbers.weight)
        branches.append(
            replace(geometry(branch, multiplier), weight=weight, weight_bits=numbers.bits)
        )
    bias = _whole(current.bias.cpu().numpy() * scale)
    if frozen.neuron is None:
        digits = frozen.readout_digits
        return IntStage(
            stage.name, tuple(branches), 0, bias, shift - digits, READOUT_BITS, None,
            np.array([2.0**-digits]), False,
        )  # fmt: skip
    neuron = frozen.neuron
    built = IntNeuron(
        beta=_whole(neuron.beta.cpu().numpy() * 2.0**neuron.beta_digits),
        leak=neuron.beta_digits,
        rounds=True,
        threshold=_whole(neuron.threshold)[None],
        reset=neuron.reset,
        membrane_bits=neuron.membrane_bits,
        coarse=neuron.coarse,
        lift=neuron.lift,
    )
    unit = np.array([float(neuron.step)])
    return IntStage(
        stage.name, tuple(branches), 0, bias, shift, neuron.act_bits, built, unit, False
    )


def _whole(value: Tensor | np.ndarray) -> Ints:
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    result: Ints = np.rint(array).astype(np.int64)
    return result
