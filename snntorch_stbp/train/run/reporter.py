"""What a training run tells while it runs; the command line turns it into what a user sees."""

from __future__ import annotations

from typing import Any


class Reporter:
    """Receives the events of a run; every method of this base class ignores its event."""

    def started(self, summary: dict[str, Any]) -> None:
        """The run is set up: model, data, precision, device, sizes, folder."""

    def epoch_started(self, epoch: int, epochs: int, steps: int) -> None:
        """Epoch `epoch` of `epochs`, of `steps` batches in all, begins or goes on."""

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """`done` batches of this epoch are through, with these means over them."""

    def epoch_ended(self, row: dict[str, Any]) -> None:
        """The row of `metrics.csv` of the epoch."""

    def finished(self, result: dict[str, Any]) -> None:
        """The run ended as planned."""

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        """The run was stopped after its state was saved; `command` goes on with it."""

    def evaluated(self, done: int, total: int) -> None:
        """`done` of `total` samples are measured, outside of training."""

    def message(self, text: str) -> None:
        """A notice in one sentence."""
