"""Early exit in time: against a plain loop, and at the command line."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.train.early_exit import EarlyExit, exits

from .test_cli_walk import ask


def one_by_one(record: list[list[list[float]]], confidence: float) -> list[tuple[int, int]]:
    """Steps and class of every sample of a record `[T][B][classes]`."""
    found = []
    for sample in range(len(record[0])):
        scores = [0.0] * len(record[0][0])
        for t, step in enumerate(record, 1):
            scores = [s + x for s, x in zip(scores, step[sample], strict=True)]
            powers = [math.exp(s / t) for s in scores]
            if max(powers) / sum(powers) >= confidence:
                break
        found.append((t, scores.index(max(scores))))
    return found


@pytest.mark.parametrize("confidence", [0.0, 0.2, 0.35, 0.5, 0.8, 1.0])
def test_every_sample_stops_where_a_plain_loop_does(confidence):
    record = 2 * torch.randn(6, 200, 10, generator=torch.Generator().manual_seed(1))
    steps, classes = exits(record, confidence)
    expected = one_by_one(record.double().tolist(), confidence)
    assert list(zip(steps.tolist(), classes.tolist(), strict=True)) == expected


def test_batches_add_up():
    record = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(2))
    target = torch.arange(50) % 3
    whole, parts = EarlyExit([0.4, 0.6]), EarlyExit([0.4, 0.6])
    whole.update(record, target)
    for part in (slice(0, 32), slice(32, None)):
        parts.update(record[:, part], target[part])
    assert whole.read() == parts.read()
    expected = one_by_one(record.double().tolist(), 0.6)
    assert whole.read()[1] == {
        "confidence": 0.6,
        "accuracy": sum(c == int(y) for (_, c), y in zip(expected, target, strict=True)) / 50,
        "mean_steps": sum(t for t, _ in expected) / 50,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 3 steps and one of 1 step, one epoch each."""
    out = tmp_path_factory.mktemp("early") / "runs"
    return [
        ask(
            "train", "mnistnet", "--epochs", "1", "--steps", steps, "--bits", "4", "--augment",
            "none", "--device", "cpu", "--out", str(out), "--quiet",
        ).strip()
        for steps in ("3", "1")
    ]  # fmt: skip


@pytest.mark.parametrize("arithmetic", [[], ["--fixed-point"]])
def test_a_table_from_one_pass(runs, arithmetic):
    options = ["--device", "cpu", *arithmetic, "--early-exit", "0,0.15,1"]
    found = json.loads(ask("evaluate", runs[0], *options, "--json"))
    first, middle, last = found["early_exit"]
    assert (first["confidence"], first["mean_steps"]) == (0, 1)
    assert first["mean_steps"] <= middle["mean_steps"] <= last["mean_steps"]
    assert (last["accuracy"], last["mean_steps"]) == (found["accuracy"], 3)
    shown = ask("evaluate", runs[0], *options)
    assert "stop at  accuracy  mean steps" in shown
    assert shown.endswith(f"      1  {100 * last['accuracy']:>6.2f} %        3.00\n")


@pytest.mark.parametrize(("index", "value", "message"), [
    (0, "0.5,1.5", "1.5 is out of range; use a number from 0 to 1"),
    (0, "sure", "'sure' is no number"),
    (0, "", "name at least one value.\n"),
    (1, "0.5", "--early-exit needs a run of 2 time steps or more; this one has 1"),
])  # fmt: skip
def test_usage_errors(runs, index, value, message):
    result = CliRunner().invoke(main, ["evaluate", runs[index], "--early-exit", value])
    assert (result.exit_code, message in result.output) == (2, True), result.output
