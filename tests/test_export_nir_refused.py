"""What NIR cannot say, and files that would compute something else, are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from snntorch_stbp import TimeDistributed
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import to_nir
from snntorch_stbp.export.nir import file as nir_export
from snntorch_stbp.export.nir.graph import build

from .nets import Shortcuts, digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


class Doubled(Shortcuts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current = self.coding(x)
        return self.neuron(current + current)


def with_layer(name: str, layer: nn.Module) -> nn.Module:
    model = Shortcuts()
    setattr(model, name, TimeDistributed(layer))
    return model


def positions() -> nn.Module:
    model = make("mnistnet")
    model.get_submodule("features.1").threshold = torch.full((8, 8), 0.4)  # type: ignore
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: make("mnistnet", act_bits=6),
            r"input current of 'features\.1', trained with --a",
        ),
        (
            lambda: make("mnistnet", membrane_bits=6),
            r"NIR does not round, so the membrane of 'features\.1', trained with --membrane-bits, "
            r"cannot be written: train with quantized weights only, or export to QONNX",
        ),
        (lambda: Shortcuts(beta=1.0), r"'neuron' does not leak \(beta = 1\).*beta below 1"),
        (lambda: Shortcuts(reset_mechanism="subtract"), "'neuron' has the reset 'subtract': NIR"),
        (lambda: Shortcuts(reset_mechanism="none"), "'neuron' has the reset 'none': NIR's LIF is"),
        (
            positions,
            r"'features\.1' has a threshold of 64 values; export takes one, or one for each of the",
        ),
        (
            lambda: with_layer("pool", nn.MaxPool2d(2)),
            "NIR has no max pooling, as in front of 'neuron': use a network with average pooling",
        ),
        (
            lambda: make("pooled", bits=4),
            "NIR has no max pooling, as behind '2': use a network with average pooling",
        ),
        (
            lambda: with_layer("down", nn.Conv2d(4, 4, 3, 2, 1, groups=2)),
            r"the convolution 'down' has groups or a kernel that is not square, whose shapes nir",
        ),
        (
            lambda: with_layer("down", nn.Conv2d(4, 4, (1, 3), 2, (0, 1))),
            r"the convolution 'down' has .* not infer: use a square kernel and one group",
        ),
        (lambda: Doubled(), "NIR cannot hold this network: Duplicate edge"),
    ],
)
def test_what_nir_cannot_say_is_refused(
    tmp_path: Path, model: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(StbpError, match=message) as error:
        to_nir(model(), digits(2), tmp_path / "net.nir")
    assert error.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def harmed(harm: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """`build`, with something changed in its nodes."""

    def wrong(*args: Any) -> Any:
        graph, built = build(*args)
        harm(graph.nodes)
        return graph, built

    return wrong


def one_weight(nodes: dict[str, Any]) -> None:
    weight = nodes["features_0"].weight
    weight.flat[np.abs(weight).argmax()] *= -1


def time_constant(nodes: dict[str, Any]) -> None:
    nodes["features_1"].tau = nodes["features_1"].tau * 1.01


def readout(nodes: dict[str, Any]) -> None:
    nodes["head_0"].weight *= 1.01


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (one_weight, r"in layer 'features\.1', step \d, sample \d+, a spike differs although its"),
        (time_constant, r"number is \S+ away from the threshold, more than rounding explains"),
        (readout, r"the readout of sample \d+ differs by \S+, more than rounding"),
    ],
)
def test_a_file_that_computes_something_else_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any, message: str
) -> None:
    monkeypatch.setattr(nir_export, "build", harmed(harm))
    with pytest.raises(StbpError, match=f"does not compute the trained network: .*{message}"):
        to_nir(make("mnistnet"), digits(10), tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


def test_a_file_that_snntorch_cannot_read_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(nodes: dict[str, Any]) -> None:
        nodes["features_1"].v_leak = nodes["features_1"].v_leak + 1e-3

    monkeypatch.setattr(nir_export, "verify_trained", lambda *a, **k: nir_export.Agreement(0, 0, 0))
    monkeypatch.setattr(nir_export, "build", harmed(leaking))
    with pytest.raises(StbpError, match=r"snnTorch cannot read the NIR graph: .*v_leak"):
        to_nir(make("mnistnet"), digits(2), tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


def test_files_that_exist_or_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    (tmp_path / "net.samples.npz").touch()
    with pytest.raises(UsageError, match=r"net\.samples\.npz' exists already; replace it with --f"):
        to_nir(make("mnistnet"), digits(2), path)
    to_nir(make("mnistnet"), digits(2), path, force=True)
    with pytest.raises(StbpError, match=r"cannot make the folder '.*net\.nir': File exists"):
        to_nir(make("mnistnet"), digits(2), path / "a.nir")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, graph: nir.NIRGraph) -> None:
        path.touch()
        raise OSError("no space left")

    monkeypatch.setattr(nir, "write", full)
    with pytest.raises(StbpError, match=r"cannot write '.*/b\.nir': no space left\.$"):
        to_nir(make("mnistnet"), digits(2), tmp_path / "b.nir")
    assert not list(tmp_path.iterdir())
