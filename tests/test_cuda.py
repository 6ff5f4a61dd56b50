"""The journey on a GPU: training, resuming, evaluating, deployment arithmetic."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import zoo
from snntorch_stbp.kernels import normed
from snntorch_stbp.train import catalog, loop
from snntorch_stbp.train.build import build_data
from snntorch_stbp.train.data import DataBundle, augment
from snntorch_stbp.train.evaluate import evaluate
from snntorch_stbp.train.graphed import TYPES, capture
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.objective import mix
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir

from .nets import digits, make
from .runs import assert_same_state, make_config, stopped_and_continued

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: not tried on a GPU"
)


@pytest.fixture(autouse=True)
def _deterministic() -> Any:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("bits", [None, 4, "ternary", 1])
def test_a_run_learns(bits: Any, precision: str, small_digits: str, tmp_path: Path) -> None:
    config = make_config(
        small_digits, model="mnistnet_bn", bits=bits, precision=precision, device="cuda",
        epochs=4, lr=5e-3, augment=("crop", "flip", "cutout"), ema=0.9, mixup=0.2,
    )  # fmt: skip
    result = fit(config, out=tmp_path, reporter=Reporter())
    assert result["status"] == "finished"
    losses = [row["train_loss"] for row in RunDir.open(result["run"]).history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("option", ["save_memory", "checkpoint_activations"])
def test_less_memory_gives_the_same_weights(option: str, small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, model="resnet18", device="cuda", epochs=1)
    lean = make_config(small_digits, model="resnet18", device="cuda", epochs=1, **{option: True})
    runs = [fit(c, out=tmp_path, reporter=Reporter())["run"] for c in (config, lean)]
    assert_same_state(*map(Path, runs))


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("bits", [None, 4, 2, "ternary", 1])
def test_graphs_give_the_same_weights(
    bits: Any, precision: str, small_digits: str, tmp_path: Path
) -> None:
    common = {"bits": bits, "act_bits": None, "precision": precision, "device": "cuda", "epochs": 2}
    configs = [
        make_config(small_digits, model="mnistnet_bn", cuda_graphs=graphs, **common)  # type: ignore[arg-type]
        for graphs in (True, False)
    ]
    runs = [fit(config, out=tmp_path, reporter=Reporter())["run"] for config in configs]
    assert "CUDA graphs" not in (Path(runs[0]) / "log.txt").read_text()
    assert_same_state(*map(Path, runs))


@pytest.mark.parametrize("act_bits", [8, None])  # kernel by kernel, and through graphs
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    optimizer: str, act_bits: int | None, small_digits: str, tmp_path: Path
) -> None:
    config = make_config(
        small_digits, device="cuda", epochs=2, act_bits=act_bits, batch_size=8, optimizer=optimizer
    )
    whole = fit(config, out=tmp_path / "whole", reporter=Reporter())["run"]
    parts = stopped_and_continued(config, tmp_path / "parts", step=loop.LOOK_EVERY)
    assert_same_state(Path(whole), parts)


@pytest.mark.parametrize("name", [*catalog.AUGMENTATIONS, "mixup"])
def test_nothing_that_changes_images_waits_for_the_gpu(name: str) -> None:
    """A wait in every step leaves the GPU without work while the next step is prepared."""
    x, generator = torch.rand(8, 3, 32, 32, device="cuda"), torch.Generator()
    change = partial(mix, alpha=0.2) if name == "mixup" else augment.make([name], 32)
    change(x, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        change(x, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_the_same_configuration_gives_the_same_weights(
    precision: str, small_digits: str, tmp_path: Path
) -> None:
    config = make_config(
        small_digits, act_bits=None, precision=precision, device="cuda", epochs=2, cuda_graphs=False
    )
    assert_same_state(
        *(Path(fit(config, out=tmp_path, reporter=Reporter())["run"]) for _ in range(2))
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("bits", [None, 4, 1])
def test_a_pass_through_graphs_gives_the_same_gradients(bits: Any, precision: str) -> None:
    net = zoo.create("mnistnet_bn", in_channels=1, image_size=8, precision=stbp.Precision(bits))
    net.cuda().to(memory_format=torch.channels_last).train()
    results = []
    for graphs in (True, False):
        ours, x = copy.deepcopy(net), torch.rand(32, 1, 8, 8).cuda()
        if graphs:
            assert capture(ours, x, precision) is None
        torch.manual_seed(0)
        x = torch.rand(32, 1, 8, 8).cuda()
        with torch.autocast("cuda", TYPES[precision]):
            record = ours(x)
        record.float().square().mean().backward()
        gradients = {
            key: p.grad.clone() for key, p in ours.named_parameters() if p.grad is not None
        }
        results.append({"record": record.detach().clone()} | gradients)
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key]), key


def test_data_on_the_gpu_are_those_in_memory(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(small_digits, device="cuda", epochs=1, augment=("shift", "rotate"))
    bundle = build_data(config)
    moved = bundle.to(torch.device("cuda"))
    for part in ("train", "val", "test"):
        x, y = getattr(moved, part).__getitems__([3, 1, 2])
        expected = getattr(bundle, part).__getitems__([3, 1, 2])
        assert x.is_cuda
        assert torch.equal(x.cpu(), expected[0])
        assert torch.equal(y.cpu(), expected[1])
    runs = [Path(fit(config, out=tmp_path, reporter=Reporter())["run"])]
    monkeypatch.setattr(DataBundle, "kept_on", lambda self, device: self)
    runs.append(Path(fit(config, out=tmp_path, reporter=Reporter())["run"]))
    assert_same_state(*runs)


@pytest.mark.parametrize("bits", [None, 8, 4, 2, "ternary", 1])
@pytest.mark.parametrize("model", ["mnistnet", "cifarnet", "resnet18"])
def test_deployment_arithmetic_is_that_of_the_cpu(model: str, bits: Any) -> None:
    net = zoo.create(
        model, image_size=32, in_channels=3, precision=stbp.Precision(weight_bits=bits)
    )
    net(torch.rand(8, 3, 32, 32)).sum().backward()  # running statistics
    x = torch.rand(16, 3, 32, 32)
    for harden in (stbp.freeze, stbp.lower):
        hard, records = harden(net.eval()), []
        for device in ("cpu", "cuda"):
            record: dict[str, torch.Tensor] = {}
            with torch.no_grad():
                record["readout"] = hard.to(device)(x.to(device), record)
            records.append(record)
        net.cpu()
        for name, value in records[0].items():
            assert torch.equal(value, records[1][name].cpu()), (harden.__name__, name)


def test_evaluate_on_the_gpu(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, device="cpu", epochs=2, bits=4)
    run = RunDir.open(fit(config, out=tmp_path, reporter=Reporter())["run"])
    simple = {"fixed_point": True, "arithmetic": "simple"}
    for options in ({}, {"frozen": True}, {"fixed_point": True}, simple):
        cpu, gpu = (
            evaluate(run, device=device, reporter=Reporter(), **options)  # type: ignore[arg-type]
            for device in ("cpu", "cuda")
        )
        if options:
            assert cpu["accuracy"] == gpu["accuracy"]
            assert cpu["spike_rate"] == gpu["spike_rate"]
        else:
            assert cpu["accuracy"] == pytest.approx(gpu["accuracy"], abs=0.03)


@pytest.mark.parametrize("bits", [None, 1, "ternary", 3, 4, 8])
def test_integers_are_those_of_the_cpu(bits: Any) -> None:
    net = make("mnistnet_bn", bits=bits)
    here, there = (stbp.lower(copy.deepcopy(net).to(d)).integers for d in ("cpu", "cuda"))
    for ours, theirs in zip(here.stages, there.stages, strict=True):
        for one, other in zip(ours.branches, theirs.branches, strict=True):
            assert np.array_equal(one.weight, other.weight)
            assert np.array_equal(one.multiplier, other.multiplier)
        if ours.neuron is not None and theirs.neuron is not None:
            assert np.array_equal(ours.neuron.threshold, theirs.neuron.threshold)


def test_a_network_on_the_gpu_is_exported(tmp_path: Path) -> None:
    net, images = make("mnistnet").cuda(), digits(2)
    for where in ("cpu", "cuda"):
        x = images.to(where)
        stbp.export.to_qonnx(net, x, tmp_path / f"{where}.onnx")
        stbp.export.to_qonnx(net, x, tmp_path / f"{where}-trained.onnx", as_trained=True)
        integers = stbp.lower(net, samples=x)
        stbp.export.to_qonnx(integers, x, tmp_path / f"{where}-integers.onnx")
        stbp.export.to_folder(integers, x, tmp_path / f"{where}-folder")
        stbp.export.to_c99(integers, x, tmp_path / f"{where}-c")
    assert next(net.parameters()).is_cuda


def test_trying_out_a_graph_draws_nothing() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).cuda()
    torch.cuda.manual_seed(3)
    expected = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)
    assert capture(net, torch.rand(4, 8, device="cuda"), "32") is None
    assert torch.equal(torch.rand(4, device="cuda"), expected)


def test_the_first_pass_may_be_in_inference_mode() -> None:
    normed._on_cuda.cache_clear()
    net = make("mnistnet_bn").cuda()
    with torch.inference_mode():
        net(digits(2).cuda())
    assert normed._on_cuda() is not None
