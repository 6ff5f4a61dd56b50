"""Modules are called as their authors like, and files still name each layer once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_nir, to_qonnx
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
KINDS = ("dense0", "leaky0", "dense1", "leaky1", "dense2")


class Named(nn.Module):
    """Two hidden layers whose modules have the names given; one name given twice is one module."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        precision = stbp.Precision(4)
        self.first = stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(64, 16)))
        self.neurons = stbp.Leaky(0.5, 0.3)
        self.layers = nn.ModuleDict()
        for name, kind in zip(names, KINDS, strict=True):
            if name not in self.layers:
                layer = stbp.TimeDistributed(precision.linear(16, 16))
                self.layers[name] = layer if "dense" in kind else stbp.Leaky(0.5, 0.3)
        for name in names:  # of the network itself, too
            setattr(self, name, self.layers[name])
        self.names, self.encoder = tuple(names), stbp.DirectCoding(2)
        del self.layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.neurons(self.first(self.encoder(x)))
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def samples() -> torch.Tensor:
    return torch.randint(0, 256, (4, 1, 8, 8)) / 255


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("fc", "lif", "fc", "lif_2", "fc_2"),  # `fc` is used twice
        ("a", "a_", "größe", "grö-e", "a-"),
        ("class", "int", "output", "record", "image"),
    ],
)
def test_names_in_cpp_are_identifiers_of_one_layer_each(
    names: tuple[str, ...], lowered: bool, form: str, tmp_path: Path
) -> None:
    net, path = Named(names).eval(), tmp_path / "net.onnx"
    ready = lower(net) if lowered else freeze(net)
    to_qonnx(ready, samples(), path, target="hls4ml", form=form)
    nodes = [node.name for node in onnx.load(str(path)).graph.node]
    assert len(set(nodes)) == len(nodes)
    assert all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in nodes)


@pytest.mark.parametrize("name", ["output", "input", "input_2"])
def test_nir_has_one_input_and_one_output(name: str, tmp_path: Path) -> None:
    net = Named(("fc", "lif", name, "last", "fc_2")).eval()
    assert to_nir(net, samples(), tmp_path / "net.nir").plain.spikes == 4 * 2 * 3 * 16


def test_neurons_are_not_called_as_the_input_is() -> None:
    for names in (("fc", "input", "b", "c", "d"), ("fc", "lif", "b", "c", "input")):
        with pytest.raises(StbpError, match="cannot be called 'input', as the input of every"):
            lower(Named(names).eval())
