"""Networks that were written for snnTorch, or without spikes, as networks over sequences.

`trace` follows the forward pass of a network, `unroll` finds in it what one step computes, `build`
makes that of the modules of this package, `check` compares the two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import StbpError, UsageError
from ..mixed import layer_at, replace_layer, weight_layers
from ..neuron import Leaky, check_constants
from ..norm import NeuNorm, _TDBatchNorm
from ..quant import Precision, check_precision
from ..reparametrised import refuse_reparametrised
from ..surrogate import check_spike_grad
from ..time import TimeDistributed, _Coding
from .build import Settings, build
from .check import compare, compare_plain
from .network import Network
from .neurons import check_one_threshold
from .trace import trace
from .unroll import unroll

__all__ = ["convert"]

PROBED = 64
"""Frames more than the example has, with which a loop over frames is followed once more."""

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
    or one with a loop over the steps that returns the stacked record. On `example`, in double
    precision, every layer of neurons is checked to get the same currents and to fire the same
    spikes, the record to be the same.

    **A network without spikes** gets a neuron in the place of every ReLU and tdBN in the place of
    every batch normalisation behind a layer (`alpha = 1 / sqrt(n)` where `n` currents are added).
    Weights and statistics are where its training starts; layers without normalisation are scaled
    such that their currents have the size of a threshold on `example`. What was read of the network
    is checked to compute the same as the network, as it stands, does.

    The result's `code` shows its forward pass. Its modules have their names in `model`, a layer `L`
    as `L.layer` with its normalisation as `L.norm`.

    Args:
        model: The network; it stays as it is, and shares nothing with the result.
        example: A batch of inputs as `model` takes it, `[B, ...]`, or `[T, B, ...]` if its loop
            takes a frame at each step. Real samples: scales and checks depend on it.
        num_steps: Time steps `T`; not needed where `model` has a loop over them.
        precision: Bits of weights, input, currents and membranes; `None` for floating point
            throughout. Layers with weights are `Conv2d` and `Linear` then, and their weights plain
            parameters, not pruned or otherwise computed at each pass.
        spike_grad: Spike function of all neurons; of `None` snnTorch's neurons keep theirs, others
            get `surrogate.rectangular()`. snnTorch's `fast_sigmoid` and `atan` become those of
            `snntorch_stbp.surrogate`, which have fast kernels.
        beta: Decay of neurons in the place of ReLUs.
        threshold: Threshold of neurons in the place of ReLUs.
        membrane: Return `(spikes, membranes)` of the last layer, for losses on membrane potentials
            (such a network is not exported). They are those that snnTorch's neuron returns: before
            the reset, or behind it with `reset_delay=False`. Of neurons in the place of ReLUs they
            are those before the reset.

    Returns:
        A module in the mode (training or evaluation) of `model`, on its device.

    Shapes:
        input `[B, ...]`, presented at every step, or `[T, B, ...]`; output, the record of the last
        layer, `[T, B, ...]`. Sequences may have other lengths than `T` where `model` has no loop,
        or one over the frames that there are; a loop over a fixed number of steps keeps it.

    Raises:
        UsageError: If `num_steps` is missing, no whole number, or contradicts the loop; if the
            example is no tensor, has no sample, a value that is not finite, is a sequence where a
            batch is wanted, or does not lie in the range of a quantized input; if `beta` or
            `threshold` is out of range; or if the model is a lone neuron.
        StbpError: If the network cannot be converted, with the reason, or the result fires
            other spikes.
        TypeError: If `precision` is none, or `spike_grad` no function.
    """
    ours = [m for m in model.modules() if isinstance(m, OVER_SEQUENCES)]
    if ours:
        raise StbpError(
            f"{type(model).__name__} has a {type(ours[0]).__name__} of this package, which takes "
            f"sequences already: convert what is left by hand."
        )
    check_constants(beta, threshold)
    check_spike_grad(spike_grad)
    example = _check_example(example).to(next(model.parameters(), example).device)
    _check_input(example, precision)
    source = _copy(model)
    network = unroll(*trace(source, example), example)
    if not any(op.kind in ("neuron", "relu") for op in network.ops):
        raise StbpError(
            f"{type(model).__name__} has neither neurons of snnTorch nor ReLUs to put neurons in "
            f"the place of."
        )
    spiking = any(op.kind == "neuron" for op in network.ops)
    if precision is not None or not spiking:
        refuse_reparametrised(source)
    if precision is not None and precision.membrane_bits is not None:
        for op in network.ops:
            if op.kind == "neuron":
                check_one_threshold(op.name, op.module)
    steps = _steps(network, num_steps, example)
    any_length = _any_length(model, example, network)
    settings = Settings(steps, beta, threshold, spike_grad, membrane, any_length)
    kept = None if spiking else copy.deepcopy((source, network))  # weights are scaled in place
    net = build(network, example, settings, type(model).__name__)
    if kept is None:
        compare(source, net, example, network)
    else:
        compare_plain(kept[0], example, kept[1])
    if precision is not None:
        _quantize(net, precision, example.device)
    return net.train(model.training)


