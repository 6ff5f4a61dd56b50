"""Reading the stages of a network off its forward pass; `graph` is what comes out."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import replace
from typing import Any

import brevitas.nn as qnn
import torch
from torch import fx, nn

from ..errors import StbpError
from ..neuron import Leaky
from ..norm import NeuNorm, _TDBatchNorm
from ..time import DirectCoding, PopulationVote, TimeDistributed, _Coding
from . import modules
from .graph import INPUT, Branch, Graph, Layer, Pool, Stage, inhibition


class _Tracer(fx.Tracer):
    """Follows a forward pass down to the modules that this package knows."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = (Leaky, TimeDistributed, _TDBatchNorm, NeuNorm, _Coding, PopulationVote)
        foreign = type(module).__module__.partition(".")[0] in ("torch", "brevitas", "snntorch")
        whole = foreign and not isinstance(module, nn.Sequential | fx.GraphModule)
        return isinstance(module, known) or whole


def read_graph(model: nn.Module) -> Graph:
    """Read the stages of `model`.

    Raises:
        StbpError: If the network does something that has no counterpart in hardware; the message
            names the module or operation and what would be right.
    """
    try:
        traced = _Tracer().trace(model)
    except Exception as error:  # whatever the forward pass of a user's network raises
        raise StbpError(
            f"cannot follow the forward pass of {type(model).__name__}: {error}; it must be a "
            f"fixed sequence of modules, additions and flattenings."
        ) from error
    return _Reader(dict(model.named_modules())).read(traced)


