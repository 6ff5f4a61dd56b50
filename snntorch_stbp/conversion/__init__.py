"""Networks that were written for snnTorch, or without spikes, as networks over sequences.

`trace` follows the forward pass of a network, `unroll` finds in it what one step computes, `build`
makes that of the modules of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, fx, nn

from ..errors import StbpError, UsageError
from ..mixed import layer_at, replace_layer, weight_layers
from ..neuron import Leaky
from ..norm import NeuNorm, _TDBatchNorm
from ..quant import Precision, check_precision
from ..time import TimeDistributed, _Coding
from .build import Settings, build
from .trace import trace
from .unroll import Network, unroll

__all__ = ["convert"]

OVER_SEQUENCES = (Leaky, TimeDistributed, _Coding, _TDBatchNorm, NeuNorm)


def convert(
    model: nn.Module,
    example: Tensor,
    *,
    num_steps: int | None = None,
    precision: Precision | None = None,
    spike_grad: Callable[[Tensor], Tensor] | None = None,
    beta: float = 0.25,
    threshold: float = 0.4,
    membrane: bool = False,
) -> fx.GraphModule:
    """A network over sequences from one of snnTorch's modules, or of torch's alone.

    **A network of `snntorch.Leaky`** becomes the same network: its weights, decays, thresholds,
    resets and surrogate gradients, time folded into the batch, neurons as one operation. It may be
    a `nn.Sequential` of neurons with `init_hidden=True`, a module whose forward pass is one step,
    or one with a loop over the steps that returns the stacked record. That both fire the same
    spikes on `example` is checked, in double precision.

    **A network without spikes** gets a neuron in the place of every ReLU and tdBN in the place of
    every batch normalisation behind a layer (`alpha = 1 / sqrt(n)` where `n` currents are added).
    Weights and statistics are where its training starts; layers without normalisation are scaled
    such that their currents have the size of a threshold on `example`.

    The result's `code` shows its forward pass. Its modules have their names in `model`, a layer `L`
    as `L.layer` with its normalisation as `L.norm`.

    Args:
        model: The network; it stays as it is, and shares nothing with the result.
        example: A batch of inputs as `model` takes it, `[B, ...]`, or `[T, B, ...]` if its loop
            takes a frame at each step. Real samples: scales and checks depend on it.
        num_steps: Time steps `T`; not needed where `model` has a loop over them.
        precision: Bits of weights, input, currents and membranes; `None` for floating point
            throughout. Layers with weights are `Conv2d` and `Linear` then.
        spike_grad: Spike function of all neurons; of `None` snnTorch's neurons keep theirs, others
            get `surrogate.rectangular()`. snnTorch's `fast_sigmoid` and `atan` become those of
            `snntorch_stbp.surrogate`, which have fast kernels.
        beta: Decay of neurons in the place of ReLUs.
        threshold: Threshold of neurons in the place of ReLUs.
        membrane: Return `(spikes, membranes)` of the last layer, for losses on membrane potentials
            (such a network is not exported).

    Returns:
        A module in the mode (training or evaluation) of `model`, on its device.

    Shapes:
        input `[B, ...]`, presented at every step, or `[T, B, ...]`; output, the record of the last
        layer, `[T, B, ...]`.

    Raises:
        UsageError: If `num_steps` is missing or contradicts the loop, or the example does not lie
            in the range of a quantized input.
        StbpError: If the network cannot be converted, with the reason, or the result fires
            other spikes.
    """
    ours = [m for m in model.modules() if isinstance(m, OVER_SEQUENCES)]
    if ours:
        raise StbpError(
            f"{type(model).__name__} has a {type(ours[0]).__name__} of this package, which takes "
            f"sequences already: convert what is left by hand."
        )
    held = {id(b): b.detach().clone() for b in model.buffers() if not b.is_leaf}
    source = copy.deepcopy(model, held).eval()
    example = example.detach()
    _check_input(example, precision)
    network = unroll(*trace(source, example), example)
    if not any(op.kind in ("neuron", "relu") for op in network.ops):
        raise StbpError(
            f"{type(model).__name__} has neither neurons of snnTorch nor ReLUs to put neurons in "
            f"the place of."
        )
    steps = _steps(network, num_steps)
    settings = Settings(steps, beta, threshold, spike_grad, membrane)
    net = build(network, example, settings, type(model).__name__)
    if any(op.kind == "neuron" for op in network.ops):
        _compare(source, net, example, network)
    if precision is not None:
        _quantize(net, precision, example.device)
    return net.train(model.training)


def _steps(network: Network, num_steps: int | None) -> int:
    if num_steps is not None and num_steps < 1:
        raise UsageError(f"a network runs for at least 1 time step, not {num_steps}.")
    if network.steps is not None:
        if num_steps not in (None, network.steps):
            raise UsageError(
                f"num_steps is {num_steps}, but the network's own loop has {network.steps} steps."
            )
        return network.steps
    if num_steps is None:
        raise UsageError("say num_steps: the network has no loop over time steps.")
    if network.fresh is not None and num_steps > 1:
        raise UsageError(
            f"'{network.fresh}' starts from a new membrane potential at each call, and a call "
            f"is one step: put the loop over the steps into the forward pass, or let neurons hold "
            f"their states (init_hidden=True)."
        )
    return num_steps


def _check_input(example: Tensor, precision: Precision | None) -> None:
    check_precision(precision)
    if precision is None or precision.input_bits is None:
        return
    low, high = example.min().item(), example.max().item()
    if low < 0 or high > precision.input_max:
        raise UsageError(
            f"the example has values from {low:.4g} to {high:.4g}, but an input of "
            f"{precision.input_bits} bits lies in [0, {precision.input_max:g}]: scale it, or "
            f"choose Precision(input_max=...), or input_bits=None."
        )


@torch.no_grad()
def _compare(source: nn.Module, net: nn.Module, example: Tensor, network: Network) -> None:
    """Raise StbpError unless both networks fire the same, in double precision."""
    ours = copy.deepcopy(net).double()(example.double())
    ours = ours[0] if isinstance(ours, tuple) else ours
    theirs = _record(copy.deepcopy(source).double(), example.double(), network, len(ours))
    if theirs.shape != ours.shape:
        raise StbpError(
            f"the network's record has the shape {tuple(theirs.shape)}, the converted one's "
            f"{tuple(ours.shape)}: to convert, it returns [T, B, ...], time first."
        )
    differing = int((~torch.isclose(ours, theirs, rtol=1e-9, atol=1e-9)).sum())
    if differing:
        raise StbpError(
            f"the converted network gives other values than {type(source).__name__} on the "
            f"example: {differing} of {ours.numel()} differ.{_reason(source)}"
        )


def _reason(source: nn.Module) -> str:
    """What the documentation of `Leaky` says about the one reset that is not snnTorch's."""
    for name, module in source.named_modules():
        undelayed = isinstance(module, snn.Leaky) and not module.reset_delay
        if undelayed and module.reset_mechanism == "subtract":
            return (
                f" '{name}' resets by subtraction without delay: from more than twice the "
                f"threshold snnTorch subtracts again in the next step, which is done once here; "
                f"with reset_delay=True both are the same."
            )
    return ""


