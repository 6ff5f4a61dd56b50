"""What a run holds out is new to the runs that it starts or learns from, or a sentence says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snntorch_stbp import Leaky
from snntorch_stbp.errors import StbpError
from snntorch_stbp.train.build import build_data
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.evaluate import evaluate, load_trained, renamed
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir, list_runs
from snntorch_stbp.train.sources import inherit, notices, seen
from snntorch_stbp.train.sweep import runs
from snntorch_stbp.train.sweep.jobs import Job

from .runs import call, make_config


class Told(Reporter):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def made(small_digits: str, tmp_path: Path) -> Any:
    """A function that makes the folder of a run without training it."""

    def make(**options: Any) -> str:
        config = make_config(options.pop("dataset", small_digits), **options)
        return str(RunDir.create(tmp_path, config).path)

    return make


def leaked(source: str, config: RunConfig) -> int:
    """Images held out by `config` that the run `source` trains on."""
    train = build_data(RunDir.open(source).config).train.index.tolist()
    return len(set(train) & set(build_data(config).val.index.tolist()))


def test_what_a_run_starts_from_says_what_is_held_out(small_digits: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "bits": None, "act_bits": None}
    config = make_config(small_digits, **options)
    paths = [str(fit(config, out=tmp_path, reporter=Reporter())["run"])]
    for seed in (1, 2):  # the second from the first
        told = Told()
        other = make_config(small_digits, **options, seed=seed, init_from=paths[-1])
        assert leaked(paths[0], other) > 0
        result = fit(other, out=tmp_path, reporter=told)
        assert told.texts == []
        assert result["val_name"] == "held-out 10 % of train, seed 0"
        paths.append(result["run"])
        run = RunDir.open(paths[-1])
        assert (run.config.seed, run.config.split_seed) == (seed, 0)
        assert [leaked(path, run.config) for path in paths] == [0] * len(paths)
        val = evaluate(run, split="val", reporter=Reporter())
        assert val["accuracy"] == result["best_val_accuracy"]
    again = fit(replace(run.config, epochs=2), out=tmp_path, reporter=told, resume=run)
    assert RunDir.open(again["run"]).config.split_seed == 0
    assert told.texts == []


def test_so_do_teachers_that_held_out_the_same(made: Any, small_digits: str) -> None:
    first, second, third = made(), made(), made(seed=3)
    config = inherit(make_config(small_digits, seed=1, teacher=(first, second)))
    assert config.split_seed == 0
    assert leaked(first, config) == 0
    assert seen(config) == []
    both = inherit(make_config(small_digits, seed=1, init_from=third, teacher=(first,)))
    assert both.split_seed == 3
    assert leaked(third, both) == 0 < leaked(first, both)
    (text,) = seen(both)
    assert text == (
        f"'{first}' was trained on images that this run holds out (it held out those of seed 0, "
        f"this run those of seed 3): accuracies on them are too high."
    )
    apart = inherit(make_config(small_digits, seed=1, teacher=(first, third)))
    assert apart.split_seed is None
    assert len(seen(apart)) == 2


@pytest.mark.parametrize(
    ("fraction", "leaks"),
    [(0.2, True), (0.1, False), (0.05, False), (0.098, True), (0.09, False), (0.08, False)],
)
def test_other_parts_of_the_data(
    fraction: float, leaks: bool, made: Any, small_digits: str
) -> None:
    """A smaller one is a part of a larger one, but for a class whose share rounding moves."""
    source = made()
    config = inherit(make_config(small_digits, seed=1, val_fraction=fraction, init_from=source))
    assert config.split_seed == 0
    assert (leaked(source, config) > 0) == leaks
    told = f"(it held out 10 %, this run {100 * fraction:g} %)"
    sizes = build_data(config).class_sizes
    assert sum(sizes) == 320
    assert [told in text for text in seen(config, sizes)] == [True] * leaks


def test_a_run_that_held_out_nothing(made: Any, small_digits: str) -> None:
    source = made(validate_on_test=True)
    config = inherit(make_config(small_digits, seed=1, init_from=source))
    assert config.split_seed is None
    assert leaked(source, config) == len(build_data(config).val)
    assert ["(it held out none, this run 10 %)" in text for text in seen(config)] == [True]


def test_other_spellings_of_a_path_are_the_same_data(
    made: Any, small_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = made(), Path(small_digits.partition(":")[2])
    monkeypatch.chdir(path.parent)
    for spelling in (
        f"npz:{path.name}",
        f"npz:./{path.name}",
        f"npz:{path.parent}/../{path.parent.name}/{path.name}",
    ):
        assert inherit(make_config(spelling, seed=1, init_from=source)).split_seed == 0
        assert len(seen(make_config(spelling, seed=1, val_fraction=0.2, init_from=source))) == 1


def test_a_sweep_that_goes_on_holds_out_what_its_runs_did(
    made: Any, small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = RunDir.open(made(seed=1, split_seed=0))
    fitted: list[RunConfig] = []
    monkeypatch.setattr(
        runs,
        "fit",
        lambda config, resume, **others: fitted.append(config) or {"asked_to_stop": False},
    )
    config = make_config(small_digits, seed=1)
    runs._do([Job("a", config, begun), Job("b", config, None)], tmp_path, Reporter(), print, 1)
    assert [each.split_seed for each in fitted] == [0, None]


def test_where_nothing_is_to_be_said(made: Any, small_digits: str) -> None:
    source = made()
    for options in (
        {"validate_on_test": True},
        {"seed": 0},
        {"split_seed": 0},
        {"init_from": "gone"},
        {"dataset": "digits"},
    ):
        values = {"dataset": small_digits, "seed": 1, "init_from": source} | options
        config = make_config(values.pop("dataset"), **values)
        assert inherit(config) == config
        assert seen(config) == []
    assert len(seen(make_config(small_digits, split_seed=2, init_from=source))) == 1


def test_runs_further_behind_are_named(made: Any, small_digits: str) -> None:
    """As those that were begun before what is held out was taken over."""
    first = made()
    second = made(seed=1, teacher=(first,))
    config = inherit(make_config(small_digits, seed=1, init_from=second))
    assert config.split_seed is None
    assert leaked(second, config) == 0 < leaked(first, config)
    (text,) = seen(config)
    assert text.startswith(f"'{first}' was trained on images that this run holds out (it held out")


def test_a_network_that_is_not_the_refined_run_s_is_told(made: Any, small_digits: str) -> None:
    source = made(layer_bits={"head.*": 8})

    def told(**options: Any) -> list[str]:
        return notices(make_config(small_digits, init_from=source, **options))

    same: dict[str, Any] = {"layer_bits": {"head.*": 8}}
    for aware in ({"frozen_aware": True}, {"fixed_point_aware": True}):
        assert told(**same, **aware) == []
        assert told(**aware, bits=None, steps=3) == [
            f"'{source}' was trained with --bits 4 and a --bits-file and --steps 2, and is refined "
            f"here with --bits 32 and no --bits-file and --steps 3, which is another network; "
            f"`snntorch-stbp finetune` keeps all of a run."
        ]
    assert told(bits=2) == []  # fewer bits, which is what starting from a run is for
    assert notices(make_config(small_digits, init_from="gone", frozen_aware=True)) == []


def test_constants_of_neurons_that_the_weights_bring_are_told(
    small_digits: str, tmp_path: Path
) -> None:
    first = make_config(small_digits, epochs=1)
    source = str(fit(first, out=tmp_path, reporter=Reporter())["run"])
    told = Told()
    other = make_config(small_digits, epochs=1, init_from=source, beta=0.5)
    second = fit(other, out=tmp_path, reporter=told)
    assert told.texts == [
        f"the beta of '{source}' comes with its weights: --beta 0.5 changes nothing."
    ]
    model = load_trained(RunDir.open(second["run"])).model
    assert {float(m.beta) for m in model.modules() if isinstance(m, Leaky)} == {first.beta}


def test_the_terminal_the_json_and_the_log_say_so(tmp_path: Path) -> None:
    command = ("train", "mnistnet_bn", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path))
    assert call(*command, "--validate-on-test")[0] == 0
    (source,) = tmp_path.iterdir()
    wanted = (
        f"'{source}' was trained on images that this run holds out (it held out none, this run "
        f"10 %): accuracies on them are too high."
    )
    code, output = call(*command, "--init-from", str(source))
    assert code == 0, output
    assert wanted in output
    code, output = call(*command, "--init-from", str(source), "--json")
    events = [json.loads(line) for line in output.splitlines()]
    assert (code, [e["text"] for e in events if e["event"] == "message"]) == (0, [wanted])
    for run in list_runs(tmp_path):
        assert (wanted in (run.path / "log.txt").read_text()) == (run.path != source)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_seed_of_a_sweep_holds_out_the_same(count: int, tmp_path: Path) -> None:
    """`count` runs at once; and they are found again."""
    options = ("mnistnet_bn", "--epochs", "1", "--device", "cpu")
    assert call("train", *options, "--out", str(tmp_path / "first"))[0] == 0
    (source,) = list_runs(tmp_path / "first")
    command = (
        "sweep", *options, "--bits", "4", "--seeds", "2", "--jobs", str(count),
        "--init-from", str(source.path), "--out", str(tmp_path / "sweep"),
    )  # fmt: skip
    code, output = call(*command)
    assert code == 0, output
    runs = list_runs(tmp_path / "sweep")
    assert sorted((run.config.seed, run.config.held_out_seed) for run in runs) == [(0, 0), (1, 0)]
    assert all(leaked(str(source.path), run.config) == 0 for run in runs)
    code, output = call(*command)
    assert (code, output.count("(done before)")) == (0, 2), output


def test_constants_of_neurons_come_with_the_weights(small_digits: str, tmp_path: Path) -> None:
    first = make_config(small_digits, epochs=1, beta=0.5)
    source = str(fit(first, out=tmp_path, reporter=Reporter())["run"])
    words = (
        "train",
        "mnistnet_bn",
        "--dataset",
        small_digits,
        "--init-from",
        source,
        "--bits",
        "2",
    )
    words += ("--epochs", "1", "--batch-size", "32", "--out", str(tmp_path), "--quiet")
    code, output = call(*words, "--threshold", "0.7")
    assert code == 2
    assert f"the neurons of '{source}' come with its weights, with a threshold of 0.4: le" in output
    code, output = call(*words, "--beta", "0.5")
    assert code == 0, output
    code, output = call(*words)
    assert code == 0, output
    run = RunDir.open(output.strip())
    assert (run.config.beta, run.config.threshold) == (0.5, first.threshold)
    weights = checkpoint.load(run.path / "best.pt")["model"]
    assert {float(w) for name, w in weights.items() if name.endswith(".beta")} == {0.5}


def test_levels_of_membranes_do_not_lie_around_thresholds_that_were_learned(
    small_digits: str, tmp_path: Path
) -> None:
    first = make_config(small_digits, act_bits=None, epochs=1, learn_threshold=True)
    source = str(fit(first, out=tmp_path, reporter=Reporter())["run"])
    config = make_config(small_digits, act_bits=None, membrane_bits=6, init_from=source)
    with pytest.raises(StbpError, match=r"learned its thresholds, and the levels of --membrane"):
        fit(config, out=tmp_path, reporter=Reporter())


def test_classes_of_other_names_are_told() -> None:
    assert renamed(["cat", "dog"], ["cat", "dog"]) == renamed(["0", "1"], ["cat", "dog"]) == ""
    told = renamed(["cat", "dog"], ["dog", "zebra"])
    assert told.startswith("2 of 2 classes have other names than in training")
    assert told.endswith("'dog' is taken for 'cat'")
