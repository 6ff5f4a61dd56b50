"""What `convert` cannot take is named, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import spikegen
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import convert
from snntorch_stbp.errors import StbpError, UsageError

from .nets import digits
from .test_conversion import Dense, Step, brighter, pixels


class Refused(nn.Module):
    """One forward pass for each thing that has no counterpart."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], neuron: nn.Module | None = None):
        super().__init__()
        self.body = forward
        self.fc, self.fc2 = nn.Linear(64, 10), nn.Linear(10, 10)
        self.lif = snn.Leaky(0.5) if neuron is None else neuron

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x.flatten(1))


def recurrent(m: Any, x: Tensor) -> Tensor:
    spk, mem = torch.zeros(4, 10), m.lif.reset_mem()
    record = []
    for _ in range(3):
        current = m.fc(x) if not record else m.fc(x) + m.fc2(spk)
        spk, mem = m.lif(current, mem)
        record.append(spk)
    return torch.stack(record)


def changing(m: Any, x: Tensor) -> Tensor:
    mem, record = m.lif.reset_mem(), []
    for layer in (m.fc, m.fc):
        spk, mem = m.lif(layer(x) if not record else m.fc2(m.fc(x)), mem)
        record.append(spk)
    return torch.stack(record)


def last_step(m: Any, x: Tensor) -> Tensor:
    mem = m.lif.reset_mem()
    for _ in range(3):
        spk, mem = m.lif(m.fc(x), mem)
    return spk


def forgetful(m: Any, x: Tensor) -> Tensor:
    return torch.stack([m.lif(m.fc(x), torch.zeros(4, 10))[0] for _ in range(3)])


def summed(m: Any, x: Tensor) -> Tensor:
    mem, total = m.lif.reset_mem(), 0
    for _ in range(3):
        spk, mem = m.lif(m.fc(x), mem)
        total = total + spk
    return total


@pytest.mark.parametrize(("model", "message"), [
    (Refused(recurrent), "'lif' gets at step 2 what was computed at step 1: .* recurrent"),
    (Refused(changing), "'lif' is called twice with different inputs"),
    (
        Refused(lambda m, x: m.lif(m.fc(spikegen.rate(x, num_steps=3)[0]))[0]),
        "cannot follow .* not depend on values of tensors, and spikes are coded outside.$",
    ),
    (Refused(forgetful), "'lif' is given a membrane potential at step 2 that is not its own"),
    (stbp.zoo.create("mnistnet", in_channels=1, image_size=8), "of this package, which takes seq"),
    (Refused(last_step), "returns one time step of several: .* returns the record"),
    (Refused(summed), "belongs to different time steps: return the record"),
    (Refused(lambda m, x: m.lif(torch.sigmoid(m.fc(x)))[0]), "cannot convert the operation 'sigm"),
    (Refused(lambda m, x: m.lif(m.fc(x) if x.sum() > 0 else x)[0]), "cannot follow the forward"),
    (Refused(lambda m, x: m.lif(m.fc(x), m.fc(x))[0]), "potential at step 1 that is not its own"),
    (Refused(lambda m, x: m.fc(x)), "Refused has neither neurons of snnTorch nor ReLUs"),
    (
        Refused(lambda m, x: m.lif(m.fc(x))[1]),
        r"returns membrane potentials of 'lif': .* membrane=True\) gives the membrane potentials",
    ),
    (Refused(lambda m, x: {"spikes": m.lif(m.fc(x))[0]}), "returns neither spikes nor currents"),
    (
        Refused(lambda m, x: m.lif(m.fc(x))[0], snn.Synaptic(0.5, 0.5, init_hidden=True)),
        "cannot convert|'lif' is Synaptic, which has no counterpart",
    ),
    (
        Refused(lambda m, x: m.lif(m.fc(x)), snn.RLeaky(0.5, linear_features=10, init_hidden=True)),
        "'lif' is RLeaky, which has no counterpart here: known is snntorch.Leaky",
    ),
])  # fmt: skip
def test_what_has_no_counterpart_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(StbpError, match=message):
        convert(model, digits(4), num_steps=3)


