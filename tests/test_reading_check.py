"""What a network computes is compared with what was read of it, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import brevitas.quant as bq
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import Leaky, Precision, TimeDistributed
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_c99, to_folder, to_qonnx
from snntorch_stbp.frozen import freeze, modules
from snntorch_stbp.frozen.check import Reading
from snntorch_stbp.frozen.read import read_graph

from .nets import digits, make
from .test_reading import Doubled, Halved, Twice, conv, net

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


def hooked() -> nn.Module:
    """A hook doubles what a layer gives, and no reader can see that."""
    torch.manual_seed(0)
    model = net(TimeDistributed(Precision(4).conv2d(1, 4, 3)), Leaky(0.5, 0.1))
    model[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


UNREAD: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: net(TimeDistributed(Doubled(1, 4, 3)), Leaky(0.5, 0.1)), "'3' .* of its input curre"),
    (
        lambda: net(
            conv(output_quant=bq.Int8ActPerTensorFloat, output_bit_width=2), Leaky(0.5, 0.1)
        ),
        "'3' .* of its input currents differ",
    ),
    (
        lambda: net(
            conv(bias_quant=bq.Int8BiasPerTensorFloatInternalScaling, bias_bit_width=2),
            Leaky(0.5, 0.1),
        ),
        "'3' .* of its input currents differ",
    ),
    (
        lambda: net(conv(), Leaky(0.5, 0.01), TimeDistributed(Halved(2)), features=36),
        r"'6' .* \(\d+ % of its input currents differ\)",
    ),
    (lambda: net(conv(), Twice(0.5, 0.1)), r"'3' .* \([\d.]+ % of its spikes differ\)"),
    (
        lambda: net(conv(), Leaky(0.5, 0.1, spike_grad=lambda u: (u > 0.05).float())),
        r"'3' .* \([\d.]+ % of its spikes differ\)",
    ),
    (lambda: net(conv(), Leaky(0.5, torch.tensor([[0.01, 0.5, 1, 2, 3, 4]]))), "'3' computes"),
]


@pytest.mark.parametrize(("make", "message"), UNREAD)
def test_what_the_reader_did_not_see_is_found(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module], message: str
) -> None:
    for name in ("check_code", "check_layer", "check_neuron", "check_channels"):
        monkeypatch.setattr(modules, name, lambda *arguments: None)
    torch.manual_seed(0)
    model = make()
    with pytest.raises(StbpError, match=message):
        Reading(model, read_graph(model)).check(digits(8))


@pytest.mark.parametrize(
    ("export", "name"),
    [
        (to_qonnx, "net.onnx"),
        (lambda model, *rest: to_qonnx(model, *rest, as_trained=True), "net.onnx"),
        (lambda model, *rest: to_qonnx(freeze(model), *rest), "net.onnx"),
        (lambda model, *rest: to_qonnx(stbp.lower(model), *rest), "net.onnx"),
        (lambda model, *rest: to_folder(stbp.lower(model), *rest), "net"),
        (lambda model, *rest: to_c99(stbp.lower(model), *rest), "net"),
        (lambda model, x, path: stbp.lower(model, samples=x), "net"),
    ],
)
def test_every_export_checks(tmp_path: Path, export: Any, name: str) -> None:
    message = r"'3' computes something else than what is read .* a hook or other code changes what"
    with pytest.raises(StbpError, match=message):
        export(hooked(), digits(4), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnistnet", {}),
        ("mnistnet", {"readout": "rate", "reset": "subtract"}),
        ("mnistnet_bn", {"act_bits": 4, "membrane_bits": 4, "reset": "delayed"}),
        ("resnet", {"bits": 2, "act_bits": 6}),
        ("cifarnet_neunorm", {}),
        ("pooled", {"bits": None}),
        ("averaged", {"bits": 1}),
        ("padded currents", {"reset": "none"}),
    ],
)
def test_what_was_read_right_passes(name: str, options: dict[str, Any]) -> None:
    model = make(name, **options)
    Reading(model, read_graph(model)).check(digits(4))


def test_frames_votes_and_training_mode() -> None:
    size = 12
    model = make("nmnistnet", size=size).train()
    last = list(model.modules())[-1].eval()
    graph = read_graph(model)
    frames = torch.stack([digits(3, size)] * (graph.num_steps or 1))
    Reading(model, graph).check(frames)
    assert model.training
    assert not last.training


def test_the_network_may_change_after_lowering(tmp_path: Path) -> None:
    model = net(TimeDistributed(Precision(4).conv2d(1, 4, 3)), Leaky(0.5, 0.1))
    fixed = stbp.lower(model)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    model.train()
    to_folder(fixed, digits(4), tmp_path / "net")
    assert model.training
    assert isinstance(model[2].layer, qnn.QuantConv2d)
