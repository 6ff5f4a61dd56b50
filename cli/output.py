"""What a training run says, for each kind of reader: terminal, file, program, nobody."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from snntorch_stbp.train.run.reporter import Reporter

from .blocks import HEADING, end_block, epoch_line, start_block
from .text import clock, percent, terminal_width, to_json


class ClosableReporter(Reporter):
    """A reporter that may hold the terminal and gives it back in `close`."""

    def close(self) -> None:
        """Give back the terminal; called once, whatever happened."""


class PlainReporter(ClosableReporter):
    """Plain lines: a block at the start, one line per epoch, a block at the end."""

    def __init__(self) -> None:
        self.epochs = 0
        self.heading_shown = False

    def line(self, text: str = "", bold: bool = False) -> None:
        """Write one line on stdout."""
        click.secho(text, bold=bold)

    def started(self, summary: Mapping[str, Any]) -> None:
        """Say what is trained on what, and where the run is written."""
        self.epochs = summary["epochs"]
        for text in start_block(summary, terminal_width()):
            self.line(text)
        self.line()

    def epoch_ended(self, row: Mapping[str, Any]) -> None:
        """Write the line of an epoch."""
        if not self.heading_shown:
            self.line(HEADING, bold=True)
            self.heading_shown = True
        self.line(epoch_line(row, self.epochs))

    def finished(self, result: Mapping[str, Any]) -> None:
        """Say the accuracy and what to type next."""
        self.line()
        for text in end_block(result):
            self.line(text)

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        """Say where training stopped and how to go on."""
        self.line()
        self.line(f"Stopped in epoch {epoch} after step {step}; the state is saved.")
        self.line(f"Go on with: {command}")

    def message(self, text: str) -> None:
        """Pass a notice on."""
        self.line(text)


class TerminalReporter(PlainReporter):
    """A progress bar under the lines of the epochs."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("acc {task.fields[accuracy]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TextColumn("{task.fields[left]} left"),
            console=Console(highlight=False),
            transient=True,
            expand=True,
        )
        self.task: Any = None
        self.place = (0, 0, 0)
        self.began: tuple[float, float] | None = None

    def line(self, text: str = "", bold: bool = False) -> None:
        """Write one line above the bar."""
        style = "bold" if bold else None
        self.progress.console.print(text, style=style, markup=False, soft_wrap=True)

    def epoch_started(self, epoch: int, epochs: int, steps: int) -> None:
        """Start the bar of an epoch of `steps` steps."""
        self.place = (epoch, epochs, steps)
        if self.task is None:
            self.task = self.progress.add_task("", start=False)
        fields: dict[str, Any] = dict.fromkeys(("loss", "accuracy", "speed", "left"), "-")
        self.progress.reset(self.task, total=steps, epoch=f"{epoch}/{epochs}", **fields)
        self.progress.start()

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Move the bar to `done` steps of this epoch."""
        self.progress.update(
            self.task,
            completed=done,
            loss=f"{loss:.4f}",
            accuracy=percent(accuracy),
            speed=f"{images_per_second:,.0f}",
            left=self._time_left(done),
        )

    def _time_left(self, done: int) -> str:
        """Time until the last epoch ends, at the pace since the first step that was seen."""
        epoch, epochs, steps = self.place
        now, position = time.monotonic(), epoch - 1 + done / steps
        if self.began is None:
            self.began = (now, position)
        since, first = self.began
        if position <= first:
            return "-"
        return clock((now - since) / (position - first) * max(0.0, epochs - position))

    def close(self) -> None:
        """Take the bar away."""
        self.progress.stop()

    def finished(self, result: Mapping[str, Any]) -> None:
        """Take the bar away and say the accuracy."""
        self.close()
        super().finished(result)

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        """Take the bar away and say how to go on."""
        self.close()
        super().interrupted(run, epoch, step, command)


class JsonReporter(ClosableReporter):
    """One JSON object a line on stdout, with its kind under `event`."""

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """Write one object."""
        click.echo(to_json({"event": event, **data}))
        sys.stdout.flush()

    def started(self, summary: Mapping[str, Any]) -> None:
        """Event `started`."""
        self.emit("started", summary)

    def epoch_ended(self, row: Mapping[str, Any]) -> None:
        """Event `epoch`."""
        self.emit("epoch", row)

    def finished(self, result: Mapping[str, Any]) -> None:
        """Event `finished`."""
        self.emit("finished", result)

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        """Event `interrupted`."""
        self.emit("interrupted", {"run": run, "epoch": epoch, "step": step, "next": command})

    def message(self, text: str) -> None:
        """Event `message`."""
        self.emit("message", {"text": text})


class QuietReporter(ClosableReporter):
    """Only the run folder on stdout, at the end; how to go on, on stderr."""

    def finished(self, result: Mapping[str, Any]) -> None:
        """Write the run folder."""
        click.echo(result["run"])

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        """Say how to go on."""
        click.echo(f"Stopped in epoch {epoch}; go on with: {command}", err=True)


def make_reporter(quiet: bool, as_json: bool) -> ClosableReporter:
    """The reporter for these options and this stdout."""
    if as_json:
        return JsonReporter()
    if quiet:
        return QuietReporter()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalReporter()
    return PlainReporter()
