"""Following the forward pass of a network that was written without this package.

The input is symbolic, but its shape, type and device are those of an example: a loop over
`x.size(0)` steps, or a `torch.zeros(..., device=x.device)`, runs as it would on the example.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, fx, nn

from ..errors import StbpError, UsageError

LEAVES = ("torch", "snntorch", "brevitas", "snntorch_stbp")
"""Packages whose modules are what networks are made of; all others are looked into."""


class _Input(fx.Proxy):
    """The input of a network, of which an example says what it is like."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, example: Tensor) -> None:
        super().__init__(node, tracer)
        self.example = example

    @property
    def shape(self) -> torch.Size:
        return self.example.shape

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        return self.example.dtype

    @property
    def ndim(self) -> int:
        return self.example.ndim

    def numel(self) -> int:
        return self.example.numel()

    def size(self, dim: int | None = None) -> Any:
        return self.example.shape if dim is None else self.example.shape[dim]

    def dim(self) -> int:
        return self.example.dim()

    def __len__(self) -> int:
        return len(self.example)

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (operator.getitem(self, index) for index in range(len(self.example)))


class _OneInput(nn.Module):
    """A network called with its input alone: other arguments have their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model.forward(x)


class _Tracer(fx.Tracer):
    """Follows a forward pass down to the modules of torch and snnTorch."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return _is_leaf(module)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op == "placeholder":
            return _Input(node, self, self.example)
        return super().proxy(node)

    def create_arg(self, a: Any) -> Any:
        """As fx does; of a tensor that is no parameter, the node says whether it is all zeros."""
        argument: Any = super().create_arg(a)
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            argument.meta["zeros"] = not a.any()
        return argument

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Frames of `x.unbind(0)`; otherwise as fx, which unpacks what is assigned to names."""
        node = obj.node
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if node.target in (torch.unbind, "unbind") and dim == 0:
            source = node.args[0] if node.args else node.kwargs["input"]
            if isinstance(source, fx.Node) and source.op == "placeholder":
                return iter(self.proxy(source))
        try:
            return super().iter(obj)
        except fx.proxy.TraceError as error:
            raise StbpError(
                "cannot follow a loop over what is computed: a loop over the steps takes the "
                "frames of the input, all of them in their order, `for frame in x` or `x[step]`."
            ) from error


class _Mode(int):
    """What `training` says of modules that are looked into, so that an argument tells that it is.

    A dropout whose `training` is this one is active in training, that of a mere `False` never.
    """


def follows_mode(value: Any) -> bool:
    """Whether a traced argument is the `training` of a module."""
    return isinstance(value, _Mode)


def _is_leaf(module: nn.Module) -> bool:
    foreign = type(module).__module__.partition(".")[0] in LEAVES
    whole = foreign and not isinstance(module, nn.Sequential)
    return whole or isinstance(module, snn.SpikingNeuron)  # or one derived from them, to be named


def trace(model: nn.Module, example: Tensor) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The operations of `model(example)` in their order, and the modules that they call, by target.

    Nodes of constants say in `meta["zeros"]` whether they are nothing but zeros. The model, whose
    states it changes, is in evaluation mode afterwards.

    Raises:
        UsageError: If the model is a lone neuron.
        StbpError: If the forward pass takes several inputs, or cannot be followed.
    """
    if isinstance(model, snn.SpikingNeuron):
        raise UsageError(
            f"the model is a lone {type(model).__name__}: convert takes networks, such as "
            f"nn.Sequential(layer, neuron); a neuron over sequences is snntorch_stbp.Leaky."
        )
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except ValueError as error:  # of a scripted module
        raise StbpError(
            f"the forward pass of {type(model).__name__} cannot be followed: give the module that "
            f"was scripted or traced."
        ) from error
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    if len(needed) > 1:
        raise StbpError(
            f"the forward pass of {type(model).__name__} takes {', '.join(needed)}; to convert, it "
            f"must take the input alone (states start at zero)."
        )
    root = _OneInput(model)
    try:
        for module in model.modules():
            if not _is_leaf(module):
                module.training = _Mode(False)  # type: ignore[assignment]
        graph = _Tracer(example).trace(root)
    except StbpError:
        raise
    except Exception as error:  # whatever the forward pass of a user's network raises
        what = str(error).partition(". ")[0]  # what follows is advice on tracing
        raise StbpError(
            f"cannot follow the forward pass of {type(model).__name__}: {what}; what it does must "
            f"not depend on values of tensors, and spikes are coded outside."
        ) from error
    finally:
        model.eval()
    return graph, dict(root.named_modules())
