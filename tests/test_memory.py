"""Training in less memory gives the gradients and statistics of plain training, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import snntorch_stbp as stbp
from snntorch_stbp import memory, zoo
from snntorch_stbp.memory import kept
from snntorch_stbp.memory.kept import BLOCK, Bits

Ways = Callable[[], AbstractContextManager[object]]


def both() -> AbstractContextManager[object]:
    stack = ExitStack()
    stack.enter_context(memory.saving())
    stack.enter_context(memory.checkpointing())
    return stack


WAYS = {
    "recomputing": memory.recomputing,
    "saving": memory.saving,
    "checkpointing": memory.checkpointing,
    "both": both,
}


def trained(net: nn.Module, x: Tensor, way: Ways) -> dict[str, Tensor]:
    """Gradients and buffers after one step from the same start; backward runs outside of `way`."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.zero_grad()
    with way():
        record = net(x)
    record.square().sum().backward()
    after = {f"gradient of {n}": p.grad for n, p in net.named_parameters() if p.grad is not None}
    after |= {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.load_state_dict(state)
    return after


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("name", ["resnet18", "mnistnet_bn", "vgg11_bn", "cifarnet_neunorm"])
def test_gradients_and_statistics_are_those_of_plain_training(
    name: str, bits: int | None, way: str
) -> None:
    size = 32 if name.startswith("vgg") else 8
    precision = stbp.Precision(weight_bits=bits, act_bits=bits and 8)
    net = zoo.create(name, image_size=size, precision=precision).train()
    x = torch.rand(8, 3, size, size)
    plain, other = trained(net, x, nullcontext), trained(net, x, WAYS[way])
    assert plain.keys() == other.keys()
    assert len(plain) > 10
    for key, value in plain.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [8, 5000, BLOCK, 2 * BLOCK + 13])
@pytest.mark.parametrize("sure", [False, True])
def test_bits_are_exact(count: int, dtype: torch.dtype, sure: bool) -> None:
    spikes = (torch.rand(count) < 0.3).to(dtype)
    bits = Bits.of(spikes, sure)
    assert bits is not None
    assert bits.packed.nbytes == -(-count // 8)
    assert bits.restored().dtype == dtype
    assert torch.equal(bits.restored(), spikes)


def test_bits_stay_on_the_cpu_whatever_the_default_device_is() -> None:
    spikes = (torch.rand(5000) < 0.3).float()
    kept._table.cache_clear()
    with torch.device("meta"):
        bits = Bits.of(spikes)
        assert bits is not None
        assert torch.equal(bits.restored(), spikes)
    assert torch.equal(bits.restored(), spikes)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, 1 - 2**-24, 1e-30, float("inf"), float("nan")])
@pytest.mark.parametrize("place", [0, 2000, BLOCK + 7])
def test_what_holds_anything_else_is_not_packed(value: float, place: int) -> None:
    x = torch.zeros(BLOCK + 8)
    x[place] = value
    assert Bits.of(x) is None


def fired(sequence: Tensor, neuron: stbp.Leaky, change: Callable[[Tensor], Any]) -> Tensor:
    """The gradient of a convolution's weight behind a neuron whose spikes something changes."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3)
    spikes = neuron(sequence)
    change(spikes)
    layer(spikes.flatten(0, 1)).square().sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


@pytest.mark.parametrize(
    ("options", "change", "looks"),
    [
        ({}, lambda spikes: None, False),
        ({"graded_spikes_factor": 0.5}, lambda spikes: None, True),
        ({"spike_grad": lambda v: (v > 0).to(v) * 2}, lambda spikes: None, True),
        ({}, lambda spikes: spikes.mul_(0.5), True),
    ],
    ids=["spikes", "graded", "another function", "changed in place"],
)
def test_only_what_is_known_to_be_spikes_is_packed_without_a_look(
    options: dict[str, Any], change: Callable[[Tensor], Any], looks: bool, monkeypatch: Any
) -> None:
    sequence, neuron = torch.randn(3, 4, 8, 16, 16), stbp.Leaky(0.25, 0.4, **options)
    expected = fired(sequence, neuron, change)
    seen, binary = [], kept._binary
    monkeypatch.setattr(kept, "_binary", lambda x: seen.append(x) or binary(x))
    with memory.saving():
        assert torch.equal(fired(sequence, neuron, change), expected)
    assert bool(seen) == looks


def test_spikes_of_any_neuron_are_kept_as_bits_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Conv2d(32, 32, 3, bias=False) for _ in range(2)]
    spikes = (torch.rand(4, 32, 16, 16) < 0.2).float()
    packed, pack = [], Bits.of
    monkeypatch.setattr(
        Bits, "of", lambda flat, sure: packed.append(pack(flat, sure)) or packed[-1]
    )
    with memory.saving():
        outputs = [layer(spikes) for layer in layers]
    assert [bits.count for bits in packed if bits is not None] == [spikes.numel()]
    spikes.zero_()  # bits are a copy
    gradients = []
    for layer, output in zip(layers, outputs, strict=True):
        output.sum().backward()
        gradients.append(layer.weight.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(gradients[0], gradients[1])


def test_a_change_in_place_is_an_error() -> None:
    x = torch.randn(64, 128)
    layer = nn.Linear(128, 4)
    with memory.saving():
        y = layer(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match=r"shape \(64, 128\) that the backward pass needs was"):
        y.sum().backward()


def test_saving_inside_of_other_hooks_ends_with_its_block() -> None:
    seen = []
    x = (torch.rand(64, 128) < 0.5).float()
    with saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        with memory.saving():
            nn.Linear(128, 4)(x)
        assert not seen
        nn.Linear(128, 4)(x)
    assert x.shape in seen


def test_blocks_end_with_a_neuron() -> None:
    layers = [nn.Identity(), stbp.Leaky(), nn.Identity(), stbp.Leaky(), nn.Identity()]
    assert memory.by_neuron(layers) == [layers[:2], layers[2:4], layers[4:]]
