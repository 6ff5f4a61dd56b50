"""The arithmetic that `export` writes: what was asked for, else what keeps the trained spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
from torch import nn

from snntorch_stbp.errors import StbpError
from snntorch_stbp.export.qonnx import fixed
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.frozen import Settings, freeze
from snntorch_stbp.frozen.check import NOTED
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.data import examples
from snntorch_stbp.train.evaluate import Trained

from .export_change import Change, changed
from .export_fixed import FixedPoint, measured
from .export_kind import check_integers
from .text import percent

REMEDY = "`finetune RUN --frozen` trains in the arithmetic of this file"
"""What else there is to do about them."""


@dataclass(frozen=True)
class Chosen:
    """What is to be exported.

    Attributes:
        net: The network in the arithmetic of the file.
        arithmetic: Its name, which `verify` reads.
        fixed: What there is to say of a network of integers.
        change: What rounded currents changed.
        note: A line about it.
    """

    net: nn.Module
    arithmetic: str
    fixed: FixedPoint | None = None
    change: Change | None = None
    note: str | None = None

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        facts: dict[str, Any] = {} if self.note is None else {"note": self.note}
        facts |= {} if self.change is None else {"deployment": self.change.facts()}
        return facts | ({} if self.fixed is None else {"fixed_point": self.fixed.facts()})

    def print(self) -> None:
        """What it needs, what it changes, and the note."""
        for part in (self.fixed, self.change):
            if part is not None:
                part.print()
        if self.note is not None:
            click.echo(f"{'note':<10}{self.note}")


def choose(trained: Trained, settings: Settings, options: dict[str, Any]) -> Chosen:
    """The network of a run in the arithmetic of `options`, `settings` being those of rounding.

    Where these leave it open it is the arithmetic that the run was refined in, if it was; else it
    has rounded currents, unless that changes more than `NOTED` of the spikes and the network of
    integers, which rounds none, can be written.

    Raises:
        StbpError: If the network has no counterpart in the arithmetic that was asked for.
    """
    if options["as_trained"]:
        return Chosen(trained.model, "as trained")
    if options["fixed_point"]:
        return _integers(measured(trained, options["arithmetic"] or "exact"))
    net = freeze(trained.model, settings)
    change, note = changed(trained, net), None
    if change.spikes_differ > _tolerated(trained.config):
        note = f"rounded currents changed these spikes; --fixed-point rounds none, and {REMEDY}"
        if not (options["frozen"] or options["act_bits"]):
            try:
                return _instead(trained, options, change)
            except StbpError as error:
                note = f"rounded currents changed these spikes; {REMEDY}. Not as integers: {error}"
    elif change.predictions_differ > NOTED and not trained.config.frozen_aware:
        note = (
            f"rounded currents changed these predictions through few spikes, as they do where "
            f"classes have scores that are close together; --fixed-point rounds none, and {REMEDY}"
        )
    return Chosen(net, f"deployment {settings.act_bits}", change=change, note=note)


def _tolerated(config: RunConfig) -> float:
    """Share of spikes that rounded currents may change without a word."""
    if config.frozen_aware:
        return 1.0  # it was trained with these currents
    return 0.0 if config.fixed_point_aware else NOTED


def _instead(trained: Trained, options: dict[str, Any], change: Change) -> Chosen:
    """The network of integers in place of one that changed much.

    Raises:
        StbpError: If it cannot be written for this reader, or changes as much.
    """
    check_integers(options)
    integers = measured(trained, "exact")
    image = examples(trained.bundle.test, 1)
    kind = {name: options[name] for name in ("form", "target", "batch")}
    build(integers.net, image, parts=fixed.PARTS, metadata={}, **kind)
    if integers.change.spikes_differ >= change.spikes_differ:
        raise StbpError("they change as many.")
    note = (
        f"rounded currents would change {percent(change.spikes_differ)} of the spikes: this is the "
        f"network of integers, which rounds none (--frozen writes the other)"
    )
    return _integers(integers, note)


def _integers(found: FixedPoint, note: str | None = None) -> Chosen:
    return Chosen(found.net, f"fixed-point {found.net.integers.form}", fixed=found, note=note)
