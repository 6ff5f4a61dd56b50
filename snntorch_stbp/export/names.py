"""What a verifier must know of an exported graph: its form, and which tensor is what."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnx import ModelProto

from ..errors import StbpError
from .array import Array

MOST = 1 << 16
"""Most steps, and samples of a batch."""


@dataclass(frozen=True)
class Names:
    """Form and tensor names of a graph; stored in the model's metadata.

    Attributes:
        form: `"unrolled"` or `"step"`.
        steps: Time steps `T`.
        batch: Static batch size.
        frames: Whether each step has its own input.
        channels_last: Whether tensors of images are `[B, H, W, C]`.
        separator: Between the parts of a name.
        spikes: Stage -> the spike tensors of the steps.
        states: State input -> (state output, shape); initial values are 0.
        levels: As trained: `STAGE/current` and `STAGE/membrane` -> the tensors of the steps behind
            its quantizers; one tensor if it is the same at every step.
    """

    form: str
    steps: int
    batch: int
    frames: bool
    channels_last: bool
    separator: str
    spikes: dict[str, list[str]]
    states: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    levels: dict[str, list[str]] = field(default_factory=dict)

    @property
    def stages(self) -> list[str]:
        """Names of the layers of neurons."""
        return list(self.spikes)

    @property
    def tensors(self) -> dict[str, list[str]]:
        """What is compared: spikes and levels."""
        return self.spikes | self.levels

    def with_batch(self, batch: int) -> Names:
        """The same for a runtime that takes any batch."""
        states = {i: (o, (batch, *shape[1:])) for i, (o, shape) in self.states.items()}
        return replace(self, batch=batch, states=states)

    def frame(self, t: int) -> str:
        """The input of step `t` of an unrolled graph of frames."""
        return f"image{self.separator}t{t}"

    def to_graph(self, value: Array, axis: int) -> Array:
        """Move the channels of a golden array, whose features begin at `axis`, to the graph's."""
        if not self.channels_last or value.ndim - axis != 3:
            return value
        order = [*range(axis), axis + 1, axis + 2, axis]
        return value.transpose(order)

    def from_graph(self, value: Array, axis: int) -> Array:
        """Move the channels of an array of the graph, whose features begin at `axis`, to the front
        of the features, where golden arrays have them.
        """
        if not self.channels_last or value.ndim - axis != 3:
            return value
        return value.transpose([*range(axis), axis + 2, axis, axis + 1])

    def to_json(self) -> str:
        """As text, for metadata and for the file beside a graph of the `step` form."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Names:
        """Read what `to_json` wrote, whoever changed it since.

        Raises:
            ValueError: If a value is none that `to_json` writes (as other errors of that kind:
                LookupError, TypeError, AttributeError, RecursionError).
        """
        values: dict[str, Any] = json.loads(text)
        values["states"] = {k: (o, tuple(s)) for k, (o, s) in values["states"].items()}
        names = cls(**values)
        names._check()
        return names

    def _check(self) -> None:
        for what, value, choices in (
            ("form", self.form, ("unrolled", "step")),
            ("separator", self.separator, ("/", "_")),
        ):
            if value not in choices:
                raise ValueError(f"{what} is {value!r:.20}, not {' or '.join(choices)}")
        for what, number in (("steps", self.steps), ("batch", self.batch)):
            if type(number) is not int or not 1 <= number <= MOST:
                raise ValueError(f"{what} is {number!r:.20}, not 1 to {MOST}")
        for key, tensors in self.tensors.items():
            if not isinstance(tensors, list) or not all(isinstance(n, str) for n in tensors):
                raise ValueError(f"{key!r:.40} names no list of tensors")
            if len(tensors) not in (1, self.steps):
                raise ValueError(
                    f"{key!r:.40} names {len(tensors)} tensors, not one for each of the "
                    f"{self.steps} steps"
                )
        for key, (output, shape) in self.states.items():
            sizes = all(type(n) is int and n >= 1 for n in shape)
            if not isinstance(output, str) or not sizes:
                raise ValueError(f"the state {key!r:.40} has no output, or no shape")

    @classmethod
    def of(cls, model: ModelProto) -> Names:
        """What an exported model says of itself in its metadata.

        Raises:
            StbpError: If the model does not come from this package.
        """
        for entry in model.metadata_props:
            if entry.key == "names":
                return cls.from_json(entry.value)
        raise StbpError("the model has no metadata 'names'; name one that `export` wrote.")


def with_spikes(model: ModelProto) -> ModelProto:
    """A copy of an exported model with the spikes of every layer and step as outputs, too.

    Args:
        model: A model that `export` wrote.

    Raises:
        StbpError: If the model does not come from this package.
    """
    spikes = {name for tensors in Names.of(model).spikes.values() for name in tensors}
    copy = ModelProto()
    copy.CopyFrom(model)
    spikes -= {output.name for output in copy.graph.output}
    infos = list(copy.graph.value_info)
    copy.graph.ClearField("value_info")
    for info in infos:
        (copy.graph.output if info.name in spikes else copy.graph.value_info).append(info)
    return copy
