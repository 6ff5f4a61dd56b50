"""The average of the weights is the textbook's, and it is what a run validates and saves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_stbp import convert, zoo
from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.average import WeightAverage
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.evaluate import evaluate
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir
from snntorch_stbp.zoo import registry

from .runs import assert_same_state, last_state, make_config, stopped_and_continued


def test_the_average_is_that_of_a_plain_loop() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    average = WeightAverage(net, 0.8)
    expected = {k: v.double().clone() for k, v in net.state_dict().items()}
    for step in range(1, 60):
        optimizer.zero_grad()
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        average.update()
        decay = min(0.8, (1 + step) / (10 + step))
        for key, value in net.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    counter = "1.num_batches_tracked"
    assert average.state.pop(counter) == net.state_dict()[counter] == 59
    for key, value in average.state.items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)


def test_the_network_has_its_own_weights_back_after_the_average_was_applied() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0.9)
    mean = average.state["weight"].clone()
    nn.init.ones_(net.weight)
    with average.applied():
        assert torch.equal(net.weight, mean)
    assert torch.equal(net.weight, torch.ones(2, 2))
    assert torch.equal(average.state["weight"], mean)


class Tied(nn.Module):
    """One layer of two names, and one beside it; statistics are shared as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.again, self.own = self.first, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.own(self.again(self.first(x)))
        return out


