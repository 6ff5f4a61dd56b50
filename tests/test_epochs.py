"""What an epoch is trained with, and the weights of which epoch count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snntorch_stbp.train import loop, optimizer
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.data import augment
from snntorch_stbp.train.evaluate import evaluate
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.metrics import best_row
from snntorch_stbp.train.objective import Objective
from snntorch_stbp.train.optimizer import learning_rate
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import assert_same_state, make_config


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = RunConfig.from_recipe("mnistnet", "digits", epochs=10, warmup_epochs=2, lr=0.1)
    rates = [learning_rate(config, p) for p in (0, 1, 2, 6, 9.999)]
    assert rates[0] < 1e-3
    assert rates[1] == pytest.approx(0.05, rel=0.01)
    assert rates[2] == pytest.approx(0.1)
    assert rates[3] == pytest.approx(0.05)
    assert rates[4] < 1e-5


def test_among_epochs_of_one_accuracy_that_of_the_lowest_loss_is_the_best() -> None:
    rows = [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss}
        for epoch, (accuracy, loss) in enumerate([(0.9, 0.3), (0.9, 0.1), (0.8, 0.0), (0.9, 0.1)])
    ]
    assert best_row(rows)["epoch"] == 1


def test_the_last_weights_count_where_they_are_asked_for(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose second epoch spoils its weights: asked at the start, or once it is finished."""
    rates = (0.005, 10.0)
    monkeypatch.setattr(optimizer, "learning_rate", lambda _, progress: rates[progress >= 1])
    runs = {}
    for select in ("best", "last"):
        config = make_config(small_digits, select=select, epochs=2)
        runs[select] = RunDir.open(fit(config, out=tmp_path, reporter=Reporter())["run"])
    assert runs["best"].result is not None
    assert runs["best"].result["best_epoch"] == 1  # what the case is about
    finished = runs["best"]
    fit(finished.changed(select="last"), out=tmp_path, reporter=Reporter(), resume=finished)

    expected = evaluate(runs["last"], checkpoint="last", reporter=Reporter())["accuracy"]
    for run in (RunDir.open(finished.path), runs["last"]):
        assert run.result is not None
        assert (run.result["best_epoch"], run.result["test_accuracy"]) == (2, expected)
        assert evaluate(run, checkpoint="best", reporter=Reporter())["accuracy"] == expected
        assert evaluate(run, checkpoint="last", reporter=Reporter())["epoch"] == 2
        assert [row["best"] for row in run.history][-1] == 1
    assert [row["best"] for row in runs["last"].history] == [0, 1]
    assert_same_state(runs["last"].path, finished.path)


def test_the_last_epochs_are_lightly_augmented(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        small_digits, augment=("crop:1", "elastic", "flip"), mixup=0.2, refine_epochs=2, epochs=3
    )
    assert config.at(1) == config
    assert [(config.at(n).augment, config.at(n).mixup) for n in (2, 3)] == [
        (("crop:1", "flip"), None)
    ] * 2
    mixed: list[float | None] = []

    class Seen(Objective):
        def __call__(self, *arguments: Any) -> Any:
            mixed.append(self.config.mixup)
            return super().__call__(*arguments)

    made: list[tuple[str, ...]] = []
    make = augment.make

    def seen(names: tuple[str, ...], size: tuple[int, int]) -> augment.Augment:
        made.append(names)
        return make(names, size)

    monkeypatch.setattr(loop, "Objective", Seen)
    monkeypatch.setattr(augment, "make", seen)
    fit(config, out=tmp_path, reporter=Reporter())
    assert made[-3:] == [config.augment, ("crop:1", "flip"), ("crop:1", "flip")]
    steps = len(mixed) // 3
    assert mixed == [0.2] * steps + [None] * (2 * steps)


def test_the_last_test_is_what_evaluate_says_in_half_precision_too(
    small_digits: str, tmp_path: Path
) -> None:
    config = make_config(small_digits, precision="bf16-mixed", act_bits=None, epochs=2)
    run = RunDir.open(fit(config, out=tmp_path, reporter=Reporter())["run"])
    assert run.result is not None
    measured = evaluate(run, reporter=Reporter())
    assert run.result["test_accuracy"] == measured["accuracy"]
    assert run.result["test_loss"] == pytest.approx(measured["loss"], abs=1e-6)
