"""One graph in the making: names, layouts, constants and quantizers as its target wants them."""

from __future__ import annotations

import re

import torch

from ..array import Array
from .targets import Form, Target
from .writer import Writer


class Page:
    """What the parts of a graph are written on.

    Args:
        target: The reader it is written for.
        form: All steps, or one with states.
        batch: Static batch size.
        steps: Time steps `T` of the network.
        sizes: Stage (or input) -> features `(F,)` or `(C, H, W)` of its tensors.

    Attributes:
        writer: The nodes so far.
        levels: See `Names`.
    """

    def __init__(
        self,
        target: Target,
        form: Form,
        batch: int,
        steps: int,
        sizes: dict[str, tuple[int, ...]],
    ) -> None:
        self.target, self.form, self.batch = target, form, batch
        self.steps, self.sizes = steps, sizes
        self.writer = Writer()
        self.levels: dict[str, list[str]] = {}
        self._identifiers: dict[str, str] = {}

    def name(self, layer: str, *parts: str) -> str:
        """The name of a node or tensor from its parts: layer, what, step."""
        if self.target.separator != "/":
            layer = self._identifier(layer)
        return self.target.separator.join((layer, *parts))

    def _identifier(self, layer: str) -> str:
        """A layer's name as an identifier of C++, which no other layer gets."""
        if layer not in self._identifiers:
            plain = re.sub(r"\W", "_", layer, flags=re.ASCII)
            plain = f"n{plain}" if plain[0].isdigit() else plain
            label, number = plain, 2
            while label in self._identifiers.values():
                label, number = f"{plain}_{number}", number + 1
            self._identifiers[layer] = label
        return self._identifiers[layer]

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape from its features `(F,)` or `(C, H, W)`."""
        if len(size) == 3 and self.target.layout != "nchw":
            return (self.batch, size[1], size[2], size[0])
        return (self.batch, *size)

    def per_channel(self, value: Array, size: tuple[int, ...]) -> Array:
        """One value per channel in a shape that broadcasts over a tensor of `size`."""
        if value.size == 1:
            return value.reshape(())
        if len(size) == 3 and self.target.layout == "nchw":
            return value.reshape(1, -1, 1, 1)
        return value

    def constant(
        self, stage: str, what: str, t: int, value: Array | float, fraction: int = 0
    ) -> str:
        """A constant of a stage, shared by the steps if the target wants that."""
        name = self.name(stage, what) if self.target.shared else self.name(stage, what, f"t{t}")
        if name in self.writer.constants:
            return name
        return self.writer.constant(name, value, fraction)

    def quant(
        self, name: str, x: str, output: str, bits: int, scale: float = 1.0, shift: float = 0.0
    ) -> str:
        """A signed quantizer, as the target writes it; thresholds are lowered by `shift`."""
        writer = self.writer
        if self.target.quantizers == "quant":
            return writer.quant(name, x, output, bits, True, scale)
        if scale == 1:
            return writer.thresholds(name, x, output, bits, shift=shift)
        # FINN has no thresholds in hardware whose output is scaled.
        levels = writer.thresholds(name, x, f"{name}_levels_out", bits, scale, shift)
        factor = writer.constant(f"{name}_scale", scale)
        what, step = re.fullmatch(r"(.+?)([/_]t\d+)?", name).groups("")  # type: ignore[union-attr]
        return writer.binary("Mul", f"{what}_scaled{step}", levels, factor, output)

    def annotate_layouts(self) -> None:
        """Say of every tensor of images where its channels are."""
        layout = "NCHW" if self.target.layout == "nchw" else "NHWC"
        for name, shape in self.writer.shapes.items():
            if len(shape) == 4 and name not in self.writer.constants:
                self.writer.layouts[name] = layout
        if self.target.layout == "nhwc_transposed":
            for node in self.writer.nodes:
                if node.op_type in ("Conv", "MaxPool"):
                    for name in (node.input[0], node.output[0]):
                        self.writer.layouts[name] = "NCHW"


def array(value: torch.Tensor) -> Array:
    """The numbers of a tensor, in float64."""
    return value.detach().cpu().double().numpy()
