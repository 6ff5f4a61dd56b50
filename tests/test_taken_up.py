"""What files of a run may say is looked at before anything is done with it."""

from __future__ import annotations

import json
import math
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from snntorch_stbp.errors import Interrupted, StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import StopAt, call, make_config

CONFIG = RunConfig.from_recipe("mnistnet", "digits", bits=4)


def test_a_checkpoint_that_was_packed_again_is_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    checkpoint.save(good, {"name": "mnistnet", "classes": ["0"], "model": {"w": torch.zeros(9)}})
    with (
        zipfile.ZipFile(good) as old,
        zipfile.ZipFile(bad, "w", compression=zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(StbpError, match="was packed by another program: checkpoints are not comp"):
        checkpoint.load(bad, "mnistnet")


def test_tensors_without_a_place_for_each_value(tmp_path: Path) -> None:
    file, one = tmp_path / "a.pt", torch.ones(1)
    state = {"name": "mnistnet", "classes": ["0"], "model": {"w": one.expand(100, 100)}}
    checkpoint.save(file, state)
    with pytest.raises(StbpError, match="damaged, or not a checkpoint at all"):
        checkpoint.load(file, "mnistnet")
    rows = torch.arange(40.0).as_strided((5, 4), (2, 1))  # that overlap
    checkpoint.save(file, state | {"model": {"w": rows}, "list": [rows]})
    found = checkpoint.load(file, "mnistnet")
    for w in (found["model"]["w"], found["list"][0]):
        assert w.stride() == (4, 1)
        assert torch.equal(w, rows)
    kernels = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    checkpoint.save(file, state | {"model": {"w": kernels}})
    w = checkpoint.load(file, "mnistnet")["model"]["w"]
    assert w.is_contiguous(memory_format=torch.channels_last)


def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path, CONFIG)
    (tmp_path / "log.txt").mkdir()
    run.log("something")


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'.*r\\udcff' has a name that cannot be written down"):
        RunDir.create(tmp_path / "r\udcff", CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["0.9", 10**400, [1], True])
def test_results_that_are_no_shares_are_none(tmp_path: Path, value: Any) -> None:
    run = RunDir(tmp_path, CONFIG)
    (tmp_path / "result.json").write_text(json.dumps({"test_accuracy": value}))
    assert run.result is None


@pytest.mark.parametrize(("name", "value"), [("lr", 10**400), ("clip_grad", math.nan),
                                             ("image_size", 10**30)])  # fmt: skip
def test_a_configuration_of_absurd_numbers(name: str, value: float) -> None:
    text = json.loads(CONFIG.to_json())
    with pytest.raises(StbpError):
        RunConfig.from_json(json.dumps(text | {name: value}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_digits: str) -> RunDir:
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("taken-up")
    fit(make_config(small_digits, epochs=1), out=out, reporter=Reporter())
    (path,) = out.iterdir()
    return RunDir.open(path)


def moments(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for entry in state["optimizer"]["state"].values():
            entry["exp_avg"] = make(entry["exp_avg"])

    return change


def row(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["history"][0].update(changes)


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        moments(lambda value: torch.zeros(3)),
        moments(lambda value: value.flatten()),
        moments(lambda value: "nothing"),  # type: ignore[arg-type, return-value]
        entry(optimizer={"state": {}, "param_groups": []}),
        entry(optimizer={"state": {}}),
        entry(epoch="2"),
        entry(epoch=1.5),
        entry(epoch=math.nan),
        entry(epoch=-1),
        entry(epoch=3),
        entry(step=-1),
        entry(step=10**6),
        entry(step=True),
        entry(seconds="a"),
        entry(history=[]),
        entry(history={}),
        entry(history=["a"]),
        entry(processes=[{"sums": [1.0], "cpu": torch.get_rng_state()}]),
        entry(processes=[]),
        row(val_accuracy="high"),
        row(epoch=4),
    ],
)
def test_a_state_of_something_else_is_refused_and_the_run_stays_finished(
    run: RunDir, change: Callable[[dict[str, Any]], None]
) -> None:
    file = run.path / "last.pt"
    before = file.read_bytes()
    state = checkpoint.load(file)
    change(state)
    checkpoint.save(file, state)
    config = run.changed(epochs=2)
    with pytest.raises(StbpError, match=r"last\.pt' does not fit the configuration of its run"):
        fit(config, out=run.path.parent, reporter=Reporter(), resume=run)
    file.write_bytes(before)
    assert run.status == "finished"


def test_moments_that_show_one_value_many_times(run: RunDir) -> None:
    file = run.path / "last.pt"
    before = file.read_bytes()
    state = checkpoint.load(file)
    moments(lambda value: torch.zeros(1).expand(value.shape) if value.dim() else value)(state)
    checkpoint.save(file, state)
    code, output = call("train", "--resume", str(run.path), "--epochs", "2")
    file.write_bytes(before)
    assert code == 1
    assert "last.pt' is damaged" in output


def test_the_file_does_not_choose_the_decay(run: RunDir) -> None:
    from snntorch_stbp.train.run.taken_up import optimizer_state

    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"weight_decay": math.nan, "maximize": True, "betas": ("a", 3)}
    optimizer.load_state_dict(optimizer_state(optimizer, saved))
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert not optimizer.param_groups[0]["maximize"]


def test_best_without_an_epoch(run: RunDir) -> None:
    file = run.path / "best.pt"
    before = file.read_bytes()
    state = checkpoint.load(file)
    del state["epoch"]
    checkpoint.save(file, state)
    code, output = call("evaluate", str(run.path))
    file.write_bytes(before)
    assert code == 1
    assert "best.pt' is damaged: it does not say of which epoch it is" in output


def test_the_last_epoch_is_not_one_that_a_stop_has_overtaken(
    small_digits: str, tmp_path: Path
) -> None:
    config = make_config(small_digits)
    with pytest.raises(Interrupted):
        fit(config, out=tmp_path, reporter=StopAt(2, 3))
    (path,) = tmp_path.iterdir()
    before = (path / "best.pt").read_bytes()
    code, output = call("train", "--resume", str(path), "--select", "last", "--epochs", "1")
    assert code == 2, output
    assert "stopped inside epoch 2, and has the weights of epoch 1 no more: give --ep" in output
    assert (path / "best.pt").read_bytes() == before
    assert RunDir.open(path).config == config
    code, output = call("train", "--resume", str(path), "--epochs", "1")
    assert code == 0, output
    assert (path / "best.pt").read_bytes() == before


def test_epochs_of_one_step_can_be_stopped(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, batch_size=200, epochs=50)

    class Stop(Reporter):
        def epoch_ended(self, row: dict[str, Any]) -> None:
            if row["epoch"] == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped in epoch 3; go on with"):
        fit(config, out=tmp_path, reporter=Stop())
    (path,) = tmp_path.iterdir()
    state = checkpoint.load(path / "last.pt")
    assert (state["epoch"], state["step"]) == (3, 0)


def test_a_loss_that_diverges_under_clipped_gradients(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, lr=1e30, clip_grad=1.0, bits=None, act_bits=None)
    with pytest.raises(StbpError, match=r"the loss became .* try again with a lower --lr"):
        fit(config, out=tmp_path, reporter=Reporter())
    (path,) = tmp_path.iterdir()
    assert RunDir.open(path).status == "diverged"


def test_a_folder_of_any_name_has_curves(run: RunDir) -> None:
    from snntorch_stbp.train.metrics import plot_curves

    file = run.path / "again.png"
    plot_curves(run.history, file, "cost$_$x")
    assert file.stat().st_size > 1000
