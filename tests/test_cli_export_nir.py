"""`export --format nir`: a run on the command line, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.export.nir import file as nir_export
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter

from .test_export_nir import written
from .test_export_nir_refused import harmed, one_weight

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, bits in (("4 bits", 4), ("fp32", None)):
        config = RunConfig.from_recipe("mnistnet", "digits", epochs=1, bits=bits)
        found[name] = str(fit(config, out=folder, reporter=Reporter())["run"])
    return found


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, " ".join(result.output.split())


def test_a_run_is_exported(runs: dict[str, str]) -> None:
    run = runs["4 bits"]
    code, output = call("export", run, "--format", "nir", "--verify", "3")
    assert code == 0, output
    assert "trained.nir (NIR, 14 nodes)" in output
    assert "13,800 spikes and 30 scores of 3 test samples in plain arithmetic" in output
    assert "test samples in snnTorch" in output
    assert "fp32" not in output
    graph, vectors = written(Path(run) / "export" / "trained.nir")
    assert vectors["input"].shape == (3, 1, 8, 8)
    facts = graph.metadata
    assert (facts["model"], facts["dataset"], facts["bits"]) == ("mnistnet", "digits", "4")
    assert (facts["beta"], facts["threshold"], facts["steps"], facts["dt"]) == (
        "0.25", "0.4", "2", "0.0001",
    )  # fmt: skip
    assert facts["project"].startswith("snntorch-stbp ")
    assert facts["command"] == f"snntorch-stbp export {run} --format nir"
    assert float(facts["input_step"]) == pytest.approx(1 / 255)
    assert 0 < float(facts["test_accuracy"]) <= 1

    code, output = call("export", run, "--format", "nir")
    assert code == 2
    assert "exists already; replace it with --force" in output


def test_json_and_fp32(runs: dict[str, str], tmp_path: Path) -> None:
    arguments = ("export", runs["fp32"], "--format", "nir", "--verify", "2", "--output")
    code, output = call(*arguments, str(tmp_path / "a.nir"), "--json")
    assert code == 0, output
    facts = json.loads(output)
    assert (facts["format"], facts["nodes"], facts["quantized"]) == ("nir", 14, False)
    assert facts["spikes_compared"] == facts["snntorch"]["spikes_compared"] == 9200
    assert [Path(f).name for f in facts["files"]] == ["a.nir", "a.samples.npz"]
    code, output = call(*arguments, str(tmp_path / "b.nir"))
    assert code == 0, output
    assert "this run was trained in fp32: its weights are float" in output


@pytest.mark.parametrize(
    "options",
    [
        ("--form", "step"),
        ("--target", "finn"),
        ("--as-trained",),
        ("--batch", "2"),
        ("--act-bits", "8"),
    ],
)
def test_options_of_qonnx_are_refused(runs: dict[str, str], options: tuple[str, ...]) -> None:
    code, output = call("export", runs["4 bits"], "--format", "nir", *options)
    assert code == 2
    assert f"{options[0]} is for other formats: --format nir, which writes one time step" in output


def test_a_run_whose_file_is_wrong_is_refused(
    runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nir_export, "build", harmed(one_weight))
    file = str(tmp_path / "net.nir")
    code, output = call("export", runs["4 bits"], "--format", "nir", "--output", file)
    assert code == 1
    assert "the graph does not compute the trained network: in layer 'features.1', step" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("nir", "export to NIR needs nir and nirtorch: pip install 'snntorch-stbp[nir]'."),
        ("onnx", "export needs the QONNX tools: pip install 'snntorch-stbp[export]'."),
    ],
)
def test_a_missing_tool_is_named(
    runs: dict[str, str], monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("snntorch_stbp.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    code, output = call("export", runs["4 bits"], "--format", "nir")
    assert code == 1
    assert message in output
