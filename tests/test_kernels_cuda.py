"""The Triton kernels: in the interpreter, through the compiler, and on a GPU where one is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate


def test_the_interpreted_kernels_equal_the_cpu() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.triton_interpreter"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_the_kernels_compile_without_contraction_and_without_a_gpu() -> None:
    """What the interpreter does not see: types, constants, and that spikes cannot differ."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from snntorch_stbp.kernels import cuda

    constants = {
        "T": 4, "BETAS": True, "THRESHOLDS": False, "RESET": "zero", "DETACH": False,
        "CURVE": "rectangular", "A": 0.8, "ROOT": 0.9, "CENTRE": -0.4,
        "MEMBRANE": True, "LEARN_BETA": True, "LEARN_THRESHOLD": True, "BLOCK": 512,
    }  # fmt: skip
    half = {"x_ptr", "spikes_ptr", "current_ptr"}
    for kernel in (cuda._forward, cuda._backward):
        names = kernel.arg_names
        kinds = {
            name: "*bf16" if name in half else "*fp32" if name.endswith("_ptr") else "i32"
            for name in names
        }
        kinds |= {name: "constexpr" for name in names if name in constants}
        source = ASTSource(kernel, kinds, {k: v for k, v in constants.items() if k in names})
        options = {"enable_fp_fusion": False}
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert "fma.rn.f32" not in built.asm["ptx"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not tried on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_equals_the_loop_on_a_gpu(dtype: torch.dtype, reset: str) -> None:
    neuron = stbp.Leaky(
        torch.rand(8), 0.4, surrogate.gaussian(0.5), learn_beta=True, reset_mechanism=reset
    ).cuda()
    x = torch.randn(6, 4, 8, 9, 9, device="cuda", dtype=dtype)
    results = []
    for backend in ("fused", "loop"):
        given = x.clone().requires_grad_()
        with kernels.backend(backend):
            spikes = neuron(given)
            spikes.square().sum().backward()
        results.append((spikes, given.grad))
    assert torch.equal(results[0][0], results[1][0])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(results[0][1], results[1][1], rtol=tolerance, atol=tolerance)
