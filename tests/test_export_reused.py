"""Networks that call a module twice: each call is a part of its own in every kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.c99.program import to_c99
from snntorch_stbp.export.folder import to_folder
from snntorch_stbp.export.nir.file import to_nir
from snntorch_stbp.frozen import Settings, freeze
from snntorch_stbp.frozen.read import read_graph
from snntorch_stbp.lowering import lower
from snntorch_stbp.quant import Precision
from snntorch_stbp.train.data.arrays import ArrayDataset
from snntorch_stbp.train.measure import compare

from .runs import make_config


class Reused(nn.Module):
    """A convolution and a neuron, both called twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        parts = Precision(weight_bits=4)
        self.coding = nn.Sequential(parts.input_quant(), stbp.DirectCoding(2))
        self.first = self._conv(parts, 1)
        self.again = self._conv(parts, 4)
        self.start, self.neuron = stbp.Leaky(), stbp.Leaky()
        self.head = stbp.TimeDistributed(nn.Sequential(nn.Flatten(), parts.linear(256, 10)))

    def _conv(self, parts: Precision, channels: int) -> stbp.TimeDistributed:
        layer = parts.conv2d(channels, 4, 3, padding=1, bias=False)
        return stbp.TimeDistributed(layer, stbp.TDBatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.start(self.first(self.coding(x)))
        for _ in range(2):
            spikes = self.neuron(self.again(spikes))
        record: Tensor = self.head(spikes)
        return record


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net(samples: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = Reused()
    net(samples)  # statistics for the normalisations
    return net.eval()


def test_each_call_has_a_name(net: nn.Module) -> None:
    stages = read_graph(net).stages
    assert [stage.name for stage in stages] == ["start", "neuron", "neuron#2", "head"]
    assert [stage.branches[0].name for stage in stages] == ["first", "again", "again#2", "head"]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (freeze, {}),
        (freeze, {"form": "step"}),
        (freeze, {"target": "finn"}),
        (lower, {}),
        (lambda net: net, {"as_trained": True}),
    ],
)
def test_qonnx(
    net: nn.Module, samples: Tensor, make: Callable[[nn.Module], Any], options: Any, tmp_path: Path
) -> None:
    done = to_qonnx(make(net), samples, tmp_path / "net.onnx", vectors=4, **options)
    assert done.agreement.differences == 0
    assert done.agreement.spikes > 0


def test_other_files(net: nn.Module, samples: Tensor, tmp_path: Path) -> None:
    nir = to_nir(net, samples, tmp_path / "net.nir")
    assert nir.snntorch is not None
    done = [
        to_folder(lower(net), samples, tmp_path / "folder").agreement,
        to_c99(lower(net), samples, tmp_path / "c99").agreement,
        nir.plain,
        nir.snntorch,
    ]
    for agreement in done:
        assert agreement.differences == 0
        assert agreement.spikes > 0


def test_spikes_of_every_call_are_compared_with_its_own(net: nn.Module) -> None:
    """What rounding changed, as exports and `evaluate` tell it: by calls, not by modules."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    samples = images / 255
    frozen = freeze(net, Settings(act_bits=4))
    calls: list[Tensor] = []
    neurons = (net.start, net.neuron)
    handles = [n.register_forward_hook(lambda *seen: calls.append(seen[2])) for n in neurons]
    net(samples)
    for handle in handles:
        handle.remove()
    record: dict[str, Tensor] = {}
    frozen(samples, record)
    pairs = list(zip(calls, ("start", "neuron", "neuron#2"), strict=True))
    differing = sum(int((spikes != record[name]).sum()) for spikes, name in pairs)
    share = differing / sum(spikes.numel() for spikes in calls)
    assert 0 < share == frozen.reading.changed(frozen, samples)

    fabric = Fabric(accelerator="cpu", devices=1)
    data = ArrayDataset(images, torch.zeros(len(images), dtype=torch.long))
    found = compare(fabric, net, frozen, make_config("digits"), data, len(images))
    assert found["spikes_differ"] == pytest.approx(share)
