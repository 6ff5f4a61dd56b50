"""Weights quantized in one operation are those of Brevitas' modules, and so are their gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from brevitas.core.quant import BinaryQuant, RescalingIntQuant, TernaryQuant
from click.testing import CliRunner
from torch import Tensor

from snntorch_stbp import Precision, kernels
from snntorch_stbp.cli import main
from snntorch_stbp.train.build import build_data, build_model, init_from
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.weights import (
    FIRST_LOADING,
    LEARNED_RANGE,
    Ternary,
    injector,
    weight_quantizer,
)

from .runs import last_state, make_config

RANGES = [(b, "fitted") for b in (1, "ternary", 2, 3, 4, 5, 8)] + [
    (b, kind) for kind in ("max", "learned") for b in (2, 4)
]


def computed(quantizer: type, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Weights, scale and gradients of a convolution, its scale being part of the loss."""
    layer = qnn.QuantConv2d(
        weight.shape[1], weight.shape[0], weight.shape[2], bias=False, weight_quant=quantizer
    ).to(weight.dtype)
    layer.weight.data = weight.clone()
    quantized = layer.quant_weight()
    ((quantized.value - target).square().sum() + (quantized.scale * 3).sum()).backward()
    gradients = [p.grad for p in layer.parameters()]  # of the weights, and of a learned range
    assert all(gradient is not None for gradient in gradients)
    return quantized.value.detach(), quantized.scale.detach(), *gradients  # type: ignore[return-value]


@pytest.mark.parametrize("backend", ["fused", "compiled"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("bits", "weight_range"), RANGES)
def test_equal_to_brevitas(
    bits: Any, weight_range: str, per_channel: bool, layout: torch.memory_format, backend: str
) -> None:
    plain = {1: BinaryQuant, "ternary": Ternary}.get(bits, RescalingIntQuant)
    quantizer = weight_quantizer(bits, per_channel, "float", weight_range)
    theirs = injector("Theirs", quantizer, tensor_quant=plain)
    for dtype in (torch.float32, torch.float64):
        weight = torch.randn(6, 5, 3, 3, dtype=dtype).to(memory_format=layout)
        weight[0, 0, 0, 0] = 0.0
        target = torch.randn_like(weight)
        with kernels.backend(backend):
            ours, expected = (computed(q, weight, target) for q in (quantizer, theirs))
        # In float32 both round `q - w / s`, by up to 2^-24 of an integer, and sum what is left.
        tolerance = 1e-5 if dtype == torch.float32 else 1e-13
        assert ours[0].stride() == weight.stride()
        assert ours[1].shape == expected[1].shape
        assert len(ours) == (4 if weight_range == "learned" else 3)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(("bits", "weight_range"), RANGES)
def test_levels_are_the_same_on_every_machine(bits: Any, weight_range: str) -> None:
    # Other vectors add in another order, as torch without the compiled loop and reversed rows do.
    quantizer = weight_quantizer(bits, True, "float", weight_range)
    weight, found = torch.randn(512, 4608), []
    for backend in ("compiled", "fused"):
        for reverse in (False, True):
            layer = qnn.QuantLinear(4608, 512, bias=False, weight_quant=quantizer)
            layer.weight.data = weight.flip(1) if reverse else weight
            with kernels.backend(backend), torch.no_grad():
                value = layer.quant_weight().value
            found.append(value.flip(1) if reverse else value)
    assert all(torch.equal(value, found[0]) for value in found)


@pytest.mark.parametrize("scale", ["float", "po2"])
@pytest.mark.parametrize("backend", ["fused", "compiled"])
def test_ternary_weights_are_brevitas_and_leave_zero_again(backend: str, scale: str) -> None:
    weight = torch.randn(6, 5, 3, 3)
    quantizer = weight_quantizer("ternary", True, scale)
    theirs = injector("Theirs", quantizer, tensor_quant=TernaryQuant)
    with kernels.backend(backend):
        value, _, gradient = computed(quantizer, weight, torch.zeros_like(weight) - 2)
    torch.testing.assert_close(value, computed(theirs, weight, weight)[0], rtol=1e-6, atol=0)
    zero = value == 0
    assert zero.any()
    assert (gradient[zero] != 0).all()

    # Pulled at by a target of their own, all weights end at the level nearest to it.
    layer = qnn.QuantLinear(30, 1, bias=False, weight_quant=quantizer)
    target = torch.tensor([-1.0, 0.0, 1.0]).repeat(10)[None]
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.zeros(1, 15), torch.ones(1, 15)], 1))
    with kernels.backend(backend):
        for _ in range(200):
            layer.weight.grad = None
            quantized = layer.quant_weight()
            (quantized.value / quantized.scale.detach() - target).square().sum().backward()
            with torch.no_grad():
                layer.weight -= 0.01 * layer.weight.grad
    assert torch.equal(layer.quant_weight().value.sign(), target)


