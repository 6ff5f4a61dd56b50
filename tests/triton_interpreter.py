"""Compare the Triton kernels with the CPU's; run with TRITON_INTERPRET=1, where no GPU is."""

from __future__ import annotations

import itertools

import torch

from snntorch_stbp import surrogate
from snntorch_stbp.kernels import Rule, cpu, cuda

CURVES = [
    surrogate.rectangular(0.8),
    surrogate.polynomial(2.0),
    surrogate.sigmoid(0.3),
    surrogate.gaussian(0.5),
]


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


if __name__ == "__main__":
    torch.manual_seed(0)
    cuda.BLOCK = 64
    for curve, reset in itertools.product(CURVES, ("zero", "subtract", "none")):
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
    print("equal")
