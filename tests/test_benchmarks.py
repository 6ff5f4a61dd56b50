"""The scripts in `benchmarks/` run, at sizes that say nothing about speed."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        (
            "network",
            "--model mnistnet_bn --sizes 2x2 --rounds 1 --candidates spiking",
            ["mnistnet_bn, 32 x 32", "| ReLU |", "Peak memory, MB"],
        ),
        (
            "scaling",
            "--steps 1,2 --batches 2 --rounds 1 --candidates spiking",
            ["Time steps", "T=1, B=16", "T=2, B=2"],
        ),
        ("quant", "--bits 4,ternary,1 --rounds 1", ["| convolution |", "Brevitas' modules"]),
        ("pooling", "--rounds 1", ["| mnistnet, channels last |", "| compiled |"]),
        ("data", "--datasets digits npz:absent.npz --steps 2", ["| digits | 64 |"]),
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
