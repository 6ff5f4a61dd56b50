"""The scripts in `benchmarks/` run, at sizes that say nothing about speed."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from .nets import digits


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        (
            "network",
            "--model mnistnet_bn --sizes 2x2 --rounds 1 --candidates spiking",
            ["mnistnet_bn, 32 x 32", "| ReLU |", "Peak memory, MB"],
        ),
        pytest.param(
            "scaling",
            "--steps 1 --batches 2 --rounds 1 --candidates ReLU",
            ["Time steps", "T=1, B=16", "T=2, B=2"],
            marks=pytest.mark.slow,
        ),
        ("quant", "--bits 4,ternary,1 --rounds 1", ["| convolution |", "Brevitas' modules"]),
        ("pooling", "--rounds 1", ["| mnistnet, channels last |", "| compiled |"]),
        ("data", "--datasets digits npz:absent.npz --steps 2", ["| digits | 64 |"]),
        (
            "converted",
            "--steps 2 --batch 2 --rounds 1",
            ["| | dense | convolutional |", "| converted, 4 bits |"],
        ),
        (
            "neuron",
            "--steps 2 --shape 2,4,8,8 --rounds 1",
            ["ours, compiled", "| floor: three copies |"],
        ),
    ],
)
def test_runs(
    name: str,
    arguments: str,
    wanted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [f"benchmarks.{name}", *arguments.split()])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    output, errors = capsys.readouterr()
    for part in wanted:
        assert part in output
    assert ("skipped npz:absent.npz" in errors) == (name == "data")


def test_what_remains_of_a_trained_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = (digits(60, 28)[:, 0] * 255).byte().numpy()
    labels = np.arange(60, dtype=np.uint8) % 10
    np.savez(tmp_path / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    arguments = ["--data", str(tmp_path / "tiny.npz"), "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.trained", *arguments])
    runpy.run_module("benchmarks.trained", run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(r"^[0-2] of 60 records differ, converted$", output, re.MULTILINE)
    assert "spikes of 50 images equal in onnxruntime" in output
