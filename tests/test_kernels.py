"""The fused neuron equals the plain loop: spikes bit for bit, gradients to rounding."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate
from snntorch_stbp.errors import UsageError
from snntorch_stbp.kernels import cpu

from .nets import reset_options

CURVES = [
    surrogate.rectangular(),
    surrogate.polynomial(2.0),
    surrogate.sigmoid(0.3),
    surrogate.gaussian(0.5),
    surrogate.fast_sigmoid(5.0),
    surrogate.atan(),
    surrogate.rectangular(0.7, centre=-0.4),
]
RESETS = ["zero", "subtract", "delayed", "none"]


def run(
    neuron: stbp.Leaky, x: Tensor, backend: str, seed: int = 1
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of the input and of what is learned, under `backend`."""
    x = x.detach().requires_grad_()
    neuron.zero_grad()
    with kernels.backend(backend):
        results = neuron(x)
        results = list(results) if isinstance(results, tuple) else [results]
        generator = torch.Generator().manual_seed(seed)
        loss = sum(
            (r * torch.randn(r.shape, generator=generator, dtype=torch.float64)).sum()
            for r in results
        )
        loss.backward()
    leaves = [x, *neuron.parameters()]
    return results, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in leaves]


def compare(
    neuron: stbp.Leaky, x: Tensor, rtol: float = 1e-12, backend: str = "fused"
) -> list[Tensor]:
    fused, fused_grads = run(neuron, x, backend)
    loop, loop_grads = run(neuron, x, "loop")
    assert fused[0].grad_fn is not None
    assert "Integrate" in str(fused[0].grad_fn)
    for a, b in zip(fused, loop, strict=True):
        assert torch.equal(a, b)
    assert len(fused_grads) == len(loop_grads)
    for a, b in zip(fused_grads, loop_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)
    return fused_grads


