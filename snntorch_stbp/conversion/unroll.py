"""What a network computes at one step, read off a forward pass that may be a loop over steps.

A loop that was followed is the same operations over and over. Equal operations on equal operands
are counted once here, whatever the step: what is left is the network of one step. That the steps
were equal is checked: a neuron must get the same thing at each of them, from the same step, and its
own membrane potential from the step before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, fx, nn

from ..errors import StbpError
from .functions import ADDITIONS, RELU_MODULES, RELUS, SAME, as_module, name_of


@dataclass(frozen=True)
class Op:
    """An operation of one step.

    Attributes:
        kind: `"input"`, `"module"`, `"neuron"`, `"relu"` or `"add"`.
        name: Name of the module; of a function, the function's.
        inputs: Places of its operands in `Network.ops`.
        module: What computes it, but for an input, an addition and a ReLU.
    """

    kind: str
    name: str
    inputs: tuple[int, ...] = ()
    module: nn.Module | None = None


@dataclass
class Network:
    """The operations of one step, in an order in which they can be computed.

    Attributes:
        ops: The operations.
        output: Place of the record in `ops`.
        steps: Steps of the loop that was followed, or `None` where the forward pass has none.
        frames: Whether the input is a sequence, of which each step takes its frame.
        fresh: A neuron that the forward pass gives a new membrane potential, if any.
    """

    ops: list[Op] = field(default_factory=list)
    output: int = 0
    steps: int | None = None
    frames: bool = False
    fresh: str | None = None


@dataclass(frozen=True)
class _Value:
    """What an operation gave: its place, and the step, if it differs between steps."""

    place: int
    step: int | None


@dataclass(frozen=True)
class _State:
    """The membrane potential of a neuron after a step."""

    neuron: str
    step: int


def unroll(graph: fx.Graph, modules: dict[str, nn.Module], example: Tensor) -> Network:
    """The network of one step.

    Raises:
        StbpError: If the network does what cannot be converted; the message names it.
    """
    return _Reader(modules, example).read(graph)


class _Reader:
    """Interprets traced nodes, one after the other."""

    def __init__(self, modules: dict[str, nn.Module], example: Tensor) -> None:
        self.modules, self.example = modules, example
        self.network = Network()
        self.places: dict[Any, int] = {}
        self.fed: dict[str, int] = {}  # by neuron, the place of its input current
        self.calls: dict[str, int] = {}
        self.values: dict[fx.Node, Any] = {}

    def read(self, graph: fx.Graph) -> Network:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._value("input", "input", ())
            elif node.op == "get_attr":
                self.values[node] = None  # a state before the first step, or another constant
            elif node.op == "call_module":
                self.values[node] = self._module(node)
            elif node.op == "output":
                self._output(node.args[0])
            else:
                self.values[node] = self._function(node)
        return self.network

    def _value(
        self,
        kind: str,
        name: str,
        operands: Sequence[_Value],
        module: Callable[[], nn.Module] | None = None,
        key: Any = None,
    ) -> _Value:
        """The result of an operation, which is counted if it is a new one."""
        inputs = tuple(v.place for v in operands)
        steps = {v.step for v in operands} - {None}
        if len(steps) > 1:
            raise StbpError(
                f"'{name}' joins what belongs to different time steps: return the record of all "
                f"steps stacked, and sum it outside; a network that is recurrent beyond its "
                f"neurons cannot be converted."
            )
        known = (kind, name if key is None else key, inputs)
        if known not in self.places:
            self.places[known] = len(self.network.ops)
            made = None if module is None else module()
            self.network.ops.append(Op(kind, name, inputs, made))
        return _Value(self.places[known], steps.pop() if steps else None)

    def _module(self, node: fx.Node) -> Any:
        target = str(node.target)
        name = target.removeprefix("model.")
        module = self.modules[target]
        if isinstance(module, snn.SpikingNeuron):
            return self._neuron(name, module, node)
        value = self._operand(node.args[0], name)
        if isinstance(module, RELU_MODULES):
            return self._value("relu", name, [value])
        if isinstance(module, nn.Identity):
            return value
        return self._value("module", name, [value], lambda: module)

    def _neuron(self, name: str, neuron: nn.Module, node: fx.Node) -> Any:
        current = self._operand(node.args[0], name)
        step = self.calls.get(name, 0)
        self.calls[name] = step + 1
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("mem")
        if isinstance(given, fx.Node):  # else the neuron holds its state itself
            self.network.fresh = name
            own = _State(name, step - 1) if step else None  # which starts from a constant
            if self.values.get(given) != own:
                raise StbpError(
                    f"'{name}' is given a membrane potential at step {step + 1} that is not its "
                    f"own of the step before."
                )
        if current.step not in (None, step):
            raise StbpError(
                f"'{name}' gets at step {step + 1} what was computed at step {current.step + 1}: a "
                f"network that is recurrent beyond its neurons cannot be converted."
            )
        if self.fed.setdefault(name, current.place) != current.place:
            raise StbpError(
                f"'{name}' is called twice with different inputs: every layer of neurons needs a "
                f"module of its own, and every time step must do the same."
            )
        spikes = self._value("neuron", name, [_Value(current.place, None)], lambda: neuron)
        spikes = _Value(spikes.place, step)
        alone = getattr(neuron, "init_hidden", False) and not getattr(neuron, "output", False)
        return spikes if alone else (spikes, _State(name, step))

    def _operand(self, argument: Any, name: str) -> _Value:
        value = self.values.get(argument) if isinstance(argument, fx.Node) else argument
        if isinstance(value, _Value):
            return value
        what = "a membrane potential" if isinstance(value, _State) else "what is no activation"
        raise StbpError(f"'{name}' takes {what}; to convert, layers take currents and spikes.")

    def _function(self, node: fx.Node) -> Any:
        target, name = node.target, name_of(node)
        if target is operator.getitem:
            return self._item(node)
        if target is torch.stack or target == "stack":
            return self._stacked(node)
        if target in ADDITIONS and len(node.args) == 2:
            if 0 in node.args:  # where a sum over the steps starts
                return self._operand(node.args[1 - node.args.index(0)], "add")
            return self._value("add", "add", [self._operand(a, "add") for a in node.args])
        if target in RELUS:
            return self._value("relu", "relu", [self._operand(node.args[0], name)])
        if target in SAME:
            return self._operand(node.args[0], name)
        make = as_module(node, self.example.shape[1 if self.network.frames else 0])
        if make is not None:
            value = self._operand(node.args[0], name)
            name = "flatten" if make is nn.Flatten else name
            key = (name, node.args[1:], tuple(sorted(node.kwargs.items())))
            return self._value(
                "module", name, [value], make, "flatten" if name == "flatten" else key
            )
        if target in ("size", "dim", getattr, torch.zeros, torch.zeros_like):
            return None  # a size of what is flattened, or a state before the first step
        raise StbpError(
            f"cannot convert the operation '{name}': between neurons there may be layers, "
            f"poolings, normalisations, dropout, additions, and what flattens all but the batch."
        )

    def _item(self, node: fx.Node) -> Any:
        source, index = node.args
        value: Any = self.values.get(source) if isinstance(source, fx.Node) else None
        if isinstance(value, tuple) and isinstance(index, int):
            return value[index]
        frames = isinstance(value, _Value) and self.network.ops[value.place].kind == "input"
        if frames and value.step is None and isinstance(index, int):
            self.network.frames = True
            return _Value(value.place, index)
        if value is None:
            return None  # of a size
        raise StbpError("cannot convert indexing; only the input is indexed, by the time step.")

    def _stacked(self, node: fx.Node) -> _Value | _State:
        """A record: the same of every step."""
        items = node.args[0]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        values: list[Any] = []
        if isinstance(items, (list, tuple)):
            values = [self.values.get(i) if isinstance(i, fx.Node) else None for i in items]
        first = values[0] if values else None
        if isinstance(first, _State):
            return first
        if isinstance(first, _Value) and dim == 0:
            record = [_Value(first.place, step) for step in range(len(values))]
            if values in (record, [_Value(first.place, None)] * len(values)):
                return _Value(first.place, None)
        raise StbpError(
            "cannot convert what is stacked: only a record, the same tensor of every step, "
            "stacked along the first dimension."
        )

    def _output(self, argument: Any) -> None:
        first = argument[0] if isinstance(argument, (tuple, list)) and argument else argument
        value = self.values.get(first) if isinstance(first, fx.Node) else None
        value = value[0] if isinstance(value, tuple) else value
        if not isinstance(value, _Value):
            raise StbpError(
                "the network returns neither spikes nor currents of its last layer (first, if it "
                "returns several values)."
            )
        counts = set(self.calls.values())
        if len(counts) > 1:
            raise StbpError(
                f"the neurons are not called equally often: {self.calls}; every time step must do "
                f"the same."
            )
        steps = counts.pop() if counts else 1
        self.network.steps = steps if steps > 1 or self.network.frames else None
        if value.step is not None and steps > 1:
            raise StbpError(
                "the network returns one time step of several: to convert, it returns the record, "
                "the output of all steps stacked along the first dimension."
            )
        self.network.output = value.place
