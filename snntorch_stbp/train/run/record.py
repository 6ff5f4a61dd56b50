"""What a run writes down and tells: its log, its table and curves, how it ended."""

from __future__ import annotations

import json
import math
from typing import Any

from ...errors import Interrupted, StbpError
from ...files import shell_words
from ..config import RunConfig
from ..metrics import plot_curves
from .reporter import Reporter
from .rundir import RunDir
from .state import TrainState


class Record:
    """The written side of a run.

    Args:
        run: Its folder.
        reporter: What a user sees; silent on all processes but the first.
        writes: Whether this process is the first, which alone writes.
    """

    def __init__(self, run: RunDir, reporter: Reporter, writes: bool) -> None:
        self.run, self.reporter, self.writes = run, reporter, writes

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return self.run.config

    def log(self, text: str) -> None:
        """A line of `log.txt`."""
        if self.writes:
            self.run.log(text)

    def notice(self, text: str) -> None:
        """A line of the log that a user sees, too."""
        self.reporter.message(text)
        self.log(text)

    def history(self, rows: list[dict[str, Any]]) -> None:
        """The table and the picture of all epochs."""
        if self.writes:
            self.run.write_history(rows)
            curves = self.run.path / "curves.png"
            plot_curves(rows, curves, self.run.path.name, self.config.select)

    def epoch_ended(self, rows: list[dict[str, Any]], board: Any) -> None:
        """The last of `rows`, in the table, on the TensorBoard `board`, and for the user."""
        row = rows[-1]
        self.history(rows)
        if self.writes:
            for key in row.keys() - {"epoch", "best"}:
                board.add_scalar(key, row[key], row["epoch"])
            board.flush()
            self.log(", ".join(f"{k} {v}" for k, v in row.items()))
        self.reporter.epoch_ended(row)

    def step(self, state: TrainState, processes: int) -> None:
        """The running means of the epoch.

        Raises:
            StbpError: If the loss is no number any more.
        """
        loss, accuracy, count = state.means.read()
        if not math.isfinite(loss):
            raise self._diverged(state, loss)
        speed = count * processes / max(state.seconds, 1e-9)
        self.reporter.step(state.step, loss, accuracy, speed)

    def finished(self, result: dict[str, Any]) -> dict[str, Any]:
        """How the run ended; returns `result` with the folder and what a user may do next."""
        if self.writes:
            self.run.write_text("result.json", json.dumps(result, indent=2) + "\n")
            self.log(f"finished: {result}")
        path = str(self.run.path)
        told = {**result, "run": path, "next": f"snntorch-stbp evaluate {shell_words([path])}"}
        self.reporter.finished(told)
        return told

    def interrupted(self, state: TrainState) -> Interrupted:
        """What to raise when a run was asked to stop, its state being saved."""
        path = str(self.run.path)
        command = f"snntorch-stbp train --resume {shell_words([path])}"
        self.log(f"interrupted in epoch {state.epoch} after step {state.step} of {state.steps}")
        self.reporter.interrupted(path, state.epoch, state.step, command)
        return Interrupted(f"stopped in epoch {state.epoch}; go on with `{command}`")

    def _diverged(self, state: TrainState, loss: float) -> StbpError:
        lr = state.optimizer.param_groups[0]["lr"]
        kept = "no checkpoint was written yet"
        if state.history:
            kept = f"the checkpoints up to epoch {state.history[-1]['epoch']} are kept"
        text = (
            f"the loss became {loss} in epoch {state.epoch} at learning rate {lr:.3g}; {kept} in "
            f"'{self.run.path}': try again with a lower --lr."
        )
        if self.writes:
            result = {"status": "diverged", "epoch": state.epoch, "lr": lr}
            self.run.write_text("result.json", json.dumps(result, indent=2) + "\n")
        self.log(text)
        return StbpError(text)