POWER_RANGES = [(b, "fitted") for b in range(2, 9)] + [
    (b, kind) for kind in ("max", "learned") for b in range(2, 9)
]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("bits", "weight_range"), POWER_RANGES)
def test_steps_that_are_powers_of_two(bits: int, weight_range: str, per_channel: bool) -> None:
    """Every step by the formula in Python floats; the largest weight may be a level itself."""
    top = 2 ** (bits - 1) - 1
    weight = torch.randn(40, 5, 3, 3) * torch.logspace(-1, 1, 40)[:, None, None, None]
    weight[:4] = torch.tensor([1.0, -1.0, 1.5, 0.75])[:, None, None, None]
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = top, -top * 2.0**-5
    value, scale, *_ = computed(
        weight_quantizer(bits, per_channel, "po2", weight_range), weight, weight
    )
    for part, levels, step in zip(
        weight if per_channel else [weight],
        value if per_channel else [value],
        scale.flatten().tolist(),
        strict=True,
    ):
        if weight_range == "learned" or (weight_range == "fitted" and bits <= 4):
            rms = math.sqrt(sum(w * w for w in part.flatten().tolist()) / part.numel())
            exponent = round(math.log2(FIRST_LOADING[bits] * rms / top))
        else:
            largest = max(abs(w) for w in part.flatten().tolist())
            exponent = math.ceil(math.log2(largest / top))
            assert step * top >= largest > step / 2 * top
        assert step == 2.0**exponent
        assert torch.equal(levels, (part / step).round().clamp(-top, top) * step)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scale", ["float", "po2"])