def _record(source: nn.Module, x: Tensor, network: Network, steps: int) -> Tensor:
    """The record `[T, B, ...]` of a network of snnTorch."""
    for module in source.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()
            module.register_forward_hook(_as_double)  # snnTorch's spikes are of float32
    if network.steps is not None:
        return _first(source(x))
    return torch.stack([_first(source(x)) for _ in range(steps)])


def _as_double(module: nn.Module, given: Any, result: Any) -> Any:
    pair = isinstance(result, tuple)
    return tuple(r.double() for r in result) if pair else result.double()


def _first(value: Any) -> Tensor:
    result: Tensor = value[0] if isinstance(value, (tuple, list)) else value
    return result


def _quantize(net: nn.Module, precision: Precision, device: torch.device) -> None:
    """Give layers, neurons and the input their bits, in place."""
    weights = [m for m in net.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    layers = weight_layers(net)
    strange = [m for m in weights if all(m is not layer for layer in layers.values())]
    if strange:
        raise StbpError(
            f"{type(strange[0]).__name__} has no quantized counterpart here; Conv2d and Linear do."
        )
    ends = (next(iter(layers)), next(reversed(layers))) if layers else ()
    for name, layer in layers.items():
        bits = precision.layer_bits(boundary=name in ends)
        if bits is not None:
            replace_layer(net, layer, layer_at(layer, bits, precision))
    for module in list(net.modules()):
        if isinstance(module, Leaky):
            like = precision.neuron(threshold=float(module.threshold.max()))
            for name in ("current_quant", "state_quant"):
                if getattr(like, name) is not None:
                    setattr(module, name, getattr(like, name).to(device))
    net.get_submodule("encoder")[0] = precision.input_quant().to(device)  # type: ignore[operator]
