"""The state of a run: what `last.pt` holds, and what a resumed run takes up again."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from ...errors import StbpError, UsageError
from ...files import shell_words
from ..average import WeightAverage
from ..metrics import Means, best_row
from . import checkpoint
from .rundir import RunDir
from .taken_up import check_position, optimizer_state


def read_last(run: RunDir, model: nn.Module) -> dict[str, Any] | None:
    """Read `last.pt` and load its weights into `model`; `None` for a run that never saved.

    To be called before the optimizer is made: Brevitas replaces the parameters of quantizers by
    new ones when it loads a state dictionary.

    Raises:
        StbpError: If the checkpoint cannot be read, is of another network, or is gone.
    """
    file = run.path / "last.pt"
    if not file.is_file():
        if run.trained:
            raise StbpError(_gone(run))
        return None
    state = checkpoint.load(file, run.config.model)
    try:
        model.load_state_dict(state.get("unaveraged", state["model"]))
    except checkpoint.MISFITS as error:
        raise StbpError(f"'{file}' does not fit the configuration of its run.") from error
    return state


def _gone(run: RunDir) -> str:
    """Why a run that was trained does not begin again in its folder."""
    file = run.path / "last.pt"
    what = "no file" if os.path.lexists(file) else "gone"
    start = (run.path / "best.pt").is_file()
    hint = f" with --init-from {shell_words([str(run.path)])}" if start else ""
    return (
        f"'{run.path}' was trained, but its last.pt is {what}, so it cannot go on; begin a new run"
        f"{hint}."
    )


class TrainState:
    """Position, weights, optimizer, random states and history of a run in this process.

    Args:
        fabric: The run's devices and processes.
        run: The run's folder.
        model: The network, not wrapped.
        optimizer: Its optimizer.
        classes: Names of the classes, kept with the weights.
        steps: Steps per epoch.
        average: The average of its weights, where one is kept: then that is the network which
            checkpoints hold, and `last.pt` also holds the weights that training goes on from.
    """

    def __init__(
        self,
        fabric: Fabric,
        run: RunDir,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        classes: list[str],
        steps: int,
        average: WeightAverage | None = None,
    ) -> None:
        self.fabric, self.run = fabric, run
        self.model, self.optimizer = model, optimizer
        self.classes, self.steps, self.average = classes, steps, average
        # A GPU computes on while files are written; other processes read them.
        background = fabric.device.type == "cuda" and fabric.world_size == 1
        self.writer = checkpoint.Writer(background)
        self.epoch, self.step = 1, 0  # the next step to take
        self.means = Means(fabric.device)  # of this epoch, in this process
        self.seconds = 0.0  # spent on this epoch so far
        self.history: list[dict[str, Any]] = []

    def next_epoch(self, row: dict[str, Any]) -> None:
        """Close the epoch with its row of the history."""
        self.history.append(row)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.means = Means(self.fabric.device)

    def save(self, best: bool = False) -> None:
        """Write `last.pt`, and then `best.pt` if the last epoch was the best so far.

        In this order nothing is in `best.pt` that a run killed in between does not know of;
        `mend_best` writes what is missing. On a GPU they are there when `self.writer.wait()`
        returns.
        """
        mine = {"sums": self.means.sums.tolist(), "cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        everyone = [mine]
        if self.fabric.world_size > 1:
            everyone = [{} for _ in range(self.fabric.world_size)]
            torch.distributed.all_gather_object(everyone, mine)
        if self.fabric.global_rank == 0:
            state = {
                **self._network(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict() if self._scaler else None,
                "processes": everyone,
                "epoch": self.epoch,
                "step": self.step,
                "steps": self.steps,
                "seconds": self.seconds,
                "history": self.history,
            }
            if self.average:
                state |= {"unaveraged": self.average.live, "averaged_steps": self.average.steps}
            files = {self.run.path / "last.pt": state}
            if best:
                files[self.run.path / "best.pt"] = self._best()
            self.writer.save(files)
        self.fabric.barrier()

    def mend_best(self) -> None:
        """Write `best.pt` if a kill came between it and `last.pt`, which has the same weights.

        To be called when the state is restored, before anything is trained.
        """
        if self.step or not self.history or not self.history[-1]["best"]:
            return
        file, best = self.run.path / "best.pt", self._best()
        if self.fabric.global_rank == 0:
            try:
                there = checkpoint.load(file, self.run.config.model)
            except StbpError:
                there = {}
            if any(there.get(name) != best[name] for name in ("epoch", "row")):
                self.writer.save({file: best})
        self.fabric.barrier()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `read_last` gave, except the weights.

        Raises:
            StbpError: If it does not fit this run.
        """
        file = self.run.path / "last.pt"
        try:
            check_position(state)
            self.optimizer.load_state_dict(optimizer_state(self.optimizer, state["optimizer"]))
            if self.average:
                self.average.restore(state["model"], state["averaged_steps"])
            if self._scaler and state["scaler"]:
                self._scaler.load_state_dict(state["scaler"])
            self.epoch, self.step = state["epoch"], state["step"]
            self.seconds, self.history = state["seconds"], state["history"]
            processes = state["processes"]
            mine = processes[self.fabric.global_rank % len(processes)]
            self.means = Means(self.fabric.device, mine["sums"])
            torch.set_rng_state(mine["cpu"])
            if "cuda" in mine and self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(mine["cuda"], self.fabric.device)
        except checkpoint.MISFITS as error:
            raise StbpError(f"'{file}' does not fit the configuration of its run.") from error
        if self.step and state["steps"] != self.steps:
            raise StbpError(
                f"'{file}' stopped at step {self.step} of {state['steps']}, but an epoch has "
                f"{self.steps} steps now: the data differ from those of the interrupted run."
            )

    def check_end(self) -> None:
        """Refuse an end that has no weights: those of the last epoch are gone in the next one.

        Raises:
            UsageError: If they are asked for.
        """
        config = self.run.config
        if config.select == "last" and self.step and self.epoch > config.epochs:
            raise UsageError(
                f"'{self.run.path}' stopped inside epoch {self.epoch}, and has the weights of "
                f"epoch {config.epochs} no more: give --epochs {self.epoch} or more."
            )

    def selected(self) -> dict[str, Any]:
        """The epoch that counts, at the end of a run; its weights are in `best.pt` then.

        They were not yet if a finished run was told to take its last ones.
        """
        row = best_row(self.history, self.run.config.select)
        if row is not next((r for r in reversed(self.history) if r["best"]), None):
            row["best"] = 1
            self.save(best=True)
        return row

    def load_best(self, row: dict[str, Any]) -> None:
        """Put the weights of `best.pt` into the network.

        Raises:
            StbpError: If they cannot be read, or are not of the epoch of `row`.
        """
        self.writer.wait()
        file = self.run.path / "best.pt"
        state = checkpoint.load(file, self.run.config.model)
        if state.get("epoch") != row["epoch"]:
            raise StbpError(
                f"'{file}' has the weights of epoch {state.get('epoch')}, but those of epoch "
                f"{row['epoch']} count, and are gone: train it again as a new run."
            )
        self.model.load_state_dict(state["model"])

    def _network(self) -> dict[str, Any]:
        """What all checkpoints hold."""
        return {
            "name": self.run.config.model,
            "classes": self.classes,
            "config": self.run.config.to_json(),
            "model": self.average.state if self.average else self.model.state_dict(),
        }

    def _best(self) -> dict[str, Any]:
        """What `best.pt` holds if the last epoch is the best."""
        row = self.history[-1]
        return {**self._network(), "epoch": row["epoch"], "row": row}

    @property
    def _scaler(self) -> Any:
        """The loss scaler of 16-bit mixed precision, if there is one."""
        return getattr(self.fabric.strategy.precision, "scaler", None)
