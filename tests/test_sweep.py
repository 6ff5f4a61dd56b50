"""Sweeps: what they run, that they resume, what they write."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.errors import Interrupted, StbpError
from snntorch_stbp.train import loop
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir, list_runs
from snntorch_stbp.train.sweep.jobs import Job, run_jobs
from snntorch_stbp.train.sweep.plan import plan
from snntorch_stbp.train.sweep.runs import run_all

from .runs import make_config


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_sweep_runs_resumes_and_compares(tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = ("sweep", "mnistnet_bn", "--bits", "4,ternary", "--epochs", "1", "--out", str(out))
    code, output = call(*command)
    assert code == 0, output
    assert "1 of 2: mnistnet_bn-digits-w4-T2, seed 0" in output
    text = (out / "sweep.md").read_text()
    assert text.startswith("`snntorch-stbp sweep mnistnet_bn --bits 4,ternary --seeds 1")
    assert text.count("| 2 |") == 2
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")

    code, output = call(*command, "--seeds", "2", "--json")
    assert code == 0, output
    assert output.count("(done before)") == 2
    rows = json.loads(output.strip().splitlines()[-1])
    assert [row["seeds"] for row in rows] == [2, 2]
    points = read(out / "sweep.csv")
    assert len(points) == 4
    assert {point["seed"] for point in points} == {"0", "1"}
    for row, bits in zip(rows, ("4", "ternary"), strict=True):
        own = [float(p["accuracy"]) for p in points if p["bits"] == bits]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["spread"] == pytest.approx(np.std(own, ddof=1))
    assert all((out / point["run"] / "result.json").is_file() for point in points)


def test_options_of_train_hold_for_all_runs_and_stand_in_the_table(tmp_path: Path) -> None:
    bits = tmp_path / "mine.json"
    bits.write_text('{"head.*": 8}')
    command = (
        "sweep", "mnistnet_bn", "--bits", "2", "--epochs", "1", "--out", str(tmp_path / "s"),
        "--bits-file", str(bits), "--per-tensor", "--augment", "none", "--weight-decay", "0",
        "--input-bits", "32", "--device", "cpu",
    )  # fmt: skip
    code, output = call(*command)
    assert code == 0, output
    (config,) = (json.loads(file.read_text()) for file in (tmp_path / "s").glob("*/config.json"))
    wanted = {
        "bits": 2, "layer_bits": {"head.*": 8}, "per_channel": False, "augment": [],
        "weight_decay": 0.0, "input_bits": None,
    }  # fmt: skip
    assert wanted.items() <= config.items()
    bits.unlink()
    line = (tmp_path / "s" / "sweep.md").read_text().splitlines()[0].strip("`")
    program, *again = shlex.split(line)
    assert program == "snntorch-stbp"
    code, output = call(*again, "--out", str(tmp_path / "s"))
    assert code == 0, output
    assert "1 of 1: mnistnet_bn-digits-wmixed-T2, seed 0 (done before)" in output


def test_several_runs_at_once_are_those_one_after_the_other(tmp_path: Path) -> None:
    """Two processes, one of which diverges; then the table, which needs no third."""
    single, several = tmp_path / "single", tmp_path / "several"
    command = ("sweep", "mnistnet_bn", "--epochs", "1", "--device", "cpu", "--out")
    assert call(*command, str(single), "--bits", "4")[0] == 0
    code, output = call(*command, str(several), "--bits", "4", "--seeds", "2", "--jobs", "2")
    assert code == 0, output
    assert output.count("(begun)") == 2
    first, _ = read(several / "sweep.csv")
    (alone,) = read(single / "sweep.csv")
    for name in ("accuracy", "size_kb", "additions"):
        assert float(first[name]) == pytest.approx(float(alone[name]), rel=1e-3)
    (row,) = read(several / "summary.csv")
    own = [float(point["accuracy"]) for point in read(several / "sweep.csv")]
    assert float(row["mean"]) == pytest.approx(np.mean(own))
    assert float(row["spread"]) == pytest.approx(np.std(own, ddof=1))


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_bits_start_from_the_run_of_32(count: int, tmp_path: Path) -> None:
    """`count` seeds, and so many runs at once."""
    widths = ["4", "", "2"] if count == 1 else ["", "2"]  # in the order that is typed
    command = (
        "sweep", "mnistnet_bn", "--bits", ",".join(width or "32" for width in widths),
        "--epochs", "3", "--qat-epochs", "1",
        "--augment", "crop,cutout", "--refine-epochs", "3", "--device", "cpu",
        "--seeds", str(count), "--jobs", str(count), "--out", str(tmp_path),
    )  # fmt: skip
    code, output = call(*command)
    assert code == 0, output
    runs = list_runs(tmp_path)
    by_bits = {bits: [run for run in runs if run.config.bits == bits] for bits in (None, 4, 2)}
    assert [len(by_bits[bits]) for bits in (None, 2)] == [count] * 2
    assert len(runs) == len(widths) * count
    floats = {run.config.seed: run for run in by_bits[None]}
    for run in [*by_bits[4], *by_bits[2]]:
        start, config = floats[run.config.seed], run.config
        assert config.init_from == str(start.path)
        assert (config.epochs, config.refine_epochs, config.lr) == (1, 1, start.config.lr / 4)
        assert config.weight_range == ("learned" if config.bits == 2 else "fitted")
        assert run.history[0]["val_accuracy"] > start.history[0]["val_accuracy"] + 0.1
    rows = read(tmp_path / "summary.csv")
    assert [row["bits"] for row in rows] == widths

    code, output = call(*command)
    assert code == 0, output
    assert output.count("(done before)") == len(runs)
    assert len(list_runs(tmp_path)) == len(runs)
    moved = tmp_path.rename(tmp_path.with_name(f"moved-{count}"))
    code, output = call(*command[:-1], str(moved))
    assert code == 0, output
    assert output.count("(done before)") == len(runs)


@pytest.mark.parametrize("bits", ["4,32", "32,4"])
def test_weights_of_the_run_of_32_may_be_initialised_otherwise(bits: str, tmp_path: Path) -> None:
    """In whichever order widths are typed; what is wrong elsewhere ends it before it trains."""
    code, output = call(
        "sweep", "mnistnet", "--bits", bits, "--qat-epochs", "1", "--init", "torch",
        "--out", str(tmp_path), "--dataset", "npz:absent.npz",
    )  # fmt: skip
    assert (code, "No such file: absent.npz" in output) == (1, True), output


def test_nothing_starts_from_a_run_that_diverged(tmp_path: Path) -> None:
    code, output = call(
        "sweep", "mnistnet_bn", "--bits", "32,4", "--epochs", "1", "--lr", "1e30",
        "--qat-epochs", "1", "--qat-lr", "0.001", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0, output
    assert (
        "2 of 2: mnistnet_bn-digits-w4-T2, seed 0 (left out: the run that it starts from" in output
    )
    assert [row["mean"] for row in read(tmp_path / "summary.csv")] == ["", ""]
    assert [run.status for run in list_runs(tmp_path)] == ["diverged"]


def test_what_all_runs_lack_is_said_before_any_is_begun(tmp_path: Path) -> None:
    code, output = call(
        "sweep", "mnistnet_bn", "--dataset", "npz:no.npz", "--jobs", "2", "--out", str(tmp_path)
    )
    assert (code, "No such file: no.npz" in output) == (1, True), output
    assert list(tmp_path.iterdir()) == []


def jobs(count: int, **changes: Any) -> list[Job]:
    options = {"epochs": 1, "device": "cpu", "batch_size": 64} | changes
    return [
        Job(
            f"run {seed}",
            RunConfig.from_recipe("mnistnet_bn", "digits", seed=seed, **options),
            None,
        )
        for seed in range(count)
    ]


def test_a_signal_stops_all_runs_saved_and_they_go_on(tmp_path: Path) -> None:
    todo = jobs(2, epochs=500)

    def stop_when_both_learn() -> None:
        while len(list(tmp_path.glob("*/last.pt"))) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_when_both_learn, daemon=True).start()
    with pytest.raises(Interrupted):
        run_jobs(todo, tmp_path, 2, lambda text: None)
    runs = list_runs(tmp_path)
    assert [run.status for run in runs] == ["interrupted"] * 2
    assert all("interrupted in epoch" in (run.path / "log.txt").read_text() for run in runs)
    run, said = runs[0], list[str]()
    more = replace(run.config, epochs=len(run.history) + 1, save_memory=True)
    run_jobs([Job("run", more, run)], tmp_path, 1, said.append)
    run = RunDir.open(run.path)
    assert (run.status, run.config.save_memory) == ("finished", True)
    assert said[-1].endswith("%")


def test_one_that_diverges_ends_alone_and_one_that_fails_ends_all(tmp_path: Path) -> None:
    said: list[str] = []
    run_jobs(jobs(1, lr=1e30), tmp_path / "a", 2, said.append)
    assert said == ["run 0 (begun)", "run 0: diverged"]
    with pytest.raises(StbpError, match=r"digits-w32-T2-1' failed: A batch of 5000 is larger"):
        run_jobs(jobs(1, batch_size=5000), tmp_path / "b", 2, said.append)


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ("kill -KILL $$", "it was killed, as happens where memory runs out: fewer --jobs need"),
        ("kill -SEGV $$", "signal 11 ended it."),
        ("exit 7", "its process ended with code 7."),
    ],
)
def test_a_process_that_ends_without_a_word_is_told(
    does: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(StbpError, match=f"digits-w32-T2-1' failed: {sentence}"):
        run_jobs(jobs(1), tmp_path / "runs", 2, lambda text: None)


def test_a_run_killed_before_its_first_checkpoint_still_starts_from_the_weights_named(
    tmp_path: Path,
) -> None:
    (first,) = jobs(1, epochs=3)
    fit(first.config, out=tmp_path, reporter=Reporter())
    (start,) = list_runs(tmp_path)
    config = replace(first.config, epochs=1, lr=1e-9, init_from=str(start.path))
    run = RunDir.create(tmp_path, config)  # and nothing more
    result = fit(config, out=tmp_path, reporter=Reporter(), resume=run)
    assert result["best_val_accuracy"] > 0.5


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """A run folder that a power cut left before its first epoch does not stop the sweep."""
    command = ("sweep", "mnistnet_bn", "--bits", "2", "--epochs", "1", "--out", str(tmp_path))
    assert call(*command)[0] == 0
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (run / "result.json").unlink()
    code, output = call(*command)
    assert code == 0, output
    assert "(going on)" in output
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_at_its_test_is_finished_before_it_stops(
    number: signal.Signals, small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a sweep stops behind it."""
    plain, parts = loop.measure, list[Any]()

    def measure(*arguments: Any) -> dict[str, Any]:
        parts.append(arguments[3])
        if len(parts) % 2 == 0:  # the test, after what is held out
            os.kill(os.getpid(), number)
        return plain(*arguments)

    monkeypatch.setattr(loop, "measure", measure)
    result = fit(make_config(small_digits, epochs=1), out=tmp_path / "a", reporter=Reporter())
    assert (result["status"], result["asked_to_stop"]) == ("finished", True)
    assert [len(part) for part in parts] == [32, 80]
    assert RunDir.open(result["run"]).status == "finished"

    configs = [make_config(small_digits, epochs=1, seed=seed) for seed in (0, 1)]
    with pytest.raises(Interrupted):
        run_all(configs, tmp_path / "b", Reporter(), lambda text: None)
    assert [run.status for run in list_runs(tmp_path / "b")] == ["finished"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["nonet"], "nonet"),
    (["mnistnet", "--bits", "4,9"], "9"),
    (["mnistnet", "--bits", ","], "name at least one value"),
    (["mnistnet", "--steps", "0"], "0"),
    (["mnistnet", "--dataset", "mnits"], "mnits"),
    (["mnistnet", "--bits", "4,2", "--qat-epochs", "3"], "own runs of 32 bits: add 32 to --bits"),
    (["mnistnet", "--bits", "32", "--qat-epochs", "3"], "fewer than 32 bits: add some to --bits"),
    (["mnistnet", "--qat-lr", "0.01"], "--qat-lr needs --qat-epochs"),
])  # fmt: skip
def test_usage_errors(arguments: list[str], message: str) -> None:
    code, output = call("sweep", *arguments)
    assert (code, message in output) == (2, True), output


def test_boundary_bits_are_those_of_quantized_runs() -> None:
    configs = plan("mnistnet", "digits", [None, 4], [2], 1, boundary_bits=8)
    assert [config.boundary_bits for config in configs] == [None, 8]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    arguments = ["sweep", "mnistnet", "--bits", "4", "--epochs", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    (run,) = list_runs(tmp_path)
    (run.path / "result.json").write_text("{}")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"Error: '{run.path / 'result.json'}' lacks test_accuracy, best_val" in result.stderr
    assert "--debug" not in result.stderr
