"""What modules must be so that they compute what `read` reads of them; everything else is refused.

A module is read by its class and its attributes. Whatever it computes beside these would be lost
without a word: the quantizers of a layer, a `forward` of its own, values that torch spreads along
the width of an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import brevitas.nn as qnn
import snntorch
import torch
from torch import Tensor, nn

from ..errors import StbpError
from ..kernels.geometry import geometry_of
from ..neuron import Leaky
from ..time import DirectCoding
from .graph import INPUT, Branch, Layer, Pool, Stage, count, pair

KNOWN = ("torch.nn.modules", "brevitas.nn", "snntorch", "snntorch_stbp")
"""Where the methods come from that are read."""

COMPUTING = (
    "forward", "__call__", "_call_impl", "_conv_forward", "inner_forward_impl", "forward_impl",
    "quant_weight", "encode", "projected", "normalized", "repeated", "_normalize", "values",
    "finished", "_loop", "_reset", "_per_step", "_wrapped_call_impl",
)  # fmt: skip
"""Methods of such modules that make up what they compute."""

NEAR_ZERO = (-1.0, -1e-2, -1e-6, 0.0, 1e-6, 1e-2, 1.0)
"""Where a spike function is looked at, beside the smallest numbers."""


def check_code(name: str, module: nn.Module) -> None:
    """Refuse a module that computes by code of its own what its class computes otherwise.

    Raises:
        StbpError: If one of its methods comes from elsewhere than its class's library.
    """
    for method in COMPUTING:
        code = vars(module).get(method, getattr(type(module), method, None))
        code = getattr(code, "func", code)  # of a partial, such as `constant` makes
        home = getattr(code, "__module__", None) or KNOWN[0]
        if not any(f"{home}.".startswith(f"{known}.") for known in KNOWN):
            known = _library_class(type(module))
            raise StbpError(
                f"'{name}' ({type(module).__name__}) has its own {method}, which export "
                f"cannot read: use {known} itself, or write what it does as modules."
            )


def _library_class(kind: type) -> str:
    """The nearest class of a library that this package knows."""
    for base in kind.__mro__:
        if any(f"{base.__module__}.".startswith(f"{known}.") for known in KNOWN):
            return base.__name__
    return "a module of torch"


def check_input(kind: str, quantizer: qnn.QuantIdentity) -> None:
    """Refuse a quantizer of the input, described as `kind`, that is not of unsigned integers."""
    proxy = quantizer.act_quant
    if proxy.bit_width() > 8:
        raise StbpError(
            f"{kind} gives the input {int(proxy.bit_width())} bits, and files hold inputs of 8 at "
            f"most: take Precision(input_bits=8).input_quant()."
        )
    if proxy.is_signed or proxy.scale().numel() != 1 or bool((proxy.zero_point() != 0).any()):
        raise StbpError(
            f"{kind} must round the input to unsigned integers of one scale: take "
            f"Precision(input_bits=...).input_quant()."
        )


def check_pool(name: str, pool: Pool, currents: bool) -> None:
    """Refuse a pooling that integers do not have.

    Args:
        name: Of the pooling.
        pool: The pooling.
        currents: Whether it pools currents, not spikes.
    """
    if isinstance(pool, qnn.TruncAvgPool2d):
        raise StbpError(
            f"the average pooling '{name}' (TruncAvgPool2d) rounds its averages, and hardware adds "
            f"spikes up: take AvgPool2d."
        )
    if pool.ceil_mode:
        raise StbpError(f"the pooling '{name}' has ceil_mode, which export has not.")
    if isinstance(pool, nn.MaxPool2d):
        if pool.return_indices:
            raise StbpError(f"the pooling '{name}' returns indices, which export does not.")
        return
    if pool.divisor_override not in (None, count(pool)):
        raise StbpError(
            f"the average pooling '{name}' divides by {pool.divisor_override}, its windows have "
            f"{count(pool)} pixels: export writes averages only (leave out divisor_override)."
        )
    if pair(pool.padding) == (0, 0):
        return
    if currents:
        raise StbpError(
            f"the average pooling '{name}' pads currents: at the borders it would take less of "
            f"their bias than elsewhere; pool spikes, or without padding."
        )
    if not pool.count_include_pad:
        raise StbpError(
            f"the average pooling '{name}' leaves padding out of what it divides by, which export "
            f"cannot: take count_include_pad=True."
        )


def check_layer(name: str, layer: Layer) -> None:
    """Refuse a layer that is padded in other ways, or quantizes anything but its weights."""
    if isinstance(layer, nn.Conv2d) and geometry_of(layer) is None:
        raise StbpError(
            f"the convolution '{name}' must be padded by zeros, by as many on either side."
        )
    for what, remedy in (
        ("input", "spikes are whole numbers already, and images are quantized in front of all"),
        ("output", "currents are quantized by Precision(act_bits=...).neuron()"),
        ("bias", "a bias is rounded in export"),
    ):
        quantizer: Any = getattr(layer, f"{what}_quant", None)
        if quantizer is not None and quantizer.is_quant_enabled:
            raise StbpError(
                f"'{name}' ({type(layer).__name__}) quantizes its {what}, which export does not: "
                f"leave {what}_quant out ({remedy})."
            )


def check_neuron(name: str, neuron: Leaky) -> None:
    """Refuse neurons whose spikes are others than those of their numbers."""
    if neuron.output:
        raise StbpError(f"'{name}' returns its membrane (output=True), which export does not.")
    if neuron.graded_spikes_factor.numel() != 1 or neuron.graded_spikes_factor.item() != 1:
        raise StbpError(f"'{name}' has graded spikes; hardware spikes are 0 or 1.")
    if neuron.reset_rule == "delayed" and neuron.threshold.min() < 0:
        raise StbpError(
            f"'{name}' has a threshold of {neuron.threshold.min():.4g} and a delayed reset, "
            f"which then comes before the first spike; hardware has none: train with positive "
            f"thresholds."
        )
    dtype = neuron.threshold.dtype
    tiny = torch.finfo(dtype).tiny
    values = torch.tensor((*NEAR_ZERO, -tiny, tiny), dtype=dtype, device=neuron.threshold.device)
    with torch.no_grad():
        spikes = neuron.spike_grad(values.clone())
    wrong = spikes != (values > 0)
    if wrong.any():
        given = spikes[wrong][0].item()
        digits = 4 if float(f"{given:.4g}") not in (0, 1) else 9  # of almost a spike
        raise StbpError(
            f"the spike function of '{name}' gives {given:.{digits}g} for a potential "
            f"of {values[wrong][0].item():.4g} above the threshold; hardware spikes, 1, exactly "
            f"where the potential exceeds the threshold: take one of snntorch_stbp.surrogate."
        )


def check_channels(stage: Stage, shape: tuple[int, bool] | None) -> None:
    """Refuse neurons with values that are neither one nor one for each channel.

    Args:
        stage: The stage.
        shape: Its channels, and whether these are images; `None` if it is not known.
    """
    assert stage.neuron is not None
    for what, value in (("beta", stage.neuron.beta), ("threshold", stage.neuron.threshold)):
        if value.numel() == 1 or (shape is None and value.dim() == 1):
            continue
        channels = -1 if shape is None else shape[0]
        wanted = (1, channels, 1, 1) if shape is not None and shape[1] else (1, channels)
        spread = (*[1] * (len(wanted) - value.dim()), *value.shape)
        if spread != wanted and value.shape != (channels,):
            sizes = "" if value.dim() < 2 else f" (a row of them, not {list(value.shape)})"
            each = "channel" if shape is None else f"of the {channels} channels"
            raise StbpError(
                f"'{stage.name}' has a {what} of {value.numel()} values; export takes one, or one "
                f"for each {each}{sizes}."
            )


def fed(stage: Stage, quantizer: qnn.QuantIdentity | None) -> Stage:
    """The stage without the input's `quantizer` on its branches, which the graph has.

    Raises:
        StbpError: If a branch takes the input without it.
    """
    branches = []
    for branch in stage.branches:
        if branch.source == INPUT and branch.quantizer is not quantizer:
            raise StbpError(
                f"'{branch.name}' takes the input as it is, another layer quantized: hardware is "
                f"fed one of them, so quantize the input in front of everything."
            )
        branches.append(replace(branch, quantizer=None) if branch.source == INPUT else branch)
    return replace(stage, branches=tuple(branches))


def check_grid(stage: Stage) -> None:
    """Refuse neurons whose thresholds are all 0, of which currents and potentials are parts."""
    neuron = stage.neuron
    if neuron is None or bool((neuron.threshold != 0).any()):
        return
    if neuron.current_quant is None or neuron.state_quant is None:
        raise StbpError(
            f"'{stage.name}' has a threshold of 0, and deployment arithmetic measures currents and "
            f"potentials by thresholds: `lower` (--fixed-point) takes it if no current or membrane "
            f"was quantized in training; else train with positive thresholds."
        )


def check_stage(name: str) -> None:
    """Refuse the name of the network's input for the last layer, or for neurons."""
    if name == INPUT:
        raise StbpError(
            f"neurons, and the last layer, cannot be called '{name}', as the input of every "
            f"network is: give the module another name."
        )


