"""What deployment changed of a trained network, measured on images of its test set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click
from lightning_fabric import Fabric

from snntorch_stbp.frozen import FrozenNet
from snntorch_stbp.lowering import FixedPointNet
from snntorch_stbp.train.data import drawn
from snntorch_stbp.train.evaluate import Trained
from snntorch_stbp.train.measure import compare

from .text import counter, percent

MEASURED = 1000
"""Test images at most; `evaluate` takes all."""


@dataclass(frozen=True)
class Change:
    """The trained network beside the one that is exported.

    Attributes:
        accuracy: Of what is exported, on test images.
        trained_accuracy: Of the trained network.
        images: How many test images that were.
        all_images: How many there are.
        predictions_differ, spikes_differ: Shares that differ between the two.
    """

    accuracy: float
    trained_accuracy: float
    images: int
    all_images: int
    predictions_differ: float
    spikes_differ: float

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in asdict(self).items() if name != "all_images"}

    def print(self) -> None:
        """Two lines."""
        images = f"{self.images:,} test images"
        if self.images < self.all_images:
            images = f"{self.images:,} of {self.all_images:,} test images; `evaluate` takes all"
        click.echo(
            f"{'accuracy':<10}{percent(self.accuracy)}, as trained "
            f"{percent(self.trained_accuracy)} ({images})"
        )
        click.echo(
            f"{'differing':<10}{percent(self.predictions_differ)} of predictions, "
            f"{_share(self.spikes_differ)} of spikes"
        )


def changed(trained: Trained, net: FrozenNet | FixedPointNet) -> Change:
    """Compare the network of a run with `net`, made of it, on images of its test set."""
    test, config = trained.bundle.test, trained.config
    fabric = Fabric(accelerator="cpu", devices=1)
    found = compare(
        fabric, trained.model, net, config, drawn(test, MEASURED), config.batch_size,
        tell=counter("test image"),
    )  # fmt: skip
    return Change(
        found["accuracy"], found["trained_accuracy"], found["images"], len(test),
        found["predictions_differ"], found["spikes_differ"],
    )  # fmt: skip


def _share(value: float) -> str:
    """A share that may be tiny."""
    return f"{value:.1e}" if 0 < value < 5e-5 else percent(value)
