"""hls4ml's C++ gives every spike and score of the network, with precisions set by us alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.export import golden
from snntorch_stbp.export.hls4ml import configuration, convert, precision, simulate
from snntorch_stbp.export.qonnx import fixed
from snntorch_stbp.export.qonnx.frozen import FROZEN, build
from snntorch_stbp.export.qonnx.ranges import Range
from snntorch_stbp.export.qonnx.targets import Form
from snntorch_stbp.frozen import FrozenNet, freeze
from snntorch_stbp.lowering import FixedPointNet, lower

from .nets import digits, make, reset_options

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # hls4ml and what it imports warn of their own affairs
]


@contextmanager
def quick_compiler(folder: Path) -> Iterator[None]:
    """A `g++` for hls4ml that does not optimize: small networks take longer than that saves."""
    quick = folder / "bin" / "g++"
    quick.parent.mkdir(parents=True)
    quick.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@" -O0\n')
    quick.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(quick.parent), prepend=os.pathsep)
        yield


def through_cpp(
    net: FrozenNet | FixedPointNet, samples: torch.Tensor, folder: Path, form: Form, io_type: str
) -> int:
    """Compile the graph's C++ with g++ and compare every spike with the golden vectors.

    Returns how many spikes were compared, all of them equal.
    """
    parts = fixed.PARTS if isinstance(net, FixedPointNet) else FROZEN
    built = build(net, samples[:1], form=form, target="hls4ml", parts=parts)
    compiled = convert(built.model, configuration(built), folder, io_type, spikes=True)
    with quick_compiler(folder) if io_type == "io_parallel" else nullcontext():
        compiled.compile()
    vectors = golden.compute(net, samples)
    record, spikes = simulate(compiled, built.model, vectors["input"])
    assert np.array_equal(record, vectors["record"])
    assert [f"spikes/{stage}" for stage in spikes] == [k for k in vectors if k[:7] == "spikes/"]
    for stage, values in spikes.items():
        assert np.array_equal(values, vectors[f"spikes/{stage}"]), stage
    return sum(values.size for values in spikes.values())


def dense(*resets: str) -> nn.Module:
    """Three layers, each with a reset rule."""
    rules = resets or ("zero", "zero", "zero")
    precision = stbp.Precision(4)
    model = nn.Sequential(
        precision.input_quant(),
        stbp.DirectCoding(2),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(64, 24))),
        stbp.Leaky(**reset_options(rules[0])),
        stbp.TimeDistributed(precision.linear(24, 16)),
        stbp.Leaky(**reset_options(rules[1])),
        stbp.TimeDistributed(precision.linear(16, 10)),
        stbp.Leaky(**reset_options(rules[2])),
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.25)
    return model.eval()


@pytest.mark.parametrize("form", ["step", pytest.param("unrolled", marks=pytest.mark.slow)])
def test_a_dense_network_of_all_resets(tmp_path: Path, form: Form) -> None:
    net = freeze(dense("zero", "subtract", "delayed"))
    compared = through_cpp(net, digits(500), tmp_path, form, "io_parallel")
    assert compared == 500 * 2 * (24 + 16 + 10)


@pytest.mark.parametrize("form", [pytest.param("step", marks=pytest.mark.slow), "unrolled"])
def test_integers_have_the_spikes_of_the_trained_network(tmp_path: Path, form: Form) -> None:
    model, samples = dense(), digits(500)
    net = lower(model)
    assert through_cpp(net, samples, tmp_path, form, "io_parallel") == 500 * 2 * (24 + 16 + 10)
    trained = model(samples)
    assert torch.equal(net(samples), trained)
    assert 0.01 < trained.mean() < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("form", ["step", "unrolled"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnistnet", {"bits": 4}),
        ("mnistnet_bn", {"bits": "ternary"}),
        ("resnet", {"bits": 1}),
        ("pooled", {"bits": 4}),
        ("averaged", {"bits": 4}),
        ("padded", {"bits": 4}),
        ("mnistnet", {"bits": 4, "act_bits": 4, "membrane_bits": 6}),
    ],
)
def test_convolutional_networks(
    tmp_path: Path, name: str, options: dict[str, Any], form: Form
) -> None:
    net = freeze(make(name, **options))
    assert through_cpp(net, digits(500), tmp_path, form, "io_stream") >= 500 * 2 * 100


@pytest.mark.slow
@pytest.mark.parametrize("form", ["step", "unrolled"])
@pytest.mark.parametrize(
    ("name", "options", "settings"),
    [
        ("mnistnet_bn", {"bits": 4, "num_steps": 4}, {}),
        ("mnistnet_bn", {"readout": "population", "beta": 0.75}, {}),
        ("mnistnet_bn", {"reset": "none", "num_steps": 3}, {}),
        ("mnistnet", {"bits": 4, "reset": "delayed"}, {"form": "simple", "fraction": 5}),
        ("mnistnet", {"bits": 4, "num_steps": 5}, {"form": "simple", "fraction": 5}),
        ("resnet", {"bits": "ternary"}, {}),
        ("resnet", {"act_bits": 6, "membrane_bits": 5}, {}),
        ("pooled", {"bits": 4}, {}),
        ("averaged", {"bits": "ternary"}, {}),
        ("padded", {"bits": 4}, {}),
    ],
)
def test_convolutional_networks_of_integers(
    tmp_path: Path, name: str, options: dict[str, Any], settings: dict[str, Any], form: Form
) -> None:
    net = lower(make(name, **options), **settings)
    assert through_cpp(net, digits(100), tmp_path, form, "io_stream") >= 100 * 2 * 100


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (Range(0, 255), "ufixed<8,8>"),
        (Range(-512, 511), "fixed<10,10>"),
        (Range(-5, 3, 4), "fixed<4,0>"),
        (Range(-512, 511, -2), "fixed<10,12>"),
    ],
)
def test_precisions_hold_ranges(values: Range, expected: str) -> None:
    assert precision(values) == expected
