"""The command that a run is told by asks for the same run."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snntorch_stbp.cli.again import train_command
from snntorch_stbp.cli.train import new_config
from snntorch_stbp.cli.train import train as command
from snntorch_stbp.cli.train_options import given_fields
from snntorch_stbp.train.config import RunConfig

from .runs import call

RUNS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bits": {"bits": "ternary", "act_bits": 4, "membrane_bits": 6, "input_bits": 5},
    "2 bits from another run": {"bits": 2, "init_from": "runs/a b-1"},
    "seed of few bits": {"recipe": "seed", "bits": "ternary", "weight_range": "fitted"},
    "fitted ranges": {"bits": 2, "init_from": "runs/a-1", "weight_range": "fitted"},
    "seed": {"recipe": "seed", "epochs": 7, "lr": 0.1},
    "sgd": {
        "optimizer": "sgd",
        "nesterov": False,
        "momentum": 0.5,
        "per_channel": False,
        "bits": 3,
    },
    "device": {"save_memory": True, "cuda_graphs": False, "precision": "bf16-mixed", "workers": 2},
    "long": {"epochs": 77, "lr": 1 / 3, "augment": ("shift", "elastic:1"), "refine_epochs": 5},
    "teachers": {"teacher": ("runs/a-1", "runs/b-2"), "temperature": 2.0, "seed": 5},
    "learned": {"learn_beta": True, "spike_rate_target": 0.1, "ema": 0.99, "mixup": 0.3},
    "steps": {"steps": 7, "image_size": 20, "data_dir": "other data", "select": "last"},
}


def typed(line: str) -> RunConfig:
    """The configuration that the command line makes of a line."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("snntorch-stbp", "train")
    values = command.make_context("train", words).params
    for other in ("out", "resume", "quiet", "as_json", "debug"):
        values.pop(other, None)
    return new_config(given_fields(values))


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_a_run_is_asked_for_again(changes: dict[str, Any], dataset: str) -> None:
    config = RunConfig.from_recipe("resnet18", dataset, **changes)
    assert typed(train_command(config)) == config


def test_what_a_recipe_has_and_a_run_has_not() -> None:
    config = RunConfig.from_recipe("resnet18", "cifar10")
    config = replace(config, mixup=None, augment=(), image_size=None)
    assert typed(train_command(config)) == config


def test_fewer_bits_in_place_of_the_run_s_own() -> None:
    config = RunConfig.from_recipe("vgg11", "npz:my data.npz", bits=8, steps=5, lr=0.02)
    line = train_command(config, bits="4", init_from="runs/it")
    again = typed(line)
    assert (again.bits, again.init_from) == (4, "runs/it")
    assert replace(again, bits=8, init_from=None) == config


@pytest.mark.parametrize("instead", [{}, {"bits": "4", "init_from": "runs/it"}])
def test_weights_that_are_there_are_not_initialised(instead: dict[str, str]) -> None:
    config = RunConfig.from_recipe("mnistnet", "digits", init="torch")
    assert typed(train_command(config)).init == "torch"
    config = config if instead else replace(config, init_from="runs/a")
    assert typed(train_command(config, **instead)).init_from is not None


def test_how_weights_are_rounded_stays() -> None:
    config = RunConfig.from_recipe("vgg11", "digits", bits=4, weight_range="max", scale="po2")
    again = typed(train_command(config, bits="3", init_from="runs/it"))
    assert (again.weight_range, again.scale) == ("max", "po2")


def test_bits_by_layer_are_a_file_to_name() -> None:
    config = RunConfig.from_recipe("vgg11", "digits", layer_bits={"head.*": 8})
    assert train_command(config) == "snntorch-stbp train vgg11 --dataset digits --bits-file FILE"


def test_allocate_goes_on_with_the_steps_of_frames(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = random.integers(0, 3, (count, 3, 1, 12, 12), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 4
    file, out = tmp_path / "my frames.npz", str(tmp_path / "runs")
    np.savez(file, **arrays)
    options = ("--epochs", "1", "--out", out, "--quiet", "--device", "cpu", "--batch-size", "16")
    code, output = call(
        "train", "nmnistnet_bn", "--dataset", f"npz:{file}", "--steps", "3", *options
    )
    assert code == 0, output
    code, output = call(
        "allocate", output.strip(), "--bits-budget", "4", "--device", "cpu", "--json"
    )
    assert code == 0, output
    program, *following = shlex.split(json.loads(output)["next"])
    code, output = call(*following, "--out", out, "--quiet")
    assert (program, code) == ("snntorch-stbp", 0), output
    made = json.loads((Path(output.strip()) / "config.json").read_text())
    assert (made["steps"], made["epochs"], made["device"]) == (3, 1, "cpu")