def test_what_has_two_names_is_averaged_once_and_given_back() -> None:
    net = Tied()
    average = WeightAverage(net, 0.8)
    expected = {k: v.double().clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(1, 20):
        optimizer.zero_grad()
        net(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        average.update()
        decay = min(0.8, (1 + step) / (10 + step))
        for key, value in net.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for _ in range(2):
        with average.applied():
            for key, value in net.state_dict().items():
                if value.is_floating_point():
                    torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
        for key, value in net.state_dict().items():
            assert torch.equal(value, before[key]), key
        for key, value in average.state.items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
            else:
                assert value == 38


def twice(parts: zoo.Parts) -> nn.Module:
    """A network whose layers of 32 are one, called twice at every step, converted."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.shared, self.head = (
                nn.Linear(64, 32),
                nn.Linear(32, 32),
                nn.Linear(32, 10),
            )
            self.neurons = nn.ModuleList(snn.Leaky(0.9) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            membranes, record = [neuron.init_leaky() for neuron in self.neurons], []  # type: ignore[operator]
            for _ in range(parts.num_steps):
                spikes = x.flatten(1)
                for place, layer in enumerate((self.start, self.shared, self.shared)):
                    current = layer(spikes)
                    spikes, membranes[place] = self.neurons[place](current, membranes[place])
                record.append(self.head(spikes))
            return torch.stack(record)

    example = torch.zeros(2, 1, 8, 8)
    return convert(Twice(), example, num_steps=parts.num_steps, precision=parts.precision)


def test_a_run_of_a_layer_called_twice_averages_beside_training_and_resumes(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    zoo.register("twice", twice)
    config = make_config(small_digits, model="twice", bits=None, act_bits=None, epochs=2, ema=0.99)
    whole = Path(fit(config, out=tmp_path / "whole", reporter=Reporter())["run"])
    plain = fit(replace(config, ema=None), out=tmp_path, reporter=Reporter())
    state, without = last_state(whole), last_state(Path(plain["run"]))["model"]
    for key, value in state["unaveraged"].items():
        assert torch.equal(value, without[key]), key
    shared = [k for k in state["model"] if k.startswith("shared") and k.endswith("weight")]
    assert len(shared) == 2
    for part in ("model", "unaveraged"):
        assert torch.equal(*(state[part][key] for key in shared))
    assert not torch.equal(state["model"][shared[0]], state["unaveraged"][shared[0]])
    assert_same_state(whole, stopped_and_continued(config, tmp_path / "parts"))


@pytest.fixture(scope="module")
def averaged(small_digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_config(small_digits, ema=0.99, epochs=2)
    return Path(fit(config, out=tmp_path_factory.mktemp("runs"), reporter=Reporter())["run"])


def test_training_itself_is_not_changed(averaged: Path, small_digits: str, tmp_path: Path) -> None:
    plain = fit(make_config(small_digits, epochs=2), out=tmp_path, reporter=Reporter())
    without = last_state(Path(plain["run"]))
    for key, value in last_state(averaged)["unaveraged"].items():
        assert torch.equal(value, without["model"][key]), key
    assert "unaveraged" not in without


def test_the_average_is_what_was_validated_and_saved(averaged: Path) -> None:
    run = RunDir.open(averaged)
    val = evaluate(run, split="val", reporter=Reporter())
    assert run.result is not None
    assert val["accuracy"] == run.result["best_val_accuracy"]
    assert evaluate(run, reporter=Reporter())["accuracy"] == run.result["test_accuracy"]
    last = evaluate(run, split="val", checkpoint="last", reporter=Reporter())
    assert last["accuracy"] == run.history[-1]["val_accuracy"]
    assert last["loss"] == pytest.approx(run.history[-1]["val_loss"], abs=1e-5)
    state = last_state(averaged)
    weight = next(key for key in state["model"] if key.endswith("weight"))
    assert not torch.equal(state["model"][weight], state["unaveraged"][weight])


def test_an_interrupted_average_resumes_bit_for_bit(
    averaged: Path, small_digits: str, tmp_path: Path
) -> None:
    config = make_config(small_digits, ema=0.99, epochs=2)
    path = stopped_and_continued(config, tmp_path)
    assert RunDir.open(path).config.ema == 0.99
    assert_same_state(averaged, path)


@pytest.mark.parametrize("mode", ["frozen_aware", "fixed_point_aware"])
def test_refining_in_integers_averages_too(averaged: Path, tmp_path: Path, mode: str) -> None:
    config = RunDir.open(averaged).changed(epochs=1, init_from=str(averaged), **{mode: True})
    run = RunDir.open(fit(config, out=tmp_path, reporter=Reporter())["run"])
    how = {"frozen": True} if mode == "frozen_aware" else {"fixed_point": True}
    assert run.result is not None
    measured = evaluate(run, reporter=Reporter(), **how)  # type: ignore[arg-type]
    assert measured["accuracy"] == run.result["test_accuracy"]
    state = checkpoint.load(run.path / "last.pt")
    assert any(not torch.equal(v, state["model"][k]) for k, v in state["unaveraged"].items())


NEW = {
    "momentum": 0.9,
    "nesterov": True,
    "ema": None,
    "surrogate_centre": "threshold",
    "weight_range": "fitted",
    "init": "threshold",
    "recipe": "standard",
    "teacher": (),
    "distill_weight": 0.5,
    "temperature": 4.0,
    "mixup": None,
    "refine_epochs": 0,
    "split_seed": None,
}


def test_runs_from_before_these_options_keep_what_was_done_then(small_digits: str) -> None:
    values = json.loads(make_config(small_digits).to_json())
    for name in NEW:
        del values[name]
    config = RunConfig.from_json(json.dumps(values))
    assert {name: getattr(config, name) for name in NEW} == NEW


def test_a_decay_that_averages_next_to_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"ema lies between 0\.5 and 0\.999999, not 0\.1"):
        make_config("digits", ema=0.1)


def test_runs_from_before_there_were_several_teachers_are_read(small_digits: str) -> None:
    values = json.loads(make_config(small_digits).to_json())
    for stored, read in ((None, ()), ("runs/a-1", ("runs/a-1",)), (["a", "b"], ("a", "b"))):
        assert RunConfig.from_json(json.dumps(values | {"teacher": stored})).teacher == read
        assert RunConfig.from_recipe("mnistnet", "digits", teacher=stored).teacher == read