@pytest.mark.parametrize("backend", ["fused", "compiled"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_a_repeated_step_equals_the_sequence(
    backend: str, channels_last: bool, learned: bool
) -> None:
    """Currents that do not change, `expand`ed: the same spikes and gradients, in a dense result."""
    beta = torch.full((6,), 0.6, dtype=torch.float64) if learned else 0.6
    neuron = stbp.Leaky(beta, 0.4, learn_beta=learned, learn_threshold=learned).double()
    x = sequence(3, 6, 4, 4)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    results, gradients = [], []
    for make in (lambda x: x.expand(5, *x.shape), lambda x: torch.stack([x] * 5)):
        leaf = x.clone().requires_grad_()
        neuron.zero_grad()
        with kernels.backend(backend if not results else "loop"):
            spikes = neuron(make(leaf))
        (spikes * torch.arange(spikes.numel()).view(spikes.shape)).sum().backward()
        results.append(spikes)
        gradients.append([leaf.grad, *(p.grad.clone() for p in neuron.parameters())])
    assert torch.equal(*results)
    assert results[0].stride(0) == x.numel()
    assert results[0][0].stride() == x.stride()
    for ours, loop in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-10, atol=1e-10)


def sequence(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype) + 0.3


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one shorter, out of small tensors."""
    monkeypatch.setattr(cpu, "BLOCK", 50)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spike_grad", CURVES, ids=lambda s: s.curve)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("output", [False, True])
def test_equals_the_loop(
    reset: str, spike_grad: surrogate.Surrogate, detach: bool, output: bool
) -> None:
    options = {**reset_options(reset), "detach_reset": detach, "output": output}
    neuron = stbp.Leaky(0.6, 0.4, spike_grad, learn_beta=True, learn_threshold=True, **options)
    grads = compare(neuron.double(), sequence(5, 3, 4, 3, 2))
    assert all(g.abs().sum() > 0 for g in grads)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 5, 7), (4, 6, 5, 3, 2), (1, 2, 5, 3, 3)])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_equals_the_loop_per_channel(reset: str, shape: tuple[int, ...], last: bool) -> None:
    x = sequence(*shape)
    if last:
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    for beta, threshold in [
        (torch.rand(5), torch.rand(5)),
        (0.7, torch.rand(5)),
        (torch.rand(5), torch.tensor(0.3)),
    ]:
        neuron = stbp.Leaky(
            beta, threshold, learn_beta=True, learn_threshold=True, **reset_options(reset)
        )
        compare(neuron.double(), x)


@pytest.mark.usefixtures("small_blocks")
def test_spikes_and_rectangular_gradients_are_the_loops_bit_for_bit_in_float32() -> None:
    for reset in ("zero", "none"):
        neuron = stbp.Leaky(0.3, 0.4, surrogate.rectangular(0.7), reset_mechanism=reset)
        compare(neuron, sequence(6, 5, 40, dtype=torch.float32), rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reset", RESETS)
def test_half_precision_equals_the_loop(dtype: torch.dtype, reset: str) -> None:
    neuron = stbp.Leaky(0.9, 0.7, output=True, **reset_options(reset))
    grads = compare(neuron, sequence(6, 4, 30, dtype=dtype), rtol=1e-2)
    assert grads[0].dtype == dtype


def test_layouts_are_kept() -> None:
    x = sequence(3, 2, 4, 5, 6).movedim(2, -1).contiguous().movedim(-1, 2)
    assert stbp.Leaky()(x).stride() == x.stride()
    assert stbp.Leaky(torch.rand(4), 0.4)(x).stride() == x.stride()


def test_inputs_that_overlap_or_leave_gaps() -> None:
    neuron = stbp.Leaky(0.6, 0.4).double()
    compare(neuron, sequence(2, 6).expand(4, 2, 6))
    compare(neuron, sequence(4, 2, 6, 6)[..., ::2])
    compare(neuron, sequence(2, 4, 6).transpose(0, 1))


@pytest.mark.parametrize("backend", ["fused", "compiled"])
def test_a_gradient_that_is_the_same_at_every_step(backend: str) -> None:
    """As that of a mean over time, which autograd hands over as an expanded view."""
    x, gradients = sequence(4, 3, 6), []
    for each in (backend, "loop"):
        leaf = x.clone().requires_grad_()
        with kernels.backend(each):
            (stbp.Leaky().double()(leaf).mean(0) * torch.arange(18).view(3, 6)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_membrane_alone() -> None:
    x = sequence(4, 2, 6).requires_grad_()
    for backend in ("fused", "loop"):
        with kernels.backend(backend):
            _, membrane = stbp.Leaky(0.6, 0.4, output=True).double()(x)
        membrane.square().sum().backward()
        if backend == "fused":
            expected, x.grad = x.grad, None
    torch.testing.assert_close(expected, x.grad, rtol=1e-12, atol=1e-12)


def test_no_reset_is_a_linear_filter_and_its_gradient_that_of_finite_differences() -> None:
    rule = kernels.Rule(surrogate.rectangular(), "none")

    def membrane(x: Tensor, beta: Tensor) -> Tensor:
        potential = kernels.integrate(x, beta, torch.tensor(0.4).double(), rule, True)[1]
        assert potential is not None
        return potential

    beta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(membrane, (sequence(4, 2, 3).requires_grad_(), beta))


def test_nothing_but_the_input_is_kept_for_the_backward_pass() -> None:
    x = sequence(4, 8, 100).requires_grad_()
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.add(t.data_ptr()) or t if t.numel() > 1 else t, lambda t: t
    ):
        stbp.Leaky().double()(x)
    assert kept == {x.data_ptr()}


def test_what_the_kernels_do_not_cover_is_left_to_the_loop() -> None:
    def atan_like(v: Tensor) -> Tensor:
        return (v > 0).to(v.dtype) + v - v.detach()

    x = sequence(4, 2, 3, 5)
    for neuron in (
        stbp.Leaky(0.5, 0.4, atan_like),
        stbp.Leaky(torch.rand(3, 5), 0.4),
        stbp.Leaky(state_quant=lambda u: (u * 8).round() / 8),
        stbp.Leaky(surrogate_disable=True),
    ):
        fused, loop = neuron.double()(x), None
        with kernels.backend("loop"):
            loop = neuron(x)
        assert torch.equal(fused, loop)


def test_a_changed_factor_of_the_spikes_is_seen() -> None:
    neuron, x = stbp.Leaky(), torch.rand(3, 2, 4)
    before = neuron(x)
    neuron.graded_spikes_factor.fill_(2.0)
    assert torch.equal(neuron(x), 2 * before)


def test_an_unknown_backend_is_refused() -> None:
    message = "unknown backend 'fast' of the neuron: choose one of compiled, fused, loop"
    with pytest.raises(ValueError, match=message), kernels.backend("fast"):
        pass


def test_the_environment_variable_chooses() -> None:
    code = (
        "import torch, snntorch_stbp as s; x = torch.rand(2, 1, 3, requires_grad=True);"
        "print(type(s.Leaky()(x).grad_fn).__name__)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, kernels.VARIABLE: "loop"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Integrate" not in shown


def test_the_environment_variable_of_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "nope")
    with pytest.raises(UsageError, match="SNNTORCH_STBP_KERNELS: unknown backend 'nope' of the"):
        kernels._at_import()


def test_long_sequences_on_a_gpu_take_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_device", lambda x: cpu)
    curve, beta, threshold = surrogate.rectangular(), torch.tensor(0.5), torch.tensor(1.0)
    for steps, taken in ((32, True), (33, False)):
        x = torch.empty(steps, 2, device="meta")
        assert kernels.covers(x, beta, threshold, curve) is taken
    assert kernels.covers(torch.empty(100, 2), beta, threshold, curve)
