"""Membrane levels that are dense at the threshold: what they are, train and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import snntorch_stbp as stbp
from snntorch_stbp import surrogate
from snntorch_stbp.cli import main
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.membrane import ThresholdGrid, threshold_levels
from snntorch_stbp.train.config import RunConfig

from .nets import digits, make


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_dense_at_the_threshold_and_one_is_rest(bits: int) -> None:
    levels = np.array(threshold_levels(bits))
    assert len(levels) == 2**bits
    assert (np.diff(levels) > 0).all()
    assert levels[2 ** (bits - 1) - 1] == 0
    below = 1 - levels[:-1]
    ratios = below[1:] / below[:-1]
    np.testing.assert_allclose(ratios, ratios[0])  # a geometric series
    assert (below > 0).all()
    assert levels[0] == pytest.approx(-3)
    assert levels[-1] - 1 == pytest.approx(below[-1])
    assert below[-1] == pytest.approx(0.25)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("threshold", [0.4, 1.3])
def test_the_nearest_level_is_taken_and_no_spike_changes(bits: int, threshold: float) -> None:
    grid = ThresholdGrid(bits, threshold)
    single = np.float32(threshold)
    edges = [single, np.nextafter(single, np.float32(9)), np.nextafter(single, np.float32(-9))]
    u = torch.cat([torch.randn(2000) * 2 * threshold, torch.tensor(np.array(edges))])
    levels = [level * threshold for level in threshold_levels(bits)]
    got = grid(u)
    for value, level in zip(u.tolist(), got.tolist(), strict=True):
        off = min(abs(value - one) for one in levels)
        assert abs(value - level) == pytest.approx(off, abs=1e-6)
    assert torch.equal(u > float(single), got > float(single))


def test_the_gradient_passes_up_to_twice_the_threshold() -> None:
    u = torch.tensor([-1.3, -1.1, 0.0, 0.39, 0.41, 0.79, 0.81, 5.0], requires_grad=True)
    ThresholdGrid(3, 0.4)(u).sum().backward()
    assert u.grad is not None
    assert u.grad.tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_sequence_is_that_of_the_formula(reset: Any) -> None:
    """Spikes and gradients of a plain loop: quantized before the comparison, then reset."""
    grid, fire = ThresholdGrid(3, 0.4), surrogate.rectangular()
    ours = stbp.Leaky(0.5, 0.4, reset_mechanism=reset, state_quant=grid)
    x = torch.rand(6, 4, 5, requires_grad=True)
    memory, spikes = torch.zeros(4, 5), []
    for step in x:
        u = grid(0.5 * memory + step)
        spike = fire(u - 0.4)
        memory = u - spike * (u if reset == "zero" else 0.4)
        spikes.append(spike)
    expected = torch.stack(spikes)
    assert 0 < expected.mean() < 1
    assert torch.equal(ours(x), expected)
    weight = torch.rand_like(expected)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    (found,) = torch.autograd.grad((ours(x) * weight).sum(), x)
    torch.testing.assert_close(found, wanted)


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    precision = stbp.Precision(4, membrane_bits=3, membrane_grid="threshold")
    return stbp.zoo.create("mnistnet", in_channels=1, image_size=8, precision=precision).eval()


MESSAGE = r"levels that are dense at the threshold.*train with --membrane-grid uniform"


def test_freezing_and_lowering_refuse(net: Any) -> None:
    with pytest.raises(StbpError, match=MESSAGE):
        stbp.freeze(net)
    with pytest.raises(StbpError, match=MESSAGE):
        stbp.lower(net)


def test_exports_as_trained_refuse(net: Any, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    with pytest.raises(StbpError, match=MESSAGE):
        stbp.export.to_qonnx(net, digits(1), tmp_path / "n.onnx", as_trained=True)
    pytest.importorskip("nir")
    with pytest.raises(StbpError, match="membrane"):
        stbp.export.to_nir(net, digits(1), tmp_path / "n.nir")
    assert list(tmp_path.iterdir()) == []


def test_from_training_to_the_refusal(tmp_path: Path) -> None:
    code, output = call(
        "train", "mnistnet_bn", "--membrane-bits", "3", "--membrane-grid", "threshold", "--bits",
        "4", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path), "--quiet",
    )  # fmt: skip
    assert code == 0, output
    run = output.strip()
    assert call("evaluate", run)[0] == 0
    for command in (("evaluate", run, "--frozen"), ("evaluate", run, "--fixed-point")):
        code, output = call(*command)
        assert (code, "train with --membrane-grid uniform" in output) == (1, True), output


@pytest.mark.parametrize("bits", [(), ("--membrane-bits", "9")])
def test_usage_errors(bits: tuple[str, ...]) -> None:
    code, output = call("train", "mnistnet", "--membrane-grid", "threshold", *bits)
    assert code == 2
    assert f"has 2 to 8 bits, not {bits[-1] if bits else 32}" in output
    code, output = call("train", "mnistnet", "--membrane-grid", "even")
    assert (code, "'even' is not one of 'uniform', 'threshold'" in output) == (2, True)
    with pytest.raises(ValueError, match="2 to 8, not 9"):
        stbp.Precision(membrane_bits=9, membrane_grid="threshold")
    with pytest.raises(ValueError, match="membrane_grid is 'uniform' or 'threshold', not 'even'"):
        stbp.Precision(membrane_grid="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 to 8 bits, not 1"):
        ThresholdGrid(1, 0.4)


def test_configurations_from_before_are_uniform() -> None:
    values = json.loads(RunConfig.from_recipe("mnistnet", "digits", membrane_bits=12).to_json())
    del values["membrane_grid"]
    assert RunConfig.from_json(json.dumps(values)).membrane_grid == "uniform"
    with pytest.raises(UsageError, match="--membrane-grid is one of uniform, threshold"):
        RunConfig.from_recipe("mnistnet", "digits", membrane_grid="x")
    assert make("mnistnet", membrane_bits=4)(digits(2)).shape == (2, 2, 10)
