"""Synaptic operations are those counted by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp.report import operations

from .nets import digits, make


def test_operations_are_those_counted_by_hand() -> None:
    """A convolution with padding and stride and a linear layer, neuron by neuron."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.Linear(4 * 9, 5)
    net = nn.Sequential(
        stbp.TimeDistributed(conv), stbp.Leaky(), stbp.TimeDistributed(nn.Flatten()),
        stbp.TimeDistributed(linear),
    )  # fmt: skip
    frames = (torch.rand(3, 2, 2, 5, 5) > 0.6).float()
    counted = operations(net, frames)
    spikes = net[1](net[0](frames))
    expected = 0
    for image in frames.flatten(0, 1):
        for row in range(3):
            for column in range(3):
                window = nn.functional.pad(image, (1, 1, 1, 1))
                window = window[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                expected += int(window.sum()) * 2  # each input reaches its group's two outputs
    expected += int(spikes.sum()) * 5
    assert counted.additions == pytest.approx(expected / 2)
    assert counted.multiplications == 0
    inside = sum(sum(0 <= 2 * r + k - 1 < 5 for k in range(3)) for r in range(3))
    assert counted.dense == pytest.approx(inside**2 * 4 + 36 * 5)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_what_is_padded_with_the_image_is_counted(mode: str) -> None:
    """By the matrix of the convolution: the gradients of all its outputs."""
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=(2, 1), groups=2, padding_mode=mode)
    frames = (torch.rand(3, 2, 2, 5, 6) > 0.6).float()
    counted = operations(nn.Sequential(stbp.TimeDistributed(conv)), frames)
    nn.init.ones_(conv.weight)
    wired = torch.autograd.functional.jacobian(lambda x: conv(x[None]).sum(), torch.zeros(2, 5, 6))
    expected = sum(float(image.flatten() @ wired.flatten()) for image in frames.flatten(0, 1))
    assert counted.additions == pytest.approx(expected / 2)
    assert counted.dense == pytest.approx(float(wired.sum()))


@pytest.mark.parametrize("shared", ["layer", "module"])
def test_a_layer_that_two_modules_share_counts_as_two_layers(shared: str) -> None:
    layer = nn.Linear(8, 8, bias=False)
    first = stbp.TimeDistributed(layer)
    second = first if shared == "module" else stbp.TimeDistributed(layer)
    x = torch.rand(4, 8)

    def counted(last: nn.Module) -> object:
        spikes = stbp.Leaky(threshold=0.05)
        return operations(nn.Sequential(stbp.DirectCoding(3, 2), first, spikes, last), x)

    assert counted(second) == counted(stbp.TimeDistributed(copy.deepcopy(layer)))


def test_an_image_is_multiplied() -> None:
    counted = operations(make("mnistnet_bn"), digits(4))
    assert counted.multiplications > 0
    assert counted.additions > 0


def test_features_at_every_step_are_counted_per_sample() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(stbp.TimeDistributed(nn.Linear(16, 5)), stbp.Leaky(threshold=0.1))
    frames = (torch.rand(3, 12, 16) > 0.6).float()
    assert operations(net, frames).additions == pytest.approx(frames.sum().item() * 5 / 12)
