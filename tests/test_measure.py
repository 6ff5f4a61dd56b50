"""Passes over a data set, against what is computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

import snntorch_stbp as stbp
from snntorch_stbp.frozen import Settings
from snntorch_stbp.time import readout
from snntorch_stbp.train.early_exit import EarlyExit
from snntorch_stbp.train.evaluate import Trained, load_trained
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.measure import COMPARED, compare, measure
from snntorch_stbp.train.metrics import spike_record
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .runs import make_config

FABRIC = Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = make_config("digits", bits=4, act_bits=None, epochs=2)
    result = fit(config, out=tmp_path_factory.mktemp("runs"), reporter=Reporter())
    return load_trained(RunDir.open(result["run"]), "best")


@pytest.mark.parametrize("batch_size", [7, 500])
def test_a_comparison_is_what_two_networks_say(trained: Trained, batch_size: int) -> None:
    net, test = trained.model, trained.bundle.test
    hard = stbp.freeze(net, Settings(act_bits=8))  # coarse, so that something differs
    told: list[tuple[int, int]] = []
    found = compare(
        FABRIC, net, hard, trained.config, test, batch_size, tell=lambda *a: told.append(a)
    )
    x, y = test.__getitems__(list(range(len(test))))
    stages: dict[str, torch.Tensor] = {}
    with torch.no_grad(), spike_record(net) as spikes:
        ours, theirs = readout(hard(x, stages)).argmax(1), readout(net(x)).argmax(1)
    differing = sum(int((stages[name] != value).sum()) for name, value in spikes.items())
    total = sum(value.numel() for value in spikes.values())
    assert 0 < differing < total
    assert found["spikes_differ"] == pytest.approx(differing / total, rel=1e-3)  # float rounding
    assert found["predictions_differ"] == pytest.approx((ours != theirs).double().mean().item())
    assert found["trained_accuracy"] == pytest.approx((theirs == y).double().mean().item())
    alone = measure(FABRIC, hard, trained.config, test, batch_size)
    assert alone == pytest.approx({key: found[key] for key in alone})
    assert told[-1] == (len(test), len(test))
    assert len(told) == -(-len(test) // min(batch_size, COMPARED))


def test_nothing_is_left_behind(trained: Trained) -> None:
    net, test = trained.model, trained.bundle.test
    compare(FABRIC, net, stbp.lower(net), trained.config, test, 64)
    neurons = [m for m in net.modules() if isinstance(m, stbp.Leaky)]
    assert neurons
    assert not any(neuron._spike_hooks for neuron in neurons)


def test_early_exits_are_those_of_the_hard_network(trained: Trained) -> None:
    net, test = trained.model, trained.bundle.test
    hard = stbp.freeze(net, Settings(act_bits=8))
    seen: list[Any] = []
    for run in (compare, measure):
        early = EarlyExit([0.3, 0.9])
        networks = (net, hard) if run is compare else (hard,)
        run(FABRIC, *networks, trained.config, test, 50, early)  # type: ignore[operator]
        seen.append(early.read())
    assert seen[0] == seen[1]


def test_evaluate_tells_how_far_it_is(trained: Trained, tmp_path: Path) -> None:
    from snntorch_stbp.train.evaluate import evaluate

    class Counting(Reporter):
        def __init__(self) -> None:
            self.told: list[tuple[int, int]] = []

        def evaluated(self, done: int, total: int) -> None:
            self.told.append((done, total))

    for options in ({}, {"fixed_point": True}):
        reporter = Counting()
        evaluate(trained.run, reporter=reporter, **options)  # type: ignore[arg-type]
        count = len(trained.bundle.test)
        assert reporter.told[-1] == (count, count)
