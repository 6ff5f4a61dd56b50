"""Layers whose weights are computed at each pass: pruned, normalised, parametrised."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize, prune

from .errors import StbpError


def refuse_reparametrised(model: nn.Module) -> None:
    """Refuse layers whose weights or biases are no parameters, but computed of others.

    Raises:
        StbpError: If there is one; it names the layer and the call that makes it a plain one.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            refuse_layer(name, module)


def refuse_layer(name: str, layer: nn.Module) -> None:
    """`refuse_reparametrised` of one layer."""
    for what in ("weight", "bias"):
        call = _call(layer, what)
        if call:
            raise StbpError(
                f"the {what} of '{name}' is computed from other parameters at each pass, but "
                f"layers that get bits, and those of networks without spikes, train it as it "
                f"is: call torch.nn.utils.{call} first."
            )


def _call(layer: nn.Module, what: str) -> str:
    """The call that makes `what` of `layer` a parameter; empty if it is one."""
    if parametrize.is_parametrized(layer, what):
        return f"parametrize.remove_parametrizations(layer, '{what}')"
    if what in layer._parameters:
        return ""
    hooks = layer._forward_pre_hooks.values()
    if any(isinstance(h, prune.BasePruningMethod) and h._tensor_name == what for h in hooks):
        return f"prune.remove(layer, '{what}')"
    kinds = {type(h).__name__: h for h in hooks if getattr(h, "name", None) == what}
    if "SpectralNorm" in kinds:
        return f"remove_spectral_norm(layer, '{what}')"
    return f"remove_weight_norm(layer, '{what}')"
