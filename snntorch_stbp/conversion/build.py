"""The network of one step as a network over sequences, made of the modules of this package.

It is built on an example, operation by operation, so that the shape of everything is known.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import StbpError, UsageError
from ..firing import fire
from ..neuron import Leaky
from ..norm import TDBatchNorm1d, TDBatchNorm2d, TDBatchNorm3d, _TDBatchNorm
from ..pooling import AvgPool2d
from ..time import DirectCoding, TimeDistributed
from .functions import Rows
from .network import Network, Op
from .neurons import after_reset, over_sequences

Weights = nn.Linear | nn.modules.conv._ConvNd
_TDBN = {
    nn.BatchNorm1d: TDBatchNorm1d,
    nn.BatchNorm2d: TDBatchNorm2d,
    nn.BatchNorm3d: TDBatchNorm3d,
}


@dataclass(frozen=True)
class Settings:
    """What a conversion may choose; see `convert`."""

    num_steps: int
    beta: float
    threshold: float
    spike_grad: Callable[[Tensor], Tensor] | None
    membrane: bool
    any_length: bool


def build(network: Network, example: Tensor, settings: Settings, name: str) -> fx.GraphModule:
    """The network over sequences; `name` is that of its class."""
    with torch.no_grad():
        built = _Builder(network, example, settings).build()
    return fx.GraphModule(*built, class_name=name)


class _Builder:
    """Makes a module and a node of every operation, and what they make of the example."""

    def __init__(self, network: Network, example: Tensor, settings: Settings) -> None:
        self.network, self.settings, self.example = network, settings, example
        self.spiking = any(op.kind == "neuron" for op in network.ops)
        self.users = Counter(place for op in network.ops for place in op.inputs)
        self.named = Counter(op.name for op in network.ops)
        self.root, self.graph = nn.Module(), fx.Graph()
        self.nodes: list[fx.Node] = []
        self.seen: list[Tensor] = []  # what each operation makes of the example

    def build(self) -> tuple[nn.Module, fx.Graph]:
        for op in self.network.ops:
            getattr(self, f"_{op.kind}")(op)
        output = self.nodes[self.network.output]
        if self.settings.membrane:
            output = self._give_membrane(output)
        self.graph.output(output)
        _fuse(self.graph, self.root)
        return self.root, self.graph

    def _input(self, op: Op) -> None:
        dims = self.example.dim() - (1 if self.network.frames else 0)
        coding = DirectCoding(self.settings.num_steps, dims, self.settings.any_length)
        encoder = nn.Sequential(nn.Identity(), coding)
        x = self.graph.placeholder("x")
        self._call("encoder", encoder, x, self.example)

    def _module(self, op: Op) -> None:
        assert op.module is not None
        (place,) = op.inputs
        module = self._equivalent(op.module, self.seen[place])
        if isinstance(module, nn.Linear):
            self._refuse_sequence(op.name, self.seen[place])
        before = self._behind(place)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and before is not None:
            before.norm = module if self.spiking else self._tdbn(module, self._terms(op))
            self.nodes.append(self.nodes[place])
            source = self.network.ops[place].inputs[0]
            self.seen.append(self._run(op.name, before, self.seen[source]))
            return
        self._call(op.name, TimeDistributed(module), self.nodes[place], self.seen[place])

    def _neuron(self, op: Op) -> None:
        node, current = self._at(op.inputs[0])
        made = over_sequences(op.module, current, self.settings.spike_grad)
        self._call(op.name, made, node, current)

    def _relu(self, op: Op) -> None:
        if self.spiking:
            self._call(op.name, TimeDistributed(nn.ReLU()), *self._at(op.inputs[0]))
            return
        self._scale(op.inputs[0])
        s = self.settings
        neuron = Leaky(s.beta, s.threshold, s.spike_grad).to(self.example.device)
        self._call(op.name, neuron, *self._at(op.inputs[0]))

    def _add(self, op: Op) -> None:
        a, b = op.inputs
        self.nodes.append(self.graph.call_function(operator.add, (self.nodes[a], self.nodes[b])))
        self.seen.append(self.seen[a] + self.seen[b])

    def _at(self, place: int) -> tuple[fx.Node, Tensor]:
        return self.nodes[place], self.seen[place]

    def _call(self, name: str, module: nn.Module, x: fx.Node, value: Tensor) -> None:
        """Add a module under a name of its own, its node, and what it makes of the example."""
        *parents, last = name.split(".")
        parent = self.root
        for part in parents:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        number, unique = 1, last
        while hasattr(parent, unique):
            number += 1
            unique = f"{last}_{number}"
        parent.add_module(unique, module.eval())
        self.nodes.append(self.graph.call_module(".".join([*parents, unique]), (x,)))
        self.seen.append(self._run(name, module, value))

    def _refuse_sequence(self, name: str, x: Tensor) -> None:
        """A sequence as the example would be taken for a still batch by a linear layer."""
        shape, steps = tuple(self.example.shape), self.settings.num_steps
        looped = self.network.steps is not None
        if not looped and x.dim() == 4 and len(shape) == 3 and shape[0] == steps:
            raise UsageError(
                f"the example, of the shape {shape}, would be a batch whose samples '{name}' takes "
                f"row by row: of a sequence [T, B, ...], give one step, example[0]; of another "
                f"batch, not as many samples as num_steps."
            )

    def _run(self, name: str, module: nn.Module, value: Tensor) -> Tensor:
        """What a module makes of a sequence; errors of torch name the module and the example."""
        try:
            result: Tensor = module(value)
        except Exception as error:  # whatever a module says of shapes, types and devices
            kind = type(module.layer if isinstance(module, TimeDistributed) else module).__name__
            steps, first = self.settings.num_steps, len(self.example)
            hint = ""
            if first == steps and not self.network.frames:
                hint = "; of a sequence [T, B, ...], give one step, example[0]"
            raise StbpError(
                f"'{name}' ({kind}) cannot take what comes of an example of the shape "
                f"{tuple(self.example.shape)} and {self.example.dtype}: "
                f"{str(error).partition('. ')[0].rstrip('.')}{hint}."
            ) from error
        return result

    def _equivalent(self, module: nn.Module, x: Tensor) -> nn.Module:
        """A module of the same results that this package computes faster, or can export."""
        if isinstance(module, Rows):
            if x[0, 0].numel() != module.features:
                raise StbpError(
                    f"cannot convert a reshaping of {list(x.shape[1:])} to "
                    f"[{x.shape[1]}, {module.features}] rows: what flattens keeps the batch, "
                    f"[{x.shape[1]}, {x[0, 0].numel()}] here."
                )
            return nn.Flatten()
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
            wanted, given = module.output_size, x.shape[-2:]
            pair = wanted if isinstance(wanted, tuple) else (wanted, wanted)
            size = [n if k is None else k for n, k in zip(given, pair, strict=True)]
            if any(n % k for n, k in zip(given, size, strict=True)):
                return module  # windows that are not all alike
            window = (given[0] // size[0], given[1] // size[1])
            if window == (1, 1):
                return nn.Identity()
            average = isinstance(module, nn.AdaptiveAvgPool2d)
            return AvgPool2d(window) if average else nn.MaxPool2d(window)
        if type(module) is nn.AvgPool2d:
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
            options = {name: getattr(module, name) for name in names}
            return AvgPool2d(**options, divisor_override=module.divisor_override)
        return module

    def _behind(self, place: int) -> TimeDistributed | None:
        """The layer with weights that only what comes now reads, if it has no normalisation."""
        node, op = self.nodes[place], self.network.ops[place]
        if node.op != "call_module" or self.users[place] > 1 or self.named[op.name] > 1:
            return None
        layer = self.root.get_submodule(str(node.target))
        fits = isinstance(layer, TimeDistributed) and isinstance(layer.layer, Weights)
        return layer if fits and layer.norm is None else None

    def _tdbn(self, norm: Any, terms: int) -> nn.Module:
        """A tdBN that makes `threshold / sqrt(terms)` times what `norm` makes."""
        kind = next((k for k in _TDBN if isinstance(norm, k)), None)
        if kind is None:
            return norm
        made: Any = _TDBN[kind](
            norm.num_features, terms**-0.5, self.settings.threshold, norm.eps, norm.momentum,
            norm.affine, norm.track_running_stats,
        )  # fmt: skip
        made.load_state_dict(norm.state_dict())
        if norm.affine:
            made.bias *= made.gain.value
        return made.to(self.example.device).eval()

    def _terms(self, op: Op) -> int:
        """How many currents are added up to one, of which the result of `op` is one."""
        place = self.network.ops.index(op)
        terms = 1
        while True:
            sums = [
                i for i, o in enumerate(self.network.ops) if o.kind == "add" and place in o.inputs
            ]
            if len(sums) != 1:
                return terms
            place, terms = sums[0], terms + 1

    def _scale(self, place: int) -> None:
        """Weights whose currents have the size of a threshold on the example.

        tdBN sees to that where there is one. The scale of activations of a network without spikes
        is anything: neurons would be silent, or fire always.
        """
        layers = self._unscaled(place)
        size = self.seen[place].square().mean().sqrt()
        if layers is None or size == 0:
            return
        factor = self.settings.threshold / size
        for layer in layers:
            layer.weight *= factor
            if layer.bias is not None:
                layer.bias *= factor
        self.seen[place] = self.seen[place] * factor

    def _unscaled(self, place: int) -> list[Any] | None:
        """The layers whose currents add up to those at `place`, unless something else does."""
        op, node = self.network.ops[place], self.nodes[place]
        if op.kind == "add":
            parts = [self._unscaled(p) for p in op.inputs]
            return None if None in parts else [layer for part in parts for layer in part or []]
        if op.kind != "module":
            return None
        module = self.root.get_submodule(str(node.target))
        assert isinstance(module, TimeDistributed)
        if isinstance(module.layer, Weights):
            return [module.layer] if module.norm is None and self.named[op.name] == 1 else None
        linear = (nn.AvgPool2d, nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Dropout2d)
        return self._unscaled(op.inputs[0]) if isinstance(module.layer, linear) else None

    def _give_membrane(self, output: fx.Node) -> fx.Node:
        """Let the last neurons return their membrane potentials, those that snnTorch returns."""
        neuron = self.root.get_submodule(str(output.target)) if output.op == "call_module" else None
        if not isinstance(neuron, Leaky) or output.users:
            raise StbpError("the network has no neurons in its last layer to return membranes of.")
        neuron.output = True
        if not self.spiking or neuron.reset_delay or neuron.reset_mechanism == "none":
            return output
        own = self.graph.get_attr(str(output.target))
        return self.graph.call_function(after_reset, (own, output))


def _fuse(graph: fx.Graph, root: nn.Module) -> None:
    """Let `fire` compute tdBN and the neuron behind it, and an addition between them."""
    for node in list(graph.nodes):
        if node.op != "call_module" or not isinstance(root.get_submodule(node.target), Leaky):
            continue
        source, added = node.args[0], None
        if source.target is operator.add and len(source.users) == 1:
            a, b = source.args
            source, added = (a, b) if _is_normed(a, root) else (b, a)
        if not _is_normed(source, root):
            continue
        with graph.inserting_before(node):
            parts = [graph.get_attr(str(n.target)) for n in (source, node)]
            rest = () if added is None else (added,)
            fired = graph.call_function(fire, (*parts, source.args[0], *rest))
        node.replace_all_uses_with(fired)
        total = node.args[0]
        graph.erase_node(node)
        if added is not None:
            graph.erase_node(total)
        graph.erase_node(source)


def _is_normed(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node is a layer with tdBN that one other reads."""
    if node.op != "call_module" or len(node.users) != 1:
        return False
    module = root.get_submodule(str(node.target))
    return isinstance(module, TimeDistributed) and isinstance(module.norm, _TDBatchNorm)
