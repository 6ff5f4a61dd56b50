"""`fire`: a layer, tdBN and its neuron make what the three modules make, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import snntorch_stbp as stbp
from snntorch_stbp import firing, kernels, zoo
from snntorch_stbp.kernels import native, normed
from snntorch_stbp.sequence import repeat

needs_compiler = pytest.mark.skipif(native._compiler() is None, reason="no C compiler")


def pair(norm: bool = True, **options: Any) -> tuple[stbp.TimeDistributed, stbp.Leaky]:
    layer = stbp.TimeDistributed(
        nn.Conv2d(3, 6, 3, padding=1), stbp.TDBatchNorm2d(6) if norm else None
    )
    return layer, stbp.Leaky(**options)


def count_fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps for which each call of the one operation repeats its input."""
    calls: list[int] = []

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(arguments[-1])
            return original(*arguments)

        return call

    for name in ("normalize_and_fire", "Prepared"):
        monkeypatch.setattr(normed, name, counted(getattr(normed, name)))
    return calls


@needs_compiler
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["alone", "added", "repeated"])
def test_fire_is_what_the_modules_make(
    kind: str, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, neuron = pair()
    layer.norm.momentum = momentum
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    others = copy.deepcopy(layer)
    calls = count_fused(monkeypatch)
    for _ in range(3):
        x = torch.randn(4, 3, 10, 10) if kind == "repeated" else torch.randn(2, 4, 3, 10, 10)
        x = repeat(x, 2) if kind == "repeated" else x
        added = torch.randn(2, 4, 6, 10, 10) if kind == "added" else None
        ours = firing.fire(layer, neuron, x, added)
        current = others(x)
        theirs = neuron(current if added is None else current + added)
        assert (ours != theirs).double().mean() < 1e-3  # a current may be at the threshold
        gradient = torch.randn(ours.shape)
        ours.backward(gradient)
        theirs.backward(gradient)
    assert calls == [2 if kind == "repeated" else 0] * 3
    for (name, found), wanted in zip(layer.named_parameters(), others.parameters(), strict=True):
        if name != "layer.bias":  # tdBN takes the mean away: what is left is rounding
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-3)
    for found, wanted in zip(layer.buffers(), others.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)

    layer.eval(), others.eval()
    calls.clear()
    with torch.no_grad():
        ours, current = firing.fire(layer, neuron, x, added), others(x)
        theirs = neuron(current if added is None else current + added)
    assert calls == [2 if kind == "repeated" else 0]
    assert 0 < ours.mean() < 1
    assert (ours != theirs).double().mean() < 1e-3