def _check_example(example: Any) -> Tensor:
    if isinstance(example, Tensor):
        if not example.numel():
            raise UsageError(
                f"the example is at least one sample, not of the shape {list(example.shape)}."
            )
        if not example.isfinite().all():
            raise UsageError("the example has values that are not finite: give it real samples.")
        return example.detach()
    what = f"of type {type(example).__name__}"
    if isinstance(example, (tuple, list)):
        advice = "of a batch with its labels, give the inputs alone, example[0]"
    else:
        advice = "of an array, torch.from_numpy(example)"
    raise UsageError(f"the example is a tensor of inputs, not {what}: {advice}.")


def _steps(network: Network, num_steps: int | None, example: Tensor) -> int:
    if num_steps is not None and (isinstance(num_steps, bool) or not isinstance(num_steps, int)):
        raise UsageError(f"num_steps is a whole number of time steps, not {num_steps!r}.")
    if num_steps is not None and num_steps < 1:
        raise UsageError(f"a network runs for at least 1 time step, not {num_steps}.")
    if network.steps is not None:
        if num_steps not in (None, network.steps):
            raise UsageError(
                f"num_steps is {num_steps}, but the network's own loop has {network.steps} steps."
            )
        if network.frames and network.steps != len(example):
            raise UsageError(
                f"the network takes {network.steps} frames of the example, which has "
                f"{len(example)}: give it those that it takes."
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


def _any_length(model: nn.Module, example: Tensor, network: Network) -> bool:
    """Whether a network takes as many steps as it is given frames, or as it is called."""
    if network.steps is None:
        return network.fresh is None
    if not network.frames:
        return False
    longer = torch.cat([example, example[-1:].expand(PROBED, *example.shape[1:])])
    try:
        return unroll(*trace(_copy(model), longer), longer).steps == len(longer)
    except StbpError:  # a network that asks for the number that the example has
        return False


def _copy(model: nn.Module) -> nn.Module:
    """A copy of its own in evaluation mode."""
    return copy.deepcopy(model, _computed(model)).eval()


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Tensors with a history that modules hold, such as states, which are copied without it."""
    held = [*model.buffers(), *(v for m in model.modules() for v in vars(m).values())]
    return {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}


def _in_order(net: Any, names: Iterable[str]) -> list[str]:
    """Names of layers in the order in which they compute, wherever they were registered."""
    nodes = [str(n.target) for n in net.graph.nodes if n.op in ("call_module", "get_attr")]
    return sorted(
        names,
        key=lambda name: next(i for i, n in enumerate(nodes) if f"{name}.".startswith(f"{n}.")),
    )


def _quantize(net: nn.Module, precision: Precision, device: torch.device) -> None:
    """Give layers, neurons and the input their bits, in place."""
    weights = [m for m in net.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    layers = weight_layers(net)
    strange = [m for m in weights if all(m is not layer for layer in layers.values())]
    if strange:
        raise StbpError(
            f"{type(strange[0]).__name__} has no quantized counterpart here; Conv2d and Linear do."
        )
    ends = _in_order(net, layers)[:: max(len(layers) - 1, 1)]
    for name, layer in layers.items():
        bits = precision.layer_bits(boundary=name in ends)
        if bits is not None:
            replace_layer(net, layer, layer_at(layer, bits, precision, name))
    for module in list(net.modules()):
        if isinstance(module, Leaky):
            like = precision.neuron(threshold=float(module.threshold.detach().max()))
            for name in ("current_quant", "state_quant"):
                if getattr(like, name) is not None:
                    setattr(module, name, getattr(like, name).to(device))
    net.get_submodule("encoder")[0] = precision.input_quant().to(device)  # type: ignore[operator]
