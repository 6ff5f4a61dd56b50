"""The network of integers at the command line: export, evaluate, finetune, verify, and mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from snntorch_stbp.cli import export_change, main
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = RunConfig.from_recipe("mnistnet_bn", "digits", bits=2, epochs=2)
    result = fit(config, out=tmp_path_factory.mktemp("runs"), reporter=Reporter())
    return str(result["run"])


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def graph(run: str) -> Path:
    code, output = call("export", run, "--fixed-point", "--verify", "2")
    assert code == 0, output
    for text in ("all equal", "membrane", "thresholds", "0.00 % of predictions"):
        assert text in output
    return Path(run) / "export" / "fixed-point-unrolled.onnx"


def test_lowering_changes_no_prediction(run: str, graph: Path) -> None:
    code, output = call("evaluate", run, "--fixed-point", "--json")
    assert code == 0, output
    facts = json.loads(output)
    assert facts["accuracy"] == facts["trained_accuracy"]
    assert facts["predictions_differ"] == 0
    assert facts["spikes_differ"] < 1e-4
    assert facts["spike_rate"] > 0.01
    assert "predictions" in call("evaluate", run, "--fixed-point")[1]


def test_a_large_test_set_is_not_measured_whole(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_change, "MEASURED", 50)
    path = str(tmp_path / "folder")
    common = ("export", run, "--fixed-point", "--format", "folder", "--verify", "2")
    code, output = call(*common, "--output", path)
    assert code == 0, output
    assert "(50 of 355 test images; `evaluate` takes all)" in output
    code, output = call(*common, "--output", path, "--force", "--json")
    assert json.loads(output)["fixed_point"]["images"] == 50


def test_the_simple_form_is_calibrated_and_said(run: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    arguments = ("--fixed-point", "--arithmetic", "simple", "--form", "step", "--verify", "2")
    code, output = call("export", run, *arguments, "--output", str(path), "--json")
    assert code == 0, output
    facts = json.loads(output)["fixed_point"]
    assert facts["form"] == "simple"
    assert all(row["ages"] <= 1 for row in facts["layers"])
    assert facts["spikes_differ"] < 0.01
    said = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert said["arithmetic"] == "fixed-point simple"
    assert {value for key, value in said.items() if key.startswith("changed/")} == {"0"}
    assert call("verify", str(path), "--run", run, "--samples", "2")[0] == 0


def test_a_file_is_verified_again(run: str, graph: Path, tmp_path: Path) -> None:
    code, output = call("verify", str(graph), "--run", run, "--samples", "2", "--json")
    assert code == 0, output
    facts = json.loads(output)
    assert facts["arithmetic"] == "fixed-point exact"
    assert facts["differences"] == facts["onnxruntime"]["differences"] == 0

    model = onnx.load(str(graph))
    for constant in model.graph.initializer:
        if constant.name == "features.4/weight":
            changed = numpy_helper.to_array(constant).copy()
            changed[3] = -changed[3]
            constant.CopyFrom(numpy_helper.from_array(changed, constant.name))
    broken = tmp_path / "broken.onnx"
    onnx.save(model, str(broken))
    code, output = call("verify", str(broken), "--run", run, "--samples", "2")
    assert code == 1
    assert "first difference in layer 'features.5'" in output
    assert "steps" in output


def _unclosed(model: onnx.ModelProto) -> None:
    del model.graph.node[0].output[:]


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_unclosed, r"invalid model\. In Node"), (_dangling, "Found unspecified tensor shapes")],
)
def test_a_graph_that_does_not_run_is_one_sentence(
    change: Callable[[onnx.ModelProto], None], reason: str, run: str, graph: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(graph))
    change(model)
    broken = tmp_path / "broken.onnx"
    onnx.save(model, str(broken))
    code, output = call("verify", str(broken), "--run", run, "--samples", "1")
    assert code == 1
    sentence = rf"QONNX's executor cannot run '{broken}': the graph is damaged, or was changed"
    assert re.search(f"Error: {sentence} after its export \\(.*{reason}", output)
    assert "--debug" not in output


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("names", "[" * 100_000, "names no spikes (maximum recursion depth exceeded"),
        ("names", "[]", "names no spikes ("),
        ("names", '{"states": {}, "batch": 1000000000000}', "names no spikes ("),
        ("arithmetic", "deployment 99", "knows no 'deployment 99': act_bits of a frozen network"),
        ("arithmetic", "deployment", "this version knows no arithmetic 'deployment'."),
    ],
)
def test_metadata_that_say_nothing(
    key: str, value: str, message: str, run: str, graph: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(graph))
    next(entry for entry in model.metadata_props if entry.key == key).value = value
    changed = tmp_path / "changed.onnx"
    onnx.save(model, str(changed))
    code, output = call("verify", str(changed), "--run", run, "--samples", "1")
    assert (code, message in output, "--debug" in output) == (1, True, False), output
    assert call("inspect", str(changed))[0] == 0


def test_what_verify_does_not_take_is_said(run: str, tmp_path: Path) -> None:
    for name, content in (("e.onnx", ""), ("t.onnx", "hello"), ("x.nir", "hello")):
        (tmp_path / name).write_text(content)
    for folder, file in (("c", "selftest.c"), ("other", "a.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    takes = "`verify` takes a graph (.onnx) or a folder of --format folder."
    for name, message in (
        ("e.onnx", "is not an ONNX file, or its graph is empty."),
        ("t.onnx", "is damaged or is not an ONNX file."),
        ("x.nir", f"is a NIR file, which `export` compares with its run when it writes it (again "
         f"with --force): {takes}"),
        ("c", f"is a network in C99, which tests itself: compile and run its selftest.c; {takes}"),
        ("other", f"is no exported folder, it has no network.json: {takes}"),
    ):  # fmt: skip
        code, output = call("verify", str(tmp_path / name), "--run", run)
        assert (code, output) == (1, f"Error: '{tmp_path / name}' {message}\n")


def test_a_graph_of_another_network_is_said_to_be_one(graph: Path, tmp_path: Path) -> None:
    """Before the arithmetic of the one is tried on the other."""
    options = ("--bits", "4", "--epochs", "1", "--out", str(tmp_path), "--quiet")
    code, other = call("train", "mnistnet_bn", *options)
    assert code == 0, other
    code, output = call("verify", str(graph), "--run", other.strip())
    assert (code, output) == (1, f"Error: '{graph}' is of another network: it has bits 2, that of "
                              f"the run 4.\n")  # fmt: skip


def test_a_folder_is_verified_again(run: str, tmp_path: Path) -> None:
    path = tmp_path / "net"
    arguments = ("--fixed-point", "--format", "folder", "--output", str(path), "--verify", "2")
    assert call("export", run, *arguments)[0] == 0
    code, output = call("verify", str(path), "--run", run, "--samples", "3")
    assert (code, "of 3 test samples in NumPy: all equal" in output) == (0, True), output
    facts = json.loads(call("verify", str(path), "--run", run, "--samples", "2", "--json")[1])
    assert facts["arithmetic"] == "fixed-point exact"

    text = (path / "network.json").read_text()
    for before, after, said in (
        ('"exact": true', '"exact": false', "stage 'features.1', exact: False, that of the run"),
        ('"form": "exact"', '"form": "quantized"', "form quantized, that of the run form exact."),
        ('"votes": null', '"votes": 10', "votes 10, that of the run votes None."),
    ):
        (path / "network.json").write_text(text.replace(before, after, 1))
        code, output = call("verify", str(path), "--run", run, "--samples", "2")
        assert (code, f"is of another network: it has {said}" in output) == (1, True), output
    for before, after in (('"exact": false', '"exact":false'), ('"train"', '"trained"')):
        (path / "network.json").write_text(text.replace(before, after, 1))
        code, output = call("verify", str(path), "--run", run, "--samples", "2")
        changed = "was changed since its export: all spikes of these samples are equal"
        assert (code, changed in output) == ((1, True) if "train" in before else (0, False)), output
    (path / "network.json").write_text(text)

    (file,) = path.glob("02_*.npz")
    with np.load(file) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["weight0"] = changed["weight0"][..., ::-1]  # the same ranges
    np.savez(file, **changed)
    code, output = call("verify", str(path), "--run", run, "--samples", "2")
    assert (code, "'spikes/features.5' differ" in output) == (1, True), output


def test_refining_reports_the_accuracy_of_the_integers(run: str, tmp_path: Path) -> None:
    code, output = call("finetune", run, "--fixed-point", "--out", str(tmp_path), "--quiet")
    assert code == 0, output
    refined = output.strip().splitlines()[-1]
    result = json.loads((Path(refined) / "result.json").read_text())
    facts = json.loads(call("evaluate", refined, "--fixed-point", "--json")[1])
    assert facts["accuracy"] == result["test_accuracy"]
    config = json.loads((Path(refined) / "config.json").read_text())
    assert config["fixed_point_aware"]
    assert config["init_from"] == run


@pytest.mark.parametrize(("target", "form"), [("hls4ml", "step"), ("finn", "unrolled")])
def test_integers_for_a_reader_have_a_file_of_their_own(run: str, target: str, form: str) -> None:
    arguments = ("--fixed-point", "--target", target, "--form", form, "--verify", "1")
    code, output = call("export", run, *arguments)
    assert code == 0, output
    path = Path(run) / "export" / f"fixed-point-{target}-{form}.onnx"
    assert str(path) in output
    nodes = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert ("MultiThreshold" in nodes) == (target == "finn")
    assert path.with_suffix(".hls4ml.json").exists() == (target == "hls4ml")
    code, output = call("verify", str(path), "--run", run, "--samples", "1")
    assert (code, "all equal" in output) == (0, True), output


@pytest.mark.parametrize("arithmetic", ["--frozen", "--fixed-point"])
def test_what_the_trained_network_alone_knows_does_not_stop_refining(
    tmp_path: Path, arithmetic: str
) -> None:
    config = RunConfig.from_recipe(
        "mnistnet", "digits", bits=4, epochs=1,
        spike_rate_target=0.1, precision="bf16-mixed",
    )  # fmt: skip
    trained = str(fit(config, out=tmp_path, reporter=Reporter())["run"])
    code, output = call("finetune", trained, arithmetic, "--out", str(tmp_path), "--quiet")
    assert code == 0, output
    result = json.loads((Path(output.splitlines()[-1]) / "result.json").read_text())
    assert result["test_accuracy"] > 0.5


@pytest.mark.parametrize(("kind", "files"), [
    ("folder", {"network.json", "samples.npz"}),
    ("c", {"network.h", "selftest.c", "samples.bin"}),
])  # fmt: skip
def test_the_integers_as_files(run: str, tmp_path: Path, kind: str, files: set[str]) -> None:
    path = tmp_path / "net"
    arguments = ("export", run, "--fixed-point", "--format", kind, "--output", str(path))
    code, output = call(*arguments, "--verify", "4")
    assert code == 0, output
    assert "of 4 test samples in" in output
    assert files <= {file.name for file in path.iterdir()}
    code, output = call(*arguments)
    assert (code, "exists already; replace it with --force" in output) == (2, True), output
    code, output = call(*arguments, "--verify", "2", "--force", "--json")
    assert code == 0, output
    assert json.loads(output)["samples"] == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["export", "RUN", "--format", "c"], "--format c writes integers: it needs --fixed-point"),
    (["export", "RUN", "--format", "folder", "--fixed-point", "--form", "step"],
     "--form is for graphs: --format folder goes without it"),
    (["export", "RUN", "--format", "c", "--target", "finn", "--act-bits", "9"],
     "--format c writes integers: it needs --fixed-point, and goes without --target and --act-bits,"
     " which are for graphs."),
    (["export", "RUN", "--format", "c", "--fixed-point", "--batch", "2", "--as-trained"],
     "--batch and --as-trained are for graphs: --format c goes without them."),
    (["export", "RUN", "--format", "c", "--fixed-point", "--target", "finn", "--form", "step"],
     "--form and --target are for graphs: --format c goes without them."),
    (["export", "RUN", "--arithmetic", "simple", "--target", "finn"],
     "FINN has no floor, which --arithmetic simple of integers needs: leave it out"),
    (["export", "RUN", "--format", "nir", "--fixed-point"], "goes without it"),
    (["export", "RUN", "--format", "nir", "--target", "finn", "--batch", "2"],
     "--target and --batch are for other formats: --format nir, which writes one time step of the"
     " network as trained, goes without them."),
    (["export", "RUN", "--fixed-point", "--as-trained"], "exclude each other; choose one"),
    (["export", "RUN", "--frozen", "--fixed-point"], "--frozen and --fixed-point exclude each"),
    (["export", "RUN", "--arithmetic", "simple"], "it needs --fixed-point"),
    (["export", "RUN", "--fixed-point", "--act-bits", "9"], "--fixed-point goes without it"),
    (["evaluate", "RUN", "--arithmetic", "simple"], "it needs --fixed-point"),
    (["evaluate", "RUN", "--frozen", "--fixed-point"], "exclude each other; choose one"),
    (["finetune", "RUN"], "name the arithmetic to refine in: --fixed-point or --frozen"),
    (["finetune", "RUN", "--frozen", "--fixed-point"], "name the arithmetic to refine in"),
    (["finetune", "RUN", "--frozen", "--quiet", "--json"], "exclude each other; give one"),
    (["train", "mnistnet", "--fixed-point-aware"], "name its run with --init-from"),
    (["train", "mnistnet", "--fixed-point-aware", "--frozen-aware", "--init-from", "RUN"],
     "exclude each other; give one"),
    (["export", "RUN", "--fixed-point", "--target", "finn", "--form", "step"],
     "FINN has no floor, which --form step of integers needs: leave it out"),
    (["export", "RUN", "--fixed-point", "--target", "finn", "--arithmetic", "simple"],
     "FINN has no floor, which --arithmetic simple of integers needs: leave it out"),
    (["verify", "none.onnx", "--run", "RUN"], "there is no file 'none.onnx'"),
])  # fmt: skip
def test_usage_errors(run: str, arguments: list[str], message: str) -> None:
    code, output = call(*[run if word == "RUN" else word for word in arguments])
    assert (code, message in output) == (2, True), output


def test_files_of_others_are_refused(run: str, graph: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no graph")
    code, output = call("verify", str(text), "--run", run)
    assert (code, f"'{text}' is damaged or is not an ONNX file" in output) == (1, True), output

    model = onnx.load(str(graph))
    said = {entry.key: entry for entry in model.metadata_props}
    said["arithmetic"].value = "fixed-point of tomorrow"
    other = tmp_path / "other.onnx"
    onnx.save(model, str(other))
    code, output = call("verify", str(other), "--run", run)
    assert (code, "knows no arithmetic 'fixed-point of tomorrow'" in output) == (1, True), output

    del model.metadata_props[:]
    onnx.save(model, str(other))
    code, output = call("verify", str(other), "--run", run)
    assert (code, "only files that `snntorch-stbp export` wrote" in output) == (1, True), output

    said["arithmetic"].value = "deployment 10"
    said["names"].value = "{}"
    model.metadata_props.extend([said["arithmetic"], said["names"]])
    onnx.save(model, str(other))
    code, output = call("verify", str(other), "--run", run)
    assert (code, "names no spikes" in output) == (1, True), output


def test_a_run_that_never_finished_an_epoch_cannot_be_refined(run: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((Path(run) / "config.json").read_text())
    code, output = call("finetune", str(tmp_path), "--fixed-point")
    assert (code, "there is nothing to refine yet" in output) == (1, True), output
