"""`snntorch-stbp export`: which arithmetic it writes, by what rounding changed of a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from qonnx.core.modelwrapper import ModelWrapper

from snntorch_stbp.cli import export_arithmetic, export_change
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import call, short_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return short_run(tmp_path_factory.mktemp("runs"))


def test_what_deployment_changed_is_said(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = json.loads(call("evaluate", run, "--frozen", "--json")[1])
    path = str(tmp_path / "net.onnx")
    code, output = call("export", run, "--verify", "1", "--output", path, "--json")
    assert code == 0, output
    said = json.loads(output)["deployment"]
    assert said["images"] == 355
    assert said == {name: measured[name] for name in said}
    for noted in (0.0, 1.0):
        monkeypatch.setattr(export_arithmetic, "NOTED", noted)
        code, output = call("export", run, "--frozen", "--verify", "1", "--output", path, "--force")
        assert (code, "--fixed-point rounds none" in output) == (0, noted == 0), output


def test_predictions_that_few_spikes_change_are_noted(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above one percent; the arithmetic stays."""
    compare, share = export_change.compare, 0.02

    def differing(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {**compare(*arguments, **options), "predictions_differ": share, "spikes_differ": 0.0}

    monkeypatch.setattr(export_change, "compare", differing)
    path = tmp_path / "net.onnx"
    command = ("export", run, "--verify", "1", "--output", str(path), "--force")
    code, output = call(*command, "--json")
    assert code == 0, output
    assert json.loads(output)["note"].startswith(
        "rounded currents changed these predictions through few spikes"
    )
    code, output = call(*command)
    assert "2.00 % of predictions, 0.00 % of spikes\nnote      rounded currents" in output
    said = {p.key: p.value for p in ModelWrapper(str(path)).model.metadata_props}
    assert said["arithmetic"] == "deployment 10"
    share = 0.01
    assert "note" not in json.loads(call(*command, "--json")[1])


@pytest.mark.parametrize("target", ["generic", "finn", "hls4ml"])
def test_integers_are_written_where_rounding_changes_much(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(export_arithmetic, "NOTED", 0.0)
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("export"))
    options = ("export", str(folder), "--target", target, "--verify", "1")
    code, output = call(*options)
    assert code == 0, output
    assert re.search(r"rounded currents would change \d\.\d\d % of the spikes: this is the", output)
    name = "fixed-point" if target == "generic" else f"fixed-point-{target}"
    path = folder / "export" / f"{name}-unrolled.onnx"
    said = {p.key: p.value for p in ModelWrapper(str(path)).model.metadata_props}
    assert said["arithmetic"] == "fixed-point exact"
    assert said["command"].endswith("--fixed-point")
    assert call("verify", str(path), "--run", str(folder))[0] == 0

    code, output = call(*options)
    assert code == 2
    assert "fixed-point" in output
    assert "exists already" in output
    code, output = call(*options, "--json", "--force")
    said = json.loads(output)
    assert said["fixed_point"]["predictions_differ"] == 0
    assert "this is the network of integers" in said["note"]


def test_a_run_refined_as_integers_is_exported_as_integers(run: str, tmp_path: Path) -> None:
    code, output = call("finetune", run, "--fixed-point", "--epochs", "1", "--out", str(tmp_path))
    assert code == 0, output
    (refined,) = tmp_path.iterdir()
    code, output = call("export", str(refined), "--verify", "1")
    assert code == 0, output
    assert (refined / "export" / "fixed-point-unrolled.onnx").is_file()


def test_rounded_currents_are_written_where_integers_cannot_be(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_arithmetic, "NOTED", 0.0)
    path = str(tmp_path / "net.onnx")
    options = ("--target", "finn", "--form", "step", "--verify", "1", "--output", path)
    code, output = call("export", run, *options)
    assert code == 0, output
    assert "Not as integers: FINN has no floor" in output
    assert "`finetune RUN --frozen` trains in the arithmetic of this file" in output


def test_integers_that_change_as_much_are_not_written_instead(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.from_recipe("mnistnet", "digits", bits=4, epochs=1, act_bits=4)
    trained = str(fit(config, out=tmp_path, reporter=Reporter())["run"])
    monkeypatch.setattr(export_arithmetic, "NOTED", -1.0)
    code, output = call("export", trained, "--verify", "1")
    assert code == 0, output
    assert "Not as integers: they change as many." in output


def test_frozen_aware_training_refines_a_run(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--bits", "4", "--init-from", run, "--epochs", "1", "--lr", "1e-4")
    code, output = call("train", "mnistnet", *arguments, "--frozen-aware", "--out", str(tmp_path))
    assert code == 0, output
    (refined,) = tmp_path.iterdir()
    trained = RunDir.open(refined).result
    assert trained is not None
    code, output = call("evaluate", str(refined), "--frozen", "--json")
    assert json.loads(output)["accuracy"] == trained["test_accuracy"]

    monkeypatch.setattr(export_arithmetic, "NOTED", 0.0)  # it is exported as it was refined
    code, output = call("export", str(refined), "--verify", "1")
    assert code == 0, output
    assert (refined / "export" / "generic-unrolled.onnx").is_file()
    assert "rounded currents" not in output

    code, output = call("train", "mnistnet", "--frozen-aware", "--out", str(tmp_path))
    assert code == 2
    assert "name its run with --init-from" in output