def channels(branches: Iterable[Branch], sources: dict[str, Any]) -> tuple[int, bool] | None:
    """Channels of the sum of `branches`, and whether they are images; `None` if it is not known."""
    for branch in branches:
        if branch.layer is not None:
            return len(branch.layer.weight), isinstance(branch.layer, nn.Conv2d)
    for branch in branches:
        if not branch.flatten and sources.get(branch.source) is not None:
            known: tuple[int, bool] = sources[branch.source]
            return known
    return None


def check_finite(stage: Stage) -> None:
    """Refuse numbers that are infinite, or none."""
    named: list[tuple[str, nn.Module | None]] = [(stage.name, stage.neuron)]
    for branch in stage.branches:
        named += [(branch.name, branch.layer), (branch.name, branch.norm)]
    if stage.neunorm is not None:
        named.append((stage.name, stage.neunorm))
    for name, module in named:
        if module is None:
            continue
        values: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
        for what, value in values:
            if not value.isfinite().all():
                wrong = value[~value.isfinite()].flatten()[0].item()
                raise StbpError(
                    f"the {what} of '{name}' ({type(module).__name__}) is not finite, it holds "
                    f"{wrong}: train again with a smaller learning rate."
                )


def check_coding(name: str, coding: DirectCoding) -> None:
    """Refuse a coding of what is neither images nor features."""
    if coding.still_dims not in (2, 4):
        raise StbpError(
            f"'{name}' takes still inputs of {coding.still_dims} dimensions; export takes images "
            f"[N, C, H, W] or features [N, F]: give images a dimension of channels, x.unsqueeze(1)."
        )


def refused(name: str, layer: nn.Module) -> StbpError:
    """What to raise of a layer that has no counterpart in hardware."""
    kind = type(layer).__name__
    if type(layer) is snntorch.Leaky:
        return StbpError(
            f"'{name}' is snnTorch's Leaky: turn the network into one of these modules first, "
            f"with snntorch_stbp.convert(model, example)."
        )
    if isinstance(layer, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return StbpError(
            f"'{name}' ({kind}) has windows that depend on its input, which export cannot "
            f"write: take {kind.removeprefix('Adaptive')} with the size of the windows."
        )
    return StbpError(
        f"cannot export '{name}': {kind} has no counterpart in integer arithmetic here; known are "
        f"Conv2d, Linear, AvgPool2d, MaxPool2d, Flatten, batch normalisation, NeuNorm and Leaky."
    )
