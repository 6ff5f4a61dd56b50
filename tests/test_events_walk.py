"""Event data from the files of the camera to an exported graph: ten time steps of counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.train.data import events

from .test_data_events import recording, write_aedat4, write_atis


def ask(*arguments: str) -> dict:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def write_nmnist(folder: Path) -> None:
    """Two digits of 34x34 pixels: events in the upper or in the lower half."""
    for part, count in (("Train", 10), ("Test", 4)):
        for digit in range(2):
            for i in range(count):
                made = recording(100 * digit + i, count=600, duration=30000)
                made["y"] = made["y"] // 2 + 17 * digit
                write_atis(folder / "NMNIST" / part / str(digit) / f"{i:05d}.bin", made)


def write_dvsgesture(folder: Path) -> None:
    """Two gestures of 128x128 pixels, as arrays of x, y, p, t in float64."""
    for part, users in (("ibmGestureTrain", 10), ("ibmGestureTest", 4)):
        for user in range(users):
            place = folder / "DVSGesture" / part / f"user{user:02d}_led"
            place.mkdir(parents=True)
            for label in (0, 10):
                made = recording(100 * label + user, count=4000, side=128)
                made["y"] = made["y"] // 2 + 64 * (label == 10)
                columns = np.stack([made[f] for f in ("x", "y", "p", "t")], axis=1)
                np.save(place / f"{label}.npy", columns.astype(np.float64))


def write_cifar10dvs(folder: Path) -> None:
    """Two classes of 128x128 pixels in AEDAT 4, of which the last tenth are the test."""
    for label, name in ((0, "airplane"), (1, "automobile")):
        for i in range(20):
            made = recording(100 * label + i, count=2000, side=128)
            made["y"] = made["y"] // 2 + 64 * label
            write_aedat4(folder / "CIFAR10DVS" / name / f"cifar10_{name}_{i}.aedat4", made)


WRITERS = {
    "nmnist": write_nmnist,
    "dvsgesture": write_dvsgesture,
    "cifar10dvs": write_cifar10dvs,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept tiny copies of the sets as complete."""
    for name, source in list(events.SOURCES.items()):
        few = dataclasses.replace(source, recordings=tuple(4 for _ in source.folders))
        monkeypatch.setitem(events.SOURCES, name, few)


def train(name: str, folder: Path, *options: str) -> str:
    """A run of the recipe of `nmnistnet`, whose ten steps and loss it keeps."""
    pytest.importorskip("tonic")
    WRITERS[name](folder)
    said = ask(
        "train", "nmnistnet", "--dataset", name, "--data-dir", str(folder), "--epochs", "3",
        "--batch-size", "4", "--val-fraction", "0.2", "--bits", "4", "--device", "cpu",
        "--augment", "none", "--lr", "5e-4", "--out", str(folder / "runs"), *options,
    )  # fmt: skip
    assert said["event"] == "finished"
    config = json.loads((Path(said["run"]) / "config.json").read_text())
    assert (config["steps"], config["loss"]) == (10, "tet")
    return said["run"]


@pytest.mark.parametrize(
    "name", ["nmnist", "dvsgesture", pytest.param("cifar10dvs", marks=pytest.mark.slow)]
)
def test_a_recipe_learns_and_its_integers_say_the_same(
    name: str, tmp_path: Path, small: None
) -> None:
    pytest.importorskip("qonnx")
    run = train(name, tmp_path)
    found = ask("evaluate", run, "--device", "cpu", "--data-dir", str(tmp_path))
    assert found["accuracy"] >= 0.75  # where the events are is easily seen
    for kind in (("--frozen",), ("--fixed-point", "--arithmetic", "simple")):
        hard = ask("evaluate", run, "--device", "cpu", *kind)
        assert hard["predictions_differ"] == 0
        assert hard["spikes_differ"] < 0.01
    result = CliRunner().invoke(main, ["evaluate", run, "--fixed-point"])
    assert result.exit_code == 1  # ten leaks of two digits each are too many for 24 bits
    assert "use the simple form (--arithmetic simple)" in result.output


@pytest.mark.parametrize("form", [pytest.param("unrolled", marks=pytest.mark.slow), "step"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("nmnist", ()), *((name, ("--fixed-point", "--arithmetic", "simple")) for name in WRITERS)],
)
def test_a_run_of_ten_steps_is_exported(
    name: str, form: str, kind: tuple[str, ...], tmp_path: Path, small: None
) -> None:
    pytest.importorskip("qonnx")
    run = train(name, tmp_path, "--image-size", "16")
    said = ask("export", run, "--verify", "1", "--form", form, *kind)
    assert said["samples"] == 1
    assert said["onnxruntime"]["samples"] > 1
    inspected = ask("inspect", said["files"][0])
    assert inspected["steps"] == 10
