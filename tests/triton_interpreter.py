"""Compare the Triton kernels with the CPU's; run with TRITON_INTERPRET=1, where no GPU is."""

from __future__ import annotations

import itertools

import torch

from snntorch_stbp import surrogate
from snntorch_stbp.kernels import Rule, cpu, cuda, cuda_bits, cuda_normed, integrate
from snntorch_stbp.kernels.layout import Layout
from snntorch_stbp.memory.kept import Bits

CURVES = [
    surrogate.rectangular(0.8),
    surrogate.polynomial(2.0),
    surrogate.sigmoid(0.3),
    surrogate.gaussian(0.5),
    surrogate.fast_sigmoid(5.0),
    surrogate.atan(),
]
KINDS = ("alone", "added", "repeated")
RESETS = ("zero", "subtract", "delayed", "none")


def compare(x: torch.Tensor, per_channel: bool, rule: Rule, membrane: bool) -> None:
    dtype = torch.promote_types(x.dtype, torch.float32)
    shape = (x.shape[2], 1) if per_channel else ()
    beta, threshold = torch.rand(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    x = x if per_channel else x.flatten(1)
    spikes, potential = cpu.forward(x, beta, threshold, rule, membrane)
    ours, ours_potential = cuda.forward(x, beta, threshold, rule, membrane)
    assert torch.equal(spikes, ours)
    if membrane:
        assert potential is not None
        assert ours_potential is not None
        assert torch.equal(potential, ours_potential)
    grads = (
        torch.randn(x.shape).to(x.dtype),
        torch.randn(x.shape, dtype=dtype) if membrane else None,
    )
    expected = cpu.backward(x, beta, threshold, rule, *grads, (True, True))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(x.dtype, 2e-2)
    for a, b in zip(
        cuda.backward(x, beta, threshold, rule, *grads, (True, True)), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def stats(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What `torch.batch_norm_stats` computes, which has no CPU form."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    over = [i for i in range(x.dim()) if i != 1]
    variance, mean = torch.var_mean(exact, over, correction=0)
    return mean, (variance + eps).rsqrt()


def compare_normed(x: torch.Tensor, kind: str, rule: Rule) -> None:
    """Normalisation and neuron as one operation, against those two in float64."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    steps, channels = len(x), x.shape[2]
    x = (x[0] if kind == "repeated" else x).clone().requires_grad_()
    added = torch.randn(x.shape).to(x) if kind == "added" else None
    weight, bias = torch.rand(channels, dtype=dtype) + 0.1, torch.randn(channels, dtype=dtype) / 9
    inputs = [x, weight.requires_grad_(), bias.requires_grad_()]
    inputs += [added.requires_grad_()] if added is not None else []
    beta, threshold = torch.tensor(0.25, dtype=dtype), torch.rand(channels, dtype=dtype)
    repeated = steps if kind == "repeated" else 0
    spikes, mean, variance = cuda_normed.NormalizeAndFire.apply(
        x, added, weight, bias, (beta, threshold, rule), 1e-5, repeated
    )

    whole = (x.expand(steps, *x.shape) if repeated else x).double()
    samples = whole.flatten(0, 1)
    over = [i for i in range(samples.dim()) if i != 1]
    torch.testing.assert_close(mean, samples.mean(over), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, samples.var(over, unbiased=False), rtol=1e-5, atol=1e-6)
    current = torch.nn.functional.batch_norm(
        samples, None, None, weight.double(), bias.double(), True, 0.0, 1e-5
    ).unflatten(0, whole.shape[:2])
    current = current if added is None else current + added.double()
    per_channel = threshold.double().reshape(-1, *[1] * (x.dim() - (2 if repeated else 3)))
    expected, _ = integrate(current, beta.double(), per_channel, rule)
    assert torch.equal(spikes.double(), expected)
    assert spikes.stride()[1:] == whole.expand(spikes.shape).stride()[1:] or repeated
    gradient = torch.randn(spikes.shape).to(spikes)
    with torch.no_grad():  # with these statistics as known ones
        prepared = cuda_normed.Prepared(
            x, added, (mean, variance), weight, bias, beta, threshold, rule, 1e-5, repeated
        )
        assert torch.equal(prepared(x, added).double(), expected)
    found = torch.autograd.grad(spikes, inputs, gradient)
    wanted = torch.autograd.grad(expected, inputs, gradient.double())
    near = {torch.float64: 1e-9, torch.float32: 1e-4}.get(x.dtype, 2e-2)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < near * theirs.abs().max()


def compare_bits(count: int, dtype: torch.dtype) -> None:
    """Spikes packed and unpacked, and the bytes that a CPU makes of them."""
    spikes = (torch.rand(count) < 0.3).to(dtype)
    expected, packed = Bits.of(spikes), cuda_bits.pack(spikes)
    assert expected is not None
    assert torch.equal(packed, expected.packed)
    assert torch.equal(cuda_bits.unpack(packed, count, dtype), spikes)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.batch_norm_stats = stats
    cuda.BLOCK = 64
    cuda.processors = lambda device: 2
    for kind, (channels, dtype) in itertools.product(
        KINDS, ((2, torch.float64), (16, torch.float32))
    ):  # channels side by side, where sums are made on the way
        x = torch.randn(3 * 4, channels, 7, 6, dtype=dtype).to(memory_format=torch.channels_last)
        assert cuda.room_for_sums(Layout.of(x[None], channels).flat(x[None]), dtype) is not None
        compare_normed(3 * x.unflatten(0, (3, 4)) + 5, kind, Rule(CURVES[0]))
    for kind, curve in zip(itertools.cycle(KINDS), CURVES):
        compare_normed(torch.randn(3, 4, 5, 6, 6, dtype=torch.float64), kind, Rule(curve))
    for kind, reset in zip(KINDS, RESETS[1:], strict=True):
        x = torch.randn(3 * 4, 5, 6, 6).to(memory_format=torch.channels_last)
        compare_normed(x.unflatten(0, (3, 4)), kind, Rule(CURVES[0], reset))
    compare_normed(torch.randn(2, 8, 7).bfloat16(), "alone", Rule(CURVES[0]))
    kinds = [(CURVES[i % len(CURVES)], reset) for i, reset in enumerate(RESETS)]
    for curve, reset in {*kinds, *itertools.product(CURVES, RESETS[:1])}:
        for detach, per_channel in itertools.product((False, True), repeat=2):
            x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
            compare(x, per_channel, Rule(curve, reset, detach), membrane=detach)
    for per_channel in (False, True):  # one step, repeated
        x = torch.randn(3, 5, 6, dtype=torch.float64).expand(4, 3, 5, 6)
        compare(x, per_channel, Rule(CURVES[0]), membrane=per_channel)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for steps in (1, 2, 7):
            x = torch.randn(steps, 2, 5, 10).to(dtype)
            compare(x, True, Rule(CURVES[0]), membrane=True)
    for count, dtype in itertools.product((8, 4096, 5003), (torch.float32, torch.bfloat16)):
        compare_bits(count, dtype)
    print("equal")
