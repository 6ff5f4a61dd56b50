"""Sweeps: what they run, that they resume, what they say; and operations counted by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.cli import main
from snntorch_stbp.report import operations
from snntorch_stbp.train.sweep import Point, markdown, summarize

from .nets import digits, make


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


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
    with open(out / "sweep.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 4
    assert {point["seed"] for point in points} == {"0", "1"}
    for row, bits in zip(rows, ("4", "ternary"), strict=True):
        own = [float(p["accuracy"]) for p in points if p["bits"] == bits]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["spread"] == pytest.approx(np.std(own, ddof=1))
    assert all((out / point["run"] / "result.json").is_file() for point in points)


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


@pytest.mark.parametrize(("arguments", "message"), [
    (["nonet"], "nonet"),
    (["mnistnet", "--bits", "4,9"], "9"),
    (["mnistnet", "--bits", ","], "name at least one value"),
    (["mnistnet", "--steps", "0"], "0"),
    (["mnistnet", "--dataset", "mnits"], "mnits"),
])  # fmt: skip
def test_usage_errors(arguments: list[str], message: str) -> None:
    code, output = call("sweep", *arguments)
    assert (code, message in output) == (2, True), output


def point(bits: int, seed: int, accuracy: float | None, additions: float) -> Point:
    return Point(bits, 2, seed, accuracy, 10.0, additions, 0.0, 1.0, "run")


def test_rows_know_their_spread_and_the_front() -> None:
    rows = summarize(
        [
            point(8, 0, 0.9, 100), point(8, 1, 0.8, 100),
            point(4, 0, 0.8, 200), point(4, 1, None, 0),
            point(2, 0, 0.7, 50), point(1, 0, None, 0),
        ]
    )  # fmt: skip
    assert [row.bits for row in rows] == [8, 4, 2, 1]
    assert rows[0].mean == pytest.approx(0.85)
    assert rows[0].spread == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert [row.pareto for row in rows] == [True, False, True, False]
    assert rows[1].seeds == 1
    assert "| 1 | 2 | diverged | 0 |" in markdown(rows, "command")


def test_operations_are_those_counted_by_hand() -> None:
    """A convolution with padding and stride and a linear layer, neuron by neuron."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.Linear(4 * 9, 5)
    net = nn.Sequential(
        stbp.TimeDistributed(conv), stbp.Leaky(), stbp.TimeDistributed(nn.Flatten()),
        stbp.TimeDistributed(linear),
    )  # fmt: skip
    frames = (torch.rand(3, 2, 2, 5, 5) > 0.6).float()
    counted = operations(net, frames)
    spikes = net[1](net[0](frames))
    expected = 0
    for image in frames.flatten(0, 1):
        for row in range(3):
            for column in range(3):
                window = nn.functional.pad(image, (1, 1, 1, 1))
                window = window[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                expected += int(window.sum()) * 2  # each input reaches its group's two outputs
    expected += int(spikes.sum()) * 5
    assert counted.additions == pytest.approx(expected / 2)
    assert counted.multiplications == 0
    inside = sum(sum(0 <= 2 * r + k - 1 < 5 for k in range(3)) for r in range(3))
    assert counted.dense == pytest.approx(inside**2 * 4 + 36 * 5)


def test_an_image_is_multiplied() -> None:
    counted = operations(make("mnistnet_bn"), digits(4))
    assert counted.multiplications > 0
    assert counted.additions > 0
