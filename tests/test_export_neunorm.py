"""NeuNorm in deployment arithmetic: a leaky count, a product per neuron, two branches behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_nir, to_qonnx
from snntorch_stbp.frozen import freeze
from snntorch_stbp.frozen.fold import Settings
from snntorch_stbp.frozen.inhibition import freeze_inhibition
from snntorch_stbp.train.metrics import spike_record

from .nets import digits, integers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


def small(bits: Any = 4, steps: int = 3, spread: float = 0.5) -> nn.Module:
    """Two convolutions and a linear layer with NeuNorm of either sign in front of all but one."""
    precision = stbp.Precision(bits)
    net = nn.Sequential(
        stbp.DirectCoding(steps),
        stbp.TimeDistributed(precision.conv2d(1, 6, 3, padding=1)),
        stbp.Leaky(),
        stbp.NeuNorm(6, (8, 8)),
        stbp.TimeDistributed(precision.conv2d(6, 8, 3, 2, 1), stbp.TDBatchNorm2d(8)),
        stbp.Leaky(),
        stbp.NeuNorm(8, (4, 4), decay=0.75),
        stbp.TimeDistributed(nn.Flatten()),
        stbp.TimeDistributed(precision.linear(128, 10)),
    )
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, stbp.NeuNorm):
                module.weight.normal_(0.1, spread)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight *= 3
        net(digits(64))  # running statistics
    return net.eval()


@pytest.mark.parametrize("bits", [None, 8, 4, 2, "ternary", 1])
def test_the_frozen_network_is_that_of_plain_integers(bits: Any) -> None:
    net, images = freeze(small(bits)), digits(20)
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        scores = net(images, record).sum(0)
    spikes, expected = integers(net, images)
    for name, value in spikes.items():
        assert np.array_equal(record[name].numpy(), value), name
        assert 0.02 < value.mean() < 0.8
    assert np.array_equal(scores.numpy(), expected)


def test_what_is_subtracted_is_that_of_training_to_a_step() -> None:
    model = small(4, steps=4)
    net, images = freeze(model), digits(20)
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        net(images, record)
    for stage, norm in ((net.stages[0], model[3]), (net.stages[1], model[6])):
        spikes, numbers = record[stage.stage.name].double(), stage.inhibition
        assert numbers is not None
        wanted = spikes - norm.double()(spikes)
        unit = 2.0**-numbers.unit_digits
        drift = abs(numbers.decay - norm.decay) * wanted.abs().max()
        error = (record[f"{stage.stage.name}/inhibition"] * unit - wanted).abs().max()
        count = norm.weight.abs().max() * (1 - norm.decay) / (spikes.shape[2] * numbers.spike)
        assert error < unit + 2 * count + 4 * drift
        assert wanted.abs().max() > 50 * error


def test_frozen_and_trained_spikes_are_mostly_the_same() -> None:
    model, images = small(4), digits(50)
    record: dict[str, torch.Tensor] = {}
    with torch.no_grad(), spike_record(model) as trained:
        freeze(model)(images, record)
        model(images)
    for name, value in trained.items():
        assert (record[name] != value).float().mean() < 0.01


def test_gradients_reach_the_weights_of_neunorm() -> None:
    model = small(4)
    net = freeze(model)
    net.refolds = True
    net(digits(8)).square().sum().backward()
    for module in model.modules():
        if isinstance(module, stbp.NeuNorm):
            assert module.weight.grad is not None
            assert module.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("form", "bits"), [("unrolled", None), ("step", 4), ("unrolled", "ternary"), ("step", 1)]
)
def test_exports_and_verifies(tmp_path: Path, form: Any, bits: Any) -> None:
    result = to_qonnx(small(bits), digits(40), tmp_path / "net.onnx", form=form, vectors=10)
    assert (result.agreement.samples, result.onnxruntime.samples) == (10, 40)
    with np.load(tmp_path / "net.samples.npz") as vectors:
        assert vectors["inhibition/2"].shape == (10, 3, 6, 8, 8)
        assert vectors["inhibition/2"].min() < 0 < vectors["inhibition/2"].max()


def test_quantized_weights_are_stored_once(tmp_path: Path) -> None:
    import onnx

    to_qonnx(small(4), digits(2), tmp_path / "net.onnx")
    stored = [t.name for t in onnx.load(tmp_path / "net.onnx").graph.initializer]
    assert "4/weight" in stored
    assert "4/inhibition/weight" not in stored


def test_neunorm_straight_into_a_neuron(tmp_path: Path) -> None:
    model = nn.Sequential(*small()[:4], stbp.Leaky(), *small()[7:8], stbp.TimeDistributed(
        stbp.Precision(4).linear(384, 10)
    ))  # fmt: skip
    assert to_qonnx(model, digits(4), tmp_path / "net.onnx").agreement.samples == 4


@pytest.mark.parametrize("target", ["finn", "hls4ml"])
def test_other_targets_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(StbpError, match=r"NeuNorm.* has a weight per position, which only"):
        to_qonnx(small(), digits(2), tmp_path / "net.onnx", target=target)
    assert not list(tmp_path.iterdir())


def test_other_arithmetics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StbpError, match="'2' go through NeuNorm, which networks of integers do"):
        stbp.lower(small())
    with pytest.raises(StbpError, match="go through NeuNorm, which graphs as trained do not have"):
        to_qonnx(small(), digits(2), tmp_path / "net.onnx", as_trained=True)
    with pytest.raises(StbpError, match=r"go through NeuNorm, which .* do not have"):
        to_nir(small(), digits(2), tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


def test_sums_that_leave_no_bits_are_refused() -> None:
    norm = stbp.NeuNorm(4, (2, 2))
    with pytest.raises(StbpError, match="NeuNorm behind 'lif' leaves the sums of the next layer"):
        freeze_inhibition(norm, 2, 3e6, Settings(), "lif")
    assert freeze_inhibition(norm, 2, 1e6, Settings(), "lif").bits == 4
