"""`snntorch-stbp export`: a user's walk, and every mistake on it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from qonnx.core.modelwrapper import ModelWrapper

from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import call, short_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return short_run(tmp_path_factory.mktemp("runs"))


def test_a_run_is_exported_and_verified(run: str) -> None:
    code, output = call("export", run, "--verify", "2")
    assert code == 0, output
    assert "compared" not in output
    assert "of 2 test samples in QONNX's executor: all equal" in output
    assert "of 32 test samples in onnxruntime: all equal" in output
    assert "(355 test images)" in output
    assert re.search(r"differing *\d\.\d\d % of predictions, \d\.\d\d % of spikes", output), output
    path = Path(run) / "export" / "generic-unrolled.onnx"
    assert path.is_file()
    with np.load(path.with_suffix(".samples.npz")) as samples:
        assert samples["input"].shape == (2, 1, 8, 8)
        assert samples["input"].dtype == np.uint8

    code, output = call("export", run)
    assert code == 2
    assert "exists already; replace it with --force" in output


def test_a_file_says_the_command_that_writes_it_again(run: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    options = ("--form", "step", "--fixed-point", "--arithmetic", "simple", "--batch", "2")
    code, output = call("export", run, *options, "--verify", "1", "--output", str(path))
    assert code == 0, output
    said = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    words = said["command"].split()
    assert words[:3] == ["snntorch-stbp", "export", run]
    assert sorted(words[3:]) == sorted(options)
    first = path.read_bytes()
    code, output = call(*words[1:], "--verify", "1", "--output", str(path), "--force")
    assert code == 0, output
    assert path.read_bytes() == first


def test_the_command_of_a_run_with_spaces_can_be_pasted(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "first"
    shutil.copytree(run, folder)
    options = ("--fixed-point", "--format", "c", "--verify", "1", "--output")
    code, output = call("export", str(folder), *options, str(tmp_path / "c"))
    assert code == 0, output
    (line,) = re.findall(r"\n   command: (.*)", (tmp_path / "c" / "network.h").read_text())
    words = ["snntorch-stbp", "export", str(folder), "--format", "c", "--fixed-point"]
    assert shlex.split(line) == words


def test_json_says_what_was_compared(run: str, tmp_path: Path) -> None:
    arguments = ("--form", "step", "--target", "hls4ml", "--verify", "1", "--json")
    code, output = call("export", run, *arguments, "--output", str(tmp_path / "a" / "net.onnx"))
    assert code == 0, output
    facts = json.loads(output)
    assert facts["differences"] == 0
    assert facts["spikes_compared"] > 1000
    assert facts["onnxruntime"]["spikes_compared"] == 16 * facts["spikes_compared"]
    assert all(Path(file).is_file() for file in facts["files"])
    assert len(facts["files"]) == 4


def test_frozen_evaluation_says_what_freezing_changes(run: str) -> None:
    code, output = call("evaluate", run, "--frozen", "--json")
    assert code == 0, output
    facts = json.loads(output)
    assert facts["spikes_differ"] < 0.05
    assert abs(facts["accuracy"] - facts["trained_accuracy"]) < 0.05
    code, output = call("evaluate", run, "--frozen")
    assert "as trained" in output


def test_bits_of_input_currents_can_be_chosen(run: str, tmp_path: Path) -> None:
    differing = {}
    for bits in ("8", "12"):
        code, output = call("evaluate", run, "--frozen", "--act-bits", bits, "--json")
        assert code == 0, output
        differing[bits] = json.loads(output)["spikes_differ"]
    assert differing["12"] < differing["8"]

    file = tmp_path / "net.onnx"
    code, output = call("export", run, "--act-bits", "8", "--verify", "1", "--output", str(file))
    assert code == 0, output
    quantizers = ModelWrapper(str(file))
    assert quantizers.get_initializer("features.1/current/t0_bit_width").item() == 8


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_bits_of_input_currents_that_cannot_be_are_refused(command: str, run: str) -> None:
    code, output = call(command, run, "--act-bits", "7")
    assert code == 2
    assert "'7' is no bit width here; use 8 to 12" in output


def test_bits_of_input_currents_that_do_nothing_are_refused(run: str, tmp_path: Path) -> None:
    code, output = call("evaluate", run, "--act-bits", "8")
    assert code == 2
    assert "--act-bits changes deployment arithmetic: it needs --frozen" in output

    config = RunConfig.from_recipe("mnistnet", "digits", bits=4, act_bits=8)
    new = RunDir.create(tmp_path, config)
    (new.path / "best.pt").touch()
    code, output = call("export", str(new.path), "--act-bits", "9")
    assert code == 2
    assert "trained with input currents of 8 bits" in output
    assert "leave --act-bits out" in output


def test_a_float_run_exports_and_says_so(tmp_path: Path) -> None:
    config = RunConfig.from_recipe("mnistnet", "digits", epochs=1)
    result = fit(config, out=tmp_path, reporter=Reporter())
    code, output = call("export", str(result["run"]), "--verify", "1")
    assert code == 0, output
    assert "nothing is quantized" in output


def test_a_run_is_exported_as_trained(run: str) -> None:
    code, output = call("export", run, "--as-trained", "--verify", "2")
    assert code == 0, output
    assert "(unrolled, as trained, " in output
    assert "of 32 test samples in onnxruntime: " in output
    path = Path(run) / "export" / "as-trained-unrolled.onnx"
    assert path.is_file()
    code, output = call("export", run, "--as-trained", "--verify", "1", "--force", "--json")
    facts = json.loads(output)
    assert facts["as_trained"] is True
    assert facts["onnxruntime"]["samples"] == 16
    assert facts["onnxruntime"]["largest_margin"] < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "finn"), "target finn needs deployment arithmetic: leave out --as-trained"),
        (
            ("--act-bits", "8"),
            "--act-bits changes deployment arithmetic: --as-trained goes without",
        ),
    ],
)
def test_options_that_exclude_as_trained(run: str, options: tuple[str, ...], message: str) -> None:
    code, output = call("export", run, "--as-trained", *options)
    assert code == 2
    assert message in " ".join(output.split())


def test_a_graph_that_is_not_the_trained_network_is_refused(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snntorch_stbp.export import api

    from .test_export_as_trained import changed, one_weight

    monkeypatch.setattr(api, "build", changed("features.0/weight", one_weight))
    file = tmp_path / "net.onnx"
    code, output = call("export", run, "--as-trained", "--verify", "1", "--output", str(file))
    assert code == 1
    assert "the graph does not compute the trained network: in layer 'features.1'" in output
    assert not list(tmp_path.iterdir())


def test_the_verdict_counts_what_rounding_turned() -> None:
    from snntorch_stbp.cli.export_text import verdict
    from snntorch_stbp.export.verify import Agreement

    assert verdict(Agreement(8, 100, 10)) == "all equal"
    assert verdict(Agreement(8, 100, 10, 2, 12, 3e-8)) == (
        "12 spikes differ, in 2 samples where float rounding turned a decision (at most 3.0e-08 "
        "from its boundary)"
    )


def test_what_cannot_be_exported_is_refused(run: str, tmp_path: Path) -> None:
    code, output = call("export", str(tmp_path / "nothing"))
    assert code == 1
    assert "there is no run folder" in output

    new = RunDir.create(tmp_path, RunDir.open(run).config)
    code, output = call("export", str(new.path))
    assert code == 1
    assert "never finished an epoch: there is nothing to export yet" in output

    code, output = call("export", run, "--target", "tpu")
    assert code == 2
    assert "tpu" in output


def test_an_export_of_the_other_checkpoint_is_said_to_be_one(run: str, tmp_path: Path) -> None:
    graph, folder = tmp_path / "net.onnx", tmp_path / "net"
    options = ("--fixed-point", "--verify", "1", "--output")
    assert call("export", run, *options, str(graph))[0] == 0
    options = ("--checkpoint", "last", "--format", "folder", *options)
    assert call("export", run, *options, str(folder))[0] == 0
    for path, other, own in ((graph, "best", "last"), (folder, "last", "best")):
        code, output = call("verify", str(path), "--run", run, "--checkpoint", own)
        assert (code, output) == (
            2,
            f"Error: '{path}' was written from the {other} checkpoint of its run, not from the "
            f"{own} one: give --checkpoint {other}.\n",
        )
    last = ("--samples", "1", "--checkpoint", "last")
    code, output = call("verify", str(folder), "--run", run, *last)
    assert code == 0, output
    said = json.loads((folder / "network.json").read_text())
    del said["sha256"]
    for metadata in ([], {"checkpoint": ["best"]}, {}):  # of others, and from before
        (folder / "network.json").write_text(json.dumps({**said, "metadata": metadata}))
        assert call("verify", str(folder), "--run", run, *last)[0] == 0


@pytest.mark.parametrize(
    ("options", "name"), [((), "x.onnx"), (("--as-trained",), "x"), (("--format", "nir"), "x.nir")]
)
def test_a_file_that_cannot_be_written_is_the_one_that_was_named(
    run: str, options: tuple[str, ...], name: str
) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc, in which nobody can make files")
    code, output = call("export", run, *options, "--verify", "1", "--output", f"/proc/{name}")
    assert code == 1
    assert output.endswith(f"Error: cannot write '/proc/{name}': No such file or directory.\n")


@pytest.mark.parametrize("options", [(), ("--as-trained",), ("--format", "nir")])
def test_a_folder_is_not_replaced_by_a_graph(
    run: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = ("--verify", "1", "--force", "--output", str(tmp_path))
    code, output = call("export", run, *options, *arguments)
    assert code == 2
    assert output == f"Error: '{tmp_path}' is a folder; give the name of a file.\n"
    code, output = call("export", run, *options, "--verify", "1", "--output", ".")
    assert (code, output) == (2, "Error: '.' is a folder; give the name of a file.\n")


def test_a_missing_tool_is_named(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("snntorch_stbp.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, output = call("export", run)
    assert code == 1
    assert "pip install 'snntorch-stbp[export]'" in output


def test_a_run_whose_name_is_no_text(run: str, tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    try:
        shutil.copytree(run, folder)
    except OSError:
        pytest.skip("names of files are text here")
    before = {path.name for path in Path(folder).iterdir()}
    code, output = call("train", "--resume", folder)
    assert code == 2
    assert "caf\\udce9' has a name that cannot be written down: give it another." in output
    assert {path.name for path in Path(folder).iterdir()} == before
    path = tmp_path / "net.onnx"
    code, output = call("export", folder, "--verify", "1", "--output", str(path))
    assert code == 0, output
    said = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert said["command"] == f"snntorch-stbp export '{tmp_path}/caf\\udce9'"
