"""The operation of `kernels.normed`: the spikes, gradients and statistics of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate
from snntorch_stbp.kernels import native, normed

from .nets import reset_options

RULES = {
    "zero": kernels.Rule(surrogate.rectangular()),
    "detached": kernels.Rule(surrogate.polynomial(0.7), detach_reset=True),
    "subtract": kernels.Rule(surrogate.sigmoid(0.5), "subtract"),
    "delayed": kernels.Rule(surrogate.sigmoid(0.5), "delayed"),
    "none": kernels.Rule(surrogate.gaussian(0.3), "none"),
}
SHAPES = {
    "channels last": (4, 3, 70, 17, 17),  # more than a block, and none of it a multiple of 64
    "contiguous": (3, 2, 5, 4, 4),
    "contiguous, long": (2, 3, 3, 40, 41),
    "features": (2, 7, 300),
    "one channel": (4, 3, 1, 6, 6),
    "more steps than at once": (21, 2, 3, 5, 5),
}

needs_compiler = pytest.mark.skipif(native._compiler() is None, reason="no C compiler")


def sequence(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """Currents far from what a normalisation leaves."""
    x = torch.randn(shape, dtype=dtype) * 2 + 1
    if layout == "channels last":
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, shape[:2])
    return x


def plain(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, rule: kernels.Rule
) -> Tensor:
    """The formula in float64, and the plain loop."""
    over = [i for i in range(x.dim()) if i != 2]
    shape = [1, 1, -1] + [1] * (x.dim() - 3)
    x = x.double()
    mean, variance = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
    current = (x - mean) / (variance + 1e-5).sqrt() * weight.double().reshape(shape)
    current = current + bias.double().reshape(shape)
    neuron = stbp.Leaky(
        0.25, 0.5, rule.surrogate, **reset_options(rule.reset), detach_reset=rule.detach_reset
    ).double()
    with kernels.backend("loop"):
        spikes: Tensor = neuron(current if added is None else current + added.double())
    return spikes


@needs_compiler
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("kind", ["alone", "added", "repeated"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_plain_loop(dtype: torch.dtype, kind: str, layout: str, rule: str) -> None:
    shape = SHAPES[layout]
    x = sequence(shape, layout, dtype)
    x = (x[0] if kind == "repeated" else x).requires_grad_()
    added = torch.randn(shape, dtype=dtype).requires_grad_() if kind == "added" else None
    weight = (torch.rand(shape[2], dtype=dtype) + 0.1).requires_grad_()
    bias = (torch.randn(shape[2], dtype=dtype) / 10).requires_grad_()
    beta, threshold = torch.tensor(0.25, dtype=dtype), torch.tensor(0.5, dtype=dtype)
    steps = shape[0] if kind == "repeated" else 0
    assert normed.covers(x, RULES[rule], kind == "added", steps)

    fired = normed.normalize_and_fire(
        x, added, weight, bias, beta, threshold, RULES[rule], 1e-5, steps
    )
    expected = plain(x.expand(shape), added, weight, bias, RULES[rule])
    assert torch.equal(fired.spikes.double(), expected)
    assert fired.spikes.stride()[1:] == x.expand(shape).stride()[1:]

    gradient = torch.randn(shape, dtype=dtype)
    inputs = [v for v in (x, weight, bias, added) if v is not None]
    found = torch.autograd.grad(fired.spikes, inputs, gradient)
    wanted = torch.autograd.grad(expected, inputs, gradient.double())
    near = 1e-9 if dtype == torch.float64 else 1e-4
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < near * theirs.abs().max()


@needs_compiler
@pytest.mark.parametrize("rule", ["zero", "subtract", "delayed", "none"])
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("kind", ["alone", "added", "repeated"])
def test_evaluation_equals_the_formula_in_float64(kind: str, layout: str, rule: str) -> None:
    shape = SHAPES[layout]
    channels, others = shape[2], [1] * (len(shape) - 3)
    x = sequence(shape, layout, torch.float64)
    x = x[0] if kind == "repeated" else x
    added = torch.randn(shape, dtype=x.dtype) if kind == "added" else None
    mean, bias = torch.randn(2, channels, dtype=x.dtype)
    variance, weight = torch.rand(2, channels, dtype=x.dtype) + 0.1
    evaluate = normed.Prepared(
        x, added, (mean, variance), weight, bias, torch.tensor(0.25, dtype=x.dtype),
        torch.tensor(0.5, dtype=x.dtype), RULES[rule], 1e-5, shape[0] if kind == "repeated" else 0,
    )  # fmt: skip
    spikes = evaluate(x, added)

    def row(value: Tensor) -> Tensor:
        return value.view(channels, *others)

    current = (x.expand(shape) - row(mean)) / row(variance + 1e-5).sqrt() * row(weight) + row(bias)
    current = current if added is None else current + added
    neuron = stbp.Leaky(0.25, 0.5, RULES[rule].surrogate, **reset_options(RULES[rule].reset))
    with kernels.backend("loop"):
        assert torch.equal(spikes, neuron.double()(current))


@needs_compiler
def test_half_precision_is_near_and_statistics_are_exact() -> None:
    x = sequence((2, 8, 16, 9, 9), "channels last", torch.bfloat16).requires_grad_()
    weight, bias = torch.full((16,), 0.4), torch.zeros(16)
    beta, threshold = torch.tensor(0.25), torch.tensor(0.4)
    fired = normed.normalize_and_fire(x, None, weight, bias, beta, threshold, RULES["zero"], 1e-5)
    over = (0, 1, 3, 4)
    torch.testing.assert_close(fired.mean, x.double().mean(over), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fired.variance, x.double().var(over, unbiased=False))
    assert fired.spikes.dtype == torch.bfloat16
    assert not fired.mean.requires_grad
    assert not fired.variance.requires_grad
    exact = x.detach().float().requires_grad_()
    expected = normed.normalize_and_fire(
        exact, None, weight, bias, beta, threshold, RULES["zero"], 1e-5
    )
    assert torch.equal(fired.spikes.float(), expected.spikes)
    gradient = torch.randn(x.shape, dtype=torch.bfloat16)
    (ours,) = torch.autograd.grad(fired.spikes, x, gradient)
    (theirs,) = torch.autograd.grad(expected.spikes, exact, gradient.float())
    assert (ours.float() - theirs).abs().max() < 0.01 * theirs.abs().max()


class Wrong(torch.autograd.Function):
    """Spikes as they should be, and gradients that are not."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        ctx.shapes = [v.shape for v in arguments[:4] if v is not None]
        with torch.no_grad():
            return normed._NormalizeAndFire.apply(*arguments)

    @staticmethod
    def backward(ctx: Any, spikes: Tensor, *_: Any) -> Any:
        x, *rows = (torch.ones(shape) for shape in ctx.shapes)
        return x, None, *rows, None, None, None


