"""Whichever way a forward pass calls its modules and functions, `convert` reads what they do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import snntorch_stbp as stbp
from snntorch_stbp import convert
from snntorch_stbp.errors import StbpError, UsageError

from .nets import digits
from .test_conversion import Dense, Step, brighter, pixels
from .test_conversion_refused import Refused


class Called(nn.Module):
    """A loop around `step(model, x, mem)`, which gives spikes and membrane potentials."""

    def __init__(self, step: Callable[..., Any], start: Callable[..., Any] | None = None):
        super().__init__()
        self.step, self.start = step, start
        self.fc, self.lif = nn.Linear(64, 10), snn.Leaky(0.8)

    def forward(self, x: Tensor) -> Tensor:
        mem = self.lif.reset_mem() if self.start is None else self.start(self, x)
        record = []
        for _ in range(3):
            spk, mem = self.step(self, x, mem)
            record.append(spk)
        return torch.stack(tensors=record)


def flattened(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, channels * height * width).reshape(x.size(0), x.size(1) * x.size(2) * 8)


@pytest.mark.parametrize("step", [
    lambda m, x, mem: m.lif(input_=m.fc(x.flatten(1)), mem=mem),
    lambda m, x, mem: m.lif(mem=mem, input_=m.fc(input=torch.flatten(input=x, start_dim=1))),
    lambda m, x, mem: m.lif(m.fc(torch.flatten(x, 1, 3)), mem),
    lambda m, x, mem: m.lif(torch.relu(input=m.fc(x.flatten(start_dim=1))), mem),
    lambda m, x, mem: m.lif(m.fc(x.view(-1, 64)), mem),
    lambda m, x, mem: m.lif(m.fc(x.reshape(-1, 8 * 8)), mem),
    lambda m, x, mem: m.lif(m.fc(x.view(x.shape[0], 64)), mem),
    lambda m, x, mem: m.lif(m.fc(torch.reshape(x, (x.size(0), 64))), mem),
    lambda m, x, mem: m.lif(m.fc(flattened(F.avg_pool2d(x, 1))), mem),
    lambda m, x, mem: m.lif(m.fc(x.float().flatten(1)), mem),
    lambda m, x, mem: m.lif(m.fc(x.flatten(1).to(torch.float32)), mem),
    lambda m, x, mem: m.lif(m.fc(F.avg_pool2d(input=x, kernel_size=1).flatten(1)), mem),
    lambda m, x, mem: m.lif(torch.add(m.fc(x.flatten(1)), other=m.fc(x.flatten(1))), mem),
    lambda m, x, mem: m.lif(F.relu6(m.fc(x.flatten(1))), mem),
])  # fmt: skip
def test_calls_by_name_and_every_usual_flattening(step: Callable[..., Any]) -> None:
    model = brighter(Called(step))
    net = convert(model, pixels(9))
    assert torch.equal(net(pixels(20)), model(pixels(20)))
    assert net(pixels(20)).sum() > 0


@pytest.mark.parametrize("start", [
    lambda m, x: None,
    lambda m, x: torch.zeros(x.size(0), 10),
    lambda m, x: x.new_zeros(x.size(0), 10),
    lambda m, x: torch.zeros_like(x.flatten(1)),
    lambda m, x: torch.zeros(1) if x.ndim == 4 and x.numel() else None,
])  # fmt: skip
def test_states_start_from_zeros(start: Callable[..., Any]) -> None:
    def step(m: Any, x: Tensor, mem: Any) -> Any:
        return m.lif(m.fc(x.flatten(1)), mem)

    model = brighter(Called(step, start))
    expected = brighter(Called(step))
    expected.load_state_dict(model.state_dict())
    assert torch.equal(convert(model, pixels(9))(pixels(20)), expected(pixels(20)))


@pytest.mark.parametrize("start", [
    lambda m, x: torch.full((4, 10), 0.5),
    lambda m, x: torch.ones(1),
    lambda m, x: m.own,
])  # fmt: skip
def test_states_that_start_from_anything_else_are_refused(start: Callable[..., Any]) -> None:
    model = Called(lambda m, x, mem: m.lif(m.fc(x.flatten(1)), mem), start)
    model.own = nn.Parameter(torch.zeros(10))
    message = r"'lif' starts from membrane potentials that are not 0 .* from lif.reset_mem\(\)"
    with pytest.raises(StbpError, match=message):
        convert(model, pixels(4))


def dropping(training: Callable[[Any], dict[str, Any]]) -> Called:
    return Called(
        lambda m, x, mem: m.lif(F.dropout(m.fc(x.flatten(1)), 0.5, **training(m)), mem)
    )  # fmt: skip


def test_dropouts_keep_their_mode() -> None:
    follows = convert(dropping(lambda m: {"training": m.training}), pixels(4))
    assert [type(m) for m in follows.modules() if isinstance(m, nn.Dropout)] == [nn.Dropout]
    assert follows.train().dropout.layer.training
    never = convert(dropping(lambda m: {"training": False}), pixels(4))
    assert not any(isinstance(m, nn.Dropout) for m in never.modules())
    for options in ({}, {"training": True}):
        with pytest.raises(StbpError, match=r"drops in evaluation, too: .* F.dropout\(x, p, self"):
            convert(dropping(lambda m, options=options: options), pixels(4))  # type: ignore[misc]


@pytest.mark.parametrize("spiking", [True, False])
def test_factors_of_an_addition_are_refused(spiking: bool) -> None:
    def body(m: Any, x: Tensor) -> Any:
        current = torch.add(m.fc(x), m.fc(x), alpha=0.5)
        return m.lif(current)[0] if spiking else torch.relu(current)

    message = "cannot convert an addition with alpha=0.5: currents are added as they are; take"
    with pytest.raises(StbpError, match=message):
        convert(Refused(body), digits(4), num_steps=2)


def test_a_reshaping_that_mixes_samples_is_refused() -> None:
    """Of two samples one of twice the size, or two halves of each."""
    message = r"cannot convert a reshaping of \[4, 10\] to \[4, 5\] rows: .* \[4, 10\] here"
    with pytest.raises(StbpError, match=message):
        convert(Refused(lambda m, x: torch.relu(m.fc(x)).view(-1, 5)), digits(4), num_steps=2)


def synaptic(m: Any, x: Tensor) -> Tensor:
    record, (syn, mem) = [], m.lif.reset_mem()
    for _ in range(3):
        spk, syn, mem = m.lif(m.fc(x), syn, mem)
        record.append(spk)
    return torch.stack(record)


def recurrent(m: Any, x: Tensor) -> Tensor:
    record, (spk, mem) = [], m.lif.reset_mem()
    for _ in range(3):
        spk, mem = m.lif(m.fc(x), spk, mem)
        record.append(mem)
    return torch.stack(record)


class MyLeaky(snn.Leaky):
    """A neuron of a user."""


def assigned(m: Any, x: Tensor) -> Tensor:
    record, mem = torch.zeros(3, 4, 10), m.lif.reset_mem()
    for step in range(3):
        record[step], mem = m.lif(m.fc(x), mem)
    return record


HIDDEN = {"init_hidden": True}


@pytest.mark.parametrize(("model", "message"), [
    (Refused(synaptic, snn.Synaptic(0.5, 0.5)), "'lif' is Synaptic, which has no counterpart"),
    (Refused(recurrent, snn.RLeaky(0.5, linear_features=10)), "'lif' is RLeaky, which has no co"),
    (Refused(lambda m, x: m.lif(m.fc(x)), snn.LeakyParallel(10, 10)), "'lif' is LeakyParallel, w"),
    (Refused(lambda m, x: m.lif(m.fc(x)), MyLeaky(0.5, **HIDDEN)), "'lif' is MyLeaky, a class of"),
    (snn.Leaky(0.5, **HIDDEN), "the model is a lone Leaky: convert takes networks"),
    (Refused(assigned), r"an assignment to a part of a tensor: .* return torch.stack\(list\)"),
    (Refused(lambda m, x: m.lif(m.fc(x, x))[0]), "'fc' is called with arguments that Linear does"),
    (
        Refused(lambda m, x: torch.stack([m.lif(m.fc(x))[1] for _ in range(3)])),
        "returns membrane potentials of 'lif': .* the record of its spikes, alone or first",
    ),
])  # fmt: skip
def test_what_has_no_counterpart_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(StbpError, match=message):
        convert(model, digits(4), num_steps=3)


@pytest.mark.parametrize(("example", "steps", "message"), [
    (digits(4), 5.0, r"num_steps is a whole number of time steps, not 5\.0"),
    ((digits(4), torch.zeros(4)), 5, r"tensor of inputs, not of type tuple: .* example\[0\]"),
    (digits(4).numpy(), 5, r"not of type ndarray: of an array, torch.from_numpy\(example\)"),
    (digits(4).double(), 5, r"'fc1' \(Linear\) cannot take .* \(4, 1, 8, 8\) and torch.float64: m"),
])  # fmt: skip
def test_wrong_examples_are_named(example: Any, steps: Any, message: str) -> None:
    with pytest.raises(StbpError, match=message) as raised:
        convert(Step(), example, num_steps=steps)
    assert isinstance(raised.value, UsageError) or "Linear" in message


@pytest.mark.parametrize("activation", [nn.ReLU(), snn.Leaky(0.5, **HIDDEN)])
def test_networks_that_cannot_be_compared_say_so(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), activation)
    model.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 2),))
    message = r"Sequential cannot be run on the example in double precision, to compare .*: mat1"
    with pytest.raises(StbpError, match=message):
        convert(model, digits(4), num_steps=1)


NORMALISED: dict[str, Callable[[nn.Linear], Any]] = {
    "prune.remove(layer, 'weight')": lambda fc: prune.l1_unstructured(fc, "weight", 0.5),
    "prune.remove(layer, 'bias')": lambda fc: prune.l1_unstructured(fc, "bias", 0.5),
    "remove_weight_norm(layer, 'weight')": torch.nn.utils.weight_norm,
    "remove_spectral_norm(layer, 'weight')": torch.nn.utils.spectral_norm,
    "parametrize.remove_parametrizations(layer, 'weight')": parametrizations.weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("call", NORMALISED)
@pytest.mark.parametrize("passed", [True, False])
def test_computed_weights_stay_what_they_are_or_are_refused(call: str, passed: bool) -> None:
    """Before the first pass they hold a history, behind one without gradients they do not."""
    model = brighter(Dense())
    NORMALISED[call](model.fc1)
    model.eval()
    if passed:
        with torch.no_grad():
            model(digits(4))
    net = convert(model, digits(8))
    assert torch.equal(net(digits(20)), model(digits(20))[0])
    names = {name.replace(".layer", "") for name, _ in net.named_parameters()}
    assert names == {name for name, _ in model.named_parameters()}
    with pytest.raises(StbpError, match=f"of 'fc1' is computed .*{re.escape(call)} first"):
        convert(model, digits(8), precision=stbp.Precision(4))
    ann = nn.Sequential(nn.Flatten(), model.fc1, nn.ReLU())
    with pytest.raises(StbpError, match="of '1' is computed from other parameters at each pass"):
        convert(ann, digits(8), num_steps=2)
