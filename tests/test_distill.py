"""Distillation: the loss is Hinton's, and only teachers that fit are taken."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.build import build_data
from snntorch_stbp.train.distill import Teachers, divergence
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir, list_runs

from .runs import assert_same_state, call, last_state, make_config, stopped_and_continued


def softmax(scores: list[float], temperature: float) -> list[float]:
    powers = [math.exp(s / temperature) for s in scores]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_that_of_a_plain_loop(temperature: float) -> None:
    ours, theirs = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = 0.0
    for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
        q, p = softmax(a, temperature), softmax(b, temperature)
        expected += sum(y * math.log(y / x) for x, y in zip(q, p, strict=True)) / 3
    value = divergence(ours, theirs[None], temperature).item()
    assert value == pytest.approx(expected * temperature**2)
    assert divergence(ours, ours[None], temperature).item() == pytest.approx(0, abs=1e-12)


def test_the_probabilities_of_several_teachers_are_averaged() -> None:
    ours, *theirs = torch.randn(4, 2, 5, dtype=torch.float64)
    expected = 0.0
    for sample, scores in enumerate(ours.tolist()):
        q = softmax(scores, 2.0)
        each = [softmax(teacher[sample].tolist(), 2.0) for teacher in theirs]
        p = [sum(values) / 3 for values in zip(*each, strict=True)]
        expected += sum(y * math.log(y / x) for x, y in zip(q, p, strict=True)) / 2
    assert divergence(ours, torch.stack(theirs), 2.0).item() == pytest.approx(expected * 4)


@pytest.fixture(scope="module")
def teacher(small_digits: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A float network with three time steps."""
    config = make_config(small_digits, bits=None, act_bits=None, steps=3, epochs=2)
    return str(fit(config, out=tmp_path_factory.mktemp("teacher"), reporter=Reporter())["run"])


def test_the_teacher_has_its_own_steps_and_never_changes(teacher: str, small_digits: str) -> None:
    config = make_config(small_digits, teacher=(teacher,), distill_weight=0.25)
    taught = Teachers(config, build_data(config), torch.device("cpu"))
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        wanted = taught.models[0](x)
    assert wanted.shape == (3, 4, 10)
    record = torch.randn(2, 4, 10, requires_grad=True)
    label_loss = torch.tensor(3.0)
    loss = taught.blend(label_loss, record, x)
    expected = divergence(record.mean(0), wanted.mean(0)[None], 4.0)
    torch.testing.assert_close(loss, 0.75 * label_loss + 0.25 * expected)
    loss.backward()
    assert record.grad is not None
    assert not taught.models[0].training
    assert all(p.grad is None for p in taught.models[0].parameters())


def test_a_taught_run_resumes_bit_for_bit(teacher: str, small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, teacher=(teacher, teacher), epochs=2)
    whole = fit(config, out=tmp_path / "whole", reporter=Reporter())["run"]
    assert_same_state(Path(whole), stopped_and_continued(config, tmp_path / "parts"))


def test_a_teacher_that_is_gone(teacher: str, small_digits: str, tmp_path: Path) -> None:
    """A finished run needs it no more; to train on, or learn from it anew, it has to be there."""
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    config = make_config(small_digits, teacher=(str(moved),), epochs=1)
    run = RunDir.open(fit(config, out=tmp_path, reporter=Reporter())["run"])
    moved.rename(tmp_path / "elsewhere")
    assert call("train", "--resume", str(run.path))[0] == 0
    code, output = call("train", "--resume", str(run.path), "--epochs", "2")
    assert (code, f"--teacher '{moved}' cannot be used" in output) == (2, True)
    code, output = call("finetune", str(run.path), "--frozen", "--out", str(tmp_path / "refined"))
    assert code == 0, output
    assert f"learned from '{moved}', which is not there: this run learns from the labels" in output
    (refined,) = list_runs(tmp_path / "refined")
    assert (refined.status, refined.config.teacher) == ("finished", ())


def test_a_teacher_without_weight_teaches_nothing(
    teacher: str, small_digits: str, tmp_path: Path
) -> None:
    alone = fit(make_config(small_digits, epochs=1), out=tmp_path, reporter=Reporter())["run"]
    config = make_config(small_digits, epochs=1, teacher=(teacher,), distill_weight=0.0)
    taught = fit(config, out=tmp_path, reporter=Reporter())["run"]
    ours, theirs = last_state(Path(alone))["model"], last_state(Path(taught))["model"]
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key])


@pytest.mark.parametrize(
    ("classes", "size", "sentence"),
    [
        (5, 8, r"knows other classes \(10 of 'npz:.*'\) than the data set \(5\)"),
        (10, 12, "was trained on images of another size or number of channels than 1x12x12"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_a_folder_is_made(
    teacher: str, tmp_path: Path, classes: int, size: int, sentence: str
) -> None:
    images = np.zeros((80, size, size), np.uint8)
    labels = np.arange(80) % classes
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = make_config(f"npz:{tmp_path / 'other.npz'}", teacher=(teacher,))
    with pytest.raises(UsageError, match=sentence):
        fit(config, out=tmp_path / "runs", reporter=Reporter())
    assert not (tmp_path / "runs").exists()


def test_a_run_that_never_finished_an_epoch_cannot_teach(small_digits: str, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, make_config(small_digits))
    config = make_config(small_digits, teacher=(str(run.path),))
    with pytest.raises(UsageError, match=r"cannot be used: there is no checkpoint") as caught:
        fit(config, out=tmp_path / "runs", reporter=Reporter())
    assert isinstance(caught.value, StbpError)
    assert caught.value.exit_code == 2