def test_what_is_kept_is_what_a_normalisation_keeps() -> None:
    layer, neuron = pair()
    x = torch.randn(2, 4, 3, 32, 32)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() > 3:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        spikes = firing.fire(layer, neuron, x)
    if native._compiler() is not None:
        weight = layer.layer.weight
        assert sum(kept.values()) == 4 * (x.numel() + spikes.numel() + weight.numel())


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_comes_out_alike_every_time(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, neuron = pair()
        x = torch.randn(2, 16, 3, 33, 33).requires_grad_()
        results = []
        for _ in range(4):
            layer.zero_grad()
            spikes = firing.fire(copy.deepcopy(layer), neuron, x)
            results.append(torch.autograd.grad(spikes, x, torch.ones_like(spikes))[0])
        assert all(torch.equal(results[0], result) for result in results)
    finally:
        torch.set_num_threads(before)


def evaluated(layer: stbp.TimeDistributed, neuron: stbp.Leaky) -> None:
    layer.eval()


def without_affine(layer: stbp.TimeDistributed, neuron: stbp.Leaky) -> None:
    layer.norm = stbp.TDBatchNorm2d(6, affine=False)


def synchronized(layer: stbp.TimeDistributed, neuron: stbp.Leaky) -> None:
    layer.norm = nn.BatchNorm2d(6)


def own_curve(layer: stbp.TimeDistributed, neuron: stbp.Leaky) -> None:
    import snntorch

    neuron.spike_grad = snntorch.surrogate.atan()


@needs_compiler
@pytest.mark.parametrize(
    ("options", "change", "wanted"),
    [
        ({}, None, 1),
        ({"beta": torch.full((6,), 0.3), "threshold": torch.full((6,), 0.4)}, None, 1),
        ({"learn_beta": True}, None, 0),
        ({"learn_threshold": True}, None, 0),
        ({"state_quant": nn.Identity()}, None, 0),
        ({"current_quant": nn.Identity()}, None, 0),
        ({"beta": torch.full((4, 6, 10, 10), 0.3)}, None, 0),
        ({}, evaluated, 0),
        ({}, without_affine, 0),
        ({}, synchronized, 0),
        ({}, own_curve, 0),
    ],
)
def test_other_modules_are_called_one_after_the_other(
    options: dict[str, Any],
    change: Callable[[stbp.TimeDistributed, stbp.Leaky], None] | None,
    wanted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, neuron = pair(**options)
    if change is not None:
        change(layer, neuron)
    others = copy.deepcopy(layer)
    calls = count_fused(monkeypatch)
    x = torch.randn(2, 4, 3, 10, 10)
    spikes, expected = firing.fire(layer, neuron, x), neuron(others(x))
    assert len(calls) == wanted
    assert (spikes != expected).double().mean() < 1e-3


@pytest.mark.parametrize("hooked", ["layer", "norm", "neuron"])
def test_hooks_see_their_modules_called(hooked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, neuron = pair()
    calls, seen = count_fused(monkeypatch), []
    module = {"layer": layer, "norm": layer.norm, "neuron": neuron}[hooked]
    hook = module.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 4, 3, 10, 10)
    firing.fire(layer, neuron, x)
    assert (len(seen), len(calls)) == (1, 0)
    hook.remove()
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    firing.fire(layer, neuron, x)
    everywhere.remove()
    assert len(seen) > 3
    assert calls == []


@needs_compiler
def test_spike_hooks_see_the_spikes_of_the_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, neuron = pair()
    calls, seen = count_fused(monkeypatch), []
    handle = neuron.register_spike_hook(lambda of, spikes: seen.append((of, spikes)))
    x = torch.randn(2, 4, 3, 10, 10)
    fired = [firing.fire(layer, neuron, x)]
    with torch.no_grad():
        fired.append(firing.fire(layer.eval(), neuron, x))
    fired.append(neuron(x))
    handle.remove()
    neuron(x)
    assert len(calls) == 2
    assert all(of is neuron for of, _ in seen)
    for (_, spikes), expected in zip(seen, fired, strict=True):
        assert spikes is expected


def test_errors_are_those_of_the_modules() -> None:
    layer, neuron = pair()
    layer.norm = stbp.TDBatchNorm2d(5)
    with pytest.raises(ValueError, match=r"TDBatchNorm2d takes \[T, B, 5, \*, \*\]"):
        firing.fire(layer, neuron, torch.randn(2, 4, 3, 10, 10))
    layer.norm = stbp.TDBatchNorm2d(6)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        firing.fire(layer, neuron, torch.randn(1, 1, 3, 1, 1))


@needs_compiler
@pytest.mark.parametrize(
    ("name", "wanted"), [("mnistnet_bn", 3), ("resnet18", 17), ("vgg11_bn", 8)]
)
def test_networks_of_the_zoo_are_made_of_it(
    name: str, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = zoo.create(name, image_size=(32, 32))
    calls = count_fused(monkeypatch)
    net(torch.randn(2, 3, 32, 32))
    assert len(calls) == wanted
    calls.clear()
    net.eval()(torch.randn(2, 3, 32, 32))
    assert calls == []
    with torch.no_grad():
        net(torch.randn(2, 3, 32, 32))
    assert len(calls) == wanted
    calls.clear()
    with kernels.backend("fused"):
        net.train()(torch.randn(2, 3, 32, 32))
    assert calls == []


@needs_compiler
def test_statistics_that_are_no_longer_tracked_stay_as_they_are() -> None:
    layer, neuron = pair(threshold=0.4)
    layer.norm.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(2, 4, 3, 10, 10)
    assert torch.equal(firing.fire(layer, neuron, x), neuron(layer(x)))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 4, 6, 10, 10), (2, 1, 6, 10, 10), (2, 4, 6, 1, 1), (6, 1, 1), (1,)]
)
def test_a_second_current_that_broadcasts(shape: tuple[int, ...], training: bool) -> None:
    layer, neuron = pair(threshold=0.4)
    layer.train(training)
    others, x, added = copy.deepcopy(layer), torch.randn(2, 4, 3, 10, 10), torch.randn(shape)
    with torch.set_grad_enabled(training):
        spikes, expected = firing.fire(layer, neuron, x, added), neuron(others(x) + added)
    assert torch.equal(spikes, expected)


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 4, 6, 10, 10), (4, 4, 6, 10, 10), (2, 4, 6, 5, 20)])
def test_a_second_current_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    layer, neuron = pair()
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        firing.fire(layer, neuron, torch.randn(2, 4, 3, 10, 10), torch.zeros(shape))


@needs_compiler
def test_a_wider_second_current_is_not_rounded() -> None:
    layer, neuron = pair(threshold=0.4)
    x, added = torch.randn(2, 4, 3, 10, 10), torch.randn(2, 4, 6, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        others = copy.deepcopy(layer)
        spikes, expected = firing.fire(layer, neuron, x, added), neuron(others(x) + added)
    assert spikes.dtype == expected.dtype == torch.float32
    assert torch.equal(spikes, expected)
    spikes = firing.fire(layer, neuron, x, added.double())
    assert spikes.dtype == torch.float64


@needs_compiler
def test_a_forward_of_its_own_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(stbp.TDBatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0

    calls, x = count_fused(monkeypatch), torch.randn(2, 4, 3, 10, 10)
    conv, neuron = nn.Conv2d(3, 6, 3, padding=1), stbp.Leaky(threshold=0.4)
    assert firing.fire(stbp.TimeDistributed(conv, Silent(6)), neuron, x).sum() == 0
    layer = stbp.TimeDistributed(conv, stbp.TDBatchNorm2d(6))
    monkeypatch.setattr(layer.norm, "forward", torch.zeros_like)
    assert firing.fire(layer, neuron, x).sum() == 0
    assert not calls
