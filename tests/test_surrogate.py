"""The four surrogate gradients equal the formulas of Wu 2018 and serve any snnTorch neuron."""

from __future__ import annotations

import math
import pickle

import pytest
import snntorch as snn
import torch

import snntorch_stbp as stbp
from snntorch_stbp import surrogate

CURVES = {
    "rectangular": lambda v, a: (1 / a) * (abs(v) < a / 2),
    "polynomial": lambda v, a: max(0.0, math.sqrt(a) / 2 - a / 4 * abs(v)),
    "sigmoid": lambda v, a: 1 / a * math.exp(v / a) / (1 + math.exp(v / a)) ** 2,
    "gaussian": lambda v, a: math.exp(-(v**2) / (2 * a)) / math.sqrt(2 * math.pi * a),
}
THEIRS = {"fast_sigmoid": [25.0, 3.0], "atan": [2.0, 0.5]}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("a", [0.25, 1.0, 3.0])
def test_gradient_equals_the_formula(name: str, a: float) -> None:
    v = torch.linspace(-3, 3, 121, dtype=torch.float64, requires_grad=True)
    spikes = getattr(surrogate, name)(a)(v)
    spikes.sum().backward()
    expected = [CURVES[name](x, a) for x in v.tolist()]
    torch.testing.assert_close(v.grad, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(spikes, (v > 0).double())


def test_a_window_can_be_centred_on_a_membrane_potential_of_zero() -> None:
    """As in STBP-train-and-compression: `abs(u) < 0.5` in place of `abs(u - threshold) < 0.5`."""
    u = torch.linspace(-2, 2, 81, dtype=torch.float64, requires_grad=True)
    spikes = surrogate.rectangular(1.0, centre=-0.4)(u - 0.4)
    spikes.sum().backward()
    assert torch.equal(spikes, (u > 0.4).double())
    assert torch.equal(u.grad, (u.abs() < 0.5).double())


def test_a_centre_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="the centre of a surrogate is a number, not nan"):
        surrogate.rectangular(1.0, centre=math.nan)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("a", [0.25, 1.0, 3.0])
def test_curve_has_unit_area(name: str, a: float) -> None:
    v = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64)
    area = torch.trapezoid(getattr(surrogate, name)(a).derivative(v), v)
    assert area.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_spikes_and_gradients_keep_the_type(name: str, dtype: torch.dtype) -> None:
    v = torch.randn(10, dtype=dtype, requires_grad=True)
    spikes = getattr(surrogate, name)()(v)
    spikes.sum().backward()
    assert spikes.dtype == v.grad.dtype == dtype


@pytest.mark.parametrize(("name", "a"), [(n, a) for n, values in THEIRS.items() for a in values])
def test_snntorchs_curves_are_snntorchs(name: str, a: float) -> None:
    theirs = getattr(snn.surrogate, name)(a)
    ours = getattr(surrogate, name)(a)
    assert surrogate.equivalent(theirs) == ours
    gradients = []
    for function in (ours, theirs):
        v = torch.linspace(-3, 3, 121, requires_grad=True)
        function(v).sum().backward()
        gradients.append(v.grad)
    torch.testing.assert_close(*gradients)
    assert getattr(surrogate, name)() == surrogate.equivalent(getattr(snn.surrogate, name)())


def test_what_has_no_equivalent_stays() -> None:
    atan = snn.surrogate.atan
    for theirs in (snn.surrogate.triangular(), torch.relu, surrogate.gaussian(), atan, object()):
        assert surrogate.equivalent(theirs) is theirs


def test_a_neuron_takes_snntorchs_for_its_own() -> None:
    theirs = snn.surrogate.fast_sigmoid(7)
    assert stbp.Leaky(spike_grad=theirs).spike_grad == surrogate.fast_sigmoid(7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CURVES)
def test_on_cuda(name: str) -> None:
    v = torch.linspace(-3, 3, 121, device="cuda", requires_grad=True)
    spikes = getattr(surrogate, name)()(v)
    spikes.sum().backward()
    assert spikes.is_cuda
    expected = getattr(surrogate, name)().derivative(v.detach().cpu())
    torch.testing.assert_close(v.grad.cpu(), expected)


def test_autocast_keeps_the_type() -> None:
    layer = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        current = layer(torch.randn(2, 4))
        assert surrogate.gaussian()(current).dtype == current.dtype == torch.bfloat16


@pytest.mark.parametrize("name", CURVES)
def test_serves_a_snntorch_neuron(name: str) -> None:
    neuron = snn.Leaky(beta=0.5, spike_grad=getattr(surrogate, name)())
    x = torch.rand(3, 4, requires_grad=True)
    spikes, _ = neuron(x * 2)
    spikes.sum().backward()
    assert x.grad.abs().sum() > 0


def test_is_a_value_that_prints_compares_and_pickles() -> None:
    curve = surrogate.rectangular(0.5)
    assert curve == pickle.loads(pickle.dumps(curve)) != surrogate.rectangular(1.0)
    assert repr(curve) == "Surrogate(curve='rectangular', parameter=0.5, centre=0.0)"


@pytest.mark.parametrize("width", [0.0, -1.0, math.inf, math.nan])
def test_refuses_a_width_that_is_not_positive(width: float) -> None:
    with pytest.raises(ValueError, match="positive number, not"):
        surrogate.rectangular(width)
