"""Bits by layer within a budget: what is measured, what is chosen, what a user gets."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import mixed
from snntorch_stbp.cli import main
from snntorch_stbp.errors import UsageError
from snntorch_stbp.train import allocate as module
from snntorch_stbp.train.allocate import Sensitivity, choose, sensitivities, stored_bits

from .nets import digits, make


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def random_layers(seed: int, count: int = 5) -> list[Sensitivity]:
    random = np.random.default_rng(seed)
    choices = ["ternary", 1, 3, 4, 8]
    return [
        Sensitivity(
            str(number),
            int(random.integers(1, 60)),
            {choice: float(random.exponential(2.0 ** -stored_bits(choice))) for choice in choices},
        )
        for number in range(count)
    ]


def memory(layers: list[Sensitivity], bits: list[object]) -> int:
    return sum(layer.weights * stored_bits(b) for layer, b in zip(layers, bits, strict=True))


def least_sum(layers: list[Sensitivity], budget: float) -> float:
    """All combinations tried."""
    room = budget * sum(layer.weights for layer in layers)
    return min(
        sum(layer.growth[b] for layer, b in zip(layers, bits, strict=True))
        for bits in itertools.product(*(layer.growth for layer in layers))
        if memory(layers, list(bits)) <= room
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [1, 1.7, 3, 8])
def test_the_choice_is_the_best_of_all(seed: int, budget: float) -> None:
    layers = random_layers(seed)
    bits = choose(layers, budget)
    assert list(bits) == [layer.name for layer in layers]
    used = memory(layers, list(bits.values()))
    assert used <= budget * sum(layer.weights for layer in layers)
    total = sum(layer.growth[bits[layer.name]] for layer in layers)
    assert total == pytest.approx(least_sum(layers, budget))


def test_a_coarse_grid_keeps_the_budget_and_comes_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRID", 50)
    for seed in range(6):
        layers = random_layers(seed)
        bits = choose(layers, 3)
        weights = sum(layer.weights for layer in layers)
        assert memory(layers, list(bits.values())) <= 3 * weights
        total = sum(layer.growth[bits[layer.name]] for layer in layers)
        unit = math.ceil(3 * weights / 50)
        assert total <= least_sum(layers, 3 - len(layers) * unit / weights) + 1e-12


def test_a_layer_that_breaks_at_few_bits_gets_more() -> None:
    layers = [Sensitivity("a", 10, {2: math.inf, 4: 0.1}), Sensitivity("b", 10, {2: 0.5, 4: 0.0})]
    assert choose(layers, 3) == {"a": 4, "b": 2}
    assert choose(layers, 2.99) == {"a": 2, "b": 2}  # nothing else fits
    with pytest.raises(
        UsageError, match=r"a budget of 1\.5 bits is less than the fewest to choose"
    ):
        choose(layers, 1.5)


def test_growth_is_that_of_the_layer_alone() -> None:
    """Against a network whose float weights are rounded by hand; the network stays as it was."""
    net = make("mnistnet_bn", bits=None)
    x, names = digits(32), list(mixed.weight_layers(net))
    before, state = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        found = sensitivities(
            net, [2, "ternary"], stbp.Precision(), lambda: float((net(x) - before).abs().mean())
        )
    assert [layer.name for layer in found] == names
    assert torch.equal(net(x), before)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    for layer in found:
        for bits, growth in layer.growth.items():
            other = make("mnistnet_bn", bits=None)
            other.load_state_dict(state)
            target = mixed.weight_layers(other)[layer.name]
            quantized = stbp.Precision(bits).linear(*target.weight.flatten(1).shape[::-1])
            with torch.no_grad():
                quantized.weight.copy_(target.weight.flatten(1))
                target.weight.copy_(quantized.quant_weight().value.reshape(target.weight.shape))
                expected = float((other(x) - before).abs().mean())
            assert growth == pytest.approx(expected, rel=1e-4)
            assert growth > 0


def test_a_loss_that_is_no_number_counts_as_infinite() -> None:
    losses = iter([1.0, math.nan, 1.5])
    net = nn.Sequential(nn.Linear(2, 3))
    (found,) = sensitivities(net, [1, 8], stbp.Precision(), lambda: next(losses))
    assert found.growth == {1: math.inf, 8: 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("allocate") / "runs")
    code, output = call("train", "mnistnet_bn", "--epochs", "2", "--out", out, "--quiet")
    assert code == 0, output
    return output.strip()


def test_from_a_run_to_a_run_with_bits_by_layer(run: str, tmp_path: Path) -> None:
    command = ("allocate", run, "--bits-budget", "3", "--choices", "2,4,8", "--device", "cpu")
    code, output = call(*command)
    assert code == 0, output
    assert "growth of the loss, one layer at a time, on 144 images" in output
    file = Path(run) / "bits.json"
    bits = json.loads(file.read_text())
    assert list(bits) == ["features.0", "features.4", "hidden.1", "head.0"]
    assert set(bits.values()) <= {2, 4, 8}
    code, output = call(*command)
    assert code == 2
    assert "exists already; replace it with --force" in output

    code, output = call(*command, "--force", "--json")
    assert code == 0, output
    said = json.loads(output)
    assert said["bits"] == bits
    assert said["mean_bits"] <= 3
    assert [set(layer["growth"]) for layer in said["layers"]] == [{"2", "4", "8"}] * 4
    program, *following = said["next"].split()
    assert program == "snntorch-stbp"
    code, output = call(*following, "--epochs", "1", "--out", str(tmp_path), "--quiet")
    assert code == 0, output
    assert json.loads((Path(output.strip()) / "config.json").read_text())["layer_bits"] == bits


def test_usage_errors(run: str, tmp_path: Path) -> None:
    file = str(tmp_path / "bits.json")
    code, output = call("allocate", run, "--bits-budget", "1.5", "--output", file)
    assert (code, "a budget of 1.5 bits is less than the fewest to choose" in output) == (2, True)
    code, output = call("allocate", run, "--bits-budget", "9")
    assert (code, "use a number from 1 to 8" in output) == (2, True)
    code, output = call("allocate", run)
    assert (code, "--bits-budget" in output) == (2, True)
    code, output = call("allocate", run, "--bits-budget", "3", "--choices", "2,9")
    assert (code, "'9' is no bit width here" in output) == (2, True)
    config = Path(run) / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"validate_on_test": false', '"validate_on_test": true'))
    code, output = call("allocate", run, "--bits-budget", "3", "--output", file)
    config.write_text(text)
    assert (code, "held no data out (--validate-on-test)" in output) == (2, True)
    assert not Path(file).exists()


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(run: str) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc, in which nobody can make files")
    command = ("allocate", str(Path(run) / "config.json"), "--bits-budget", "3", "--output")
    for file, reason in (("/proc/b.json", "No such file"), (f"{run}/{'b' * 250}", "File name too")):
        code, output = call(*command, file)
        assert (code, output.startswith(f"Error: cannot write '{file}': {reason}")) == (1, True)
