"""The input current of a stage: its branches' sums times multipliers, plus a bias, quantized."""

from __future__ import annotations

import numpy as np

from ...frozen.branches import FrozenBranch
from ...frozen.net import READOUT_BITS, FrozenStage
from ..array import Array
from .affine import affine
from .page import Page, array
from .ranges import Range
from .sums import branch_sum


def input_current(page: Page, stage: FrozenStage, values: dict[str, str], t: int) -> str:
    """The current of `stage` at step `t`, from the spikes `values` of earlier stages."""
    name, writer = stage.stage.name, page.writer
    total: str | None = None
    for index, (branch, frozen) in enumerate(
        zip(stage.stage.branches, stage.current.branches, strict=True)
    ):
        summed = branch_sum(page, branch, frozen, index, name, values[branch.value], t)
        term = _affine(page, stage, frozen, index, summed, t)
        if total is None:
            total = term
        else:
            total = writer.binary("Add", page.name(name, f"add{index}", f"t{t}"), total, term)
    assert total is not None
    fraction = array(stage.current.fraction).astype(int) + 1
    if page.target.affine == "integer":
        total = _bias_and_scale(page, stage, total, fraction, t)
    if stage.neuron is None and page.target.quantizers == "multithreshold":
        return total  # rounded already
    bits, scale = READOUT_BITS, 2.0**-stage.readout_digits
    if stage.neuron is not None:
        bits, scale = stage.neuron.act_bits, 1.0
    quant = page.name(name, "current", f"t{t}")
    return page.quant(quant, total, f"{quant}_out", bits, scale)


def _affine(
    page: Page, stage: FrozenStage, frozen: FrozenBranch, index: int, x: str, t: int
) -> str:
    """Multiply by the multiplier: integers on the stage's grid, or with the bias as a node."""
    name, size, writer = stage.stage.name, page.sizes[stage.stage.name], page.writer
    fraction = array(stage.current.fraction).astype(int) + 1
    multiplier = np.broadcast_to(array(frozen.multiplier), fraction.shape)
    if page.target.affine == "integer":
        m = page.constant(
            name, f"multiplier{index}", t, page.per_channel(multiplier * 2.0**fraction, size)
        )
        return writer.binary("Mul", page.name(name, f"multiply{index}", f"t{t}"), x, m)
    bias = array(stage.current.bias) if index == 0 else np.zeros(fraction.shape)
    return affine(page, name, f"multiply{index}", t, x, multiplier, bias, int(fraction.max()))


def _bias_and_scale(page: Page, stage: FrozenStage, total: str, fraction: Array, t: int) -> str:
    """Add the integer bias and scale the integer sum to units of the step."""
    name, size, writer = stage.stage.name, page.sizes[stage.stage.name], page.writer
    bias = array(stage.current.bias) * 2.0**fraction
    c = page.constant(name, "bias", t, page.per_channel(bias, size))
    total = writer.binary("Add", page.name(name, "add_bias", f"t{t}"), total, c)
    largest = int(fraction.max())
    scale = page.constant(
        name, "scale", t, page.per_channel(2.0**-fraction, size), fraction=largest
    )
    node = page.name(name, "rescale", f"t{t}")
    if stage.neuron is None and page.target.quantizers == "multithreshold":
        # A readout is rounded to 16 bits, too many for thresholds: FINN leaves it to the host.
        # It is rounded before it is scaled, as integers: FINN moves a bias behind a scaling and
        # drops what is then below 1e-5, which a quantizer, unlike thresholds, does not forgive.
        quant = page.name(name, "current", f"t{t}")
        step = page.per_channel(2.0 ** (fraction - stage.readout_digits), size)
        rounded = writer.quant(quant, total, f"{quant}_out", READOUT_BITS, True, step)
        return writer.binary("Mul", node, rounded, scale)
    # Per channel the sum stays below 2^24 of its own grid; the range states it on the finest.
    top = int(np.ceil(array(stage.current.largest).max())) << largest
    return writer.node(
        "Mul", node, [total, scale], f"{node}_out", writer.shapes[total],
        Range(-top, top, largest),
    )  # fmt: skip
