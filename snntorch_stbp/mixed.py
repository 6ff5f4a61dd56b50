"""Mixed precision: bits of weights layer by layer, given to a network that is already built.

Layers are named as `inspect` and exported graphs name them: a layer with weights inside a
`TimeDistributed` goes by the name of that module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from .errors import UsageError, suggest
from .layers import QuantConv2d, QuantLinear
from .quant import Bits, Precision
from .reparametrised import refuse_layer
from .rounded import weight_bits
from .time import TimeDistributed
from .weights import weight_quantizer

HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook",
)  # fmt: skip
"""What a module holds of the hooks around its passes."""

Layer = nn.Conv2d | nn.Linear

SHOWN = 8
"""Layers that an error names before it stops at dots."""


def weight_layers(model: nn.Module) -> dict[str, Layer]:
    """The layers of `model` that have weights, by name, in the order in which they were made."""
    owners = [
        (name, _layers_in(module))
        for name, module in model.named_modules()
        if name and isinstance(module, TimeDistributed)
    ]
    short = {id(layers[0]): name for name, layers in reversed(owners) if len(layers) == 1}
    return {
        short.get(id(module), name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def match(names: list[str], bits: Mapping[str, Bits]) -> dict[str, Bits]:
    """Bits by layer, of bits by pattern; the last pattern that fits a layer decides.

    Args:
        names: The layers that there are.
        bits: Bits by name or by shell pattern (`*`, `?`, `[a-c]`).

    Returns:
        The layers that a pattern fits, in their order.

    Raises:
        UsageError: If a pattern fits none.
    """
    for pattern in bits:
        if not any(fnmatchcase(name, pattern) for name in names):
            listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise UsageError(
                f"no layer with weights is called '{pattern}': there are {listed}."
                f"{suggest(pattern, names)}"
            )
    fitting = {
        name: [width for pattern, width in bits.items() if fnmatchcase(name, pattern)]
        for name in names
    }
    return {name: widths[-1] for name, widths in fitting.items() if widths}


def assign_bits(
    model: nn.Module, bits: Mapping[str, Bits], precision: Precision
) -> dict[str, Layer]:
    """Give layers of `model` weights of other bits, in place; parameters stay the same objects.

    Args:
        model: The network.
        bits: Bits (`None` for fp32, 1 to 8, `"ternary"`) by name or shell pattern; see `match`.
        precision: Says whether scales are per channel, and of what kind.

    Returns:
        The new layers by name.

    Raises:
        UsageError: If a pattern fits no layer.
        StbpError: If weights of a layer that a pattern fits are computed at each pass.
        ValueError: For a number of bits outside its range.
    """
    layers = weight_layers(model)
    new = {}
    for name, width in match(list(layers), bits).items():
        new[name] = layer_at(layers[name], width, precision, name)
    for name, layer in new.items():
        replace_layer(model, layers[name], layer)
    return new


def layer_at(layer: Layer, bits: Bits, precision: Precision, name: str) -> Layer:
    """A layer with the parameters and hooks of `layer`, the same objects, and weights of `bits`.

    Binary and ternary weights have no range to choose: `precision.weight_range` is not theirs.

    Args:
        layer: The layer.
        bits: Bits of its weights.
        precision: Says whether scales are per channel, and of what kind.
        name: Of the layer, for errors.

    Raises:
        StbpError: If its weights are computed at each pass.
        ValueError: For a number of bits outside its range.
    """
    refuse_layer(name, layer)
    weight_range = "fitted" if bits in (1, "ternary") else precision.weight_range
    at = replace(precision, weight_bits=bits, weight_range=weight_range)
    options: dict[str, Any] = {"bias": layer.bias is not None}
    if bits is not None:
        options["weight_quant"] = weight_quantizer(bits, at.per_channel, at.scale, at.weight_range)
    new: Layer
    if isinstance(layer, nn.Conv2d):
        conv = nn.Conv2d if bits is None else QuantConv2d
        same = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        options |= {name: getattr(layer, name) for name in same}
        new = conv(layer.in_channels, layer.out_channels, **options)
    else:
        linear = nn.Linear if bits is None else QuantLinear
        new = linear(layer.in_features, layer.out_features, **options)
    new.weight, new.bias = layer.weight, layer.bias
    for kind in HOOKS:
        setattr(new, kind, getattr(layer, kind))
    return new.to(layer.weight.device).train(layer.training)


def replace_layer(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `model` has `old`."""
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, key, new)


def mean_bits(model: nn.Module) -> float:
    """Mean bits of a weight, over all weights of all layers; ternary counts as 2, fp32 as 32.

    Raises:
        UsageError: If there are no layers with weights.
    """
    layers = weight_layers(model).values()
    if not layers:
        raise UsageError(
            f"{type(model).__name__} has no layers with weights (Conv2d or Linear) to take the "
            f"mean bits of."
        )
    total = sum(layer.weight.numel() for layer in layers)
    return sum(layer.weight.numel() * weight_bits(layer) for layer in layers) / total


def _layers_in(module: nn.Module) -> list[Layer]:
    return [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]