def test_inhibition_has_no_counterpart() -> None:
    with pytest.warns(UserWarning, match="Inhibition is an unstable feature"):
        neuron = snn.Leaky(0.5, inhibition=True)
    with pytest.raises(StbpError, match="'lif' is a Leaky with inhibition"):
        convert(Refused(lambda m, x: m.lif(m.fc(x))[0], neuron), digits(4), num_steps=3)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"num_steps": 0}, "runs for at least 1 time step, not 0"),
    ({"num_steps": True}, "num_steps is a whole number of time steps, not True"),
    ({"beta": 1.5}, r"beta is a number in \[0, 1\], not 1\.5"),
    ({"threshold": float("nan")}, "threshold is a positive, finite number, not nan"),
    ({"scale": float("nan")}, "the example has values that are not finite"),
    ({"num_steps": 4}, "num_steps is 4, but the network's own loop has 6 steps"),
    ({"precision": stbp.Precision(4), "scale": 2}, r"values from 0 to 2, but .* lies in \[0, 1\]"),
])  # fmt: skip
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    scale = arguments.pop("scale", 1)
    with pytest.raises(UsageError, match=message):
        convert(Dense(), digits(4) * scale, **arguments)


def test_an_example_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match=r"at least one sample, not of the shape \[0, 64\]"):
        convert(Dense(), torch.rand(0, 64))


def test_a_step_that_forgets_the_one_before_is_refused() -> None:
    """The module of snnTorch's tutorial 6, whose forward pass makes new states."""

    def one_step(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = m.lif(m.fc(x), m.lif.init_leaky())
        return result

    model = brighter(Refused(one_step))
    with pytest.raises(UsageError, match="'lif' starts from a new membrane potential at each call"):
        convert(model, digits(4), num_steps=2)
    net = convert(model, pixels(4), num_steps=1)
    assert torch.equal(net(pixels(4))[0], model(pixels(4))[0])
    with pytest.raises(ValueError, match="a sequence of 1 steps, not the shape"):
        net(pixels(4).expand(3, 4, 1, 8, 8))


def test_num_steps_is_asked_for() -> None:
    with pytest.raises(UsageError, match="say num_steps: the network has no loop"):
        convert(Step(), digits(4))


def test_layers_without_quantized_counterpart_are_named() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten())
    with pytest.raises(StbpError, match="Conv1d has no quantized counterpart here"):
        convert(model, digits(4), num_steps=2, precision=stbp.Precision(4))


def test_a_quantized_membrane_has_one_threshold() -> None:
    """Its levels lie around it; currents of several thresholds are quantized to one range."""
    lif = snn.Leaky(0.5, threshold=torch.linspace(0.2, 0.8, 10))
    model = brighter(Refused(lambda m, x: m.lif(m.fc(x))[0], lif))
    options: dict[str, Any] = {"num_steps": 1}
    with pytest.raises(StbpError, match=r"'lif' has thresholds from 0\.2 to 0\.8, but the levels"):
        convert(model, pixels(4), precision=stbp.Precision(4, membrane_bits=4), **options)
    assert convert(model, pixels(4), precision=stbp.Precision(4, act_bits=4), **options)
    lif.threshold = torch.full((10,), 0.4)
    assert convert(model, pixels(4), precision=stbp.Precision(4, membrane_bits=4), **options)
    model = brighter(Dense(learn_threshold=True))
    with pytest.raises(StbpError, match=r"learns its threshold, which the levels of a quantized"):
        convert(model, pixels(4), precision=stbp.Precision(4, membrane_bits=4))


def test_boundary_layers_are_those_that_compute_first_and_last() -> None:
    """Whatever the order in which they were registered."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.io = nn.ModuleDict({"a": nn.Linear(64, 8), "z": nn.Linear(8, 4)})
            self.mid, self.relu = nn.Linear(8, 8), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.mid(self.relu(self.io["a"](x))))
            return self.io["z"](x)

    net = convert(
        Net(), pixels(4).flatten(1), num_steps=2, precision=stbp.Precision(2, boundary_bits=8)
    )
    bits = {
        n: int(m.weight_quant.bit_width())
        for n, m in net.named_modules()
        if hasattr(m, "weight_quant")
    }
    assert {n.removesuffix(".layer"): b for n, b in bits.items()} == {
        "io.a": 8,
        "io.z": 8,
        "mid": 2,
    }


def test_a_precision_is_no_number_of_bits() -> None:
    with pytest.raises(TypeError, match=r"precision is a Precision, such as .*, not 4"):
        convert(Dense(), digits(4), num_steps=2, precision=4)  # type: ignore[arg-type]
