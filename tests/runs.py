"""Short runs, what stops them, and what two of them must have in common."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.errors import Interrupted
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir


def make_config(dataset: str, **changes: Any) -> RunConfig:
    options = {"epochs": 3, "batch_size": 32, "bits": 4, "act_bits": 8, "device": "cpu"} | changes
    return RunConfig.from_recipe(options.pop("model", "mnistnet_bn"), dataset, **options)


def last_state(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / "last.pt")


def assert_same_state(a: Path, b: Path) -> None:
    """Weights, averages, statistics and optimizer are equal in every bit."""
    first, second = last_state(a), last_state(b)
    assert first.keys() == second.keys()
    for part in {"model", "unaveraged"} & first.keys():
        assert first[part].keys() == second[part].keys()
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), key
    for index, entry in first["optimizer"]["state"].items():
        for key, value in entry.items():
            assert torch.equal(value, second["optimizer"]["state"][index][key]), (index, key)
    losses = [[row["train_loss"] for row in state["history"]] for state in (first, second)]
    assert losses[0] == losses[1]


def stopped_and_continued(config: RunConfig, out: Path, step: int = 3) -> Path:
    """A run that is stopped in its second epoch and goes on to its end; `out` holds no other."""
    with pytest.raises(Interrupted):
        fit(config, out=out, reporter=StopAt(2, step))
    (path,) = out.iterdir()
    run = RunDir.open(path)
    assert run.config == config
    fit(run.config, out=out, reporter=Reporter(), resume=run)
    return path


class StopAt(Reporter):
    """Sends SIGINT, as Ctrl-C does, after a step."""

    def __init__(self, epoch: int, step: int) -> None:
        self.target, self.epoch, self.command = (epoch, step), 0, ""

    def epoch_started(self, epoch: int, epochs: int, steps: int) -> None:
        self.epoch = epoch

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if (self.epoch, done) == self.target:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(self, run: str, epoch: int, step: int, command: str) -> None:
        self.command = command


def short_run(folder: Path) -> str:
    """A run of `mnistnet` at 4 bits, trained on the digits for one epoch."""
    config = RunConfig.from_recipe("mnistnet", "digits", bits=4, epochs=1)
    return str(fit(config, out=folder, reporter=Reporter())["run"])


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command line."""
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output
