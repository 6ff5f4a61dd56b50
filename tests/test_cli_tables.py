"""The tables: data sets, models, runs, one run."""

import json
import re

import pytest
from click.testing import CliRunner

from snntorch_stbp import zoo
from snntorch_stbp.cli import main
from snntorch_stbp.train.catalog import DATASETS
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run.rundir import RunDir


def ask(*args: str) -> str:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def row(epoch: int, accuracy: float) -> dict[str, float]:
    return {
        "epoch": epoch, "train_loss": 1.5, "train_accuracy": 0.4, "val_loss": 1.25,
        "val_accuracy": accuracy, "lr": 0.002, "seconds": 1.5, "images_per_second": 900.0,
        "spike_rate": 0.25, "best": 1,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """A finished run, an interrupted one, a diverged one and a new one."""
    out = tmp_path / "runs"
    made = []
    for bits, model in ((4, "mnistnet"), (None, "resnet18"), ("ternary", "vgg11"), (2, "vgg11")):
        config = RunConfig.from_recipe(model, "digits", bits=bits, epochs=3, augment=("shift",))
        made.append(RunDir.create(out, config))
    made[0].write_history([row(1, 0.5), row(2, 0.875), row(3, 0.75)])
    made[0].write_text("result.json", json.dumps({"status": "finished", "test_accuracy": 0.8125}))
    made[1].write_history([row(1, 0.5)])
    made[1].write_text("last.pt", "")
    made[2].write_text("result.json", json.dumps({"status": "diverged", "epoch": 1}))
    return made


@pytest.mark.parametrize(("select", "accuracy"), [("best", 0.875), ("last", 0.75)])
def test_the_accuracy_held_out_is_that_of_the_weights_that_count(tmp_path, select, accuracy):
    run = RunDir.create(tmp_path, RunConfig.from_recipe("mnistnet", "digits", select=select))
    run.write_history([row(1, 0.5), row(2, 0.875), row(3, 0.75)])
    (found,) = json.loads(ask("runs", "--out", str(tmp_path), "--json"))
    assert found["best_val_accuracy"] == accuracy


def test_datasets_lists_the_catalogue():
    shown = ask("datasets")
    for info in DATASETS.values():
        assert f"{info.name}:PATH" if info.takes_path else info.name in shown
        assert info.source in shown
    found = json.loads(ask("datasets", "--json"))
    assert [entry["name"] for entry in found] == list(DATASETS)


def test_models_lists_the_zoo():
    heading, *lines = ask("models").splitlines()
    assert heading.split()[:3] == ["model", "parameters", "layers"]
    names = [line.split()[0] for line in lines[: len(zoo.list_models())]]
    assert names == zoo.list_models()


def test_models_counts_what_the_networks_have():
    (found,) = [json.loads(ask("models", "mnistnet", "--json"))]
    # 5x5 convolutions to 15 and 40 channels, linear layers 40*7*7 -> 300 -> 10, the last with bias
    weights = 15 * 25 + 40 * 15 * 25 + 40 * 7 * 7 * 300 + 300 * 10
    assert found["layers"] == 4
    assert 0 <= found["parameters"] - weights <= 15 + 40 + 300 + 10
    assert found["recipes"]["digits"]["epochs"] == zoo.recipe("mnistnet", "digits").epochs


def test_one_model_shows_its_recipes():
    shown = ask("models", "resnet18")
    assert shown.startswith("resnet18: ")
    for name in DATASETS:
        assert f"\n{name} " in shown


def test_recipes_at_a_bit_width():
    for bits in ("1", "ternary", "32"):
        found = json.loads(ask("models", "mnistnet_bn", "--bits", bits, "--json"))
        width = {"1": 1, "32": None}.get(bits, bits)
        assert found["recipes"]["mnist"]["lr"] == zoo.recipe("mnistnet_bn", "mnist", bits=width).lr


def test_runs_says_how_each_ended(runs):
    heading, *lines = ask("runs", "--out", str(runs[0].path.parent)).splitlines()
    assert heading.split() == [
        "run", "model", "data", "set", "bits", "T", "epochs", "best", "val", "test", "status",
    ]  # fmt: skip
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells[str(runs[0].path)] == [
        "mnistnet", "digits", "4", "2", "3/3", "87.50", "%", "81.25", "%", "finished",
    ]  # fmt: skip
    assert cells[str(runs[1].path)][2:] == ["fp32", "2", "1/3", "50.00", "%", "-", "interrupted"]
    assert cells[str(runs[2].path)][2:] == ["ternary", "2", "0/3", "-", "-", "diverged"]
    assert cells[str(runs[3].path)][-1] == "new"


def test_runs_as_json(runs):
    found = json.loads(ask("runs", "--out", str(runs[0].path.parent), "--json"))
    assert len(found) == 4
    first = next(entry for entry in found if entry["run"] == str(runs[0].path))
    assert first["best_val_accuracy"] == 0.875
    assert first["test_accuracy"] == 0.8125
    assert first["config"]["bits"] == 4


def test_no_runs_is_no_error(tmp_path):
    assert ask("runs", "--out", str(tmp_path / "none")).startswith("No runs in")
    assert json.loads(ask("runs", "--out", str(tmp_path), "--json")) == []


def test_show_a_run(runs):
    path = str(runs[0].path)
    shown = ask("show", path, "--last", "2")
    assert shown.startswith(f"{path}\n")
    assert "\nbits                   4   " in shown
    assert "\nact_bits               32 (float)   " in shown
    assert "\naugment                shift   " in shown
    assert " checkpoint_activations no\n" in shown
    assert "   1/3 " not in shown
    assert "   2/3 " in shown
    assert "   3/3 " in shown
    assert "finished, 3 of 3 epochs" in shown
    assert shown.endswith(f"next             snntorch-stbp evaluate {path}\n")
    assert max(map(len, shown.replace(path, "RUN").splitlines())) <= 80


def test_what_a_configuration_says_does_not_steer_the_terminal(runs):
    path = runs[3].path
    config = json.loads((path / "config.json").read_text())
    changes = {"dataset": "npz:\x1b]0;x\x07\nfake  run", "layer_bits": {"a\x1b[2J": 4}}
    (path / "config.json").write_text(json.dumps(config | changes))
    for shown in (ask("show", str(path)), ask("runs", "--out", str(path.parent))):
        assert {c for c in shown if not c.isprintable()} == {"\n"}
        assert "npz:?]0;x??fake  run" in shown
    assert re.search(r"^bits of +a\?\[2J: 4$", ask("show", str(path)), re.MULTILINE)


def test_show_as_json(runs):
    found = json.loads(ask("show", str(runs[0].path), "--json"))
    assert [entry["epoch"] for entry in found["history"]] == [1, 2, 3]
    assert found["result"]["test_accuracy"] == 0.8125
    assert found["next"] == f"snntorch-stbp evaluate {runs[0].path}"


def test_show_tells_what_to_type_next(runs):
    def following(run: RunDir) -> str:
        return ask("show", str(run.path)).splitlines()[-1].split(maxsplit=1)[1]

    assert following(runs[1]) == f"snntorch-stbp train --resume {runs[1].path}"
    lower = f"{runs[2].config.lr / 10:g}"
    vgg = "snntorch-stbp train vgg11 --dataset digits"
    assert following(runs[2]) == f"{vgg} --bits ternary --epochs 3 --lr {lower} --augment shift"
    assert following(runs[3]) == f"{vgg} --bits 2 --epochs 3 --augment shift"
