"""Neurons of snnTorch, and those of this package that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
from torch import Tensor, nn

from ..errors import StbpError
from ..neuron import Leaky


def check_known(name: str, module: nn.Module) -> None:
    """Refuse neurons that have no counterpart here.

    Raises:
        StbpError: If `module` is a neuron, but not `snntorch.Leaky`, or one with inhibition.
    """
    kind = type(module)
    if kind is snn.Leaky:
        what = "a Leaky with inhibition" if module.inhibition else ""
    elif isinstance(module, snn.Leaky):
        what = f"{kind.__name__}, a class of its own that is derived from Leaky"
    elif isinstance(module, snn.SpikingNeuron) or kind.__module__.startswith("snntorch._neurons"):
        what = kind.__name__
    else:
        return
    if what:
        raise StbpError(
            f"'{name}' is {what}, which has no counterpart here: known is snntorch.Leaky, "
            f"with every reset, learned or not."
        )


def check_one_threshold(name: str, neuron: Any) -> None:
    """Refuse thresholds that differ or are learned, for which membranes have no one grid.

    Raises:
        StbpError: If they do, or are.
    """
    if neuron.threshold.requires_grad:
        raise StbpError(
            f"'{name}' learns its threshold, which the levels of a quantized membrane lie around: "
            f"leave membrane_bits None, or learn_threshold out."
        )
    low, high = neuron.threshold.min().item(), neuron.threshold.max().item()
    if low != high:
        raise StbpError(
            f"'{name}' has thresholds from {low:.4g} to {high:.4g}, but the levels of a quantized "
            f"membrane lie around one: leave membrane_bits None, or give its neurons one threshold."
        )


def over_sequences(
    neuron: Any, current: Tensor, spike_grad: Callable[[Tensor], Tensor] | None
) -> Leaky:
    """The neuron of this package that computes what a `snntorch.Leaky` does.

    Args:
        neuron: The neuron of snnTorch.
        current: What it gets on an example, `[T, B, ...]`.
        spike_grad: Its spike function; `None`: its own.
    """
    made = Leaky(
        _aligned(neuron.beta.detach().clone(), current),
        _aligned(neuron.threshold.detach().clone(), current),
        spike_grad or neuron.spike_grad,
        learn_beta=neuron.beta.requires_grad,
        learn_threshold=neuron.threshold.requires_grad,
        reset_mechanism=neuron.reset_mechanism,
        reset_delay=neuron.reset_delay,
        state_quant=neuron.state_quant or None,
        graded_spikes_factor=neuron.graded_spikes_factor.detach().clone(),
        learn_graded_spikes_factor=neuron.graded_spikes_factor.requires_grad,
    )
    return made.to(current.device)


def _aligned(value: Tensor, current: Tensor) -> Tensor:
    """`value` for neurons over sequences, which take one of a single dimension per channel.

    snnTorch, which broadcasts, takes it along the last dimension, the columns of an image.
    """
    if value.dim() == 1 and value.numel() > 1 and current.dim() > 3:
        return value.reshape(*[1] * (current.dim() - 3), -1)
    return value


def after_reset(neuron: Leaky, fired: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Spikes and membrane potentials as snnTorch returns them of a reset without delay.

    Args:
        neuron: A neuron that returns its membrane potentials.
        fired: What it returned, `[T, B, ...]` each: the potentials are those before the reset.
    """
    record, potential = fired
    _, threshold = neuron.values(potential.dtype)
    threshold = neuron._per_step(threshold, potential)
    spikes = neuron.spike_grad(potential - threshold)
    return record, neuron._reset(potential, spikes, threshold)