class Broken:
    @staticmethod
    def apply(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available")


@needs_compiler
def test_a_kernel_is_taken_on_a_device_only_where_it_agrees(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert normed._trusted(normed._NormalizeAndFire, "cpu") is normed._NormalizeAndFire
    assert not caplog.records
    assert normed._trusted(Wrong, "cpu") is None
    assert normed._trusted(Broken, "cpu") is None
    first, second = (record.getMessage() for record in caplog.records)
    assert "one after the other on cpu (results differ from torch's)" in first
    assert "RuntimeError: no kernel image is available" in second


@needs_compiler
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("mean", [1e3, 1e7, 1e9])
def test_a_large_mean_swallows_no_variance(mean: float, layout: str) -> None:
    """It is subtracted before anything is squared."""
    torch.manual_seed(0)
    x = sequence((4, 8, 5, 8, 8), layout, torch.float64) + mean
    values = (torch.ones(5).double(), torch.zeros(5).double(), torch.tensor(0.5).double())
    rule = kernels.Rule(surrogate.rectangular())
    neuron = (values[2], torch.tensor(0.4).double(), rule)
    fired = normed.normalize_and_fire(x, None, *values[:2], *neuron, 1e-5)
    variance, rest = torch.var_mean(x - mean, (0, 1, 3, 4), correction=0)  # an exact difference
    torch.testing.assert_close(fired.mean, rest + mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(fired.variance, variance, rtol=1e-8, atol=0)
