"""Windows of convolutions and poolings: every reader gets what it has, and is refused the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import snntorch_stbp as stbp
from snntorch_stbp.errors import StbpError
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.export.qonnx.targets import TARGETS, Form
from snntorch_stbp.lowering import lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


@pytest.mark.parametrize("target", ["hls4ml", "finn"])
def test_maxima_of_currents_beyond_the_border_are_refused(tmp_path: Path, target: str) -> None:
    model, path = make("padded currents"), tmp_path / "net.onnx"
    assert to_qonnx(model, digits(4), path).agreement.samples == 4
    message = {
        "finn": "FINN pads maxima with zeros, .* which '7/pool0_after0/t0' does not take",
        "hls4ml": "hls4ml takes maxima of spikes, or of windows side by side .* other windows",
    }[target]
    with pytest.raises(StbpError, match=message):
        to_qonnx(model, digits(4), path, target=target, force=True)


@pytest.mark.parametrize(("target", "message"), [
    ("generic", None),
    ("finn", "FINN has no dilated maximum pooling, as '.*' is: choose another target"),
    ("hls4ml", "hls4ml takes maxima of spikes, or of windows side by side"),
])  # fmt: skip
def test_dilated_maxima(tmp_path: Path, target: str, message: str | None) -> None:
    model = nn.Sequential(
        stbp.DirectCoding(2),
        stbp.TimeDistributed(stbp.Precision(4).conv2d(1, 4, 3)),
        stbp.Leaky(threshold=0.1),
        stbp.TimeDistributed(nn.Sequential(nn.MaxPool2d(2, 1, dilation=2), nn.Conv2d(4, 3, 2))),
        stbp.Leaky(threshold=0.1),
    ).eval()
    path = tmp_path / "net.onnx"
    if message is not None:
        with pytest.raises(StbpError, match=message):
            to_qonnx(model, digits(2), path, target=target)
        return
    for options in ({}, {"as_trained": True}):
        assert to_qonnx(model, digits(2), path, target=target, force=True, **options).nodes


@pytest.mark.parametrize(("options", "targets", "message"), [
    ({"dilation": 2}, ["hls4ml"], "hls4ml has no dilated convolutions, as '.*' is: choose another"),
    ({"groups": 2}, ["hls4ml", "finn"], "'.*' has 2 groups, 4 channels in and 4 out: choose"),
    ({"groups": 4, "out_channels": 8}, ["hls4ml", "finn"], "has 4 groups, 4 channels in and 8 out"),
    ({"groups": 4}, [], ""),
])  # fmt: skip
def test_convolutions_that_a_reader_has_not_are_refused(
    tmp_path: Path, options: dict[str, int], targets: list[str], message: str
) -> None:
    precision, plain = stbp.Precision(4), {"in_channels": 4, "out_channels": 4, "kernel_size": 2}
    model = nn.Sequential(
        stbp.DirectCoding(2),
        stbp.TimeDistributed(precision.conv2d(1, 4, 3)),
        stbp.Leaky(),
        stbp.TimeDistributed(precision.conv2d(**{**plain, **options})),
        stbp.Leaky(),
    )
    path = tmp_path / "net.onnx"
    for target in TARGETS:
        for net in (model, lower(model)):
            if target in targets:
                with pytest.raises(StbpError, match=message):
                    to_qonnx(net, digits(2), path, target=target, force=True)
            else:
                to_qonnx(net, digits(2), path, target=target, force=True)


def test_torchvisions_resnet_with_its_stem_reaches_every_reader(tmp_path: Path) -> None:
    images = digits(64, 32).repeat(1, 3, 1, 1)
    ann = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    net = stbp.convert(ann, images, num_steps=2, precision=stbp.Precision(4))
    with torch.no_grad():
        for _ in range(4):
            net(images)  # statistics
    net.eval()
    fixed = stbp.lower(net)
    assert torch.equal(fixed(images).sum(0).argmax(1), net(images).sum(0).argmax(1))
    for target in TARGETS:
        path = tmp_path / f"{target}.onnx"
        exported = to_qonnx(fixed, images[:8], path, target=target, vectors=1)
        assert exported.onnxruntime.spikes > 10**5
    exported = to_qonnx(net, images[:8], tmp_path / "net.onnx", target="hls4ml", vectors=1)
    assert exported.onnxruntime.spikes > 10**5


@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize("target", TARGETS)
def test_images_come_out_where_images_go_in(tmp_path: Path, target: str, form: Form) -> None:
    """Of a network that says something of every pixel."""
    precision = stbp.Precision(4)
    body = [
        stbp.DirectCoding(2),
        stbp.TimeDistributed(precision.conv2d(1, 6, 3, padding=1)),
        stbp.Leaky(threshold=0.2),
    ]
    head = stbp.TimeDistributed(precision.conv2d(6, 3, 3, (2, 1), padding=1))
    path = tmp_path / "net.onnx"
    for layers in ([*body, head], [*body, head, stbp.Leaky(threshold=0.2)]):
        model = nn.Sequential(*layers).eval()
        nets: list[nn.Module] = [model]
        if form == "unrolled" or target != "finn":
            nets.append(lower(model))
        for net in nets:
            exported = to_qonnx(net, digits(8), path, target=target, form=form, force=True)
            assert exported.agreement.scores == 8 * 3 * 4 * 8
        if target == "generic":
            to_qonnx(model, digits(8), path, form=form, as_trained=True, force=True)
