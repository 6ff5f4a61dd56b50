"""Muon: what it makes of gradients, and that the rest of a network is AdamW's."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from snntorch_stbp import zoo
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.muon import RMS, Muon, orthogonalize
from snntorch_stbp.train.optimizer import build_optimizer
from snntorch_stbp.train.run.reporter import Reporter

from .runs import assert_same_state, make_config, stopped_and_continued


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_singular_values_become_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    u, values, v = torch.linalg.svd(given, full_matrices=False)
    values = values.clamp(min=values.amax(1, keepdim=True) / 20)  # smaller ones take more rounds
    result = orthogonalize((u @ values.diag_embed() @ v).to(dtype))
    assert result.dtype == dtype
    inside = u.mT @ result.double() @ v.mT
    ones = inside.diagonal(dim1=1, dim2=2)
    assert 0.6 < ones.min() < ones.max() < 1.3
    tolerance = 1e-10 if dtype == torch.float64 else 0.1
    assert (inside - ones.diag_embed()).abs().max() < tolerance


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def test_a_step_is_as_long_as_one_of_adamw() -> None:
    torch.manual_seed(0)
    for weight in parameters((64, 16, 3, 3), (300, 100), (10, 400)):
        before = weight.detach().clone()
        Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=0.01).step()
        step = (weight.detach() - before).flatten(1)
        assert RMS * 0.01 * 0.7 < step.square().mean().sqrt() < RMS * 0.01 * 1.2
        values = torch.linalg.svdvals(step)
        assert values.max() < 2.5 * values.min()
        assert (step * weight.grad.flatten(1)).sum() < 0  # downhill


def test_a_step_is_that_of_a_plain_loop() -> None:
    """Momentum in Nesterov's form, decay by the learning rate, one matrix after the other."""
    torch.manual_seed(0)
    shapes = [(6, 4, 3, 3), (6, 4, 3, 3), (5, 9)]
    weights = parameters(*shapes)
    wanted = [w.detach().double() for w in weights]
    momenta = [torch.zeros_like(w) for w in wanted]
    group = {"params": weights, "orthogonal": True, "weight_decay": 0.1}
    optimizer = Muon([group], lr=0.02, momentum=0.9, dtype=torch.float64)
    for _ in range(3):
        for weight, value, momentum in zip(weights, wanted, momenta, strict=True):
            weight.grad = torch.randn_like(weight)
            gradient = weight.grad.double()
            momentum.mul_(0.9).add_(0.1 * gradient)
            direction = 0.9 * momentum + 0.1 * gradient
            flat = orthogonalize(direction.flatten(1)[None])[0]
            value.mul_(1 - 0.02 * 0.1)
            value.sub_(0.02 * 0.2 * math.sqrt(max(flat.shape)) * flat.view_as(value))
        optimizer.step()
    for weight, value in zip(weights, wanted, strict=True):
        torch.testing.assert_close(weight.double(), value, rtol=1e-5, atol=1e-6)


def test_other_groups_are_those_of_adamw() -> None:
    torch.manual_seed(0)
    matrix, bias = parameters((4, 6), (4,))
    twin = nn.Parameter(bias.detach().clone())
    twin.grad = bias.grad.clone()
    gradient = matrix.grad
    groups = [{"params": [matrix], "orthogonal": True}, {"params": [bias], "weight_decay": 0.3}]
    ours, theirs = Muon(groups, lr=0.1), torch.optim.AdamW([twin], lr=0.1, weight_decay=0.3)
    for _ in range(3):
        ours.step()
        theirs.step()
    assert torch.equal(bias, twin)
    assert matrix.grad is gradient


def test_memory_layout_does_not_matter() -> None:
    torch.manual_seed(0)
    (weight,) = parameters((8, 4, 3, 3))
    other = nn.Parameter(weight.detach().clone(memory_format=torch.channels_last))
    other.grad = weight.grad.clone(memory_format=torch.channels_last)
    for parameter in (weight, other):
        Muon([{"params": [parameter], "orthogonal": True}], lr=0.1).step()
    torch.testing.assert_close(weight, other)
    assert other.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("momentum", [float("nan"), -0.1, 1.0, 2.0])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum of Muon lies in \[0, 1\), not {momentum}"):
        Muon([nn.Parameter(torch.ones(3, 3))], momentum=momentum)


def test_a_closure_is_asked_for_the_loss() -> None:
    (weight,) = parameters((4, 6))
    optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)


def test_a_saved_state_goes_on() -> None:
    torch.manual_seed(0)
    weights = parameters((4, 6), (4,))
    groups = [{"params": weights[:1], "orthogonal": True}, {"params": weights[1:]}]
    optimizer = Muon(groups, lr=0.1)
    optimizer.step()
    copies = [nn.Parameter(w.detach().clone()) for w in weights]
    groups = [{"params": copies[:1], "orthogonal": True}, {"params": copies[1:]}]
    again = Muon(groups, lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for weight, twin in zip(weights, copies, strict=True):
        weight.grad = torch.ones_like(weight)
        twin.grad = torch.ones_like(weight)
    optimizer.step()
    again.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.mark.parametrize("model", ["mnistnet", "mnistnet_bn", "resnet18", "cifarnet_neunorm"])
def test_muon_moves_the_weights_of_all_layers_but_the_last(model: str) -> None:
    net = zoo.create(model, in_channels=1, image_size=16)
    optimizer = build_optimizer(make_config("digits", optimizer="muon"), net)
    moved = {id(p) for g in optimizer.param_groups if g["orthogonal"] for p in g["params"]}
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert moved == {id(layer.weight) for layer in layers[:-1]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(net.parameters()))


def test_a_stopped_run_goes_on_as_if_it_had_not(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, epochs=2, optimizer="muon", ema=0.9)
    whole = fit(config, out=tmp_path / "whole", reporter=Reporter())["run"]
    assert_same_state(Path(whole), stopped_and_continued(config, tmp_path / "parts"))
