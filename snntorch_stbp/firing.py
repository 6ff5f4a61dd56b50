"""A layer, its tdBN and the neuron behind it; the last two as one operation where possible.

What tdBN makes of a layer's output is a tensor of currents as large as the spikes, and only the
neuron reads it. `fire` computes the same spikes without it: in less time, and in training with
nothing more to keep for the backward pass than tdBN keeps anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import kernels
from .kernels import normed
from .looking import recorded
from .neuron import Leaky
from .norm import TDBatchNorm1d, TDBatchNorm2d, TDBatchNorm3d, _TDBatchNorm
from .surrogate import Surrogate
from .time import TimeDistributed

GLOBAL_HOOKS = tuple(
    f"_global_{name}_hooks" for name in ("forward_pre", "forward", "backward_pre", "backward")
)


def fire(layer: TimeDistributed, neuron: Leaky, x: Tensor, added: Tensor | None = None) -> Tensor:
    """What `neuron(layer(x) + added)` is.

    In training, and in evaluation without gradients, a tdBN of `layer` and the neuron are one
    operation on a CPU with a C compiler and on CUDA devices with Triton. Spikes and gradients agree
    to rounding with those of the modules one after the other, which compute wherever a module has a
    hook (it would not be called; those of `Leaky.register_spike_hook` are), a neuron has
    quantizers, learned values or membrane potentials to return, or `kernels.backend` is not
    `"compiled"`.

    Args:
        layer: Layer without state, and its normalisation.
        neuron: What it drives.
        x: Spikes, or an input, `[T, B, ...]`.
        added: A second current, such as a shortcut's, in the shape of `layer(x)`, or one that
            broadcasts to it.

    Returns:
        Spikes in the shape of `layer(x)`.
    """
    if _plain(layer, neuron, x):
        y, repeats = layer.projected(x)
        spikes = _as_one(layer.norm, neuron, y, added, repeats)
        if spikes is not None:
            return spikes
        current = layer.normalized(y, repeats)
    else:
        current = layer(x)
    return neuron(current if added is None else current + added)


def through(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Send a sequence through `modules` one after the other, layers and their neurons by `fire`."""
    waiting: TimeDistributed | None = None
    for module in modules:
        if waiting is not None and isinstance(module, Leaky):
            x, waiting = fire(waiting, module, x), None
            continue
        if waiting is not None:
            x, waiting = waiting(x), None
        if isinstance(module, TimeDistributed):
            waiting = module
        else:
            x = module(x)
    return x if waiting is None else waiting(x)


def _plain(layer: TimeDistributed, neuron: Leaky, x: Tensor) -> bool:
    """Whether nothing but spikes is wanted of these modules, so that they need not be called."""
    norm = layer.norm
    return (
        isinstance(norm, _TDBatchNorm)
        and type(norm) in (TDBatchNorm1d, TDBatchNorm2d, TDBatchNorm3d)
        and norm.affine
        and type(layer) is TimeDistributed
        and type(neuron) is Leaky
        and type(x) is Tensor  # and not what a tracer sends through
        and (norm.training or _evaluates(norm, x))
        and not neuron.output
        and neuron.state_quant is None
        and neuron.current_quant is None
        and not (neuron.beta.requires_grad or neuron.threshold.requires_grad)
        and kernels.compiles()
        and not recorded()
        and not _hooked((layer, norm, neuron))
    )


def _as_one(
    norm: Any, neuron: Leaky, y: Tensor, added: Tensor | None, repeats: int
) -> Tensor | None:
    """Normalisation and neuron as one operation, or `None` where there is none for them."""
    norm._check_input_dim(y[None] if repeats else y)
    if not _alike(y, norm.weight, added):
        return None
    added = None if added is None else added.to(y.dtype)
    kept = {} if norm.training or norm.prepared is None else norm.prepared
    kind = (neuron, y.dtype, repeats or len(y), repeats > 0, added is None)
    if kind not in kept:
        values = _values(norm, neuron, y, added, repeats)
        if values is None:
            return None
        if norm.training:
            fired = normed.normalize_and_fire(y, added, *values, repeats)
            norm.track(fired.mean, fired.variance, y.numel() // norm.num_features * max(repeats, 1))
            return neuron.finished(fired.spikes, y.dtype)
        statistics = (norm.running_mean, norm.running_var)
        kept[kind] = normed.prepare(y, added, statistics, *values, repeats)
    return neuron.finished(kept[kind](y, added), y.dtype)


def _alike(y: Tensor, weight: Tensor, added: Tensor | None) -> bool:
    """Whether nothing is broadcast, and nothing gets another type than that of `y`.

    Parameters in float32 beside halves are as torch's normalisation takes them.
    """
    if weight.dtype not in (y.dtype, torch.float32) or y.dtype.itemsize > weight.dtype.itemsize:
        return False
    if added is None:
        return True
    return added.shape == y.shape and torch.result_type(y, added) == y.dtype


def _values(
    norm: Any, neuron: Leaky, y: Tensor, added: Tensor | None, repeats: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, kernels.Rule, float] | None:
    """Gain, shift, decay, threshold, rule and epsilon of the operation, where there is one."""
    channels, exact = norm.num_features, torch.promote_types(y.dtype, torch.float32)
    beta, threshold = neuron.values(exact)
    if (
        not isinstance(neuron.spike_grad, Surrogate)
        or (repeats and added is not None)
        or y.numel() <= channels  # one value has no variance
        or not all(v.dim() < 2 and v.numel() in (1, channels) for v in (beta, threshold))
    ):
        return None
    rule = kernels.Rule(neuron.spike_grad, neuron.reset_rule, neuron.detach_reset)
    if not normed.covers(y, rule, added is not None, repeats):
        return None
    weight, bias = norm.weight.to(exact) * norm.gain.value, norm.bias.to(exact)
    return weight, bias, beta, threshold, rule, norm.eps


def _evaluates(norm: _TDBatchNorm, x: Tensor) -> bool:
    """Whether `norm` takes its running statistics, and nobody wants a gradient."""
    known = norm.running_mean is not None and norm.running_var is not None
    return known and x.device.type in ("cpu", "cuda") and not torch.is_grad_enabled()


def _hooked(modules: Sequence[nn.Module]) -> bool:
    """Whether a hook would see one of `modules` being called, or one has a `forward` of its own."""
    hooks = (
        m._forward_pre_hooks
        or m._forward_hooks
        or m._backward_pre_hooks
        or m._backward_hooks
        or "forward" in m.__dict__
        for m in modules
    )
    return any(hooks) or any(getattr(nn.modules.module, name) for name in GLOBAL_HOOKS)
