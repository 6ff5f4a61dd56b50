"""Networks of snnTorch, and of torch alone, become networks over sequences that do the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import pytest
import snntorch as snn
import snntorch.functional as SF
import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits
from snntorch import surrogate, utils
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import convert
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.frozen import freeze

from .nets import digits

SPIKE = surrogate.fast_sigmoid(slope=25)


class Dense(nn.Module):
    """The network of snnTorch's tutorial 5: a loop over the steps, defaults throughout."""

    def __init__(self, beta: float = 0.95, num_steps: int = 6, **options: Any) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.fc1, self.lif1 = nn.Linear(64, 40), snn.Leaky(beta=beta, **options)
        self.fc2, self.lif2 = nn.Linear(40, 10), snn.Leaky(beta=beta, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class Frames(nn.Module):
    """A frame of events at each step, normalisation, functions of torch, learned values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        options = {"reset_mechanism": "zero", "learn_beta": True, "spike_grad": SPIKE}
        self.lif1 = snn.Leaky(torch.rand(6, 1, 1), 0.5, **options)
        self.fc = nn.Linear(54, 10)
        self.lif2 = snn.Leaky(0.7, spike_grad=SPIKE, reset_mechanism="none", learn_threshold=True)

    def forward(self, data: Tensor, gain: float = 1.0) -> Tensor:
        mem1 = torch.zeros(data.size(1), 6, 6, 6, device=data.device)
        mem2, record = self.lif2.init_leaky(), []
        for step, frame in enumerate(data):
            assert step < data.size(0) == len(data)
            spk, mem1 = self.lif1(self.bn(self.conv1(frame)), mem1)
            spk = F.dropout(F.avg_pool2d(spk, 2), 0.1, self.training)
            spk, mem2 = self.lif2(self.fc(spk.view(spk.size(0), -1)), mem2)
            record.append(spk)
        return torch.stack(record)


class Step(nn.Module):
    """One step, whose neurons hold their state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 40), snn.Leaky(0.8, init_hidden=True)
        self.fc2, self.lif2 = nn.Linear(40, 10), snn.Leaky(0.8, init_hidden=True, output=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.lif2(self.fc2(self.lif1(self.fc1(x.flatten(1)))))
        return spikes, membrane


def convolutional() -> nn.Module:
    """The network of snnTorch's tutorial 6, for 8x8 pixels."""
    neuron = {"beta": 0.5, "spike_grad": SPIKE, "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(2), snn.Leaky(**neuron),
        nn.Conv2d(8, 12, 3, padding=1), nn.MaxPool2d(2), snn.Leaky(**neuron),
        nn.Flatten(), nn.Linear(48, 10), snn.Leaky(**neuron, output=True),
    )  # fmt: skip


def stepped(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    """The record of a network of one step, as snnTorch's scripts step it."""
    utils.reset(model)
    return torch.stack([model(x)[0] for _ in range(steps)])


def brighter(model: nn.Module, factor: float = 3.0) -> nn.Module:
    """Weights large enough that all layers fire, on a grid: float32 holds every sum of them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for value in (module.weight, module.bias):
                    if value is not None:
                        value.copy_((value * factor * 64).round() / 64)
    return model


def pixels(count: int) -> Tensor:
    """Digits on a grid of 1/16."""
    return (digits(count) * 16).round() / 16


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "a loop": (Dense, lambda model, x: model(x)[0]),
    "a loop, to zero": (
        lambda: Dense(reset_mechanism="zero", reset_delay=False),
        lambda model, x: model(x)[0],
    ),
    "one step": (Step, lambda model, x: stepped(model, x, 6)),
    "sequential": (convolutional, lambda model, x: stepped(model, x, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_spikes_and_gradients_are_those_of_snntorch(case: str) -> None:
    make, run = CASES[case]
    model = brighter(make())
    x = pixels(20)
    net = convert(model, x, num_steps=None if "loop" in case else 6)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0  # a copy: what is trained here does not train the model
    ours, theirs = net(x), run(model, x)
    assert torch.equal(ours, theirs)
    assert ours.sum() > 20
    weights = torch.randn(ours.shape)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    mine = {n.replace(".layer", ""): p.grad for n, p in net.named_parameters()}
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()
        assert (mine[name] - parameter.grad).abs().max() < 1e-4 * scale, name


def test_a_frame_at_each_step() -> None:
    model = brighter(Frames()).eval()
    frames = torch.stack([pixels(10).roll(t, -1) for t in range(4)])
    net = convert(model, frames)
    assert torch.equal(net(frames), model(frames))
    assert net(frames).sum() > 0
    assert torch.equal(net(frames[0]), net(frames[:1].expand(4, *frames.shape[1:])))
    assert isinstance(net.conv1.norm, nn.BatchNorm2d)
    assert {"lif1.beta", "lif2.threshold"} <= {name for name, _ in net.named_parameters()}
    assert not net.training
    assert convert(model.train(), frames).training


def test_a_network_of_one_step_takes_frames() -> None:
    """As snnTorch's tutorial 7 steps it through events."""
    model = brighter(convolutional())
    frames = torch.stack([pixels(10).roll(t, -1) for t in range(4)])
    net = convert(model, frames[0], num_steps=4)
    utils.reset(model)
    expected = torch.stack([model(frame)[0] for frame in frames])
    assert torch.equal(net(frames), expected)
    assert expected.sum() > 0


def test_a_trained_network_with_hidden_state_is_copied_and_stays_as_it_is() -> None:
    model, x = brighter(Step()), pixels(8)
    stepped(model, x, 3).sum().backward()  # its membranes have a history now
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = convert(model, x, num_steps=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_membranes_for_losses_on_them() -> None:
    model, x = brighter(Dense()), pixels(8)
    spikes, membranes = convert(model, x, membrane=True)(x)
    expected = model(x)
    assert torch.equal(spikes, expected[0])
    torch.testing.assert_close(membranes, expected[1])


def test_bits_and_training() -> None:
    x, y = digits(1797), torch.tensor(load_digits().target)
    torch.manual_seed(0)
    net = convert(
        convolutional(), x[:64], num_steps=10, precision=stbp.Precision(4, boundary_bits=8),
        spike_grad=stbp.surrogate.atan(),
    )  # fmt: skip
    bits = [m.weight_quant.bit_width() for m in net.modules() if hasattr(m, "weight_quant")]
    assert bits == [8, 4, 8]
    optimizer, loss = torch.optim.Adam(net.parameters(), lr=5e-3), SF.ce_count_loss()
    for batch in torch.randperm(1500).repeat(12).split(50):
        optimizer.zero_grad()
        loss(net(x[batch]), y[batch]).backward()
        optimizer.step()
    assert SF.accuracy_rate(net.eval()(x[1500:]), y[1500:]) > 0.8


def test_layers_of_brevitas_keep_their_quantizers(tmp_path: Path) -> None:
    """What users of both glue together by hand: Brevitas' layers between snnTorch's neurons."""
    neuron = {"beta": 0.9, "init_hidden": True}
    model = nn.Sequential(
        nn.Flatten(), qnn.QuantLinear(64, 40, bias=True, weight_bit_width=4), snn.Leaky(**neuron),
        qnn.QuantLinear(40, 10, bias=True, weight_bit_width=3), snn.Leaky(**neuron, output=True),
    )  # fmt: skip
    x = digits(8)
    net = convert(brighter(model), x, num_steps=5).eval()
    assert (net(x) != stepped(model, x, 5)).float().mean() < 0.01  # but for rounding
    assert net(x).sum() > 0
    frozen = freeze(net)
    assert [branch.bits for stage in frozen.stages for branch in stage.current.branches] == [4, 3]
    assert to_qonnx(net, x, tmp_path / "net.onnx").agreement.samples == 8


def test_a_dense_network_is_exported(tmp_path: Path) -> None:
    model = brighter(Dense(num_steps=3))
    net = convert(model, digits(8), precision=stbp.Precision(4)).eval()
    for form in ("unrolled", "step"):
        exported = to_qonnx(net, digits(4), tmp_path / f"{form}.onnx", form=form)
        assert exported.agreement.samples == 4
    frozen = freeze(net)
    assert [stage.stage.name for stage in frozen.stages] == ["lif1", "lif2"]
    assert (frozen(digits(64)).mean(0) - net(digits(64)).mean(0)).abs().mean() < 0.02


class Residual(nn.Module):
    """An ANN: normalisation, an addition, one ReLU module for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(torch.flatten(self.pool(x), 1))


def test_a_network_without_spikes_gets_neurons_and_tdbn(tmp_path: Path) -> None:
    model = Residual()
    for _ in range(30):
        model(digits(64))  # statistics
    net = convert(model.eval(), digits(64), num_steps=2, beta=0.5, threshold=0.8)
    neurons = [m for m in net.modules() if isinstance(m, stbp.Leaky)]
    assert [(float(n.beta), round(float(n.threshold), 6)) for n in neurons] == [(0.5, 0.8)] * 2
    first, second = net.conv1.norm, net.conv2.norm
    assert isinstance(first, stbp.TDBatchNorm2d)
    assert (first.alpha, first.threshold) == (1, 0.8)
    assert second.alpha == pytest.approx(2**-0.5)
    images = digits(16)
    current = net.conv1(images[None])[0]
    torch.testing.assert_close(current, 0.8 * model.bn1(model.conv1(images)))
    assert "fire" in net.code  # tdBN and neuron as one operation
    record: list[Tensor] = []
    for neuron in neurons:
        neuron.register_spike_hook(lambda _, spikes: record.append(spikes.detach()))
    assert net(images).shape == (2, 16, 10)
    assert all(0.02 < spikes.float().mean() < 0.9 for spikes in record)
    exported = to_qonnx(net, images[:3], tmp_path / "net.onnx")
    assert exported.agreement.samples == 3


def test_layers_without_normalisation_are_scaled_to_the_threshold() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 30), nn.ReLU6(),
        nn.Linear(30, 10),
    )  # fmt: skip
    brighter(model, 50.0)
    last = model[6].weight.clone()
    net = convert(model, digits(100), num_steps=3)
    currents: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, stbp.Leaky):
            module.register_forward_pre_hook(
                lambda m, given, name=name: currents.update({name: given[0].detach()})
            )
    net(digits(100))
    for current in currents.values():
        assert float(current.square().mean().sqrt()) == pytest.approx(0.4, rel=1e-4)
    assert len(currents) == 2
    assert torch.equal(getattr(net, "6").layer.weight, last)


def test_adaptive_pooling_that_keeps_a_side() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d((None, 2)), nn.Conv2d(1, 3, 1), nn.ReLU())
    assert convert(model, digits(4), num_steps=2)(digits(4)).shape == (2, 4, 3, 8, 2)


def test_torchvisions_resnet18_trains_as_a_spiking_network() -> None:
    net = convert(
        torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32), num_steps=2
    )
    net.train()
    loss = net(torch.rand(8, 3, 32, 32)).mean(0).square().sum()
    loss.backward()
    assert sum(isinstance(m, stbp.Leaky) for m in net.modules()) == 17
    assert sum(isinstance(m, stbp.TDBatchNorm2d) for m in net.modules()) == 20
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
