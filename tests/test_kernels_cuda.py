"""The Triton kernels: in the interpreter, through the compiler, and on a GPU where one is."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import firing, kernels, surrogate
from snntorch_stbp.sequence import repeat

from .nets import reset_options


def test_the_interpreted_kernels_equal_the_cpu() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.triton_interpreter"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "equal", done.stderr


HALF = {"x_ptr", "added_ptr", "spikes_ptr", "current_ptr", "d_ptr"}
NEURON = {
    "T": 4, "BETAS": True, "THRESHOLDS": False, "RESET": "zero", "DETACH": False,
    "CURVE": "rectangular", "A": 0.8, "ROOT": 0.9, "CENTRE": -0.4,
    "MEMBRANE": True, "LEARN_BETA": True, "LEARN_THRESHOLD": True,
    "NORMED": True, "ADDED": True, "TOTAL": False, "SUMS": False, "CHANNELS": 1,
    "AHEAD": 2, "BLOCK": 512,
}  # fmt: skip
SUMS = {"SUMS": True, "CHANNELS": 128, "MEMBRANE": False, "LEARN_BETA": False}


def ptx(function: Any, constants: dict[str, object], **kinds: str) -> str:
    """The assembly of a kernel for a GPU of compute capability 9.0, which need not be there.

    With `kinds` of arguments that are not as usual, all of them are multiples of 16.
    """
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    known = {"exact_ptr": "*fp64", "eps": "fp32", **dict.fromkeys(HALF, "*bf16"), **kinds}
    signature = {
        name: known.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    constants = {k: v for k, v in constants.items() if k in signature}
    given = [i for i, name in enumerate(signature) if kinds and name not in constants]
    aligned = {(i,): [["tt.divisibility", 16]] for i in given}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(function, signature, constants, aligned)
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.parametrize(
    ("kernel", "changes"),
    [
        ("lif_forward", {}),
        ("lif_forward", {"RESET": "delayed"}),
        ("lif_backward", {}),
        ("lif_backward", SUMS),
        ("lif_backward", {"RESET": "delayed", "CURVE": "atan"}),
        ("lif_backward", {**SUMS, "RESET": "delayed", "CURVE": "fast_sigmoid"}),
    ],
)
def test_the_kernels_compile_without_contraction_and_without_a_gpu(
    kernel: str, changes: dict[str, object]
) -> None:
    """What the interpreter does not see: types, constants, and that spikes cannot differ."""
    pytest.importorskip("triton")
    from snntorch_stbp.kernels import cuda_kernels

    assert "fma.rn.f32" not in ptx(getattr(cuda_kernels, kernel), NEURON | changes)


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        ("_moments", {"ROWS": 32, "CHANNELS": 64}),
        ("_together", {"PARTS": 64, "CHANNELS": 8}),
        ("_coefficients", {"PARTS": 64, "CHANNELS": 8}),
        ("_through", {"BLOCK": 1024}),
    ],
)
def test_the_kernels_of_statistics_compile_without_a_gpu(
    kernel: str, constants: dict[str, object]
) -> None:
    pytest.importorskip("triton")
    from snntorch_stbp.kernels import cuda_moments

    assert "ld.global" in ptx(getattr(cuda_moments, kernel), constants)


def test_bits_are_read_and_written_in_whole_words() -> None:
    pytest.importorskip("triton")
    from snntorch_stbp.kernels.cuda_bits import _pack, _unpack

    assert "ld.global.v4.b32" in ptx(_pack, {"BYTES": 512}, out_ptr="*u8")
    code = ptx(_unpack, {"BYTES": 512}, packed_ptr="*u8", out_ptr="*bf16")
    assert "st.global.v4.b32" in code


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_gradients_of_steps_ahead_are_asked_for_before_a_store(ahead: int) -> None:
    """A load is not moved in front of a store: where it stands is where it starts."""
    pytest.importorskip("triton")
    from snntorch_stbp.kernels.cuda_kernels import lif_backward

    off = ("BETAS", "MEMBRANE", "LEARN_BETA", "LEARN_THRESHOLD", "NORMED", "ADDED")
    changes = {"AHEAD": ahead, "BLOCK": 128, **dict.fromkeys(off, False)}
    code = ptx(lif_backward, NEURON | changes)
    order = re.findall(r"(ld|st)\.global", code)
    numbers, steps = 2, 4
    before = order[: order.index("st")]
    assert len(before) == numbers + steps + min(ahead + 1, steps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not tried on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reset", ["zero", "subtract", "delayed", "none"])
def test_equals_the_loop_on_a_gpu(dtype: torch.dtype, reset: str) -> None:
    neuron = stbp.Leaky(
        torch.rand(8), 0.4, surrogate.gaussian(0.5), learn_beta=True, **reset_options(reset)
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not tried on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["alone", "added", "repeated"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tdbn_and_neuron_as_one_on_a_gpu(
    layout: torch.memory_format, kind: str, dtype: torch.dtype
) -> None:
    layer = stbp.TimeDistributed(nn.Conv2d(5, 8, 3), stbp.TDBatchNorm2d(8)).to("cuda", dtype)
    layer.norm.float()
    layer.to(memory_format=layout)
    neuron = stbp.Leaky(0.25, 0.4).cuda()
    x = torch.randn(4, 5, 12, 12, device="cuda", dtype=dtype)
    x = repeat(x, 3) if kind == "repeated" else torch.stack([x, 2 * x, -x])
    added = torch.randn(3, 4, 8, 10, 10, device="cuda", dtype=dtype) if kind == "added" else None
    results = []
    for backend in ("compiled", "fused"):
        ours = copy.deepcopy(layer)
        with kernels.backend(backend):
            spikes = firing.fire(ours, neuron, x, added)
        spikes.float().square().sum().backward()
        with kernels.backend(backend), torch.no_grad():
            known = firing.fire(ours.eval(), neuron, x, added)
        found = [p.grad for p in ours.norm.parameters()] + list(ours.norm.buffers())
        results.append([torch.stack([spikes, known]), *found])
    differing = (results[0][0] != results[1][0]).double().mean()
    assert differing < (1e-3 if dtype == torch.float32 else 2e-2)  # currents are not rounded here
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for found, wanted in zip(results[0][1:], results[1][1:], strict=True):
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1)
