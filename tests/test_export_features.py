"""Networks of features `[N, F]`, and networks without coding, which take one input per step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import to_c99, to_folder, to_nir, to_qonnx
from snntorch_stbp.export.folder import load_folder
from snntorch_stbp.export.qonnx.targets import TARGETS, Form
from snntorch_stbp.export.recheck import recheck
from snntorch_stbp.export.trained import TrainedNet
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower, reference

from .nets import digits
from .test_export_hls4ml import through_cpp

STEPS = 3


def features(frames: bool, count: int = 40) -> torch.Tensor:
    """Digits as features `[N, 64]`, or the same at every step, each darker than the one before."""
    x = digits(count).flatten(1)
    return torch.stack([x / 2**t for t in range(STEPS)]) if frames else x


def dense(frames: bool, bits: int | None = 4, **options: str) -> nn.Module:
    """64-24-16-10, as it is written in snnTorch's tutorials, for features or frames of them."""
    torch.manual_seed(3)
    p = stbp.Precision(weight_bits=bits)
    model = nn.Sequential(
        *([] if frames else [stbp.DirectCoding(STEPS, still_dims=2)]),
        stbp.TimeDistributed(p.linear(64, 24)),
        stbp.Leaky(beta=0.75, threshold=0.5, **options),
        stbp.TimeDistributed(p.linear(24, 16, bias=False), stbp.TDBatchNorm1d(16)),
        stbp.Leaky(beta=0.5, threshold=0.4),
        stbp.TimeDistributed(p.linear(16, 10)),
        stbp.Leaky(beta=0.5, threshold=0.2),
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.25)
    for _ in range(8):
        model(features(frames))
    return model.eval()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("frames", [False, True])
def test_graphs_of_every_target(tmp_path: Path, frames: bool, form: Form, target: str) -> None:
    model, x = dense(frames), features(frames)
    path = tmp_path / "rounded.onnx"
    options = {"form": form, "target": target, "vectors": 5}
    done = to_qonnx(model, x, path, metadata={"arithmetic": "frozen"}, **options)
    assert done.onnxruntime.spikes == 40 * STEPS * (24 + 16 + 10)
    net = freeze(model, num_steps=STEPS)
    assert recheck(path, net, x, vectors=3)[1] == done.onnxruntime
    if (form, target) != ("step", "finn"):  # FINN has no floor
        whole = lower(model, num_steps=STEPS)
        done = to_qonnx(whole, x, tmp_path / "whole.onnx", **options)
        assert done.onnxruntime.spikes == 40 * STEPS * (24 + 16 + 10)


@pytest.mark.parametrize("frames", [False, True])
def test_all_other_formats(tmp_path: Path, frames: bool) -> None:
    model, x = dense(frames), features(frames, 8)
    net = lower(model, num_steps=STEPS)
    spikes = 8 * STEPS * (24 + 16 + 10)
    assert to_qonnx(model, x, tmp_path / "a.onnx", as_trained=True).agreement.spikes == spikes
    assert to_folder(net, x, tmp_path / "folder").agreement.spikes == spikes
    read = load_folder(tmp_path / "folder")
    pixels = net.quantize_input(x).numpy()
    assert np.array_equal(reference.run(read, pixels), net(x).sum(0).numpy())
    program = to_c99(net, x, tmp_path / "c")
    assert program.compiled
    assert program.agreement.spikes == spikes
    assert to_nir(model, x, tmp_path / "net.nir").plain.spikes == spikes


@pytest.mark.parametrize("frames", [False, True])
def test_integers_have_the_spikes_of_the_trained_network(frames: bool) -> None:
    model, x = dense(frames), features(frames, 300)
    x = (x * 255).round() / 255  # what hardware is fed
    net, record = lower(model, samples=x), {}
    net(x, record)
    own = net.reading.run(x).spikes  # type: ignore[union-attr]
    for name, spikes in own.items():
        assert 0.02 < spikes.mean() < 0.98
        assert (record[name] != spikes).float().mean() < 2e-4, name


@pytest.mark.filterwarnings("ignore")  # hls4ml and what it imports warn of their own affairs
@pytest.mark.parametrize(
    ("form", "arithmetic"),
    [("step", freeze), pytest.param("unrolled", lower, marks=pytest.mark.slow)],
)
def test_hls4ml_computes_them(tmp_path: Path, form: Form, arithmetic: Any) -> None:
    spikes = through_cpp(
        arithmetic(dense(frames=False)), features(False, 300), tmp_path, form, "io_parallel"
    )
    assert spikes == 300 * STEPS * (24 + 16 + 10)


def test_membranes_are_as_wide_as_all_steps_need() -> None:
    """Without coding only who exports it knows how many steps there are."""
    model = dense(frames=True, reset_mechanism="none")
    narrow, wide = (freeze(model, num_steps=steps).stages[0].neuron for steps in (1, STEPS))
    assert narrow.potential[1] < wide.potential[1]  # type: ignore[union-attr]
    ranges = [lower(model, num_steps=steps).ranges["1"].membrane.high for steps in (1, STEPS)]
    assert ranges[1] > ranges[0]


def test_who_must_say_how_many_steps(tmp_path: Path) -> None:
    model, silent = dense(frames=True), "nothing says how many time steps the network runs for"
    for make in (freeze, lower, TrainedNet):
        with pytest.raises(StbpError, match=silent):
            make(model)
    with pytest.raises(StbpError, match=silent):
        to_qonnx(model, features(False), tmp_path / "net.onnx")
    with pytest.raises(StbpError, match="at least 1 time step, not 0"):
        lower(model, num_steps=0)
    with pytest.raises(StbpError, match="at least 1 time step, not 0"):
        lower(dense(frames=False), num_steps=0, samples=features(False))
    with pytest.raises(StbpError, match=r"runs for 3 time steps .*, not for 4"):
        freeze(dense(frames=False), num_steps=4)
    for net in (freeze(model, num_steps=2), lower(model, num_steps=2)):
        with pytest.raises(UsageError, match="samples have 3 frames, the network 2 steps"):
            net(features(True))
        with pytest.raises(UsageError, match="samples have 3 frames, the network 2 steps"):
            to_qonnx(net, features(True), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="samples have 3 frames, the network 2 steps"):
        lower(model, samples=features(True), num_steps=2)
    assert list(tmp_path.iterdir()) == []


def test_still_features_of_a_network_without_coding(tmp_path: Path) -> None:
    """`num_steps` says how often they are presented."""
    model, x = dense(frames=True), features(False)
    for net in (freeze(model, num_steps=STEPS), lower(model, samples=x, num_steps=STEPS)):
        assert torch.equal(net(x), net(x.expand(STEPS, -1, -1)))
        to_qonnx(net, x, tmp_path / f"{type(net).__name__}.onnx", vectors=1)
