"""`Leaky` is a multi-step `snntorch.Leaky`: the same spikes and gradients, no hidden state."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate

from .nets import reset_options

RESETS = ("zero", "subtract", "delayed", "none")


def stepped_snntorch(
    x: Tensor, beta: float | Tensor, threshold: float | Tensor, **options: object
) -> tuple[Tensor, snn.Leaky]:
    """Spikes of snnTorch's own neuron, stepped by hand."""
    options = {"reset_mechanism": "zero", "reset_delay": False, **options}
    neuron = snn.Leaky(beta, threshold, surrogate.rectangular(), **options).to(x.dtype)
    mem, record = torch.zeros_like(x[0]), []
    for step in x:
        spikes, mem = neuron(step, mem)
        record.append(spikes)
    return torch.stack(record), neuron


def plain_loop(x: Tensor, beta: float, threshold: float, reset: str) -> tuple[Tensor, Tensor]:
    """The formula, neuron by neuron, in Python floats."""
    spikes, membrane = torch.zeros_like(x), torch.zeros_like(x)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[1:])).tolist():
        u = o = 0.0
        for t in range(x.shape[0]):
            kept = {"zero": u * (1 - o), "subtract": u - threshold * o}.get(reset, u)
            u = beta * kept + x[(t, *index)].item() - threshold * o * (reset == "delayed")
            o = float(u > threshold)
            spikes[(t, *index)], membrane[(t, *index)] = o, u
    return spikes, membrane


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@pytest.mark.parametrize("backend", ["compiled", "loop"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_what_a_reset_leaves_above_a_negative_threshold_follows_the_formula(
    reset: str, backend: str
) -> None:
    x = torch.tensor([0.3, -0.8, 0.65, -0.4], dtype=torch.float64).reshape(4, 1, 1)
    neuron = stbp.Leaky(1.0, -0.2, reset_mechanism=reset)
    with kernels.backend(backend):
        spikes = neuron(x)
    assert torch.equal(spikes, plain_loop(x, 1.0, -0.2, reset)[0])
    theirs, _ = stepped_snntorch(x, 1.0, -0.2, reset_mechanism=reset)
    assert not torch.equal(spikes, theirs)


@given(
    shape=shapes,
    steps=st.integers(1, 7),
    beta=st.floats(0, 1),
    threshold=st.floats(0.05, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    reset=st.sampled_from(["zero", "none"]),
    seed=st.integers(0, 2**31),
)
def test_equals_snntorch_stepped_by_hand_exactly(
    shape: list[int],
    steps: int,
    beta: float,
    threshold: float,
    dtype: torch.dtype,
    reset: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, 2, *shape, dtype=dtype, generator=generator) + threshold / 2
    weights = torch.randn(x.shape, dtype=dtype, generator=generator)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    spikes = stbp.Leaky(beta, threshold, reset_mechanism=reset).to(dtype)(ours)
    expected, _ = stepped_snntorch(theirs, beta, threshold, reset_mechanism=reset)
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()

    assert torch.equal(spikes, expected)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


@given(
    steps=st.integers(1, 6),
    beta=st.floats(0, 1),
    threshold=st.floats(0.05, 2),
    reset=st.sampled_from(RESETS),
)
def test_equals_the_formula(steps: int, beta: float, threshold: float, reset: str) -> None:
    x = torch.randn(steps, 2, 3, dtype=torch.float64) + threshold / 2
    beta, threshold = (torch.tensor(v, dtype=torch.float64) for v in (beta, threshold))
    neuron = stbp.Leaky(beta, threshold, output=True, **reset_options(reset))
    spikes, membrane = neuron(x)
    expected = plain_loop(x, beta.item(), threshold.item(), reset)
    assert torch.equal(spikes, expected[0])
    torch.testing.assert_close(membrane, expected[1], rtol=1e-14, atol=1e-14)


@given(
    steps=st.integers(2, 6),
    beta=st.floats(0.1, 1),
    threshold=st.floats(-1, 2),
    reset=st.sampled_from(["zero", "subtract", "none"]),
    backend=st.sampled_from(["loop", "fused", "compiled"]),
    seed=st.integers(0, 2**31),
)
def test_delayed_reset_equals_snntorchs_default(
    steps: int, beta: float, threshold: float, reset: str, backend: str, seed: int
) -> None:
    """Negative thresholds too: 0, the potential before the first step, is above them."""
    x = torch.randn(steps, 4, 5, generator=torch.Generator().manual_seed(seed)).double() + threshold
    options = {"learn_beta": True, "learn_threshold": True, "reset_mechanism": reset}
    options["reset_delay"] = True
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    neuron = stbp.Leaky(beta, threshold, **options).double()
    with kernels.backend(backend):
        spikes = neuron(ours)
    expected, other = stepped_snntorch(theirs, beta, threshold, **options)
    spikes.sum().backward()
    expected.sum().backward()
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(neuron.beta.grad, other.beta.grad)
    torch.testing.assert_close(neuron.threshold.grad, other.threshold.grad)


def test_reset_by_subtraction_equals_snntorch_below_twice_the_threshold() -> None:
    """Beyond it snnTorch takes the threshold off again in the next step."""
    x = torch.rand(6, 4, 5, dtype=torch.float64)
    spikes = stbp.Leaky(0.5, 1.0, reset_mechanism="subtract").double()(x)
    expected, _ = stepped_snntorch(x, 0.5, 1.0, reset_mechanism="subtract")
    assert spikes.sum() > 0
    assert torch.equal(spikes, expected)


@pytest.mark.parametrize("reset", ["zero", "none"])
def test_learned_beta_and_threshold_have_snntorchs_gradients(reset: str) -> None:
    x = torch.randn(5, 8, 6, dtype=torch.float64)
    options = {"learn_beta": True, "learn_threshold": True, "reset_mechanism": reset}
    ours = stbp.Leaky(0.6, 0.5, **options).double()
    ours(x).sum().backward()
    expected, theirs = stepped_snntorch(x, 0.6, 0.5, **options)
    expected.sum().backward()
    torch.testing.assert_close(ours.beta.grad, theirs.beta.grad)
    torch.testing.assert_close(ours.threshold.grad, theirs.threshold.grad)


def test_per_channel_values_follow_the_channel_dimension() -> None:
    beta, threshold = torch.rand(3), torch.rand(3) + 0.1
    x = torch.randn(4, 2, 3, 5, 5)
    together = stbp.Leaky(beta, threshold)(x)
    for c in range(3):
        alone = stbp.Leaky(beta[c].item(), threshold[c].item())(x[:, :, c])
        assert torch.equal(together[:, :, c], alone)


def test_per_neuron_values_of_a_dense_layer() -> None:
    beta = torch.rand(6)
    x = torch.randn(4, 2, 6)
    expected, _ = stepped_snntorch(x, beta, 0.4)
    assert torch.equal(stbp.Leaky(beta, 0.4)(x), expected)


def test_smooth_part_of_the_gradient_is_that_of_finite_differences() -> None:
    """Below the threshold, outside the surrogate's window, the membrane is linear in the input."""
    x = (-torch.rand(4, 2, 3, dtype=torch.float64) - 0.2).requires_grad_()
    neuron = stbp.Leaky(0.5, 0.4, surrogate.rectangular(0.1), output=True).double()
    assert torch.autograd.gradcheck(lambda x: neuron(x)[1], (x,))


def test_state_quantizer_equals_snntorchs() -> None:
    def grid(u: Tensor) -> Tensor:
        return u + ((u * 8).round() / 8 - u).detach()

    x = torch.randn(5, 4, 6)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    spikes = stbp.Leaky(0.5, 0.4, state_quant=grid)(ours)
    expected, _ = stepped_snntorch(theirs, 0.5, 0.4, state_quant=grid)
    spikes.sum().backward()
    expected.sum().backward()
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_integrated_in_float32(dtype: torch.dtype) -> None:
    x = torch.rand(6, 4, 8).to(dtype)
    neuron = stbp.Leaky(0.9, 1.0, output=True)
    spikes, membrane = neuron(x)
    assert spikes.dtype == dtype
    assert membrane.dtype == torch.float32
    assert torch.equal(spikes.float(), neuron(x.float())[0])


def test_graded_spikes_are_scaled() -> None:
    x = torch.rand(3, 2, 4)
    assert torch.equal(stbp.Leaky(graded_spikes_factor=3.0)(x), 3 * stbp.Leaky()(x))


def test_two_calls_give_the_same_result() -> None:
    neuron, x = stbp.Leaky(), torch.rand(3, 2, 4)
    first = neuron(x)
    neuron(torch.rand(3, 2, 4))
    assert torch.equal(neuron(x), first)


def test_dropped_networks_are_freed() -> None:
    before = len(snn.SpikingNeuron.instances)
    networks = [weakref.ref(stbp.Leaky()) for _ in range(1000)]
    gc.collect()
    assert len(snn.SpikingNeuron.instances) == before
    assert not any(ref() for ref in networks)


def test_is_a_snntorch_leaky() -> None:
    neuron = stbp.Leaky()
    assert isinstance(neuron, snn.Leaky)
    assert set(neuron.state_dict()) == set(snn.Leaky(0.25).state_dict())


def test_names_what_it_is() -> None:
    text = repr(stbp.Leaky(0.25, 0.4))
    assert "beta=0.25, threshold=0.4, reset=zero" in text


def test_refuses_an_unknown_reset() -> None:
    with pytest.raises(ValueError, match="reset_mechanism"):
        stbp.Leaky(reset_mechanism="soft")


@pytest.mark.parametrize("shape", [(3,), (0, 2, 4)])
def test_refuses_what_is_no_sequence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sequence \[T, B, \.\.\.\] of at least one step"):
        stbp.Leaky()(torch.zeros(shape))


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize("value", [float("nan"), torch.tensor([0.5, float("nan")])])
def test_refuses_constants_that_are_no_numbers(name: str, value: float | Tensor) -> None:
    with pytest.raises(ValueError, match=f"{name} of neurons is a number, not nan"):
        stbp.Leaky(**{name: value})


@pytest.mark.parametrize(("given", "message"), [
    ("atan", r"is a spike function, such as .*surrogate\.atan\(\), not 'atan'"),
    ("relu", r"such as snntorch_stbp\.surrogate\.rectangular\(\), not 'relu'"),
    (3, "not 3"),
])  # fmt: skip
def test_refuses_names_of_spike_functions(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        stbp.Leaky(spike_grad=given)