def test_two_bits_and_ternary_are_the_same(scale: str, per_channel: bool) -> None:
    weight, target = torch.randn(8, 5, 3, 3) * torch.arange(1.0, 9)[:, None, None, None], 0.5
    two, three = (
        computed(
            weight_quantizer(bits, per_channel, scale), weight, torch.full_like(weight, target)
        )
        for bits in (2, "ternary")
    )
    for ours, theirs in zip(two, three, strict=True):
        torch.testing.assert_close(ours.flatten(), theirs.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("weight_range", ["fitted", "learned", "max"])
def test_steps_of_weights_that_are_all_zero_are_powers_of_two(bits: int, weight_range: str) -> None:
    weight = torch.zeros(3, 2, 3, 3)
    quantizer = weight_quantizer(bits, True, "po2", weight_range)
    value, scale, *gradients = computed(quantizer, weight, weight + 1)
    assert not value.any()
    assert torch.equal(scale.log2(), scale.log2().round())
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("backend", ["compiled", "fused"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, "ternary"])
def test_a_weight_that_is_no_number_is_not_hidden(bits: Any, backend: str) -> None:
    layer = Precision(weight_bits=bits).conv2d(3, 4, 3, bias=False)
    with torch.no_grad(), kernels.backend(backend):
        layer.weight[1, 0, 0, 0] = float("nan")
        assert layer.quant_weight().value.isnan().any((1, 2, 3)).tolist() == [
            False, True, False, False
        ]  # fmt: skip


@pytest.mark.parametrize("bits", [1, 2, 4, 8, "ternary"])
def test_a_channel_of_zeros_is_finite_in_half_precision(bits: Any) -> None:
    layer = Precision(weight_bits=bits).conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight[0] = 0
        assert layer.half().quant_weight().value.isfinite().all()


def test_weights_that_are_all_zero_stay_finite() -> None:
    for bits in (1, "ternary", 4, 8):
        zeros, target = torch.zeros(2, 3, 3, 3), torch.ones(2, 3, 3, 3)
        for value in computed(weight_quantizer(bits, True, "float"), zeros, target):
            assert torch.isfinite(value).all()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_learned_ranges_start_at_the_fitted_one(bits: int, per_channel: bool) -> None:
    torch.manual_seed(0)
    weight, target = torch.randn(6, 5, 3, 3), torch.randn(6, 5, 3, 3)
    found = computed(weight_quantizer(bits, per_channel, "float", "learned"), weight, target)
    loading = FIRST_LOADING[bits] / (2 ** (bits - 1) - 1)
    power = weight.square().mean((1, 2, 3), keepdim=True) if per_channel else weight.square().mean()
    torch.testing.assert_close(found[1], (loading * power.sqrt()).view_as(found[1]))
    if bits <= 4:
        fitted = computed(weight_quantizer(bits, per_channel, "float"), weight, target)
        torch.testing.assert_close(found[0], fitted[0])


@pytest.mark.parametrize("backend", ["fused", "compiled"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_gradient_of_a_learned_range(bits: int, per_channel: bool, backend: str) -> None:
    """Equation 3 of LSQ, in units of the root mean square: of the range, and of the weights."""
    torch.manual_seed(0)
    quantizer = weight_quantizer(bits, per_channel, "float", "learned")
    layer = qnn.QuantConv2d(5, 6, 3, bias=False, weight_quant=quantizer).double()
    layer.weight.data = w = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    (parameter,) = [p for n, p in layer.named_parameters() if n.endswith("log_loading")]
    assert parameter.shape == ((6,) if per_channel else ())
    given = torch.randn_like(w)
    with kernels.backend(backend):
        quantized = layer.quant_weight()
        (quantized.value * given).sum().backward()
    top = 2 ** (bits - 1) - 1
    scale = quantized.scale.detach()
    level = (w / scale).round().clamp(-top, top)
    inside = (w / scale).round().abs() <= top  # what rounding alone brings inside is not clipped
    d_scale = given * torch.where(inside, level - w / scale, level)
    over = (1, 2, 3) if per_channel else (0, 1, 2, 3)
    d_scale = d_scale.sum(over, keepdim=True)
    torch.testing.assert_close(parameter.grad, (d_scale * scale).view_as(parameter))
    # The scale is proportional to the root mean square, whose gradient is w / (n rms^2) of itself.
    count = w[0].numel() if per_channel else w.numel()
    power = w.square().mean(over, keepdim=True)
    expected = given * inside + d_scale * scale * w / (count * power)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_a_learned_range_is_trained_and_exported(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, bits=2, act_bits=None, weight_range="learned", epochs=2)
    run = Path(fit(config, out=tmp_path, reporter=Reporter())["run"])
    state = last_state(run)["model"]
    learned = [value for key, value in state.items() if key.endswith("log_loading")]
    assert len(learned) == 4
    assert all((value != math.log(FIRST_LOADING[2])).any() for value in learned)
    exported = CliRunner().invoke(main, ["export", str(run), "--verify", "4", "--json"])
    assert exported.exit_code == 0, exported.output
    refined = make_config(small_digits, bits=4, act_bits=None, epochs=1, init_from=str(run))
    assert fit(refined, out=tmp_path, reporter=Reporter())["status"] == "finished"


def test_ranges_learned_for_other_bits_are_not_taken_over(
    small_digits: str, tmp_path: Path
) -> None:
    options = {"weight_range": "learned", "act_bits": None, "epochs": 1}
    first = make_config(small_digits, bits=4, **options)
    run = fit(first, out=tmp_path, reporter=Reporter())["run"]
    for bits, ends in ((4, None), (2, None), (4, 8)):
        config = make_config(small_digits, bits=bits, boundary_bits=ends, init_from=run, **options)
        net = build_model(config, build_data(config))
        before = {k: v.clone() for k, v in net.state_dict().items() if k.endswith(LEARNED_RANGE)}
        init_from(net, run, config)
        after = net.state_dict()
        moved = [not torch.equal(value, after[key]) for key, value in before.items()]
        assert len(moved) == 4
        assert all(moved) if (bits, ends) == (4, None) else not any(moved)