class _Reader:
    """Interprets traced nodes; a value is the tuple of branches whose sum it is."""

    def __init__(self, named: dict[str, nn.Module]) -> None:
        self.modules = named
        self.graph = Graph()
        self.uses: Counter[str] = Counter()
        self.channels: dict[str, tuple[int, bool] | None] = {}
        self.values: dict[fx.Node, tuple[Branch, ...]] = {}

    def read(self, traced: fx.Graph) -> Graph:
        for node in traced.nodes:
            if node.op == "placeholder":
                if INPUT in (b.source for value in self.values.values() for b in value):
                    raise StbpError("a network for export has one input, this one has more.")
                self.values[node] = (Branch(INPUT, INPUT),)
            elif node.op == "output":
                if self.graph.votes is not None and node.args[0] is not node.prev:
                    raise StbpError("the record must be the population vote, where there is one.")
                self._output(node.args[0])
            elif self.graph.votes is not None:
                raise StbpError("a population vote must be the last thing that a network does.")
            elif node.op == "call_module":
                if len(node.args) != 1 or node.kwargs:
                    raise StbpError(f"'{node.target}' must be called with one value, by position.")
                value = self._value(node.args[0], node)
                module = self.modules[str(node.target)]
                self.values[node] = self._module(str(node.target), module, value)
            else:
                self.values[node] = self._function(node)
        quantizer = self.graph.input_quant
        self.graph.stages = [modules.fed(stage, quantizer) for stage in self.graph.stages]
        for stage in self.graph.stages:
            modules.check_finite(stage)
        return self.graph

    def _value(self, argument: Any, node: fx.Node) -> tuple[Branch, ...]:
        if isinstance(argument, fx.Node) and argument in self.values:
            return self.values[argument]
        raise StbpError(f"cannot export the operation '{node.target}' on {argument!r}.")

    def _function(self, node: fx.Node) -> tuple[Branch, ...]:
        additions: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
        if node.target in additions and len(node.args) == 2:
            if node.kwargs.get("alpha", 1) != 1 or set(node.kwargs) - {"alpha"}:
                given = ", ".join(f"{key}={value}" for key, value in node.kwargs.items())
                raise StbpError(
                    f"cannot export an addition with {given}: currents are added as they are; "
                    f"take the factor into the weights of a layer."
                )
            a, b = (self._value(argument, node) for argument in node.args)
            return a + b
        ends = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        features = (ends.get("start_dim", 0), ends.get("end_dim", -1)) in ((2, -1), (2, 4))
        if node.target in (torch.flatten, "flatten") and node.args and features:
            return self._flatten(self._value(node.args[0], node))
        name = getattr(node.target, "__name__", node.target)
        raise StbpError(
            f"cannot export the operation '{name}': between neurons there are layers, poolings, "
            f"normalisations, additions, and flatten(2)."
        )

    def _module(
        self, name: str, module: nn.Module, value: tuple[Branch, ...]
    ) -> tuple[Branch, ...]:
        modules.check_code(name, module)
        if isinstance(module, Leaky):
            return self._neuron(name, module, value)
        if isinstance(module, TimeDistributed):
            value = self._layer(name, module.layer, value, lead=1)
            return value if module.norm is None else self._norm(name, module.norm, value)
        if isinstance(module, DirectCoding):
            modules.check_coding(name, module)
            self.graph.num_steps, self.graph.any_length = module.num_steps, module.any_length
            return value
        if isinstance(module, PopulationVote):
            if len(value) != 1 or value[0].layer is not None or value[0].source == INPUT:
                raise StbpError(
                    f"'{name}' (PopulationVote) takes currents, export counts the votes of spikes: "
                    f"put a Leaky in front of it."
                )
            self.graph.votes = module.num_classes
            return value
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return self._norm(name, module, value)
        if isinstance(module, NeuNorm):
            return self._neunorm(name, module, value)
        return self._layer(name, module, value)

    def _layer(
        self, name: str, layer: nn.Module, value: tuple[Branch, ...], lead: int = 2
    ) -> tuple[Branch, ...]:
        """What a layer makes of values with `lead` dimensions in front of the channels."""
        modules.check_code(name, layer)
        if isinstance(layer, nn.Sequential):
            for child in layer:
                value = self._layer(name, child, value, lead)
            return value
        if isinstance(layer, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return value
        if isinstance(layer, qnn.QuantIdentity):
            return self._quantizer(name, layer, value)
        if isinstance(layer, nn.Flatten):
            if (layer.start_dim, layer.end_dim) not in ((lead, -1), (lead, lead + 2)):
                raise StbpError(
                    f"'{name}' (Flatten) must flatten channels, height and width, and nothing "
                    f"else: take Flatten({lead}) here."
                )
            return self._flatten(value)
        branches = self._operand(name, layer, value)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return self._norm(name, layer, value)
        if isinstance(layer, Pool) and branches[0].layer is not None:
            return (self._pooled(name, layer, self._single(name, layer, value)),)
        if branches[0].layer is not None and isinstance(layer, Layer):
            raise StbpError(
                f"'{name}' ({type(layer).__name__}) follows '{branches[0].name}' without a neuron "
                f"between them; put a Leaky there."
            )
        if isinstance(layer, Pool):
            modules.check_pool(name, layer, currents=False)
            branch = self._single(name, layer, value)
            return (replace(branch, pools=(*branch.pools, layer)),)
        if isinstance(layer, Layer):
            modules.check_layer(name, layer)
            for branch in branches:
                known = None if branch.flatten else self.channels.get(branch.source)
                if isinstance(layer, nn.Linear) and known is not None and known[1]:
                    raise StbpError(
                        f"'{name}' ({type(layer).__name__}) takes images as they are, and mixes "
                        f"their columns: put Flatten({lead}) in front of it."
                    )
            name = self._unique(name)
            named = (inhibition(name) if b.inhibits else name for b in branches)
            return tuple(
                replace(b, layer=layer, name=n) for b, n in zip(branches, named, strict=True)
            )
        raise modules.refused(name, layer)

    def _norm(self, name: str, norm: nn.Module, value: tuple[Branch, ...]) -> tuple[Branch, ...]:
        branches = self._operand(name, norm, value)
        branch = branches[0]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise StbpError(
                f"cannot export '{name}': {type(norm).__name__} depends on other neurons at run "
                f"time; only batch normalisation folds into a multiplier and a bias."
            )
        averaged = all(isinstance(pool, nn.AvgPool2d) for pool in branch.after)
        direct = branch.layer is not None and branch.norm is None and averaged
        if not direct or norm.running_mean is None:
            raise StbpError(
                f"the normalisation '{name}' must follow a convolution or linear layer, at most "
                f"with average pooling between them, and have running statistics."
            )
        return tuple(replace(b, norm=norm) for b in branches)

    def _pooled(self, name: str, pool: Pool, branch: Branch) -> Branch:
        """A branch behind whose layer currents are pooled."""
        modules.check_pool(name, pool, currents=True)
        return replace(branch, after=(*branch.after, pool))

    def _neunorm(self, name: str, norm: NeuNorm, value: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """The spikes of a stage, and beside them what is subtracted."""
        branch = self._single(name, norm, value)
        places = [i for i, s in enumerate(self.graph.stages) if Branch(s.name, s.name) == branch]
        if not places or self.graph.stages[places[0]].neunorm is not None:
            raise StbpError(
                f"'{name}' (NeuNorm) must follow a Leaky directly, as its only NeuNorm."
            )
        self.graph.stages[places[0]] = replace(self.graph.stages[places[0]], neunorm=norm)
        return branch, replace(branch, inhibits=True)

    def _operand(
        self, name: str, module: nn.Module, value: tuple[Branch, ...]
    ) -> tuple[Branch, ...]:
        """What a linear module takes: one branch, or spikes and what inhibits them."""
        if len(value) == 2 and value[1] == replace(value[0], inhibits=True, name=value[1].name):
            return value
        return (self._single(name, module, value),)

    def _quantizer(
        self, name: str, quantizer: qnn.QuantIdentity, value: tuple[Branch, ...]
    ) -> tuple[Branch, ...]:
        if not quantizer.act_quant.is_quant_enabled:
            return value
        kind = f"'{name}' ({type(quantizer).__name__})"
        plain = len(value) == 1 and value[0].layer is None
        if not plain:
            raise StbpError(
                f"{kind} quantizes what is no input, spikes or averages of spikes, which export "
                f"does not: currents are quantized by their neurons, Precision(act_bits=...)"
                f".neuron()."
            )
        if value[0].source == INPUT and value[0] != Branch(INPUT, INPUT, quantizer=quantizer):
            if value[0].pools or value[0].flatten:
                raise StbpError(
                    f"{kind} quantizes an averaged input, which export does not: quantize the "
                    f"input in front of everything, or leave this quantizer out."
                )
            if self.graph.input_quant not in (None, quantizer):
                raise StbpError(f"{kind} is the second quantizer of the input: leave one out.")
            modules.check_input(kind, quantizer)
            self.graph.input_quant = quantizer
        elif value[0].quantizer is not None:
            raise StbpError(f"{kind} quantizes what is quantized already: leave one of them out.")
        return (replace(value[0], quantizer=quantizer),)

    def _flatten(self, value: tuple[Branch, ...]) -> tuple[Branch, ...]:
        plain = len(value) == 1 or any(branch.inhibits for branch in value)
        if not plain:
            raise StbpError(
                "a sum is flattened, which only the input of a Leaky may be: put a Leaky in front "
                "of the flattening."
            )
        if value[0].layer is not None:
            raise StbpError("features are flattened in front of a linear layer, behind a neuron.")
        return tuple(replace(branch, flatten=True) for branch in value)

    def _neuron(self, name: str, neuron: Leaky, value: tuple[Branch, ...]) -> tuple[Branch, ...]:
        modules.check_neuron(name, neuron)
        name = self._unique(name)
        modules.check_stage(name)
        stage = Stage(name, value, neuron)
        self.channels[name] = modules.channels(value, self.channels)
        modules.check_channels(stage, self.channels[name])
        self.graph.stages.append(stage)
        return (Branch(name, name),)

    def _unique(self, name: str) -> str:
        """A name for one more use of the module `name`."""
        self.uses[name] += 1
        return name if self.uses[name] == 1 else f"{name}#{self.uses[name]}"

    def _single(self, name: str, module: nn.Module, value: tuple[Branch, ...]) -> Branch:
        if len(value) == 1:
            return value[0]
        raise StbpError(
            f"'{name}' ({type(module).__name__}) takes a sum; a sum is the input of a Leaky only."
        )

    def _output(self, argument: Any) -> None:
        if not isinstance(argument, fx.Node):
            raise StbpError("a network for export returns one record, not several values.")
        value = self.values[argument]
        if len(value) == 1 and value[0].layer is None:
            last = self.graph.stages[-1].name if self.graph.stages else ""
            if value[0] != Branch(last, last):
                raise StbpError("the record must be the spikes or currents of the last layer.")
            return
        if value[0].layer is None:
            raise StbpError("the record must be the spikes or currents of the last layer.")
        modules.check_stage(value[0].name)
        self.graph.stages.append(Stage(value[0].name, value, None))
