"""Which runs train through CUDA graphs, and what happens where a network cannot be captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snntorch_stbp import zoo
from snntorch_stbp.train import loop
from snntorch_stbp.train.graphed import can_capture, capture
from snntorch_stbp.train.run.reporter import Reporter

from .runs import make_config

GPU = torch.device("cuda")


@pytest.mark.parametrize("bits", [None, 4, "ternary", 1])
def test_one_gpu_trains_through_graphs(bits: Any) -> None:
    config = make_config("digits", bits=bits, act_bits=None)
    assert can_capture(config, GPU, 1)
    assert not can_capture(config, GPU, 2)
    assert not can_capture(config, torch.device("cpu"), 1)


@pytest.mark.parametrize(
    "option",
    [
        {"cuda_graphs": False},
        {"act_bits": 8},
        {"membrane_bits": 8},
        {"save_memory": True},
        {"checkpoint_activations": True},
        {"spike_rate_target": 0.1},
        {"spike_rate_target": 0.0},
        {"compile": True},
        {"frozen_aware": True, "init_from": "run"},
        {"fixed_point_aware": True, "init_from": "run"},
    ],
)
def test_what_looks_at_data_does_not(option: dict[str, Any]) -> None:
    assert not can_capture(make_config("digits", **{"act_bits": None} | option), GPU, 1)


def test_a_network_that_cannot_be_captured_goes_on() -> None:
    """As on a machine without a GPU."""
    net = zoo.create("mnistnet_bn", in_channels=1, image_size=8).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert capture(net, torch.rand(4, 1, 8, 8), "bf16-mixed")
    assert not net.training
    assert "forward" not in vars(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class Watching(nn.Module):
    """Whether each pass ran under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        y = x * self.weight
        y.register_hook(lambda gradient: self.seen.append(torch.is_autocast_enabled("cpu")))
        return y


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_forward_pass_alone_is_captured_in_half_precision(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are no graphs; and evaluation goes on as it is called."""

    def pretend(net: Watching, inputs: tuple[Tensor], allow_unused_input: bool) -> None:
        net(*inputs).sum().backward()
        monkeypatch.setattr(net, "forward", lambda *_: "graphs")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", pretend)
    net, x = Watching().eval(), torch.ones(2)
    assert capture(net, x, precision) is None
    assert net.seen == [precision == "bf16-mixed", False]
    net(x)
    assert net.seen[2:] == [False]
    assert net.train()(x) == "graphs"


def test_a_run_says_that_it_was_not_captured(
    small_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "can_capture", lambda *_: True)
    said: list[str] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "message", said.append)
    result = loop.fit(make_config(small_digits, epochs=2), out=tmp_path, reporter=reporter)
    assert result["status"] == "finished"
    (text,) = said
    assert text.startswith("training without CUDA graphs, which is slower (")
    assert text in (Path(result["run"]) / "log.txt").read_text()
