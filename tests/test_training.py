"""Training: interrupted runs end with the same weights, and nothing is ever lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snntorch_stbp import losses
from snntorch_stbp.errors import Interrupted, StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.evaluate import evaluate
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import StopAt, assert_same_state, call, last_state, make_config, stopped_and_continued


@pytest.fixture(scope="module")
def uninterrupted(small_digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = fit(
        make_config(small_digits), out=tmp_path_factory.mktemp("runs"), reporter=Reporter()
    )
    return Path(result["run"])


def test_a_run_leaves_all_its_files(uninterrupted: Path) -> None:
    names = {p.name for p in uninterrupted.iterdir()}
    assert names >= {"config.json", "metrics.csv", "curves.png", "last.pt", "best.pt", "log.txt"}
    assert any((uninterrupted / "tensorboard").iterdir())
    run = RunDir.open(uninterrupted)
    assert run.status == "finished"
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert 0 < run.history[-1]["spike_rate"] < 1
    assert run.result is not None
    assert run.result["best_val_accuracy"] == max(row["val_accuracy"] for row in run.history)


def test_the_same_configuration_gives_the_same_weights(uninterrupted: Path, tmp_path: Path) -> None:
    again = fit(RunDir.open(uninterrupted).config, out=tmp_path, reporter=Reporter())
    assert_same_state(uninterrupted, Path(again["run"]))


@pytest.mark.parametrize("where", [(1, 3), (2, 1), (2, 8)])
def test_ctrl_c_saves_and_a_resumed_run_ends_with_the_same_weights(
    small_digits: str, uninterrupted: Path, tmp_path: Path, where: tuple[int, int]
) -> None:
    reporter = StopAt(*where)
    with pytest.raises(Interrupted, match=f"stopped in epoch {where[0]}; go on with") as caught:
        fit(make_config(small_digits), out=tmp_path, reporter=reporter)
    assert caught.value.exit_code == 130
    (path,) = tmp_path.iterdir()
    assert reporter.command == f"snntorch-stbp train --resume {path}"
    run = RunDir.open(path)
    assert run.status == "interrupted"
    torch.manual_seed(1234)
    fit(run.config, out=tmp_path, reporter=Reporter(), resume=run)
    assert_same_state(uninterrupted, path)


TRAIN = """
import sys
from pathlib import Path
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
fit(RunConfig.from_json(Path(sys.argv[1]).read_text()), out=Path(sys.argv[2]), reporter=Reporter())
"""


def test_a_killed_run_resumes_to_the_same_weights(
    small_digits: str, uninterrupted: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(make_config(small_digits).to_json())
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(config), str(tmp_path / "runs")],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/metrics.csv")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    (path,) = (tmp_path / "runs").iterdir()
    run = RunDir.open(path)
    assert run.status == "interrupted"
    fit(run.config, out=tmp_path, reporter=Reporter(), resume=run)
    assert_same_state(uninterrupted, path)


def test_more_epochs_reopen_a_finished_run(small_digits: str, tmp_path: Path) -> None:
    first = fit(make_config(small_digits, epochs=1), out=tmp_path, reporter=Reporter())
    run = RunDir.open(first["run"])
    stop = StopAt(2, 2)
    with pytest.raises(Interrupted):
        fit(run.changed(epochs=2), out=tmp_path, reporter=stop, resume=run)
    again = RunDir.open(first["run"])
    assert (again.status, again.config.epochs) == ("interrupted", 2)
    fit(again.config, out=tmp_path, reporter=Reporter(), resume=again)
    assert [row["epoch"] for row in again.history] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["optimizer"].pop("state"),
        lambda state: state.update(optimizer=[]),
        lambda state: state["history"][0].pop("train_accuracy"),
        lambda state: state.update(history=[5]),
        lambda state: state["model"].update({"features.0.layer.weight": "a"}),
        lambda state: state["processes"].clear(),
    ],
)
def test_a_state_that_does_not_fit_is_one_sentence(
    change: Callable[[dict[str, Any]], object], uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(uninterrupted, path)
    state = checkpoint.load(path / "last.pt")
    change(state)
    checkpoint.save(path / "last.pt", state)
    code, output = call("train", "--resume", str(path))
    message = f"Error: '{path / 'last.pt'}' does not fit the configuration of its run.\n"
    assert code == 1
    assert output.endswith(message)


def test_what_cannot_train_leaves_no_folder(small_digits: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="larger than the"):
        fit(make_config(small_digits, batch_size=5000), out=tmp_path, reporter=Reporter())
    with pytest.raises(UsageError, match="16-mixed needs a GPU"):
        fit(make_config(small_digits, precision="16-mixed"), out=tmp_path, reporter=Reporter())
    if not torch.cuda.is_available():
        with pytest.raises(StbpError, match="no cuda device on this machine: use --device auto"):
            fit(make_config(small_digits, device="cuda"), out=tmp_path, reporter=Reporter())
    assert not list(tmp_path.iterdir())


def test_evaluate_measures_what_training_measured(uninterrupted: Path) -> None:
    run = RunDir.open(uninterrupted)
    assert run.result is not None
    test = evaluate(run, reporter=Reporter())
    assert test["accuracy"] == run.result["test_accuracy"]
    assert test["images"] == 80
    val = evaluate(run, split="val", reporter=Reporter())
    assert val["accuracy"] == run.result["best_val_accuracy"]


def test_quantized_training_starts_from_a_float_run(small_digits: str, tmp_path: Path) -> None:
    floats = fit(make_config(small_digits, bits=None, epochs=1), out=tmp_path, reporter=Reporter())
    config = make_config(small_digits, epochs=1, lr=1e-12, init_from=floats["run"])
    result = fit(config, out=tmp_path, reporter=Reporter())
    start = checkpoint.load(Path(floats["run"]) / "best.pt")["model"]
    end = checkpoint.load(Path(result["run"]) / "best.pt")["model"]
    for key, value in start.items():
        if key.endswith("weight"):
            torch.testing.assert_close(end[key], value)


def test_init_from_another_model_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    config = RunConfig.from_recipe("mnistnet", "digits", init_from=str(uninterrupted))
    with pytest.raises(StbpError, match="is a checkpoint of mnistnet_bn, not of mnistnet"):
        fit(config, out=tmp_path, reporter=Reporter())
    config = replace(config, model="mnistnet_bn", readout="population")
    with pytest.raises(StbpError, match=r"first .head.*it has --readout current, this run"):
        fit(config, out=tmp_path, reporter=Reporter())


def test_files_written_while_training_goes_on_are_the_same(
    small_digits: str, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    writer = checkpoint.Writer
    monkeypatch.setattr(checkpoint, "Writer", lambda background: writer(True))
    config = make_config(small_digits)
    whole = Path(fit(config, out=tmp_path / "whole", reporter=Reporter())["run"])
    assert_same_state(uninterrupted, whole)
    assert_same_state(uninterrupted, stopped_and_continued(config, tmp_path / "parts"))
    ours, theirs = (checkpoint.load(run / "best.pt") for run in (whole, uninterrupted))
    assert ours["row"]["epoch"] == theirs["row"]["epoch"]
    assert all(torch.equal(value, theirs["model"][key]) for key, value in ours["model"].items())


def test_a_diverging_loss_stops_and_keeps_the_last_good_checkpoint(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def explode_later(record: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        nonlocal steps
        steps += record.requires_grad
        return losses.cross_entropy(record, target, smoothing) * (1.0 if steps < 14 else np.nan)

    monkeypatch.setitem(losses.LOSSES, "cross_entropy", explode_later)
    with pytest.raises(StbpError, match=r"the loss became nan in epoch 2 at learning rate 0\.00"):
        fit(make_config(small_digits), out=tmp_path, reporter=Reporter())
    (path,) = tmp_path.iterdir()
    assert RunDir.open(path).status == "diverged"
    assert [row["epoch"] for row in last_state(path)["history"]] == [1]
    assert all(torch.isfinite(v).all() for v in last_state(path)["model"].values())


@pytest.mark.parametrize("readout", ["rate", "population"])
@pytest.mark.parametrize("loss", ["tet", "mse_rate"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_other_recipes_train(
    small_digits: str, tmp_path: Path, readout: str, loss: str, optimizer: str
) -> None:
    options = {"readout": readout, "loss": loss, "optimizer": optimizer, "surrogate": "gaussian"}
    config = make_config(small_digits, epochs=1, clip_grad=1.0, membrane_bits=4, **options)
    result = fit(config, out=tmp_path, reporter=Reporter())
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize(
    "ways",
    [
        {"save_memory": True},
        {"checkpoint_activations": True},
        {"save_memory": True, "checkpoint_activations": True},
    ],
)
def test_less_memory_trains_the_same_network(
    ways: dict[str, bool], small_digits: str, tmp_path: Path
) -> None:
    runs = []
    for options in ({}, ways):
        config = make_config(small_digits, epochs=1, **options)
        runs.append(Path(fit(config, out=tmp_path, reporter=Reporter())["run"]))
    assert_same_state(*runs)


@pytest.mark.parametrize("arithmetic", ["frozen_aware", "fixed_point_aware"])
def test_a_refinement_saves_memory_too(arithmetic: str, small_digits: str, tmp_path: Path) -> None:
    first = fit(make_config(small_digits, epochs=1), out=tmp_path, reporter=Reporter())["run"]
    runs = []
    for saves in (False, True):
        config = make_config(
            small_digits, epochs=1, init_from=first, save_memory=saves, **{arithmetic: True}
        )
        runs.append(Path(fit(config, out=tmp_path, reporter=Reporter())["run"]))
    assert_same_state(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 4])
def test_torch_compile_trains(bits: int | None, small_digits: str, tmp_path: Path) -> None:
    """Through epochs whose last batches, of validation and test, have other sizes."""
    result, plain = (
        fit(
            make_config(small_digits, bits=bits, act_bits=None, epochs=2, compile=compiled),
            out=tmp_path,
            reporter=Reporter(),
        )
        for compiled in (True, False)
    )
    assert result["best_val_accuracy"] == pytest.approx(plain["best_val_accuracy"], abs=0.1)


def test_two_processes_give_the_loss_curve_of_one(small_digits: str, tmp_path: Path) -> None:
    curves = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        arguments = ["train", "mnistnet", "--dataset", small_digits, "--epochs", "2"]
        arguments += ["--devices", devices, "--device", "cpu", "--augment", "shift"]
        arguments += ["--batch-size", "32", "--out", str(out), "--quiet"]
        command = [sys.executable, "-m", "snntorch_stbp.cli", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=300)
        (path,) = out.iterdir()
        curves.append([row["train_loss"] for row in RunDir.open(path).history])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0][1] < curves[0][0]
