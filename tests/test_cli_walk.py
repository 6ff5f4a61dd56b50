"""From `train` to `evaluate`, `runs`, `show` and `--resume`, for real."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main


def ask(*args: str) -> str:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("walk") / "runs"


@pytest.fixture(scope="module")
def run(out):
    """The folder of a run of one epoch, as `--quiet` prints it."""
    line = ask(
        "train", "mnistnet", "--epochs", "1", "--steps", "2", "--bits", "4", "--input-bits", "32",
        "--augment", "none", "--device", "cpu", "--out", str(out), "--quiet",
    )  # fmt: skip
    return line.strip()


def test_train_writes_what_was_asked_for(run, out):
    assert run == str(out / "mnistnet-digits-w4-T2-1")
    config = json.loads((out / "mnistnet-digits-w4-T2-1" / "config.json").read_text())
    asked = {"model": "mnistnet", "dataset": "digits", "bits": 4, "steps": 2, "epochs": 1}
    assert asked.items() <= config.items()
    assert (config["input_bits"], config["augment"]) == (None, [])


def test_evaluate_repeats_the_test_accuracy_of_training(run):
    trained = json.loads(ask("show", run, "--json"))["result"]["test_accuracy"]
    found = json.loads(ask("evaluate", run, "--device", "cpu", "--json"))
    assert found["accuracy"] == trained
    assert found["images"] == 355
    correct = round(trained * 355)
    shown = ask("evaluate", run, "--device", "cpu")
    assert f"test accuracy  {100 * trained:.2f} % ({correct} of 355)" in shown
    assert "best checkpoint (epoch 1)" in shown


def test_evaluate_the_held_out_part(run):
    best = json.loads(ask("show", run, "--json"))["best_val_accuracy"]
    found = json.loads(ask("evaluate", run, "--split", "val", "--device", "cpu", "--json"))
    assert found["accuracy"] == pytest.approx(best, abs=1e-6)


def test_resume_extends_a_run_and_speaks_json(run, out):
    lines = ask("train", "mnistnet", "--resume", run, "--epochs", "2", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["started", "epoch", "finished"]
    assert events[0]["start_epoch"] == 2
    assert events[1]["epoch"] == 2
    assert events[2]["run"] == run
    (entry,) = json.loads(ask("runs", "--out", str(out), "--json"))
    assert (entry["epochs_done"], entry["status"]) == (2, "finished")


def test_import_noise_stays_off_the_terminal(tmp_path):
    args = ["train", "mnistnet", "--bits", "4", "--epochs", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "snntorch_stbp.cli", *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("model    mnistnet, 4-bit weights")
    assert last == "next: snntorch-stbp evaluate runs/mnistnet-digits-w4-T2-1"
