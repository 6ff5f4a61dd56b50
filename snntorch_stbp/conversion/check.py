"""A network and what it was converted to, on an example: they compute the same, layer by layer.

A record alone says little, since the last layer of a network that is not trained is often silent.
So every layer of neurons is compared, first what goes into it, then its spikes, in double
precision.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ..errors import StbpError
from ..neuron import Leaky
from .network import Network

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class _Layer:
    """A layer of neurons, and how many values of each step of snnTorch's were others.

    Attributes:
        currents: What the converted one got, `[T, B, ...]`.
        spikes: What it gave, `[T, B, ...]`.
        steps: Steps that were compared.
        other_currents: Input currents that differed.
        other_spikes: Spikes that differed.
        membranes: Membrane potentials of snnTorch's, step by step, where they are asked for.
    """

    currents: Tensor = field(default_factory=lambda: torch.empty(0))
    spikes: Tensor = field(default_factory=lambda: torch.empty(0))
    steps: int = 0
    other_currents: int = 0
    other_spikes: int = 0
    membranes: list[Tensor] | None = None

    def ran(self, neuron: Any, given: tuple[Tensor], result: Any) -> None:
        """A hook of the converted layer."""
        self.currents = given[0]
        self.spikes = result[0] if isinstance(result, tuple) else result

    def stepped(self, neuron: Any, args: Any, kwargs: Any, result: Any) -> None:
        """A hook of snnTorch's."""
        current = args[0] if args else kwargs["input_"]
        spikes = result[0] if isinstance(result, tuple) else result
        self.other_currents += _differing(self.currents[self.steps], current)
        self.other_spikes += _differing(self.spikes[self.steps], spikes)
        self.steps += 1
        if self.membranes is not None:
            self.membranes.append(neuron.mem)


class _InDouble(TorchFunctionMode):
    """Conversions to a floating point type are to double: `x.float()`, snnTorch's spikes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            return args[0].double()
        options = {name: _double(value) for name, value in (kwargs or {}).items()}
        return func(*(_double(value) for value in args), **options)


def _double(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _FLOATS else value


@torch.no_grad()
def compare(source: nn.Module, net: fx.GraphModule, example: Tensor, network: Network) -> None:
    """Raise StbpError unless both networks compute the same on `example`.

    Args:
        source: A network of snnTorch, in evaluation mode.
        net: What it was converted to.
        example: A batch of inputs.
        network: What was read of `source`.
    """
    kind = type(source).__name__
    layers = {op.name: _Layer() for op in network.ops if op.kind == "neuron"}
    given = _run_ours(copy.deepcopy(net).double(), example.double(), layers)
    record, membranes = given if isinstance(given, tuple) else (given, None)
    last = layers.get(network.ops[network.output].name, _Layer())
    last.membranes = None if membranes is None else []
    theirs = _run_theirs(source, example.double(), network, layers, len(record))
    for name, layer in layers.items():
        count = layer.spikes.numel()
        _agree(kind, f"input currents of '{name}'", layer.other_currents, count)
        _agree(kind, f"spikes of '{name}'", layer.other_spikes, count, _reason(source, name))
    if theirs.shape != record.shape:
        raise StbpError(
            f"the network's record has the shape {tuple(theirs.shape)}, the converted one's "
            f"{tuple(record.shape)}: to convert, it returns [T, B, ...], time first."
        )
    _agree(kind, "values in the record", _differing(record, theirs), record.numel())
    if membranes is not None:
        others = _differing(membranes, torch.stack(last.membranes or []))
        _agree(kind, "membrane potentials", others, membranes.numel())


def _differing(ours: Tensor, theirs: Tensor) -> int:
    """How many values differ by more than rounding; all of them if the shapes do."""
    if ours.shape != theirs.shape:
        return max(ours.numel(), theirs.numel())
    size = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
    same = torch.isclose(ours, theirs.to(ours.dtype), rtol=1e-9, atol=1e-9 * size, equal_nan=True)
    return int((~same).sum())


def _agree(kind: str, what: str, differing: int, count: int, reason: str = "") -> None:
    if differing:
        raise StbpError(
            f"the converted network gives other {what} than {kind} on the example: {differing} of "
            f"{count} differ.{reason}"
        )


def _reason(source: nn.Module, name: str) -> str:
    """What the documentation of `Leaky` says about the one reset that is not snnTorch's."""
    neuron = source.get_submodule(name)
    undelayed = isinstance(neuron, snn.Leaky) and not neuron.reset_delay
    if undelayed and neuron.reset_mechanism == "subtract":
        return (
            " It resets by subtraction without delay: from more than twice the threshold snnTorch "
            "subtracts again in the next step, which is done once here; with reset_delay=True both "
            "are the same."
        )
    return ""


def _run_ours(net: fx.GraphModule, x: Tensor, layers: dict[str, _Layer]) -> Any:
    """What a converted network gives; its neurons are called in the order of `layers`."""
    called = [n for n in net.graph.nodes if n.op == "call_module"]
    neurons = [m for m in (net.get_submodule(str(n.target)) for n in called) if type(m) is Leaky]
    for layer, neuron in zip(layers.values(), neurons, strict=True):
        neuron.register_forward_hook(layer.ran)
    return net(x)


def _run_theirs(
    source: nn.Module, x: Tensor, network: Network, layers: dict[str, _Layer], steps: int
) -> Tensor:
    """The record `[T, B, ...]` of a network of snnTorch, whose neurons are compared on the way."""
    source = copy.deepcopy(source).double()
    for module in source.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()
    for name, layer in layers.items():
        source.get_submodule(name).register_forward_hook(layer.stepped, with_kwargs=True)
    if network.steps is not None:
        return _run(source, x)
    return torch.stack([_run(source, x) for _ in range(steps)])


def _run(source: nn.Module, x: Tensor) -> Tensor:
    """What a network of double precision returns, of several values the first."""
    try:
        with _InDouble():
            value = source(x)
    except Exception as error:  # whatever the forward pass of a user's network raises
        raise StbpError(
            f"{type(source).__name__} cannot be run on the example in double precision, to compare "
            f"it with the converted network: {str(error).partition('. ')[0].rstrip('.')}."
        ) from error
    result: Tensor = value[0] if isinstance(value, (tuple, list)) else value
    return result


@torch.no_grad()
def compare_plain(source: nn.Module, example: Tensor, network: Network) -> None:
    """Raise StbpError unless what was read of a network without spikes is what it computes.

    Args:
        source: The network, in evaluation mode; it is in double precision afterwards.
        example: A batch of inputs.
        network: What was read of it, with modules of `source`.
    """
    kind = type(source).__name__
    seen: list[Tensor] = []
    expected = _run(source.double(), example.double())
    for op in network.ops:
        given = [seen[place].clone() for place in op.inputs]  # for what works in place
        if op.kind == "add":
            seen.append(given[0] + given[1])
        else:
            seen.append(op.module.eval()(*given) if op.module else example.double())
    result = seen[network.output]
    _agree(kind, "values", _differing(result, expected), result.numel())
