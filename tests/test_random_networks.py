"""Networks that nobody chose: every export computes them, or says why not.

pytest -m slow tests/test_random_networks.py
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from snntorch_stbp import Leaky
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_nir, to_qonnx
from snntorch_stbp.export.c99 import to_c99
from snntorch_stbp.export.folder import to_folder
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

from .nets import digits
from .random_nets import Draw
from .test_export_hls4ml import through_cpp

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
SOON, LATER = range(3), [pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60)]

REASONS = (
    "resets by subtraction", "is no multiple of 2^-8", "FINN has no floor", "NIR", "to NIR",
    "has the reset", "more than the 24", "needs more than 24 bits", "which hls4ml",
    "change with age", "hls4ml has no dilated convolutions", "hls4ml takes maxima of",
    "has convolutions of 1 group, or channel by channel", "pads maxima with zeros",
    "whose shapes nir does not infer", "does not leak",
)  # fmt: skip
"""Words of the refusals that such networks may meet; "does not compute" is not among them."""


def attempt(write: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What `write` gives, which verifies its own file, or `None` where it refuses with reason."""
    try:
        return write(*given, **options)
    except StbpError as error:
        if not any(reason in str(error) for reason in REASONS):
            raise
        return None


@pytest.mark.parametrize("seed", [*SOON, *LATER])
def test_every_export_computes_a_random_network(seed: int, tmp_path: Path) -> None:
    drawn = random.Random(seed)
    net, samples, path = Draw(seed).network(), digits(104)[100:], tmp_path / "net.onnx"
    options: dict[str, Any] = {"vectors": 2, "force": True}
    frozen = attempt(freeze, net)
    for target in ("generic", "finn", "hls4ml"):
        form = drawn.choice(["unrolled", "step"])
        if frozen is not None:
            attempt(to_qonnx, frozen, samples, path, form=form, target=target, **options)
    for arithmetic in ("exact", "simple"):
        calibration = digits(100) if arithmetic == "simple" else None
        integers = attempt(lower, net, form=arithmetic, samples=calibration)
        if integers is None:
            continue
        for target in ("generic", "finn", "hls4ml"):
            form = "unrolled" if target == "finn" else drawn.choice(["unrolled", "step"])
            attempt(to_qonnx, integers, samples, path, form=form, target=target, **options)
        attempt(to_folder, integers, samples, tmp_path / "folder", force=True)
        attempt(to_c99, integers, samples, tmp_path / "c", force=True)
    trained = attempt(to_qonnx, net, samples, path, as_trained=True, **options)
    assert trained.onnxruntime.samples == 4
    attempt(to_nir, net, samples, tmp_path / "trained.nir")


@pytest.mark.parametrize("seed", [*SOON, *LATER])
def test_each_layer_decides_as_the_trained_one(seed: int) -> None:
    """Given the same spikes: currents and membranes that training rounded are rounded alike."""
    net = Draw(seed, exact=True).network()
    given: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda _, __, spikes: given.update({name: spikes})

    for name, module in net.named_modules():
        if isinstance(module, Leaky):
            module.register_forward_hook(remember(name))
    images = digits(100)
    net(images)
    frozen = freeze(net)
    values = {"input": frozen.quantize_input(images)[None], **given}
    for stage in frozen.stages:
        if stage.neuron is None or stage.stage.neuron is None:
            continue
        current = frozen._current(stage, values)
        current = current.expand(frozen.num_steps, *current.shape[1:])
        spikes, _ = frozen.integrate(stage.neuron, stage.stage.neuron.spike_grad, current)
        trained = given[stage.stage.name]
        assert (spikes != trained).float().mean() < 0.004, stage.stage.name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(100, 130))
def test_hls4ml_computes_a_random_network(seed: int, tmp_path: Path) -> None:
    drawn = random.Random(seed)
    net, samples = Draw(seed).network(), digits(40)
    form, io_type = drawn.choice(["unrolled", "step"]), drawn.choice(["io_stream", "io_parallel"])
    make: Callable[[nn.Module], Any] = drawn.choice([freeze, lower])
    deployed = attempt(make, net)
    if deployed is not None:
        attempt(through_cpp, deployed, samples, tmp_path, form, io_type)
