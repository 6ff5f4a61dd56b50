"""No file of a run is lost: one that is missing is named, and none takes the place of another."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from snntorch_stbp.errors import StbpError
from snntorch_stbp.train import optimizer
from snntorch_stbp.train.evaluate import evaluate
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.metrics import best_row
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir, list_runs
from snntorch_stbp.train.sweep.runs import run_all

from .runs import call, make_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_digits: str) -> Path:
    """A run of two epochs."""
    config = make_config(small_digits, epochs=2)
    return Path(fit(config, out=tmp_path_factory.mktemp("files"), reporter=Reporter())["run"])


@pytest.fixture
def path(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "out" / "run")
    return tmp_path / "out" / "run"


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file() and p.name[0] != "."}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("instead", ["nothing", "link", "folder"])
def test_a_run_without_its_last_checkpoint_does_not_begin_again(
    path: Path, instead: str, ended: bool
) -> None:
    (path / "last.pt").unlink()
    if instead == "link":
        (path / "last.pt").symlink_to("elsewhere.pt")
    if instead == "folder":
        (path / "last.pt").mkdir()
    if not ended:
        (path / "result.json").unlink()
    before = files(path)
    code, output = call("train", "--resume", str(path), "--epochs", "3")
    what = "gone" if instead == "nothing" else "no file"
    assert code == 1, output
    assert output.endswith(
        f"Error: '{path}' was trained, but its last.pt is {what}, so it cannot go on; begin a new "
        f"run with --init-from {path}.\n"
    )
    assert files(path) == before
    assert RunDir.open(path).status == ("finished" if ended else "interrupted")
    code, output = call("show", str(path))
    assert code == 0
    assert (f"--init-from {path}" in output) == (not ended)


def test_what_is_left_of_a_run_says_that_it_was_trained(path: Path) -> None:
    for name in ("last.pt", "best.pt", "result.json"):
        (path / name).unlink()
    with pytest.raises(StbpError, match=r"last\.pt is gone, so it cannot go on; begin a new run\."):
        fit(RunDir.open(path).config, out=path, reporter=Reporter(), resume=RunDir.open(path))
    (path / "metrics.csv").unlink()
    assert RunDir.open(path).status == "new"


def test_a_sweep_does_not_train_it_again(path: Path) -> None:
    run = RunDir.open(path)
    (path / "result.json").unlink()
    (path / "last.pt").unlink()
    before = files(path)
    with pytest.raises(StbpError, match=r"was trained, but its last\.pt is gone"):
        run_all([run.config], path.parent, Reporter(), lambda text: None)
    assert files(path) == before


class Killed(BaseException):
    """What no part of a run expects, as a signal that nobody hears."""


@pytest.mark.parametrize(
    ("number", "ways"),
    [
        *((number, {}) for number in (2, 3, 4)),
        *((4, ways) for ways in ({"select": "last"}, {"ema": 0.9}, {"background": True})),
    ],
)
def test_the_best_checkpoint_is_of_the_epoch_that_counts_wherever_a_run_is_killed(
    number: int,
    ways: dict[str, Any],
    small_digits: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where the second epoch comes out otherwise when it is repeated."""
    options, count, replace = dict(ways), 0, os.replace
    if options.pop("background", False):
        writer = checkpoint.Writer
        monkeypatch.setattr(checkpoint, "Writer", lambda background: writer(True))

    def kill(source: Path, target: Path) -> None:
        nonlocal count
        count += target.suffix == ".pt"
        if target.suffix == ".pt" and count >= number:
            raise Killed if not ways.get("background") else OSError
        replace(source, target)

    rates = [0.002, 0.005]
    monkeypatch.setattr(optimizer, "learning_rate", lambda _, progress: rates[progress >= 1])
    config = make_config(small_digits, epochs=2, batch_size=16, augment=(), **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises((Killed, StbpError)):
            fit(config, out=tmp_path, reporter=Reporter())
    (run,) = (RunDir.open(path) for path in tmp_path.iterdir())
    assert run.status == "interrupted"
    rates[1] = 10.0
    result = fit(run.config, out=tmp_path, reporter=Reporter(), resume=run)

    best, last = (checkpoint.load(run.path / name) for name in ("best.pt", "last.pt"))
    row = best_row(last["history"], config.select)
    assert best["row"] == row
    assert best["epoch"] == result["best_epoch"] == row["epoch"]
    assert evaluate(run, split="val", reporter=Reporter())["accuracy"] == row["val_accuracy"]
    if row["epoch"] == 2:
        assert all(torch.equal(value, last["model"][key]) for key, value in best["model"].items())


def test_weights_of_another_epoch_are_not_tested_in_place_of_the_best(path: Path) -> None:
    state = checkpoint.load(path / "last.pt")
    state["history"][0] |= {"best": 1, "val_accuracy": 1.0}
    state["history"][1] |= {"best": 0, "val_accuracy": 0.0}
    checkpoint.save(path / "last.pt", state)
    best = checkpoint.load(path / "best.pt")
    checkpoint.save(path / "best.pt", best | {"epoch": 2})
    code, output = call("train", "--resume", str(path))
    assert code == 1
    assert "best.pt' has the weights of epoch 2, but those of epoch 1 count, and are g" in output


def test_a_resume_does_not_undo_another_that_ended_in_between(path: Path) -> None:
    opened = RunDir.open(path)
    fit(opened.changed(epochs=3), out=path, reporter=Reporter(), resume=RunDir.open(path))
    before = files(path)
    with pytest.raises(StbpError, match=r"run' was changed by another process; give the command"):
        fit(opened.config, out=path, reporter=Reporter(), resume=opened)
    assert files(path) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("where", ["open", "torch.load"])
def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    path: Path, number: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    if where == "open":
        monkeypatch.setattr(checkpoint, "open", fail, raising=False)
    else:
        monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(StbpError) as caught:
        checkpoint.load(path / "best.pt")
    assert str(caught.value) == f"cannot read '{path / 'best.pt'}': {os.strerror(number)}."


def test_a_folder_that_cannot_be_read_takes_only_its_run_out_of_the_list(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = path.with_name("closed")
    shutil.copytree(path, closed)
    is_file = Path.is_file

    def refuse(file: Path) -> bool:
        if file.parent == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return is_file(file)

    monkeypatch.setattr(Path, "is_file", refuse)
    code, output = call("runs", "--out", str(path.parent))
    assert code == 0, output
    assert str(path) in output
    assert str(closed) not in output
    code, output = call("show", str(closed))
    assert (code, output) == (1, f"Error: cannot use '{closed}': Permission denied.\n")


def test_a_file_that_vanishes_while_runs_are_listed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda out: [*iterdir(out), out / ".sweep.csv.1.tmp"])
    assert [run.path for run in list_runs(path.parent)] == [path]
