"""What a network computes at one step, read off a forward pass that may be a loop over steps.

A loop that was followed is the same operations over and over. Equal operations on equal operands
are counted once here, whatever the step: what is left is the network of one step. That the steps
were equal is checked: a neuron must get the same thing at each of them, from the same step, and its
own membrane potential from the step before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..errors import StbpError
from . import calls
from .functions import ADDITIONS, RELU_MODULES, RELUS, SAME, SIZES, ZEROS, as_module, name_of, terms
from .network import Network, Op
from .neurons import check_known


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


@dataclass(frozen=True)
class _Constant:
    """A tensor of the network itself, no result of an operation: zeros, or others."""

    zeros: bool


_ZEROS = _Constant(zeros=True)


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
        self.stacks = False  # a record, even if of one step

    def read(self, graph: fx.Graph) -> Network:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._value("input", "input", ())
            elif node.op == "get_attr":
                self.values[node] = _Constant(node.meta.get("zeros", False))
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
        check_known(name, module)
        args = calls.of_module(node, module, name)
        if isinstance(module, snn.SpikingNeuron):
            return self._neuron(name, module, *args)
        value = self._operand(args[0] if args else None, name)
        if isinstance(module, RELU_MODULES):
            return self._value("relu", name, [value], lambda: module)
        if isinstance(module, nn.Identity):
            return value
        return self._value("module", name, [value], lambda: module)

    def _neuron(self, name: str, neuron: nn.Module, input_: Any, mem: Any = None) -> Any:
        current = self._operand(input_, name)
        step = self.calls.get(name, 0)
        self.calls[name] = step + 1
        if isinstance(mem, fx.Node):  # else the neuron holds its state itself
            self.network.fresh = name
            self._check_state(name, self.values.get(mem), step)
        if current.step is not None and current.step > step:
            raise StbpError(
                f"'{name}' gets at step {step + 1} what belongs to step {current.step + 1}: the "
                f"frames of the input are taken in their order, one at each step, and all of them; "
                f"reverse or choose them outside."
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

    def _check_state(self, name: str, given: Any, step: int) -> None:
        """Refuse a membrane potential but the neuron's own, which starts from zeros."""
        if isinstance(given, _Constant) and step == 0:
            if not given.zeros:
                raise StbpError(
                    f"'{name}' starts from membrane potentials that are not 0 (or learned), which "
                    f"has no counterpart here: start from {name}.reset_mem()."
                )
        elif given != _State(name, step - 1):
            raise StbpError(
                f"'{name}' is given a membrane potential at step {step + 1} that is not its "
                f"own of the step before."
            )

    def _operand(self, argument: Any, name: str) -> _Value:
        value = self.values.get(argument) if isinstance(argument, fx.Node) else argument
        if isinstance(value, _Value):
            return value
        what = "a membrane potential" if isinstance(value, _State) else "what is no activation"
        raise StbpError(f"'{name}' takes {what}; to convert, layers take currents and spikes.")

    def _function(self, node: fx.Node) -> Any:
        target, name = node.target, name_of(node)
        args, options = calls.of_function(node)
        if target is operator.getitem:
            return self._item(*args)
        if target is torch.stack or target == "stack":
            return self._stacked(*args, **options)
        if target in ADDITIONS:
            operands = terms(args, options)
            if 0 in operands:  # where a sum over the steps starts
                return self._operand(operands[1 - operands.index(0)], "add")
            return self._value("add", "add", [self._operand(a, "add") for a in operands])
        if target in RELUS:
            kind = nn.ReLU6 if target is F.relu6 else nn.ReLU
            return self._value("relu", "relu", [self._operand(args[0], name)], kind, kind)
        if target in SAME:
            return self._operand(args[0], name)
        if target in ZEROS:
            return _ZEROS
        made = as_module(node, args[1:], options, self.example.shape[self.network.frames])
        if made is not None:
            name, key, make = made
            return self._value("module", name, [self._operand(args[0], name)], make, (name, key))
        if target in SIZES or target in (torch.unbind, "unbind"):
            return None  # a size of what is flattened, or frames, which were followed one by one
        if target is operator.mul and all(self._is_size(a) for a in args):
            return None
        if target == "__setitem__":
            raise StbpError(
                "cannot convert an assignment to a part of a tensor: collect the spikes of the "
                "steps in a list, and return torch.stack(list)."
            )
        raise StbpError(
            f"cannot convert the operation '{name}': between neurons there may be layers, "
            f"poolings, normalisations, dropout, additions, and what flattens all but the batch."
        )

    def _is_size(self, argument: Any) -> bool:
        return isinstance(argument, int) or self.values.get(argument, argument) is None

    def _item(self, source: Any, index: Any) -> Any:
        value: Any = self.values.get(source) if isinstance(source, fx.Node) else None
        if isinstance(value, tuple) and isinstance(index, int):
            return value[index]
        if isinstance(index, tuple) and all(i in (..., slice(None)) for i in index[1:]):
            index = index[0]  # x[step, ...]
        frames = isinstance(value, _Value) and self.network.ops[value.place].kind == "input"
        if frames and value.step is None and isinstance(index, int):
            self.network.frames = True
            return _Value(value.place, index + (len(self.example) if index < 0 else 0))
        if value is None:
            return None  # of a size
        raise StbpError(
            "cannot convert indexing; only the input is indexed, by the time step alone, x[step], "
            "of a sequence [T, B, ...]."
        )

    def _stacked(self, items: Any, dim: Any = 0) -> _Value | _State:
        """A record: the same of every step."""
        values: list[Any] = []
        if isinstance(items, (list, tuple)):
            values = [self.values.get(i) if isinstance(i, fx.Node) else None for i in items]
        first = values[0] if values else None
        if isinstance(first, _State):
            return first
        if isinstance(first, _Value) and dim == 0:
            record = [_Value(first.place, step) for step in range(len(values))]
            if values in (record, [_Value(first.place, None)] * len(values)):
                self.stacks = True
                return _Value(first.place, None)
        raise StbpError(
            "cannot convert what is stacked: only a record, the same tensor of every step, "
            "stacked along the first dimension."
        )

    def _output(self, argument: Any) -> None:
        first = argument[0] if isinstance(argument, (tuple, list)) and argument else argument
        value = self.values.get(first) if isinstance(first, fx.Node) else None
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, _State):
            raise StbpError(
                f"the network returns membrane potentials of '{value.neuron}': to convert, it "
                f"returns the record of its spikes, alone or first; convert(..., membrane=True) "
                f"gives the membrane potentials beside it."
            )
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
        looped = steps > 1 or self.network.frames or self.stacks
        self.network.steps = steps if looped else None
        if value.step is not None and steps > 1:
            raise StbpError(
                "the network returns one time step of several: to convert, it returns the record, "
                "the output of all steps stacked along the first dimension."
            )
        self.network.output = value.place
